"""The .npz files of CTR-GCN's generator (NTU60_CS.npz, NTU60_CV, NTU120_CSub, NTU120_CSet) and kin.

x_train, x_test [clips, time, bodies * joints * 3], zero frames at the end; y_train, y_test one-hot.
The files hold no names, so clips are called train_0, train_1, ... The generator moves each clip so
that the first spine lies at (0, 0, 0), and does not turn it. For NTU RGB+D 120 it writes a single
person twice: an exact copy in the second place is dropped, and counted.

A file as `np.savez` writes it (not compressed) is mapped: preparing takes the memory of a few clips.
A compressed one is decompressed from the start by every reader process, a clip at a time.

NTU's clips before its normalisation are read as well:

    raw_denoised_joints.pkl   a list of float32 [time, 75] (one body) or [time, 150] (two), metres
    frames_cnt.txt            the number of frames of each, a line a clip
    skes_available_name.txt   the name of each, S001C001P001R001A001; here or in ../statistics

Their names tell action, subject, camera and setup, and so the official splits. All clips are held in
memory: about 2 GB of NTU RGB+D 60. Pickles are not trusted, see `safe_pickle`. Written from the
structure of the real files; none of them was at hand to read.
"""

import functools
from pathlib import Path

import numpy as np

from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip
from halp_jax.datasets.files import find_single, read_lines, remember
from halp_jax.datasets.labels import ACTIONS, MAX_CLASSES, name_classes, parse_name_fields
from halp_jax.datasets.npy import Rows, clean_numbers, open_zip, to_float32
from halp_jax.datasets.ntu import make_splits, parse_name
from halp_jax.datasets.safe_pickle import PickledArray, load_pickle
from halp_jax.datasets.source import Item, Source, find_normalized, guess_benchmark, make_source
from halp_jax.errors import UserError
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import NTU25, Layout, find_layout
from halp_jax.skeletons.layouts_known import fill_means
from halp_jax.skeletons.repair import trim_end

_PARTS = ("train", "test")
MAX_CLIPS = 2_000_000
# A whole scene is moved this far, as a camera has it: a joint at (0, 0, 0) is a missing one.
_AWAY = np.array((0.0, 0.0, 3.0), np.float32)
COPY = "second bodies that are exact copies of the first, dropped"
JOINTS, COUNTS, NAMES = "raw_denoised_joints.pkl", "frames_cnt.txt", "skes_available_name.txt"
_RAW_BODY = NTU25.num_joints * 3
_MAX_LIST_BYTES = 64 * 2**20


_open_rows = remember(Rows)


