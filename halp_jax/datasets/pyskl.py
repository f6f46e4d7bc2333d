"""Annotation files of PYSKL: one pickle with all clips of a data set and its splits.

{"annotations": [{"frame_dir": name, "label": 0-based, "keypoint": [bodies, time, joints, xyz]}],
 "split": {"xsub_train": [names], "xsub_val": [names], ...}}

3-D files of 25 (Kinect v2) and 20 (Kinect v1) joints: NTU RGB+D, PKU-MMD, NW-UCLA. 2-D files, where
keypoint is [bodies, time, joints, xy] in pixels, of 17 (COCO) and 18 (OpenPose) joints, with
keypoint_score [bodies, time, joints] and img_shape (height, width): the picture becomes the box from
-1 to 1, a joint of score 0 a missing one, and z is 0 (see `skeletons.flat`). Of more bodies than the
layout has, those of the highest scores are kept. Other skeletons with `layout`. Pickles are not
trusted, see `safe_pickle`.
"""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from halp_jax.datasets.clip import MAX_COORDINATE, MAX_RATE, Clip, DamagedClip, check_clip
from halp_jax.datasets.npy import clean_numbers, to_float32
from halp_jax.datasets.ntu import parse_name
from halp_jax.datasets.ntu_names import ACTIONS
from halp_jax.datasets.safe_pickle import PickledArray, load_pickle
from halp_jax.datasets.source import Item, Source, Splits, find_normalized, find_single, keep_there
from halp_jax.errors import UserError
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import Layout, guess_layout
from halp_jax.skeletons.layout_file import find_layout, restore_layout

_PKU_NAME = re.compile(r"(\d{4})-([LMR])(?:_\d+)?", re.ASCII)
_UCLA_NAME = re.compile(r"a(\d{2})_s(\d{2})_e(\d{2})_v(\d{2})", re.ASCII)
_UCLA_ACTIONS = (
    "pick up with one hand", "pick up with two hands", "drop trash", "walk around", "sit down",
    "stand up", "donning", "doffing", "throw", "carry",
)  # fmt: skip
# A label above this is damage, not a class: it must not make that many classes.
MAX_CLASSES = 1000
CUT = "clips cut to their total_frames"
BEST_BODIES = "clips with more bodies than the layout has, those of the highest scores kept"


class Annotation(NamedTuple):
    """What is read of one annotation; `reason` says why it cannot be."""

    keypoint: np.ndarray | None = None
    scores: np.ndarray | None = None
    size: tuple[float, float] | None = None
    label: int = -1
    reason: str | None = None
    remark: str = ""


def parse_name_fields(name: str) -> dict[str, Any]:
    """What NTU, PKU-MMD and NW-UCLA names say: subject, camera, setup, performance, fps; else {}.

    PKU-MMD's cameras L, M, R are 0, 1, 2. The trial number of NW-UCLA starts anew for every
    subject and action, so it is no performance of its own.
    """
    if numbers := parse_name(name):
        return {"setup": numbers[0], "camera": numbers[1], "subject": numbers[2], "fps": 30.0}
    if match := _PKU_NAME.fullmatch(name):
        return {"performance": int(match[1]), "camera": "LMR".index(match[2]), "fps": 30.0}
    if match := _UCLA_NAME.fullmatch(name):
        return {"subject": int(match[2]), "camera": int(match[4])}
    return {}


def read_item(item: Item, layout: Layout, num_classes: int, fps: float = 0.0) -> list[Clip]:
    """One annotation -> one clip, absent bodies zero. Raises DamagedClip.

    `fps` is what the file says of all clips, 0 if nothing: then names may tell.
    """
    keypoint, scores, size, label, reason, remark = item.payload
    if reason:
        raise DamagedClip(f"clip {item.id}: {reason}; correct the annotation or leave it out")
    keypoint = clean_numbers(keypoint)
    if layout.axes == 2:
        if scores is None:
            scores = keypoint.any(-1)
        if len(keypoint) > layout.bodies:
            order = np.argsort(-scores.sum((1, 2), dtype=np.float64), kind="stable")
            best = np.sort(order[: layout.bodies])
            keypoint, scores = keypoint[best], scores[best]
            remark = "; ".join(filter(None, (remark, BEST_BODIES)))
        keypoint = lift_points(keypoint, scores, size)
    frames = to_float32(keypoint).transpose(1, 0, 2, 3)
    if frames.shape[1] < layout.bodies:
        absent = layout.bodies - frames.shape[1]
        frames = np.pad(frames, ((0, 0), (0, absent), (0, 0), (0, 0)))
    fields = parse_name_fields(item.id) | ({"fps": fps} if fps else {})
    clip = Clip(np.ascontiguousarray(frames), label, item.id, remark=remark, **fields)
    return [check_clip(clip, layout, num_classes)]


