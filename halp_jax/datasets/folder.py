"""People's own clips: a folder of .npy files and a CSV file that labels them.

    file,label,subject,split
    kick/0001.npy,kick,3,train
    wave/0007.npy,wave,5,test

Only `file` is needed. A clip without a label (empty, or -1) is trained on, and left out where classes
are compared. A file holds [time, joints, axes] or [time, bodies, joints, axes]
of any real type: metres for 3-D layouts; for layouts in a picture (x, y) or (x, y, score), y down.
If every label is a whole number they are classes (from 0, or from 1 where none is 0), else names of
classes, in the order of the alphabet. The layout is `layout`, or what 25, 20 (3-D), 17 and 18 joints (2-D) tell.

Splits: "own" from the column `split` (train, test, val, or empty for none). Without it "xsub" if there
are subjects, every fifth of whom tests; without those "random", where a fifth of the clips tests,
chosen by a hash of `seed` and name.
"""

import csv
import functools
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path, PureWindowsPath

from halp_jax.datasets.clip import MAX_FRAMES, Clip, ClipInfo, DamagedClip, check_clip
from halp_jax.datasets.labels import name_classes, number_classes
from halp_jax.datasets.npy import map_array, to_float32
from halp_jax.datasets.source import Item, Source, Splits, find_normalized, read_bytes
from halp_jax.errors import UserError
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import Layout, guess_layout
from halp_jax.skeletons.layout_file import find_layout

COLUMNS = ("file", "label", "subject", "split")
MAX_CLASSES = 10_000
_MAX_CSV_BYTES = 64 * 2**20
_MAX_ROWS = 2_000_000
_TEST_SHARE = 5  # every fifth subject or clip


def read_item(item: Item, folder: str, layout: Layout, num_classes: int) -> list[Clip]:
    """One file -> one clip. Raises DamagedClip."""
    file, label, subject, reason = item.payload
    if reason:
        raise DamagedClip(f"clip {item.id}: {reason}; correct the CSV file or leave it out")
    path = Path(folder) / file
    try:
        array = map_array(path)
    except DamagedClip:
        raise
    except UserError as error:
        raise DamagedClip(str(error)) from error
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
    if layout.axes == 2:
        frames = to_float32(lift_points(frames))
    clip = Clip(frames, label, item.id, subject=subject)
    return [check_clip(clip, layout, num_classes)]


def open_source(path: str | Path, *, layout: str | None = None, seed: int = 0) -> Source:
    """The CSV file, or the folder with one; files are named from its folder.

    Args:
        layout: a known one or a .json file of your own; the first sound clip tells if not given.
        seed: of the split "random".

    Raises:
        UserError: no CSV file, columns that are not those above, or a skeleton that is not known.
    """
    table = _find_table(Path(path).expanduser())
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
        if reason and not (name and len(name) <= 200 and name.isprintable()):
            name = f"line {number + 2}"
        if name in seen:
            name, reason = f"{name}#{number}", f"{row['file'][:200]} is there twice"
        seen.add(name)
        parts[name] = part
        items.append(Item(name, (row["file"], label, subject, reason)))
    chosen = find_layout(layout) if layout else _find_layout(folder, items)
    if any(parts.values()):
        splits = functools.partial(split_by_column, parts=parts)
    else:
        splits = functools.partial(split_by_default, seed=seed)
    return find_normalized(
        Source(
            format="folder",
            layout=chosen,
            class_names=class_names,
            items=tuple(items),
            read=functools.partial(
                read_item, folder=str(folder), layout=chosen, num_classes=len(class_names)
            ),
            splits=splits,
            notes={"table": str(table), "labels": note},
            guessed=not layout,
        )
    )


def make_source(
    name: str,
    read: Callable[..., list[Clip]],
    items: Sequence[Item],
    layout: Layout,
    class_names: tuple[str, ...],
    seed: int,
    folder: Path | None = None,
) -> Source:
    """Files that tell no split: read with the layout and the number of classes, split by default."""
    return Source(
        format=name,
        layout=layout,
        class_names=class_names,
        items=tuple(items),
        read=functools.partial(read, layout=layout, num_classes=len(class_names)),
        splits=functools.partial(split_by_default, seed=seed),
        notes={"folder": str(folder)} if folder else {},
    )


