"""People's own clips: .npy files, and a CSV file that labels them ("folder") or none ("npy").

    file,label,subject,split
    kick/0001.npy,kick,3,train
    wave/0007.npy,wave,5,test

Only `file` is needed. A clip without a label (empty, or -1) is trained on, and left out where classes
are compared. A file holds [time, joints, axes] or [time, bodies, joints, axes]
of any real type: metres for 3-D layouts; for layouts in a picture (x, y) or (x, y, score), y down. A
joint of which all numbers are 0, -1 or NaN is missing.
If every label is a whole number they are classes (from 0, or from 1 if every number from 1 up has a
clip), else names of classes, in the order of the alphabet. The layout is `layout`, or what 20, 25 or 33
joints (3-D), 17, 18, 25 or 26 (2-D) tell.

Splits: "own" from the column `split` (train, test, val, or empty for none). Without it "xsub" if there
are subjects, every fifth of whom tests; without those "random", where a fifth of the clips tests,
chosen by a hash of `seed` and name.

Without a table, "npy", --source is a file, a folder of files, or folders of files, which are then the
classes: wave/0007.npy. Otherwise clips are unlabelled; the split is "random", or "own" of folders
train/wave, test/wave.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path, PureWindowsPath

import numpy as np

from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip
from halp_jax.datasets.files import find_single, is_name, list_files, read_first, read_table
from halp_jax.datasets.labels import label_by_folder, name_classes, number_classes
from halp_jax.datasets.npy import map_array, to_float32
from halp_jax.datasets.source import Item, Source, find_normalized, make_source, split_by_parts
from halp_jax.errors import UserError
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import Layout, tell_layout, to_layout

COLUMNS = ("file", "label", "subject", "split")
MAX_CLASSES = 10_000
_MAX_CSV_BYTES = 64 * 2**20
_MAX_ROWS = 2_000_000


def read_item(item: Item, folder: str, layout: Layout) -> list[Clip]:
    """One file -> one clip. Raises DamagedClip."""
    file, subject = item.payload
    path = Path(folder) / file
    array = map_array(path)
    if array.ndim == 3:
        array = array[:, None]
    axes = (2, 3) if layout.axes == 2 else (3,)
    if array.ndim != 4 or array.shape[3] not in axes or 0 in array.shape:
        wanted = " or ".join(map(str, axes))
        raise DamagedClip(
            f"{path}: its shape is {list(array.shape)}, not [time, bodies, joints, {wanted}]"
            f" for {layout.name}; correct the file"
        )
    time, bodies, joints, _ = array.shape
    if time > MAX_FRAMES or bodies > layout.bodies or not layout.takes(joints):
        raise DamagedClip(
            f"{path}: {time} frames, {bodies} bodies, {joints} joints; {layout.name} takes up to"
            f" {MAX_FRAMES}, {layout.bodies} and {layout.num_given}; correct the file"
        )
    frames = to_float32(array)
    frames = np.where((frames == -1).all(-1, keepdims=True), np.float32(0), frames)
    if layout.axes == 2:
        frames = to_float32(lift_points(frames))
    return [Clip(frames, item.label, item.id, subject=subject)]


def open_source(path: str | Path, *, layout: Layout | str | None = None, seed: int = 0) -> Source:
    """The CSV file, or the folder with one; files are named from its folder.

    Args:
        layout: a known one, a .json file of your own or a Layout; the first sound clip tells if not given.
        seed: of the split "random".

    Raises:
        UserError: no CSV file, columns that are not those above, or a skeleton that is not known.
    """
    table = find_single(path, ".csv", "the CSV file with file,label, or its folder")
    folder = table.parent
    rows = _read_table(table)
    labels, class_names, note = _number_labels([row.get("label", "") for row in rows], table)
    subjects = _number_subjects([row.get("subject", "") for row in rows])
    items, parts = [], {}
    seen: set[str] = set()
    for number, (row, label, subject) in enumerate(zip(rows, labels, subjects, strict=True)):
        name, reason = row["file"].removesuffix(".npy"), _check_file(row["file"])
        part = row.get("split", "").lower()
        if not reason and part not in ("", "train", "test", "val"):
            reason = f"its split is {part[:40]!r}, not train, test or val"
        if reason and not is_name(name):
            name = f"line {number + 2}"
        if name in seen:
            name, reason = f"{name}#{number}", f"{row['file'][:200]} is there twice"
        seen.add(name)
        parts[name] = part
        told = f"clip {name}: {reason}; correct the CSV file or leave it out"
        items.append(Item(name, DamagedClip(told) if reason else (row["file"], subject), label))
    sound = (folder / each.payload[0] for each in items if isinstance(each.payload, tuple))
    chosen = _choose_layout(layout, sound)
    own = functools.partial(split_by_parts, parts=parts) if any(parts.values()) else None
    read = functools.partial(read_item, folder=str(folder), layout=chosen)
    return find_normalized(
        make_source(
            "folder", read, items, chosen, class_names, own, seed=seed,
            notes={"table": str(table), "labels": note}, guessed=not layout,
        )
    )  # fmt: skip


def open_arrays(path: str | Path, *, layout: Layout | str | None = None, seed: int = 0) -> Source:
    """A .npy file, or a folder with .npy files and folders of them, without a table.

    Args:
        layout: a known one, a .json file of your own or a Layout; the first sound clip tells if not given.
        seed: of the split "random".

    Raises:
        UserError: no file, or a skeleton that is not known.
    """
    what = "a .npy file [time, bodies, joints, 3], or a folder of them"
    folder, files = list_files(path, r".*\.npy", what)
    items, class_names = label_by_folder(
        [Item(name, (file.relative_to(folder).as_posix(), -1)) for name, file in files]
    )
    chosen = _choose_layout(layout, (file for _, file in files))
    read = functools.partial(read_item, folder=str(folder), layout=chosen)
    return find_normalized(make_source(
            "npy", read, items, chosen, class_names, seed=seed, guessed=not layout
        )
    )  # fmt: skip


def _read_table(path: Path) -> list[dict[str, str]]:
    """The rows, each with all columns. Raises UserError."""
    lines = read_table(path, _MAX_CSV_BYTES)
    header = [name.strip().lower() for name in lines[0]] if lines else []
    known = set(header) <= set(COLUMNS) and len(set(header)) == len(header)
    if not known or "file" not in header:
        raise UserError(
            f"{path}: its first line is {','.join(header)[:80]!r}; give the column file and if you"
            " like label,subject,split, with commas between"
        )
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in line):
            continue
        if len(line) != len(header):
            raise UserError(f"{path}: line {number} has {len(line)} cells, not {len(header)}")
        row = dict(zip(header, (cell.strip() for cell in line), strict=True))
        row["file"] = row["file"].replace("\\", "/")  # as Windows writes paths
        rows.append(row)
    if not 1 <= len(rows) <= _MAX_ROWS:
        raise UserError(f"{path}: {len(rows)} clips in it; give 1 to {_MAX_ROWS}")
    return rows


def _check_file(file: str) -> str | None:
    """Why a file must not be opened; None if it may."""
    path = PureWindowsPath(file)  # which knows drives too
    if not is_name(file):
        return "its file has no sound name"
    if path.drive or path.root or ".." in path.parts:
        return "its file lies outside the folder"
    if path.suffix != ".npy":
        return "its file does not end in .npy"
    return None


def _number_labels(labels: Sequence[str], path: Path) -> tuple[list[int], tuple[str, ...], str]:
    """0-based classes, -1 where there is no label, the names of the classes, and a note."""
    given = [label for label in labels if label not in ("", "-1")]
    if all(label.isascii() and label.isdecimal() and len(label) < 9 for label in given):
        if given and max(map(int, given)) >= MAX_CLASSES:
            raise UserError(
                f"{path}: class {max(map(int, given))}; number them from 0, below {MAX_CLASSES}"
            )
        classes, note = number_classes([int(label or -1) for label in labels])
        return classes, name_classes(1 + max(classes)), note
    names = tuple(sorted(set(given)))
    if len(names) > MAX_CLASSES or not all(map(is_name, names)):
        raise UserError(f"{path}: its labels are not the names of up to {MAX_CLASSES} classes")
    number = {name: place for place, name in enumerate(names)}
    return [number.get(label, -1) for label in labels], names, ""


def _number_subjects(subjects: Sequence[str]) -> list[int]:
    """Numbers as they are; names numbered in the order of the alphabet; -1 for none."""
    given = {subject for subject in subjects if subject not in ("", "-1")}
    if all(subject.isascii() and subject.isdecimal() and len(subject) < 9 for subject in given):
        return [int(subject or -1) for subject in subjects]
    number = {name: place for place, name in enumerate(sorted(given))}
    return [number.get(subject, -1) for subject in subjects]


def _choose_layout(option: Layout | str | None, files: Iterable[Path]) -> Layout:
    """The layout that the user gives, else what the first sound file tells. Raises UserError."""
    return to_layout(option) if option else read_first(files, _tell_layout)


def _tell_layout(file: Path) -> Layout:
    """The layout that the joints and coordinates of an array tell. Raises UserError."""
    shape = map_array(file).shape
    if len(shape) not in (3, 4):
        raise DamagedClip(
            f"{file}: an array {list(shape)}, which tells no skeleton; give [time, bodies, joints, axes]"
        )
    return tell_layout(*shape[-2:], f"{file}: {shape[-2]} joints of {shape[-1]} numbers")