def open_source(path: str | Path, *, layout: str | None = None) -> Source:
    """A PYSKL pickle, or the folder with one. All clips are held in memory.

    Args:
        layout: by default 25, 20, 17 or 18 joints tell; a name or .json file for other skeletons.

    Raises:
        UserError: no such file, a pickle that is refused, no annotations, or joints of an unknown
            skeleton.
    """
    file = find_single(Path(path).expanduser(), ".pkl", "a PYSKL annotation file (.pkl)")
    content = load_pickle(file)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not annotations:
        raise UserError(f"{file}: no list of annotations in it; give a PYSKL annotation file")
    axes = _count_axes(annotations)

    names: Counter[str] = Counter()
    items = []
    for number, annotation in enumerate(annotations):
        name, payload = _check_annotation(annotation, number, axes)
        names[name] += 1
        if names[name] > 1:
            reason = f"frame_dir {name} is there twice"
            name, payload = f"{name}#{names[name]}", Annotation(reason=reason)
        items.append(Item(name, payload))

    sound = [item.payload for item in items if item.payload.reason is None]
    if not sound:
        raise UserError(f"{file}: no annotation is sound; the first: {items[0].payload.reason}")
    joints = Counter(each.keypoint.shape[2] for each in sound).most_common(1)[0][0]
    chosen = _choose_layout(layout, content.get("layout"), joints, axes, file)
    num_classes = 1 + max(each.label for each in sound)
    splits, ignored = _pair_splits(content.get("split"), file)
    class_names = _given_names(content.get("class_names"), num_classes)
    class_names = class_names or guess_class_names([item.id for item in items], num_classes)
    return find_normalized(
        Source(
            format="pyskl",
            layout=chosen,
            class_names=class_names,
            items=tuple(items),
            read=functools.partial(
                read_item, layout=chosen, num_classes=len(class_names), fps=_given_rate(content)
            ),
            splits=functools.partial(keep_there, splits=splits),
            notes={"file": str(file), "splits_ignored": ignored},
        )
    )


def _choose_layout(option: str | None, stored: Any, joints: int, axes: int, file: Path) -> Layout:
    if option:
        layout = find_layout(option)
    elif stored is not None:  # of a file that `export` wrote
        layout = restore_layout(stored)
    else:
        layout = guess_layout(joints, axes)
    if layout is None:
        raise UserError(
            f"{file}: skeletons of {joints} joints; 25 (Kinect v2) and 20 (Kinect v1) are read in"
            " 3-D, 17 (COCO) and 18 (OpenPose) in 2-D; give others with --layout"
        )
    if (layout.num_joints, layout.axes) != (joints, axes):
        raise UserError(
            f"{file}: {joints} joints of {axes} coordinates, but {layout.name} has"
            f" {layout.num_joints} of {layout.axes}; give another --layout"
        )
    return layout


def _given_names(names: Any, num_classes: int) -> tuple[str, ...]:
    """The class names that a file of `export` holds, if they are sound."""
    sound = isinstance(names, list | tuple) and num_classes <= len(names) <= MAX_CLASSES
    if not sound or not all(isinstance(n, str) and n and n.isprintable() for n in names):
        return ()
    return tuple(names)


def _given_rate(content: dict[str, Any]) -> float:
    """The frame rate in Hz that a file of `export` holds; 0 if none is there."""
    fps = content.get("fps")
    return float(fps) if isinstance(fps, int | float) and 0 < fps <= MAX_RATE else 0.0


def _array(value: Any) -> np.ndarray | None:
    return value.array if isinstance(value, PickledArray) else None


