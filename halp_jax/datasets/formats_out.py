"""A prepared data set in the formats of other people's code: PYSKL's pickle, CTR-GCN's .npz.

Both are written a batch of clips at a time, so a data set of any size takes little memory, and both
appear only when they are whole. Coordinates are those of the data set: normalised, if it is.
"""

import contextlib
import io
import os
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from halp_jax.datasets import pipeline
from halp_jax.datasets.atomic_write import write_named
from halp_jax.datasets.prepared import Dataset
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import describe_layout

PROTOCOL = 3  # the last without frames and with numbered memo entries, see `_body`
_NUMPY_2, _NUMPY_1 = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"


def write_pyskl(dataset: Dataset, file: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Writes a PYSKL annotation file, which PYSKL, MMAction2 and `--format=pyskl` read.

    Plain dicts, lists and numpy arrays: keypoint [bodies, time, joints, 3] float32. For layouts in a
    picture keypoint is [bodies, time, joints, 2] float64, moved by 1 into a picture of img_shape
    (2, 2) so that PYSKL's own normalisation gives the coordinates of the data set again, with
    keypoint_score 1 or 0. `layout`, `class_names` and `fps` beside them are for our own reader.

    Raises:
        UserError: the file is there or cannot be written.
    """
    # PYSKL calls the part it tests on val, unless there is another.
    split = {
        f"{benchmark}_{part if part != 'test' or 'val' in parts else 'val'}": [
            dataset.names[number] for number in chosen
        ]
        for benchmark, parts in dataset.splits.items()
        for part, chosen in parts.items()
    }
    head = {
        "split": split,
        "class_names": list(dataset.class_names),
        "layout": describe_layout(dataset.layout),
        "fps": dataset.metadata.get("fps"),
    }
    with write_named(file, ".pkl", overwrite) as stream:
        # {head..., "annotations": [each]} spelt out, so that no more than a batch is in memory.
        stream.write(pickle.PROTO + bytes([PROTOCOL]) + pickle.EMPTY_DICT + pickle.MARK)
        for key, value in head.items():
            stream.write(_body(key) + _body(value))
        stream.write(_body("annotations") + pickle.EMPTY_LIST)
        for number, frames in pipeline.iterate_clips(dataset, np.arange(len(dataset)), "export"):
            annotation = _annotate(frames, dataset.layout.axes) | {
                "frame_dir": dataset.names[number],
                "label": int(dataset.labels[number]),
                "total_frames": len(frames),
            }
            stream.write(_body(annotation) + pickle.APPEND)
        stream.write(pickle.SETITEMS + pickle.STOP)
    return Path(file).expanduser()


def _body(value: Any) -> bytes:
    """The opcodes that put `value` on the loader's stack, without the start and the stop.

    Each numbers its memo entries from 0 and refers to none of an earlier one, so bodies can follow
    one another. Arrays are spelt as numpy 1 does, which numpy 1 and 2 load: the name is the first
    of its kind in the text, before any bytes of an array.
    """
    text = pickle.dumps(value, PROTOCOL).replace(_NUMPY_2, _NUMPY_1, 1)
    return text[2:-1]


def _annotate(frames: Float[np.ndarray, "time bodies joints 3"], axes: int) -> dict[str, Any]:
    bodies = frames.transpose(1, 0, 2, 3)
    present = np.flatnonzero(bodies.any((1, 2, 3)))
    bodies = np.ascontiguousarray(bodies[: present[-1] + 1 if len(present) else 1])
    if axes == 3:
        return {"keypoint": bodies}
    seen = bodies.any(-1)
    return {
        "keypoint": np.where(seen[..., None], bodies[..., :2].astype(np.float64) + 1.0, 0.0),
        "keypoint_score": seen.astype(np.float32),
        "img_shape": (2, 2),
    }


def write_npz(
    dataset: Dataset,
    file: str | os.PathLike[str],
    benchmark: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes one benchmark as CTR-GCN's generator does, for its feeder and `--format=ctrgcn`.

    x_train, x_test [clips, longest, bodies * joints * 3] float32, zeros behind the last frame;
    y_train, y_test one-hot float32. Of joints in a picture the third number is a score, 1 or 0. Not
    compressed, so it can be mapped: 600 bytes a frame of two bodies of 25 joints, and all clips are
    as long as the longest. The format has no lengths: frames at the end in which nobody is seen are
    lost to a reader.

    Args:
        benchmark: which split; the only one if not given.

    Raises:
        UserError: there are several splits, or the file is there or cannot be written.
    """
    if benchmark is None:
        if len(dataset.splits) != 1:
            known = ", ".join(sorted(dataset.splits)) or "none"
            raise UserError(f"{dataset.path} has the splits {known}; give one as --split")
        (benchmark,) = dataset.splits
    # Readers of this form take a row of zeros for no clip at all, and count the rest wrong.
    parts = {part: dataset.labelled(benchmark, part) for part in ("train", "test")}
    chosen = np.concatenate(list(parts.values()))
    if not len(chosen):
        raise UserError(
            f"split {benchmark} of {dataset.path} has no clips with a label; choose another"
        )
    longest = int(dataset.lengths[chosen].max())
    width = dataset.layout.bodies * dataset.layout.num_joints * 3
    eye = np.eye(dataset.num_classes, dtype=np.float32)
    with write_named(file, ".npz", overwrite) as stream, zipfile.ZipFile(stream, "w") as archive:
        for part, numbers in parts.items():
            with _member(archive, f"x_{part}", (len(numbers), longest, width)) as member:
                for _, frames in pipeline.iterate_clips(dataset, numbers, f"export {part}"):
                    if dataset.layout.axes == 2:
                        frames = frames.copy()
                        frames[..., 2] = frames.any(-1)
                    row = np.zeros((longest, width), np.float32)
                    row[: len(frames)] = frames.reshape(len(frames), width)
                    member.write(row.tobytes())
            with _member(archive, f"y_{part}", (len(numbers), dataset.num_classes)) as member:
                member.write(eye[dataset.labels[numbers]].tobytes())
    return Path(file).expanduser()


@contextlib.contextmanager
def _member(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> Iterator[IO[bytes]]:
    """A float32 array inside an archive, whose numbers follow in C order."""
    info = zipfile.ZipInfo(f"{name}.npy")  # without the time: the same data give the same file
    with archive.open(info, "w", force_zip64=True) as member:
        header = io.BytesIO()
        description = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(header, description)
        member.write(header.getvalue())
        yield member
