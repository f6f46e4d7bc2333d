"""Annotation files of PYSKL: one pickle with all clips of a data set and its splits.

{"annotations": [{"frame_dir": name, "label": 0-based, "keypoint": [bodies, time, joints, xyz]}],
 "split": {"xsub_train": [names], "xsub_val": [names], ...}}

Of the data sets in this format those of 25 (Kinect v2) and 20 (Kinect v1) joints in 3D are read:
NTU RGB+D, PKU-MMD, NW-UCLA. Pickles are not trusted, see `safe_pickle`.
"""

import functools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halp_jax.datasets.clip import MAX_COORDINATE, Clip, ClipInfo, DamagedClip, check_clip
from halp_jax.datasets.ntu import parse_name
from halp_jax.datasets.ntu_names import ACTIONS
from halp_jax.datasets.safe_pickle import PickledArray, load_pickle
from halp_jax.datasets.source import Item, Source, Splits
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import KINECT20, NTU25, Layout

_LAYOUT_OF_JOINTS = {layout.num_joints: layout for layout in (NTU25, KINECT20)}
_PKU_NAME = re.compile(r"(\d{4})-([LMR])(?:_\d+)?", re.ASCII)
_UCLA_NAME = re.compile(r"a(\d{2})_s(\d{2})_e(\d{2})_v(\d{2})", re.ASCII)
_UCLA_ACTIONS = (
    "pick up with one hand", "pick up with two hands", "drop trash", "walk around", "sit down",
    "stand up", "donning", "doffing", "throw", "carry",
)  # fmt: skip
# A label above this is damage, not a class: it must not make that many classes.
_MAX_CLASSES = 1000


def parse_name_fields(name: str) -> dict[str, int]:
    """What NTU, PKU-MMD and NW-UCLA names say: subject, camera, setup, performance; else {}.

    PKU-MMD's cameras L, M, R are 0, 1, 2. The trial number of NW-UCLA starts anew for every
    subject and action, so it is no performance of its own.
    """
    if numbers := parse_name(name):
        return {"setup": numbers[0], "camera": numbers[1], "subject": numbers[2]}
    if match := _PKU_NAME.fullmatch(name):
        return {"performance": int(match[1]), "camera": "LMR".index(match[2])}
    if match := _UCLA_NAME.fullmatch(name):
        return {"subject": int(match[2]), "camera": int(match[4])}
    return {}


def read_item(item: Item, layout: Layout, num_classes: int) -> list[Clip]:
    """One annotation -> one clip, absent bodies zero. Raises DamagedClip."""
    keypoint, label, reason = item.payload
    if reason:
        raise DamagedClip(f"clip {item.id}: {reason}; correct the annotation or leave it out")
    # Numbers that float32 cannot hold become NaN, which the check below names.
    keypoint = keypoint.astype(np.float64)
    keypoint = np.where(np.abs(keypoint) <= MAX_COORDINATE, keypoint, np.nan).astype(np.float32)
    frames = keypoint.transpose(1, 0, 2, 3)
    if frames.shape[1] < layout.bodies:
        absent = layout.bodies - frames.shape[1]
        frames = np.pad(frames, ((0, 0), (0, absent), (0, 0), (0, 0)))
    clip = Clip(np.ascontiguousarray(frames), label, item.id, **parse_name_fields(item.id))
    return [check_clip(clip, layout, num_classes)]


def make_splits(infos: Sequence[ClipInfo], splits: Splits) -> Splits:
    """The file's own splits, of the clips that there are."""
    there = {info.name for info in infos}
    return {
        benchmark: {part: [n for n in names if n in there] for part, names in parts.items()}
        for benchmark, parts in splits.items()
    }


def open_source(path: str | Path) -> Source:
    """A PYSKL pickle, or the folder with one. All clips are held in memory.

    Raises:
        UserError: no such file, a pickle that is refused, no annotations, or joints of an unknown
            skeleton.
    """
    file = _find_pickle(Path(path).expanduser())
    content = load_pickle(file)
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not annotations:
        raise UserError(f"{file}: no list of annotations in it; give a PYSKL annotation file")

    names: Counter[str] = Counter()
    items = []
    for number, annotation in enumerate(annotations):
        name, payload = _check_annotation(annotation, number)
        names[name] += 1
        if names[name] > 1:
            name, payload = f"{name}#{names[name]}", (None, -1, f"frame_dir {name} is there twice")
        items.append(Item(name, payload))

    sound = [item.payload for item in items if item.payload[2] is None]
    if not sound:
        raise UserError(f"{file}: no annotation is sound; the first: {items[0].payload[2]}")
    joints = Counter(keypoint.shape[2] for keypoint, _, _ in sound).most_common(1)[0][0]
    layout = _LAYOUT_OF_JOINTS.get(joints)
    if layout is None:
        raise UserError(
            f"{file}: skeletons of {joints} joints; 25 (Kinect v2) and 20 (Kinect v1) are read"
        )
    num_classes = 1 + max(label for _, label, _ in sound)
    splits, ignored = _pair_splits(content.get("split"), file)
    class_names = _class_names([item.id for item in items], num_classes)
    return Source(
        format="pyskl",
        layout=layout,
        class_names=class_names,
        items=tuple(items),
        read=functools.partial(read_item, layout=layout, num_classes=len(class_names)),
        splits=functools.partial(make_splits, splits=splits),
        notes={"file": str(file), "splits_ignored": ignored},
    )


def _find_pickle(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.pkl"))
        if len(found) != 1:
            names = ", ".join(each.name for each in found) or "none"
            raise UserError(f"{path} holds {len(found)} .pkl files ({names}); give the one to read")
        return found[0]
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a PYSKL annotation file (.pkl)")
    return path


def _check_annotation(annotation: Any, number: int) -> tuple[str, tuple[Any, int, str | None]]:
    """Name and (keypoint [bodies, time, joints, xyz], label, None), or the reason in the last."""
    name = annotation.get("frame_dir") if isinstance(annotation, dict) else None
    if not isinstance(name, str) or not name or len(name) > 200 or not name.isprintable():
        return f"annotation {number}", (None, -1, "it has no frame_dir to name it")
    label = annotation.get("label")
    if not isinstance(label, int | np.integer) or not 0 <= label < _MAX_CLASSES:
        return name, (None, -1, f"its label is {str(label)[:40]}, not a class number")
    keypoint = annotation.get("keypoint")
    array = keypoint.array if isinstance(keypoint, PickledArray) else None
    if array is None or array.dtype.kind != "f":
        return name, (None, -1, "its keypoint is no array of floating-point numbers")
    if array.ndim != 4 or array.shape[3] != 3 or array.size == 0:
        return name, (None, -1, f"its keypoint is {array.shape}, not [bodies, time, joints, 3]")
    return name, (array, int(label), None)


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


def _class_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Known names where the clips' names tell the data set, otherwise "class 0", "class 1", ..."""
    if num_classes <= len(ACTIONS) and all(parse_name(name) for name in names):
        return ACTIONS[:60] if num_classes <= 60 else ACTIONS
    if num_classes == len(_UCLA_ACTIONS) and all(_UCLA_NAME.fullmatch(name) for name in names):
        return _UCLA_ACTIONS
    return tuple(f"class {number}" for number in range(num_classes))
