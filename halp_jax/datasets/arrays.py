"""A data set that lies in memory: clips of a Python user, or a packed file. No TensorFlow.

    dataset = from_arrays(clips, labels, layout="ntu25", splits={"mine": {"train": a, "test": b}})

It is used like the data set of a folder: `pipeline` gives the same batches of either, in the same order.
`packed` writes it to one file that `train` and `evaluate` open.
"""

import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int

from halp_jax.datasets.clip import Clip
from halp_jax.datasets.labels import UNLABELLED, name_classes
from halp_jax.datasets.prepared import Dataset, read_fields
from halp_jax.datasets.read_pool import Repair, check_normalize, finish_clip
from halp_jax.datasets.source import count_overlap
from halp_jax.errors import UserError
from halp_jax.skeletons.common import describe_conversion
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import Layout, describe_layout, to_layout
from halp_jax.skeletons.repair import MAX_GAP

log = logging.getLogger("halp_jax")
PARTS = ("train", "test")  # and, if given, "val"
WHOLE = "all"  # the benchmark of clips that were given without splits


@dataclasses.dataclass(frozen=True, eq=False)
class ArrayDataset(Dataset):
    """A data set of which the frames of all clips, one clip after the other, are one array."""

    frames: Float[np.ndarray, "frames bodies joints xyz"]

    in_memory: ClassVar[bool] = True

    @functools.cached_property
    def starts(self) -> Int[np.ndarray, " clips"]:
        """The place in `frames` of each clip's first frame."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        return ends - self.lengths

    def clip(self, number: int) -> Float[np.ndarray, "time bodies joints xyz"]:
        """All frames of one clip."""
        return self.frames[self.starts[number] :][: self.lengths[number]]


def from_arrays(
    clips: Sequence[Any],
    labels: Any,
    *,
    layout: Layout | str,
    class_names: Sequence[str] | None = None,
    splits: Mapping[str, Any] | None = None,
    names: Sequence[str] | None = None,
    normalize: str = "upright",
    as_layout: Layout | str | None = None,
    fps: float = 0.0,
    resample: float = 0.0,
    max_gap: int = MAX_GAP,
) -> ArrayDataset:
    """A data set of one's own clips.

    Args:
        clips: arrays [time, bodies, joints, 3] in metres, any real type; bodies that are missing at
            the end or all zero are absent, joints that are NaN were lost. For joints in a picture
            the last axis is (x, y) or (x, y, score), y down; a joint of score 0 was not seen.
        labels: a class from 0 for each clip, -1 where it is not known; None for none at all, which
            pre-training is content with.
        layout: the name of a known one ("ntu25", "kinect20", "coco17", "openpose18"), the JSON file
            of your own (see `skeletons.layout`), or a Layout.
        class_names: one a class; by default "class 0" and so on up to the highest label.
        splits: benchmark -> {"train": clip numbers, "test": clip numbers, "val": ...}; a part that is not given
            is empty. By default there is one benchmark, "all" (config.data.split="all"), with every
            clip in "train" and none in "test": enough to pre-train (with config.knn.every_epochs=0),
            and no accuracy on clips that were trained on passes for one on new clips.
        names: each once; by default "clip 0" and so on.
        normalize: "upright" for the view-invariant normalisation, "view", "released" or "none", see
            `skeletons.normalize`.
        as_layout: another layout that clips are taken to before that, see `skeletons.common`:
            "kinect20x2" makes data sets of 25 and of 20 joints one to an encoder.
        fps: frames a second of all clips, 0 if not known.
        resample: the frame rate that they are taken to, see `skeletons.repair`.
        max_gap: joints that are NaN for no more frames are filled in, others are missing.

    Raises:
        UserError: naming the first clip, label, name or split that cannot be used, and why.
    """
    own = to_layout(layout)
    layout = own if as_layout is None else to_layout(as_layout)
    converted = describe_conversion(own, layout)
    check_normalize(normalize)
    if not len(clips):
        raise UserError("there are no clips; give at least one array [time, bodies, joints, 3]")
    if labels is None:
        labels = np.full(len(clips), UNLABELLED)
    labels = check_labels(labels, len(clips))
    if class_names is None:
        class_names = name_classes(int(labels.max()) + 1)
    names = [f"clip {number}" for number in range(len(clips))] if names is None else list(names)
    check_names(names, len(clips))
    finished, repair = [], Repair(max_gap, fps, resample)
    remarks: Counter[str] = Counter()
    for array, label, name in zip(clips, labels, names, strict=True):
        clip = Clip(_to_float32(array, name, own.axes), int(label), name)
        clip = finish_clip(clip, own, len(class_names), normalize, layout, repair)
        finished.append(clip.frames)
        remarks.update(clip.remarks)
    numbered = number_splits(splits, len(clips))
    metadata = {
        "name": "arrays",
        "layout": describe_layout(layout),
        **converted,
        "class_names": [str(name) for name in class_names],
        "normalize": normalize,
        "fps": resample or fps or None,
        "notes": dict(remarks) | _warn(count_overlap(numbered, len(clips))),
        "damaged": [],
        "absent_from_splits": {},
        "splits": numbered,
        "names": names,
        "labels": labels.tolist(),
        "lengths": [len(frames) for frames in finished],
    }
    fields = read_fields(Path("clips in memory"), metadata, len(clips))
    return ArrayDataset(**fields, frames=np.concatenate(finished))


def _warn(notes: dict[str, str]) -> dict[str, str]:
    """The notes; a clip both trained and tested on is worth a warning in the log as well."""
    for name, line in notes.items():
        if name.startswith("warning"):
            log.warning("%s: %s", name.removeprefix("warning, "), line)
    return notes


def _to_float32(array: Any, name: str, axes: int) -> np.ndarray:
    try:
        array = np.asarray(array)
    except ValueError:  # lists of different lengths
        array = np.empty(0, object)
    if array.dtype.kind not in "fiu":
        raise UserError(
            f"clip {name}: it is no array of real numbers; give [time, bodies, joints, 3]"
        )
    if array.ndim != 4:
        raise UserError(f"clip {name}: its shape is {array.shape}; give [time, bodies, joints, 3]")
    if axes == 2 and array.shape[3] in (2, 3):
        array = lift_points(array)
    with np.errstate(over="ignore"):  # becomes infinite, which the check of the clip names
        return array.astype(np.float32, copy=False)


def check_labels(labels: Any, count: int) -> Int[np.ndarray, " clips"]:
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UserError(
            f"labels are {array.dtype} of shape {array.shape}; give one whole number a clip, from 0"
        )
    if len(array) != count:
        raise UserError(f"there are {count} clips and {len(array)} labels; give one for each clip")
    return array.astype(np.int64)


def check_names(names: list[Any], count: int) -> None:
    if len(names) != count:
        raise UserError(f"there are {count} clips and {len(names)} names; give one for each clip")
    seen: set[str] = set()
    for name in names:
        if not isinstance(name, str) or name in seen:
            what = "is there twice" if isinstance(name, str) else "is no text"
            raise UserError(f"the name {name!r} {what}; give each clip a name of its own")
        seen.add(name)


def number_splits(splits: Mapping[str, Any] | None, count: int) -> dict[str, dict[str, list[int]]]:
    """The splits with both parts, as JSON holds them."""
    splits = {WHOLE: {"train": range(count)}} if splits is None else splits
    numbered = {}
    for benchmark, parts in splits.items():
        if not isinstance(parts, Mapping) or not set(parts) <= {*PARTS, "val"}:
            raise UserError(f"split {benchmark}: give a dict with the parts train, test and val")
        numbered[str(benchmark)] = {
            part: _check_part(parts.get(part, ()), f"split {benchmark}, {part}", count)
            for part in dict.fromkeys((*PARTS, *parts))
        }
    return numbered


def _check_part(chosen: Any, where: str, count: int) -> list[int]:
    numbers = np.asarray(chosen)
    if not numbers.size:
        return []
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise UserError(f"{where}: give a list of clip numbers from 0 to {count - 1}")
    if numbers.min() < 0 or numbers.max() >= count:
        wrong = numbers.min() if numbers.min() < 0 else numbers.max()
        raise UserError(f"{where}: there is no clip {wrong}; numbers run from 0 to {count - 1}")
    values, times = np.unique(numbers, return_counts=True)
    if times.max() > 1:
        raise UserError(f"{where}: clip {values[times.argmax()]} is there twice; give each once")
    return numbers.tolist()


def make_batch(
    dataset: ArrayDataset,
    numbers: Int[np.ndarray, " batch"],
    valid: Bool[np.ndarray, " batch"],
    max_frames: int,
) -> dict[str, np.ndarray]:
    """The batch of these clips, as `pipeline.Batch` says, cut or padded to `max_frames`."""
    lengths = np.minimum(dataset.lengths[numbers], max_frames)
    frames = np.zeros((len(numbers), max_frames, *dataset.frames.shape[1:]), np.float32)
    for row, start, length in zip(frames, dataset.starts[numbers], lengths, strict=True):
        row[:length] = dataset.frames[start : start + length]
    return {
        "frames": frames,
        "length": lengths.astype(np.int32),
        "label": dataset.labels[numbers].astype(np.int32),
        "index": numbers.astype(np.int32),
        "valid": valid,
    }
