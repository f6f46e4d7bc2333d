"""Files of many formats -> clips -> one prepared data set -> batches that follow from the step.

`open_source` reads the files of a data set's authors, `builder.prepare_source` (or the command
`python -m halp_jax.prepare`) writes them once as a tfds data set, `open_dataset` opens that, and
`pipeline` makes batches of it. Without TensorFlow: `from_arrays` takes clips that are in memory,
`pack` writes any data set to one file, `open_dataset` opens that too, and `pipeline` is the same.
"""

import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any

from halp_jax.datasets import (
    agcn,
    bvh,
    coco,
    ctrgcn,
    folder,
    kinetics,
    mat,
    mediapipe,
    ntu,
    nwucla,
    openpose,
    pku,
    pyskl,
    synthetic,
    synthetic_graphs,
    text,
    trc,
    tu,
    yolo,
)  # fmt: skip
from halp_jax.datasets.arrays import ArrayDataset, from_arrays
from halp_jax.datasets.clip import Clip, ClipInfo, DamagedClip, check_clip
from halp_jax.datasets.graphs import GraphDataset
from halp_jax.datasets.guess import guess_format
from halp_jax.datasets.packed import is_dataset, open_dataset, pack
from halp_jax.datasets.prepared import Dataset, PreparedDataset
from halp_jax.datasets.source import Item, Source
from halp_jax.errors import UserError

# Name of a format -> its reader. A further format is one more line here.
READERS: dict[str, Callable[..., Source]] = {
    "ntu": ntu.open_source,
    "pku": pku.open_source,
    "pyskl": pyskl.open_source,
    "agcn": agcn.open_source,
    "ctrgcn": ctrgcn.open_source,
    "aimclr": agcn.open_aimclr,
    "folder": folder.open_source,
    "openpose": openpose.open_source,
    "coco": coco.open_source,
    "kinetics": kinetics.open_source,
    "mediapipe": mediapipe.open_source,
    "npy": folder.open_arrays,
    "nwucla": nwucla.open_source,
    "synthetic": synthetic.open_source,
    "bvh": bvh.open_source,
    "trc": trc.open_source,
    "mat": mat.open_source,
    "text": text.open_source,
    "yolo": yolo.open_source,
}
# The same for graphs, which are few and small: a reader gives the whole data set.
GRAPH_READERS: dict[str, Callable[..., GraphDataset]] = {
    "tu": tu.read, "synthetic_graphs": synthetic_graphs.read,
}  # fmt: skip
EMBEDDED = ("synthetic", "synthetic_graphs")  # formats that need no files


def open_source(format: str, path: str | os.PathLike[str] | None = None, **options: Any) -> Source:
    """The files under `path`, in the given format; the options are those of its reader."""
    if format not in READERS:
        raise UserError(f"format {format!r} is not known; use one of {', '.join(sorted(READERS))}")
    if not path and format not in EMBEDDED:
        raise UserError(f"format {format} needs the path of its files; give it as --source=PATH")
    check_options(format, options)
    return READERS[format](os.fspath(path or ""), **options)


def check_options(format: str, options: Iterable[str]) -> None:
    """Raises UserError for an option that the format's reader does not take."""
    takes = inspect.signature((READERS | GRAPH_READERS)[format]).parameters
    for name in options:
        if name not in takes:
            raise UserError(f"--{name} means nothing to --format={format}; leave it out")


__all__ = [
    "EMBEDDED", "GRAPH_READERS", "READERS", "ArrayDataset", "Clip", "ClipInfo", "DamagedClip",
    "Dataset", "GraphDataset", "Item", "PreparedDataset", "Source", "check_clip", "check_options",
    "from_arrays", "guess_format", "is_dataset", "open_dataset", "open_source", "pack",
]  # fmt: skip