def read_item(item: Item, layout: Layout, file: str, move: bool) -> list[Clip]:
    """One row of x -> one clip. Raises DamagedClip."""
    part, row = item.payload
    if item.label < 0:
        raise DamagedClip(f"clip {item.id}: its label is not one class; correct it or leave it out")
    try:
        values = _open_rows(file, f"x_{part}").read(row)[0]
    except DamagedClip as error:
        raise DamagedClip(f"clip {item.id}: {error}") from error
    width = _body_width(values.shape[1], layout)
    bodies = values.shape[1] // width
    frames = trim_end(to_float32(values).reshape(len(values), bodies, width // 3, 3))
    frames = fill_means(frames, layout)
    remark = ""
    if bodies > 1 and frames[:, 1].any() and np.array_equal(frames[:, 0], frames[:, 1]):
        frames, remark = frames.copy(), COPY
        frames[:, 1] = 0
    if layout.axes == 2:
        frames = to_float32(lift_points(frames))
    first = frames[frames[:, 0].any((1, 2)), 0][:1]  # where the first body is first seen
    if move and len(first) and not first[0, layout.centre].any():
        seen = frames.any((2, 3), keepdims=True)
        frames = np.where(seen, frames + _AWAY, 0)
    # The generator's files of NTU are called so, and keep the frames of the sensor.
    fps = 30.0 if Path(file).stem.upper().startswith("NTU") else 0.0
    return [Clip(frames, item.label, item.id, remark=remark, fps=fps)]


def open_source(path: str | Path, *, layout: str | None = None) -> Source:
    """A .npz file or raw_denoised_joints.pkl, or the folder with one.

    Args:
        layout: of other skeletons than NTU's 25 joints (.npz).

    Raises:
        UserError: no such file, arrays missing, of objects, damaged or of other sizes.
    """
    raw = Path(path).expanduser()
    raw = raw / JOINTS if raw.is_dir() else raw
    if raw.suffix == ".pkl" and raw.is_file():
        return _open_raw(raw)
    file = find_single(path, ".npz", "a .npz file of CTR-GCN's generator")
    chosen = find_layout(layout) if layout else NTU25
    with open_zip(file) as content:
        there = set(content.namelist())
    parts = [part for part in _PARTS if f"x_{part}.npy" in there]
    if not parts:
        raise UserError(f"{file} has no x_train and no x_test; give a file of CTR-GCN's generator")
    items, classes = [], 0
    names: dict[str, list[str]] = {part: [] for part in _PARTS}
    for part in parts:
        x, y = Rows(file, f"x_{part}"), Rows(file, f"y_{part}")
        width = _body_width(x.shape[-1] if x.shape else 0, chosen)
        if (
            len(x.shape) != 3
            or x.header.dtype.kind != "f"
            or x.shape[2] % width
            or 0 in x.shape[1:]
        ):
            raise UserError(
                f"{x.where}: {x.header.dtype} of shape {list(x.shape)}, not floating-point [clips,"
                f" time, bodies * {width}] for {chosen.name}; give --layout for other skeletons"
            )
        if x.shape[0] > MAX_CLIPS or x.shape[1] > MAX_FRAMES:
            raise UserError(f"{x.where}: {list(x.shape)} is beyond any data set; fetch it again")
        if x.shape[2] // width > chosen.bodies:
            raise UserError(f"{x.where}: more bodies than the {chosen.bodies} of {chosen.name}")
        labels, known = _read_classes(y, x.shape[0])
        classes = max(classes, known)
        names[part] = [f"{part}_{row}" for row in range(len(labels))]
        items += [
            Item(name, (part, row), int(label))
            for row, (name, label) in enumerate(zip(names[part], labels, strict=True))
        ]
    if not items:
        raise UserError(f"{file} has no clips; fetch it again")
    # A file of test clips alone, whose x_train has no rows, is no benchmark.
    splits = {guess_benchmark(file): names} if all(names.values()) else {}
    ntu = chosen is NTU25 and classes in (60, 120)
    class_names = ACTIONS[:classes] if ntu else name_classes(classes)

    def make(move: bool) -> Source:
        read = functools.partial(read_item, layout=chosen, file=str(file), move=move)
        given = (read, items, chosen, class_names, splits)
        return make_source("ctrgcn", *given, notes={"file": str(file)}, guessed=not layout)

    source = find_normalized(make(move=False))
    return source if source.normalized or chosen.axes == 2 else make(move=True)


def _body_width(numbers: int, layout: Layout) -> int:
    """Numbers a body, of rows that hold the layout's means (as `export` writes them) or do not."""
    joints = layout.num_given if numbers % (3 * layout.num_joints) else layout.num_joints
    return 3 * joints


def _read_classes(y: Rows, count: int) -> tuple[np.ndarray, int]:
    """[clips] classes, -1 where a row is all zeros, -2 where it is no class; how many there are."""
    if len(y.shape) not in (1, 2) or y.shape[0] != count:
        raise UserError(f"{y.where}: shape {list(y.shape)} for {count} clips; fetch it again")
    labels = np.full(count, -2, np.int64)
    one_hot = len(y.shape) == 2
    if one_hot and not 1 <= y.shape[1] <= MAX_CLASSES:
        raise UserError(f"{y.where}: {y.shape[1]} classes; fetch it again")
    for first in range(0, count, 1024):
        rows = clean_numbers(y.read(first, min(1024, count - first)))
        if one_hot:
            sound = ((rows == 0) | (rows == 1)).all(1) & ((rows == 1).sum(1) <= 1)
            found = np.where(rows.any(1), rows.argmax(1), -1)
        else:
            sound = (rows >= -1) & (rows < MAX_CLASSES) & (rows == np.round(rows))
            found = np.where(sound, rows, 0).astype(int)
        labels[first : first + len(rows)] = np.where(sound, found, -2)
    return labels, y.shape[1] if one_hot else int(labels.max(initial=0)) + 1


def read_raw(item: Item) -> list[Clip]:
    """One array -> one clip. Raises DamagedClip."""
    array, count = item.payload
    numbers = parse_name(item.id)
    if numbers is None or numbers[-1] < 1:
        raise DamagedClip(f"clip {item.id[:80]!r}: no name like S001C001P001R001A001; correct it")
    sound = array is not None and array.dtype.kind == "f" and array.ndim == 2
    if not sound or array.shape[1] not in (_RAW_BODY, 2 * _RAW_BODY):
        shape = list(array.shape) if array is not None else "no array"
        raise DamagedClip(
            f"clip {item.id}: {shape}, not numbers [time, {_RAW_BODY} or {2 * _RAW_BODY}]; make it again"
        )
    if len(array) != count:
        raise DamagedClip(
            f"clip {item.id}: {len(array)} frames, but {COUNTS} says {count}; give files that belong"
        )
    frames = to_float32(array).reshape(len(array), -1, NTU25.num_joints, 3)
    return [Clip(frames, numbers[-1] - 1, item.id, **parse_name_fields(item.id))]


def _open_raw(file: Path) -> Source:
    """The pickle, with the two lists where its authors put them. Raises UserError."""
    content = load_pickle(file)
    if not isinstance(content, list) or not content:
        raise UserError(f"{file}: no list of arrays; give CTR-GCN's {JOINTS}")
    names = _read_list(file, NAMES)
    counts = _read_list(file, COUNTS)
    for what, lines in ((NAMES, names), (COUNTS, counts)):
        if len(lines) != len(content):
            raise UserError(
                f"{file}: {len(content)} clips, but {what} has {len(lines)} lines; give files that"
                " belong together"
            )
    if len(set(names)) != len(names):
        raise UserError(f"{file}: {NAMES} has a name twice; give the file that belongs to it")
    if not all(each.isprintable() for each in names) or not all(map(str.isdecimal, counts)):
        raise UserError(f"{file}: {NAMES} or {COUNTS} is damaged; make them again")
    numbers = [parse_name(name) for name in names]
    num_classes = 120 if any(n and (n[0] > 17 or n[4] > 60) for n in numbers) else 60
    items = [
        Item(name, (each.array if isinstance(each, PickledArray) else None, int(count)))
        for name, each, count in zip(names, content, counts, strict=True)
    ]
    splits = functools.partial(make_splits, num_classes=num_classes)
    class_names, notes = ACTIONS[:num_classes], {"file": str(file)}
    return make_source("ctrgcn", read_raw, items, NTU25, class_names, splits, notes=notes)


def _read_list(file: Path, name: str) -> list[str]:
    """The lines of a list that lies beside the pickle, or in the folder `statistics` there."""
    folders = (file.parent, file.parent / "statistics", file.parent.parent / "statistics")
    found = next((each / name for each in folders if (each / name).is_file()), None)
    if found is None:
        raise UserError(f"{file.parent} holds no {name}; put CTR-GCN's list there, beside {JOINTS}")
    return " ".join(read_lines(found, _MAX_LIST_BYTES)).split()