def _count_axes(annotations: list[Any]) -> int:
    """2 if most keypoints are points in a picture, else 3."""
    arrays = [_array(each.get("keypoint")) for each in annotations if isinstance(each, dict)]
    axes = [array.shape[3] for array in arrays if array is not None and array.ndim == 4]
    return 2 if 2 * axes.count(2) > len(axes) else 3


def _check_annotation(annotation: Any, number: int, axes: int) -> tuple[str, Annotation]:
    """Its name, and its array and label or the reason why it cannot be read."""
    name = annotation.get("frame_dir") if isinstance(annotation, dict) else None
    if not isinstance(name, str) or not name or len(name) > 200 or not name.isprintable():
        return f"annotation {number}", Annotation(reason="it has no frame_dir to name it")
    label = annotation.get("label")
    if not isinstance(label, int | np.integer) or not 0 <= label < MAX_CLASSES:
        return name, Annotation(reason=f"its label is {str(label)[:40]}, not a class number")
    array = _array(annotation.get("keypoint"))
    if array is None or array.dtype.kind != "f":
        return name, Annotation(reason="its keypoint is no array of floating-point numbers")
    if array.ndim != 4 or array.shape[3] != axes or array.size == 0:
        reason = f"its keypoint is {array.shape}, not [bodies, time, joints, {axes}]"
        return name, Annotation(reason=reason)
    total, frames, remark = annotation.get("total_frames"), array.shape[1], ""
    if isinstance(total, int | np.integer) and 0 < total < frames:
        frames, remark = total, CUT  # what follows is padding
    if axes == 3:
        return name, Annotation(array[:, :frames], label=int(label), remark=remark)
    scores, size = annotation.get("keypoint_score"), annotation.get("img_shape")
    if scores is not None:
        scores = _array(scores)
        if scores is None or scores.dtype.kind != "f" or scores.shape != array.shape[:3]:
            return name, Annotation(reason="its keypoint_score is not [bodies, time, joints]")
        if not np.isfinite(scores).all():
            return name, Annotation(reason="its keypoint_score has NaN or infinite numbers")
    if size is not None:
        pair = isinstance(size, list | tuple) and len(size) == 2
        numbers = pair and all(isinstance(n, int | float | np.integer | np.floating) for n in size)
        if not numbers or not all(0 < n < MAX_COORDINATE for n in size):
            return name, Annotation(
                reason=f"its img_shape is {str(size)[:40]}, not (height, width)"
            )
        size = (float(size[0]), float(size[1]))
    if scores is not None:
        scores = scores[:, :frames]
    return name, Annotation(array[:, :frames], scores, size, int(label), remark=remark)


def _pair_splits(split: Any, file: Path) -> tuple[Splits, list[str]]:
    """X_train and X_val (or X_test) -> benchmark X. Also the keys that have no partner."""
    if split is None:
        return {}, []
    if not isinstance(split, dict):
        raise UserError(f"{file}: split is a {type(split).__name__}, not a table of name lists")
    lists = {}
    for key, names in split.items():
        sound = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
        if not isinstance(key, str) or not sound:
            raise UserError(f"{file}: split {str(key)[:40]!r} is no list of clip names; correct it")
        lists[key] = list(dict.fromkeys(names))
    pairs: Splits = {}
    for key, names in lists.items():
        benchmark = key.removesuffix("_train")
        test = next((benchmark + e for e in ("_val", "_test") if benchmark + e in lists), None)
        if benchmark != key and benchmark and test:
            pairs[benchmark] = {"train": names, "test": lists[test]}
    used = {b + ending for b in pairs for ending in ("_train", "_val", "_test")}
    return pairs, sorted(set(lists) - used)


def guess_class_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Known names where the clips' names tell the data set, otherwise "class 0", "class 1", ..."""
    if num_classes <= len(ACTIONS) and all(parse_name(name) for name in names):
        return ACTIONS[:60] if num_classes <= 60 else ACTIONS
    if num_classes == len(_UCLA_ACTIONS) and all(_UCLA_NAME.fullmatch(name) for name in names):
        return _UCLA_ACTIONS
    return tuple(f"class {number}" for number in range(num_classes))
