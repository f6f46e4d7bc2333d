"""Annotation files of PYSKL: one pickle with all clips of a data set and its splits.

{"annotations": [{"frame_dir": name, "label": 0-based, "keypoint": [bodies, time, joints, xyz]}],
 "split": {"xsub_train": [names], "xsub_val": [names], ...}}

A list of annotations alone, as PYSKL's own tool writes it, is split as in `folder`.
3-D files of 25 (Kinect v2) and 20 (Kinect v1) joints: NTU RGB+D, PKU-MMD, NW-UCLA. 2-D files, where
keypoint is [bodies, time, joints, xy] in pixels, of 17 (COCO) and 18 (OpenPose) joints, with
keypoint_score [bodies, time, joints] and img_shape (height, width): the picture becomes the box from
-1 to 1, a joint of score 0 a missing one, and z is 0 (see `skeletons.flat`). Of more bodies than the
layout has, those of the highest scores are kept. Other skeletons with `layout`. Pickles are not
trusted, see `safe_pickle`.

In Kinetics-400's files the key points lie elsewhere, see `pyskl_points`.
"""

import functools
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from halp_jax.datasets import labels
from halp_jax.datasets.clip import MAX_COORDINATE, MAX_RATE, Clip, DamagedClip
from halp_jax.datasets.files import find_single, is_name
from halp_jax.datasets.npy import clean_numbers, to_float32
from halp_jax.datasets.pyskl_points import JOINTS, WHERE, Rows, find_rows, read_rows
from halp_jax.datasets.safe_pickle import PickledArray, load_pickle
from halp_jax.datasets.source import PARTS, Item, Source, Splits, find_normalized, make_source
from halp_jax.errors import UserError
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import Layout, find_layout, restore_layout, tell_layout

# xsub_train, train_xsub, train1, Train; what stands before and behind the part is the benchmark.
_SPLIT_KEY = re.compile(
    r"(?:(.+?)[_\- ]?)??(training|train|validation|valid|val|testing|test)(?:[_\- ]?(.+))?",
    re.IGNORECASE,
)
CUT = "clips cut to their total_frames"
BEST_BODIES = "clips with more bodies than the layout has, those of the highest scores kept"


class Annotation(NamedTuple):
    """What is read of one annotation."""

    keypoint: np.ndarray | Rows
    scores: np.ndarray | None = None
    size: tuple[float, float] | None = None
    remark: str = ""


def read_item(item: Item, layout: Layout, fps: float = 0.0) -> list[Clip]:
    """One annotation -> one clip, absent bodies zero. Raises DamagedClip.

    `fps` is what the file says of all clips, 0 if nothing: then names may tell.
    """
    keypoint, scores, size, remark = item.payload
    if isinstance(keypoint, Rows):
        keypoint, scores, remark = read_rows(keypoint, layout)
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
    fields = labels.parse_name_fields(item.id) | ({"fps": fps} if fps else {})
    return [Clip(np.ascontiguousarray(frames), item.label, item.id, remark=remark, **fields)]


def open_source(
    path: str | Path, *, layout: str | None = None, keypoints: str | None = None
) -> Source:
    """A PYSKL pickle, or the folder with one. All clips are held in memory.

    Args:
        layout: by default 25, 20, 17 or 18 joints tell; a name or .json file for other skeletons.
        keypoints: folder with the key points of annotations that have none, see `pyskl_points`; by
            default that of the pickle.

    Raises:
        UserError: no such file, a pickle that is refused, no annotations, or joints of an unknown
            skeleton.
    """
    file = find_single(path, ".pkl", "a PYSKL annotation file (.pkl)")
    content = load_pickle(file)
    if isinstance(content, list):
        content = {"annotations": content}
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not annotations:
        raise UserError(f"{file}: no list of annotations in it; give a PYSKL annotation file")
    axes = _count_axes(annotations)
    folder = Path(keypoints).expanduser() if keypoints else file.parent

    names: Counter[str] = Counter()
    items = []
    for number, annotation in enumerate(annotations):
        fields = annotation if isinstance(annotation, dict) else {}
        name = fields.get("frame_dir")
        name = name if is_name(name) else f"annotation {number}"
        names[name] += 1
        unique = name if names[name] == 1 else f"{name}#{names[name]}"
        try:
            if unique != name:
                raise DamagedClip(f"frame_dir {name} is there twice")
            items.append(Item(unique, *_check_annotation(fields, axes, folder)))
        except DamagedClip as error:
            told = f"clip {unique}: {error}; correct the annotation or leave it out"
            items.append(Item(unique, DamagedClip(told)))

    sound = [item.payload for item in items if isinstance(item.payload, Annotation)]
    if not sound and not any("keypoint" in each for each in annotations if isinstance(each, dict)):
        raise UserError(
            f"{file}: its key points lie in other files, not found in {folder}: {WHERE}"
        )
    if not sound:
        raise UserError(f"{file}: no annotation is sound; the first: {items[0].payload}")
    joints = Counter(
        JOINTS if isinstance(each.keypoint, Rows) else each.keypoint.shape[2] for each in sound
    ).most_common(1)[0][0]
    chosen = _choose_layout(layout, content.get("layout"), joints, axes, file)
    splits, ignored = _pair_splits(content.get("split"), file)
    class_names = _given_names(content.get("class_names"), 1 + max(each.label for each in items))
    note = ""
    if not class_names:
        items, note = labels.number_items(items)
        num_classes = 1 + max(item.label for item in items)
        class_names = labels.guess_class_names([item.id for item in items], num_classes)
    fps = content.get("fps")  # in Hz, of a file that `export` wrote
    fps = float(fps) if isinstance(fps, int | float) and 0 < fps <= MAX_RATE else 0.0
    read = functools.partial(read_item, layout=chosen, fps=fps)
    notes = {"file": str(file), "labels": note, "splits_ignored": ignored}
    guessed = not layout and content.get("layout") is None
    given = (read, items, chosen, class_names, splits or None)
    return find_normalized(make_source("pyskl", *given, notes=notes, guessed=guessed))