def split_by_column(infos: Sequence[ClipInfo], parts: dict[str, str]) -> Splits:
    """{"own": ...}, as the column `split` says."""
    return {
        "own": {
            part: [info.name for info in infos if parts[info.name] == part]
            for part in ("train", "test", "val")
            if part != "val" or part in parts.values()
        }
    }


def split_by_default(infos: Sequence[ClipInfo], seed: int) -> Splits:
    """{"xsub": ...} if there are two subjects at least, else {"random": ...}."""
    subjects = sorted({info.subject for info in infos if info.subject >= 0})
    if len(subjects) > 1:
        testing = set(subjects[_TEST_SHARE - 1 :: _TEST_SHARE] or subjects[-1:])
        # A clip of an unknown person could be of anyone, so it is in neither part.
        known = [info for info in infos if info.subject >= 0]
        return {
            "xsub": {
                "train": [info.name for info in known if info.subject not in testing],
                "test": [info.name for info in known if info.subject in testing],
            }
        }

    order = sorted(
        (info.name for info in infos),
        key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest(),
    )
    count = max(1, len(order) // _TEST_SHARE) if len(order) > 1 else 0
    return {"random": {"train": sorted(order[count:]), "test": sorted(order[:count])}}


def _find_table(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.csv"))
        if len(found) != 1:
            names = ", ".join(each.name for each in found) or "none"
            raise UserError(
                f"{path} holds {len(found)} .csv files ({names}); give the one with file,label"
            )
        return found[0]
    if not path.is_file():
        raise UserError(f"{path} does not exist; give a CSV file with file,label, or its folder")
    return path


def _read_table(path: Path) -> list[dict[str, str]]:
    """The rows, each with all columns. Raises UserError."""
    try:
        text = read_bytes(path, _MAX_CSV_BYTES).decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except DamagedClip as error:
        raise UserError(str(error)) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no CSV text in UTF-8; save it as such") from error
    except csv.Error as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: no CSV text ({reason}); correct it") from error
    header = [name.strip().lower() for name in lines[0]] if lines else []
    known = set(header) <= set(COLUMNS) and len(set(header)) == len(header)
    if not known or "file" not in header:
        raise UserError(
            f"{path}: its first line is {','.join(header)[:80]!r}; give the column file and if you"
            " like label,subject,split"
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
    if not file or len(file) > 200 or not file.isprintable():
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
    if len(names) > MAX_CLASSES or not all(n.isprintable() and len(n) <= 200 for n in names):
        raise UserError(f"{path}: its labels are not the names of up to {MAX_CLASSES} classes")
    number = {name: place for place, name in enumerate(names)}
    return [number.get(label, -1) for label in labels], names, ""


def _number_subjects(subjects: Sequence[str]) -> list[int]:
    """Numbers as they are; names numbered in the order of the alphabet; -1 for none."""
    given = {subject for subject in subjects if subject}
    if all(subject.isascii() and subject.isdecimal() and len(subject) < 9 for subject in given):
        return [int(subject) if subject else -1 for subject in subjects]
    number = {name: place for place, name in enumerate(sorted(given))}
    return [number.get(subject, -1) for subject in subjects]


def _find_layout(folder: Path, items: Sequence[Item]) -> Layout:
    """The layout that the joints and coordinates of the first readable file tell."""
    problem = "no file can be read"
    for item in items:
        file, _, _, reason = item.payload
        try:
            shape = () if reason else map_array(folder / file).shape
        except UserError as error:
            problem = str(error)
            continue
        if len(shape) in (3, 4):
            layout = guess_layout(shape[-2], shape[-1])
            if layout:
                return layout
            problem = f"{folder / file}: {shape[-2]} joints of {shape[-1]} numbers"
            break
    raise UserError(f"{problem}; give the skeleton with --layout")
