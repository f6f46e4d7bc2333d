"""Key points of PYSKL's Kinetics-400 that lie in other files than the annotations.

An annotation then has frame_inds [rows] in place of keypoint: the frame of each detection, from 1,
never falling, several rows a frame where several people are seen. The detections are
[rows, 17, 3 (x, y, score)], in one of

    kpfiles of PYSKL      {"raw_file": "data/k400/kpfiles/0000.pkl", "key": name} in the annotation,
                          {name: {"keypoint": array}} in the file, of many clips
    files of MMAction2    skeletons_mmaction/FRAME_DIR.pkl, {"keypoint": array}

They are looked for in the folder of the annotations, or in the one that is given, and nowhere else.
Held to real annotations of eight clips; of the key points only the structure was at hand.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.files import remember
from halp_jax.datasets.npy import clean_numbers
from halp_jax.datasets.safe_pickle import PickledArray, load_pickle
from halp_jax.datasets.tracking import MAX_PEOPLE, track_clip
from halp_jax.skeletons.layout import Layout

JOINTS = 17  # COCO's, of the detector that made them
WHERE = (
    "PYSKL's kpfiles or MMAction2's skeletons_mmaction/; put that folder beside the annotations, or"
    " give the folder that holds it with --keypoints"
)


class Rows(NamedTuple):
    """Where the detections of a clip lie; `key` is "" in a file of one clip."""

    file: str
    key: str
    frames: np.ndarray  # [rows], the frame of each


def find_rows(annotation: Mapping[str, Any], name: str, folder: Path) -> Rows:
    """Where the key points of an annotation lie. Raises DamagedClip where they cannot be read."""
    frames = annotation.get("frame_inds")
    frames = frames.array if isinstance(frames, PickledArray) else None
    raw_file, key = annotation.get("raw_file"), annotation.get("key", name)
    if isinstance(raw_file, str) and isinstance(key, str):
        file = _find_tail(folder, raw_file)
    else:
        places = (f"skeletons_mmaction/{name}.pkl", f"{name}.pkl")
        file, key = next(filter(None, (_find_tail(folder, each) for each in places)), None), ""
    if file is None:
        raise DamagedClip(f"it has no keypoint, and there is no file of it in {folder}")
    if frames is None or frames.ndim != 1 or frames.dtype.kind not in "iu" or not len(frames):
        raise DamagedClip("it has no frame_inds that tell the frame of each key point")
    if (np.diff(frames.astype(np.int64)) < 0).any():
        raise DamagedClip("its frame_inds fall, so that its rows pair with no frames")
    return Rows(str(file), key, frames)


def _find_tail(folder: Path, name: str) -> Path | None:
    """The file of this path in the folder: a path that begins further out may lose its beginning."""
    parts = PurePosixPath(name).parts
    if ".." in parts or len(name) > 1000 or "\0" in name:
        return None
    tails = (folder.joinpath(*parts[start:]) for start in range(len(parts)) if parts[start] != "/")
    return next((each for each in tails if each.is_file()), None)


_load = remember(load_pickle)


def read_rows(
    rows: Rows, layout: Layout
) -> tuple[
    Float[np.ndarray, "bodies time joints xy"], Float[np.ndarray, "bodies time joints"], str
]:
    """The people of a clip, tracked; their scores, 0 where there is none; and a remark.

    Frames of which the annotation has no row are there, and nobody is in them.

    Raises:
        DamagedClip: the file has no such key points.
    """
    where = f"{rows.file}, {rows.key}" if rows.key else rows.file
    content = _load(rows.file)
    if rows.key:
        content = content.get(rows.key) if isinstance(content, dict) else None
    points = content.get("keypoint") if isinstance(content, dict) else None
    points = points.array if isinstance(points, PickledArray) else None
    shape = (len(rows.frames), layout.num_joints, 3)
    if points is None or points.dtype.kind != "f" or points.shape != shape:
        found = f"a keypoint {list(points.shape)}" if points is not None else "no keypoint"
        raise DamagedClip(f"{where}: {found}, not numbers {list(shape)}; fetch it again")
    points = clean_numbers(points)
    seen = np.isfinite(points).all(-1) & (points[..., 2] > 0)
    points = np.where(seen[..., None], points, 0.0)
    numbers, first = np.unique(rows.frames, return_index=True)
    people = np.split(points, first[1:])
    if max(map(len, people)) > MAX_PEOPLE:
        raise DamagedClip(f"{where}: more than {MAX_PEOPLE} people in one frame; fetch it again")
    shown = [each[each.any((1, 2))] for each in people]
    found = dict(zip(numbers.tolist(), shown, strict=True))
    tracked, remark = track_clip(found, layout, where)
    tracked = tracked.transpose(1, 0, 2, 3)
    return tracked[..., :2], tracked[..., 2], remark