def _choose_layout(option: str | None, stored: Any, joints: int, axes: int, file: Path) -> Layout:
    if option:
        layout = find_layout(option)
    elif stored is not None:  # of a file that `export` wrote
        layout = restore_layout(stored)
    else:
        layout = tell_layout(joints, axes, f"{file}: skeletons of {joints} joints")
    if not layout.takes(joints) or layout.axes != axes:
        raise UserError(
            f"{file}: {joints} joints of {axes} coordinates, but {layout.name} has"
            f" {layout.num_given} of {layout.axes}; give another --layout"
        )
    return layout


def _given_names(names: Any, num_classes: int) -> tuple[str, ...]:
    """The class names that a file of `export` holds, if they are sound."""
    sound = isinstance(names, list | tuple) and num_classes <= len(names) <= labels.MAX_CLASSES
    if not sound or not all(isinstance(n, str) and n and n.isprintable() for n in names):
        return ()
    return tuple(names)


def _array(value: Any) -> np.ndarray | None:
    return value.array if isinstance(value, PickledArray) else None


def _count_axes(annotations: list[Any]) -> int:
    """2 if most keypoints are points in a picture, or lie elsewhere, else 3."""
    arrays = [_array(each.get("keypoint")) for each in annotations if isinstance(each, dict)]
    axes = [array.shape[3] for array in arrays if array is not None and array.ndim == 4]
    axes += [2 for each in annotations if isinstance(each, dict) and "keypoint" not in each]
    return 2 if 2 * axes.count(2) > len(axes) else 3


def _check_annotation(fields: dict[Any, Any], axes: int, folder: Path) -> tuple[Annotation, int]:
    """What is read of an annotation, and its label. Raises DamagedClip."""
    name, label = fields.get("frame_dir"), fields.get("label")
    if not is_name(name):
        raise DamagedClip("it has no frame_dir to name it")
    label = labels.UNLABELLED if label is None else label
    whole = isinstance(label, int | np.integer)
    if not whole or not labels.UNLABELLED <= label < labels.MAX_CLASSES:
        raise DamagedClip(f"its label is {str(label)[:40]}, not a class number")
    size = _read_size(fields.get("img_shape")) if axes == 2 else None
    if "keypoint" not in fields:
        return Annotation(find_rows(fields, name, folder), None, size), int(label)
    array = _array(fields["keypoint"])
    if array is None or array.dtype.kind != "f":
        raise DamagedClip("its keypoint is no array of floating-point numbers")
    if array.ndim != 4 or array.shape[3] != axes or array.size == 0:
        raise DamagedClip(f"its keypoint is {array.shape}, not [bodies, time, joints, {axes}]")
    total, frames, remark = fields.get("total_frames"), array.shape[1], ""
    if isinstance(total, int | np.integer) and 0 < total < frames:
        frames, remark = total, CUT  # what follows is padding
    scores = fields.get("keypoint_score") if axes == 2 else None
    if scores is not None:
        scores = _array(scores)
        if scores is None or scores.dtype.kind != "f" or scores.shape != array.shape[:3]:
            raise DamagedClip("its keypoint_score is not [bodies, time, joints]")
        if not np.isfinite(scores).all():
            raise DamagedClip("its keypoint_score has NaN or infinite numbers")
        scores = scores[:, :frames]
    return Annotation(array[:, :frames], scores, size, remark), int(label)


def _read_size(size: Any) -> tuple[float, float] | None:
    """(height, width) of the picture, None where it is not told. Raises DamagedClip."""
    if size is None:
        return None
    pair = isinstance(size, list | tuple) and len(size) == 2
    numbers = pair and all(isinstance(n, int | float | np.integer | np.floating) for n in size)
    if not numbers or not all(0 < n < MAX_COORDINATE for n in size):
        raise DamagedClip(f"its img_shape is {str(size)[:40]}, not (height, width)")
    return float(size[0]), float(size[1])


def _pair_splits(split: Any, file: Path) -> tuple[Splits, list[str]]:
    """X_train and X_val (or X_test) -> benchmark X; train1 and test1 -> benchmark 1; train and test ->
    benchmark "given". Also the keys that name no part."""
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
    found: Splits = {}
    for key, names in lists.items():
        if match := _SPLIT_KEY.fullmatch(key):
            benchmark = "_".join(filter(None, (match[1], match[3]))) or "given"
            found.setdefault(benchmark, {})[PARTS[match[2].lower()]] = names
    ignored = [key for key in lists if not _SPLIT_KEY.fullmatch(key)]
    for parts in found.values():
        # With a test part val is for choosing settings; alone it is what PYSKL tests on.
        if "test" not in parts:
            parts["test"] = parts.pop("val", [])
        parts.setdefault("train", [])
    return found, sorted(ignored)
