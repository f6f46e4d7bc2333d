"""Kinetics-skeleton: the JSON files and label files that ST-GCN's authors hand out.

    kinetics_train_label.json   {id: {"has_skeleton": true, "label": "balancing", "label_index": 7}}
    kinetics_train/ID.json      {"data": [{"frame_index": 1, "skeleton": [{"pose": [x, y, ...],
                                                                            "score": [...]}]}]}

and the same of kinetics_val. --source is the folder that holds both, or those of one part. Clips
without a skeleton are left out and counted. Poses are OpenPose's 18 joints as shares of the picture's
width and height; the authors had made all pictures 340 x 256, and that shape they get again, so that
people keep their proportions. People of a frame have no identity and are tracked, see `tracking`.

Written from the structure of the real files; none of them was at hand to read.
"""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from halp_jax.datasets import tracking
from halp_jax.datasets.clip import Clip, DamagedClip
from halp_jax.datasets.files import check_folder, is_name, load_json
from halp_jax.datasets.labels import MAX_CLASSES
from halp_jax.datasets.source import Item, Source, make_source
from halp_jax.errors import UserError
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import OPENPOSE18, Layout, find_layout

WHAT = "kinetics_train/, kinetics_train_label.json and the same of kinetics_val"
LEFT_OUT = "clips without a skeleton, left out"
_PICTURE = (256.0, 340.0)  # height, width
_FPS = 30.0
_MAX_BYTES = 64 * 2**20
_ID = re.compile(r"[\w-]{1,100}", re.ASCII)
_PARTS = {"train": "train", "val": "test"}


def read_item(item: Item, layout: Layout) -> list[Clip]:
    """The file of one clip -> the clip. Raises DamagedClip."""
    path = item.payload
    content = load_json(path, _MAX_BYTES)
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list) or not data:
        raise DamagedClip(f"{path}: no list `data` of frames; fetch it again")
    found = {}
    for frame in data:
        fields = frame if isinstance(frame, dict) else {}
        number, people = fields.get("frame_index"), fields.get("skeleton")
        if not tracking.is_frame_number(number) or not isinstance(people, list):
            raise DamagedClip(f"{path}: a frame without frame_index and skeleton; fetch it again")
        if number in found:
            raise DamagedClip(f"{path}: frame {number} is there twice; fetch it again")
        found[number] = tracking.stack_people([_read_pose(each, path) for each in people], path)
        if len(found[number]) and found[number].shape[1] != layout.num_joints:
            raise DamagedClip(f"{path}: poses of {found[number].shape[1]} joints; fetch it again")
    points, remark = tracking.track_clip(found, layout, path)
    points[..., :2] *= _PICTURE[::-1]
    frames = lift_points(points, size=_PICTURE)
    return [Clip(frames, item.label, item.id, remark=remark, fps=_FPS)]


def _read_pose(person: Any, path: str) -> Float[np.ndarray, "joints 3"]:
    fields = person if isinstance(person, dict) else {}
    pose, score = fields.get("pose"), fields.get("score")
    if not isinstance(pose, list) or not isinstance(score, list) or len(pose) != 2 * len(score):
        raise DamagedClip(f"{path}: a person without pose and score; fetch it again")
    triples = zip(pose[::2], pose[1::2], score, strict=True)
    return tracking.to_points([number for triple in triples for number in triple], path)


def open_source(path: str | Path, *, layout: str | None = None) -> Source:
    """The folder with the label files and the folders of clips.

    Args:
        layout: openpose18 with another number of bodies, openpose18x4.

    Raises:
        UserError: no label file, one that is none, or labels that are no classes.
    """
    folder = check_folder(path, WHAT)
    tables = sorted(folder.glob("*_label.json"))
    if not tables:
        raise UserError(f"{folder} holds no *_label.json; give the folder with {WHAT}")
    items, class_names, left_out = [], {}, 0
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for table in tables:
        clips = table.with_name(table.name.removesuffix("_label.json"))
        part = _PARTS.get(clips.name.rpartition("_")[2])
        for name, entry in _read_table(table).items():
            if not entry["has_skeleton"]:
                left_out += 1
                continue
            label = entry["label_index"]
            class_names[label] = entry["label"]
            items.append(Item(name, str(clips / f"{name}.json"), label))
            if part:
                parts[part].append(name)
    if not items:
        raise UserError(f"{folder}: no clip of its label files has a skeleton; fetch them again")
    names = tuple(class_names.get(each, f"class {each}") for each in range(max(class_names) + 1))
    splits = {"given": parts} if all(parts.values()) else {}
    chosen = find_layout(layout) if layout else OPENPOSE18
    read, notes = functools.partial(read_item, layout=chosen), {LEFT_OUT: left_out}
    return make_source("kinetics", read, items, chosen, names, splits, notes=notes)


def _read_table(path: Path) -> dict[str, dict[str, Any]]:
    """A label file, checked. Raises UserError."""
    table = load_json(path)
    if not isinstance(table, dict) or not table:
        raise UserError(f"{path}: no table of clips; give ST-GCN's label file")
    for name, entry in table.items():
        sound = isinstance(entry, dict) and type(entry.get("has_skeleton")) is bool
        if not _ID.fullmatch(name) or not sound:
            raise UserError(f"{path}: {name[:40]!r} is no clip with has_skeleton; correct it")
        label, index = entry.get("label"), entry.get("label_index")
        if type(index) is not int or not 0 <= index < MAX_CLASSES:
            raise UserError(f"{path}: {name} has the label_index {str(index)[:40]}; correct it")
        if not is_name(label):
            raise UserError(f"{path}: {name} has the label {str(label)[:40]!r}; correct it")
    return table
