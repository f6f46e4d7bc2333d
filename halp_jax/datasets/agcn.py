"""Arrays of 2s-AGCN's generator, which CMD, HaLP and most of their kin train on.

A folder, one for each benchmark, with {train,val}_data_joint.npy [clips, 3, time, joints, bodies],
{train,val}_label.pkl (names, labels) and, for the newer methods, {train,val}_num_frame.npy. The
arrays are mapped, not loaded: preparing takes the memory of a few clips.

The generator has normalised NTU's clips and filled them up to 300 frames by repeating; num_frame says
how many are the clip's own. Its 18-joint arrays of Kinetics hold (x, y, score) with y up, which is
turned down here, as in every other picture.

"aimclr" are the arrays that AimCLR, its baselines and CrosSCLR train on: these, prepared once more, as
{train,val}_position.npy [clips, 3, 50, joints, bodies]. Their preparation resampled every clip to 50
frames, turned it about y, and moved each body so that its joint 20 (between the shoulders) is at
(0, 0, 0) of every frame: where a second body stood is lost. Clips are kept as they are unless
--normalize is given. Written from AimCLR's code; none of its arrays was at hand to read.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halp_jax.datasets import labels
from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip
from halp_jax.datasets.files import check_folder, is_name, remember
from halp_jax.datasets.npy import map_array, to_float32
from halp_jax.datasets.safe_pickle import PickledArray, load_pickle
from halp_jax.datasets.source import Item, Source, find_normalized, guess_benchmark, make_source
from halp_jax.errors import UserError
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import Layout, find_layout, guess_layout, tell_layout
from halp_jax.skeletons.repair import trim_end

_PARTS = {"train": "train", "val": "test"}
_DATA_NAMES = ("data_joint.npy", "data.npy")
_AIMCLR = (
    "by AimCLR's preparation, each body around a joint of its own; kept as they are unless --normalize"
    " is given"
)
# A joint at exactly (0, 0, 0) is a missing one. The joint at the origin is there: a micrometre off.
_THERE = np.float32(1e-6)


_open_array = remember(map_array)


def read_item(item: Item, layout: Layout) -> list[Clip]:
    """One row of an array -> one clip. Raises DamagedClip."""
    path, row, length = item.payload
    array = _open_array(path)
    values = array[row, :, :length] if length else array[row]
    frames = to_float32(values).transpose(1, 3, 2, 0)  # [time, bodies, joints, xyz]
    if not length:
        frames = trim_end(frames)
    if layout.axes == 2:
        frames = to_float32(lift_points(frames * (340 / 256, -1, 1)))  # Kinetics' pictures
    return [
        Clip(np.ascontiguousarray(frames), item.label, item.id, **labels.parse_name_fields(item.id))
    ]


def read_aimclr(item: Item, layout: Layout) -> list[Clip]:
    """One row of AimCLR's array -> one clip. Raises DamagedClip."""
    (clip,) = read_item(item, layout)
    seen = clip.frames.any((2, 3), keepdims=True)
    missing = ~clip.frames.any(-1, keepdims=True)
    return [
        dataclasses.replace(clip, frames=np.where(seen & missing, _THERE, clip.frames), fps=0.0)
    ]


def open_source(path: str | Path, *, layout: str | None = None) -> Source:
    """The folder with the arrays of one benchmark.

    Args:
        path: its last two folder names say which benchmark it is (xsub, xview, xset); else the
            split is called "given".
        layout: by default 25, 20 or 18 joints tell: NTU, Kinect v1, OpenPose.

    Raises:
        UserError: files are missing, damaged or do not fit together.
    """
    return find_normalized(_open("agcn", path, layout, _DATA_NAMES))


def open_aimclr(path: str | Path, *, layout: str | None = None) -> Source:
    """The folder with AimCLR's arrays of one benchmark; see `open_source`."""
    source = _open("aimclr", path, layout, ("position.npy",))
    notes = source.notes | {"normalised": _AIMCLR}
    return dataclasses.replace(source, normalized="aimclr", notes=notes)


def _open(format: str, path: str | Path, layout: str | None, data_names: Sequence[str]) -> Source:
    """`data_names`: what the arrays are called, behind train_ and val_."""
    folder = check_folder(path, f"train_{data_names[0]}, train_label.pkl and their kin")
    items: list[Item] = []
    names: dict[str, list[str]] = {"train": [], "test": []}
    seen: set[str] = set()
    shape, notes = None, {"parts": {}, "frame_counts": {}}
    for prefix, part in _PARTS.items():
        data = next((folder / f"{prefix}_{each}" for each in data_names
                     if (folder / f"{prefix}_{each}").exists()), None)  # fmt: skip
        if data is None:
            continue
        array = map_array(data)
        if array.ndim != 5 or array.shape[1] != 3 or array.dtype.kind != "f":
            raise UserError(
                f"{data}: {array.dtype} of shape {list(array.shape)}, not floating-point"
                " [clips, 3, time, joints, bodies]; give 2s-AGCN's joint arrays"
            )
        if not 0 < array.shape[2] <= MAX_FRAMES:
            raise UserError(f"{data}: {array.shape[2]} frames a clip, not 1 to {MAX_FRAMES}")
        if shape not in (None, array.shape[3:]):
            raise UserError(f"{data}: other joints or bodies than in training; give one data set")
        shape = array.shape[3:]
        clips, classes = _read_labels(folder / f"{prefix}_label.pkl", len(array))
        lengths = _read_lengths(folder / f"{prefix}_num_frame.npy", len(array), array.shape[2])
        notes["parts"][part] = len(array)
        notes["frame_counts"][part] = (
            "num_frame.npy" if lengths is not None else "zero frames at the end left out"
        )
        for row, (name, label) in enumerate(zip(clips, classes, strict=True)):
            length, reason = 0, None
            if lengths is not None:
                length = lengths[row]
                reason = None if length else "its num_frame is not a whole number above 0"
            if label < labels.UNLABELLED:
                reason = "its label is no class number"
            if name in seen:
                name, reason = f"{name}#{prefix}{row}", f"{name} is there twice"
            seen.add(name)
            names[part].append(name)
            told = f"clip {name}: {reason}; correct the arrays or leave it out"
            payload = DamagedClip(told) if reason else (str(data), row, length)
            items.append(Item(name, payload, label))
    if shape is None:
        raise UserError(
            f"{folder} holds no train_{data_names[0]}; give the folder of one benchmark"
        )
    if not items:
        raise UserError(f"{folder}: its arrays have no clips; fetch them again")
    chosen = _choose_layout(layout, shape, folder)
    items, notes["labels"] = labels.number_items(items)
    num_classes = 1 + max(item.label for item in items)
    return make_source(
        format,
        functools.partial(read_aimclr if format == "aimclr" else read_item, layout=chosen),
        items,
        chosen,
        labels.guess_class_names([item.id for item in items], num_classes),
        {guess_benchmark(folder): names},
        notes=notes,
        guessed=not layout,
    )


def _choose_layout(name: str | None, shape: Sequence[int], folder: Path) -> Layout:
    joints, bodies = shape
    guessed = find_layout(name) if name else guess_layout(joints, 3)
    layout = guessed or tell_layout(joints, 2, f"{folder}: skeletons of {joints} joints")
    if not layout.takes(joints) or bodies > layout.bodies:
        raise UserError(
            f"{folder}: {bodies} bodies of {joints} joints, but {layout.name} has {layout.bodies} of"
            f" {layout.num_given}; give another --layout"
        )
    return layout


def _read_labels(path: Path, count: int) -> tuple[list[str], list[int]]:
    """Names without the ending, and 0-based classes: -1 for a clip without, -2 for what is none."""
    content = load_pickle(path)
    if not isinstance(content, list | tuple) or len(content) < 2:
        raise UserError(f"{path}: not (names, labels); give 2s-AGCN's label file")
    names, classes = (
        each.array.tolist() if isinstance(each, PickledArray) and each.array is not None else each
        for each in content[:2]
    )
    for what, values in (("names", names), ("labels", classes)):
        if not isinstance(values, list | tuple) or len(values) != count:
            length = len(values) if isinstance(values, list | tuple) else "no list of"
            raise UserError(f"{path}: {length} {what} for {count} clips; give files that belong")
    for name in names:
        if not is_name(name):
            raise UserError(f"{path}: {str(name)[:40]!r} is no clip's name; fetch it again")
    return [name.removesuffix(".skeleton") for name in names], [_whole(each) for each in classes]


def _whole(label: Any) -> int:
    """PKU-MMD's generator writes labels as floats."""
    if isinstance(label, bool) or not isinstance(label, int | float | np.integer | np.floating):
        return -2
    known = labels.UNLABELLED <= label < labels.MAX_CLASSES and label == int(label)
    return int(label) if known else -2


def _read_lengths(path: Path, count: int, frames: int) -> list[int] | None:
    """Frames of each clip, no more than the array has; 0 for what is no number of frames."""
    if not path.exists():
        return None
    array = map_array(path)
    if array.shape not in ((count,), (count, 1)):
        raise UserError(f"{path}: shape {list(array.shape)} for {count} clips; give its own file")
    values = np.asarray(array, np.float64).reshape(count)
    sound = np.isfinite(values) & (values >= 1) & (values == np.round(values))
    return np.where(sound, np.minimum(values, frames), 0).astype(int).tolist()
