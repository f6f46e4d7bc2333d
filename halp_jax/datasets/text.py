"""Skeletons in text and CSV files, a frame in one line or many, described by `columns`.

`columns` is a .json file of one's own or the name of a set, see `text_columns`: utkinect,
msr_action3d, msrc12, florence3d, sbu, irds, uiprmd; "named" is a CSV with a first line Hips.x, Hips.y,
Hips.z, ... (or Hips_X, HipsX) as bvh-converter writes it, whose joints are found by meaning.

Files of many clips are cut by `text_columns`; UI-PRMD's angles are put to its positions here. Held to a
real file of UI-PRMD; of the other sets only to files made in their likeness.
"""

import csv
import fnmatch
import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from halp_jax.datasets import motion_files
from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip
from halp_jax.datasets.files import list_files, one_line, parse_numbers, read_bytes, remember
from halp_jax.datasets.labels import label_by_folder, name_classes
from halp_jax.datasets.npy import clean_numbers
from halp_jax.datasets.source import Item, Source, make_source, split_odd_subjects
from halp_jax.datasets.text_columns import CUTS, MAX_NUMBERS, Columns, Part, find_columns
from halp_jax.skeletons.kinematics import place_joints, rotate_in_order
from halp_jax.skeletons.layout import Layout, with_bodies

TWICE = "clips with frames that the file has twice, the first kept"
_HEADER = re.compile(r"(.*?\S)[ ._]?([xyz])", re.IGNORECASE)
_UIPRMD_PARENTS = (0, 0, 1, 2, 3, 4, 2, 6, 7, 8, 2, 10, 11, 12, 0, 14, 15, 16, 0, 18, 19, 20)


class Table(NamedTuple):
    """A file: its joints in order, the keys of its frames if they have some, and the numbers."""

    names: tuple[str, ...]
    keys: Float[np.ndarray, " time"] | None
    numbers: Float[np.ndarray, "time bodies joints xyz"]


def parse_text(data: bytes, columns: Columns, where: str) -> Table:
    """The bytes of a file, in its own unit. Raises DamagedClip."""
    text = b"\n".join(data.splitlines()[columns.skip_lines :])
    names = columns.joints
    if columns.kind == "header":
        return _parse_header(text, where)
    if columns.kind == "irds":  # t1,t2,t3,(SpineBase,Tracked,x,y,z,xproj,yproj),...
        head = text.partition(b"\n")[0].decode("utf-8", "replace")
        names = tuple(re.findall(r"\((\w+),", head)[: len(names)])
        text = re.sub(rb"\b[A-Za-z]\w*|[()]", b" ", text)
        if len(set(names)) != len(columns.joints):
            raise DamagedClip(f"{where}: {len(names)} joints in its first frame; fetch it again")
    numbers = parse_numbers(text.translate(_BLANKS), where)
    width = columns.before + columns.bodies * len(names) * columns.width
    if not len(numbers) or len(numbers) % width:
        raise DamagedClip(
            f"{where}: {len(numbers)} numbers, not {width} a frame; correct the file or --columns"
        )
    rows = numbers.reshape(-1, width)
    shape = (len(rows), columns.bodies, len(names), columns.width)
    keys = rows[:, columns.key] if 0 <= columns.key < columns.before else None
    return Table(names, keys, rows[:, columns.before :].reshape(shape)[..., :3])


_BLANKS = bytes.maketrans(b",;\t", b"   ")


def _parse_header(text: bytes, where: str) -> Table:
    """A CSV whose first line names the columns Hips.x, Hips.y, Hips.z, in any order; others may be text.

    An empty cell is NaN.
    """
    try:
        rows = list(csv.reader(text.decode("utf-8-sig", "replace").splitlines()))
    except csv.Error as error:
        raise DamagedClip(f"{where}: no CSV text ({one_line(error)}); correct it") from error
    cells = [cell.strip() for cell in rows[0]] if rows else []
    columns: dict[str, dict[str, int]] = {}
    for place, cell in enumerate(cells):
        if match := _HEADER.fullmatch(cell):
            columns.setdefault(match[1], {})[match[2].lower()] = place
    names = tuple(name for name, axes in columns.items() if len(axes) == 3)
    time = [place for place, cell in enumerate(cells) if cell.lower() in ("time", "time (s)")][:1]
    places = time + [columns[name][axis] for name in names for axis in "xyz"]
    try:
        numbers = np.array(
            [[float(row[place].strip() or "nan") for place in places] for row in rows[1:] if row]
        )
    except (ValueError, IndexError):
        numbers = np.zeros(0)
    if not names or len(cells) > MAX_NUMBERS or not len(numbers):
        raise DamagedClip(
            f"{where}: {len(names)} joints NAME.x, NAME.y, NAME.z in its first line, and no numbers"
            f" below all {len(cells)} columns; correct it"
        )
    keys, numbers = numbers[:, : len(time)], numbers[:, len(time) :]
    return Table(names, keys[:, 0] if time else None, numbers.reshape(-1, 1, len(names), 3))


def place_uiprmd(
    table: Table, path: Path, columns: Columns
) -> Float[np.ndarray, "time bodies joints xyz"]:
    """World positions from offsets in the parent's frame and the angles (x, y, z) of the other file."""
    name = path.name.replace("positions", "angles")
    folder = Path(str(path.parent).replace("Positions", "Angles"))
    found = [each for each in (path.with_name(name), folder / name) if each.is_file()]
    if not found:
        raise DamagedClip(f"{path}: no {name} beside it or in a folder Angles; unpack both")
    angles = _load(str(found[0]), columns).numbers[:, 0]
    if len(angles) != len(table.numbers):
        raise DamagedClip(
            f"{found[0]}: {len(angles)} frames, {len(table.numbers)} positions; fetch both again"
        )
    with np.errstate(all="ignore"):  # what is no angle makes joints that are missing
        turns = [rotate_in_order("zyx", angles[:, j, ::-1]) for j in range(len(columns.joints))]
        return place_joints(_UIPRMD_PARENTS, table.numbers[:, 0], turns)[:, None]


@remember
def _load(path: str, columns: Columns) -> Table:
    return parse_text(read_bytes(path, motion_files.MAX_FILE_BYTES), columns, path)


def read_item(item: Item, columns: Columns, layout: Layout) -> list[Clip]:
    """One file, or one part of it -> one clip. Raises DamagedClip."""
    path, part, fields = item.payload
    remarks, fps, table = [], columns.fps, _load(path, columns)
    rows = np.arange(len(table.numbers))
    rate = 1.0 if columns.kind == "header" else columns.key_rate
    if table.keys is not None:
        rows = rows[(table.keys >= part.first) & (table.keys <= part.last)]
        if rate:
            fresh = np.sort(np.unique(table.keys[rows], return_index=True)[1])
            remarks += [TWICE] if len(fresh) < len(rows) else []
            rows = rows[fresh]
            steps = np.diff(table.keys[rows])
            steps = steps[steps > 0]
            fps = rate / float(np.median(steps)) if len(steps) else fps
    if not 0 < len(rows) <= MAX_FRAMES:
        raise DamagedClip(f"clip {item.id}: {len(rows)} frames of {path}; correct its labels")
    numbers = (
        place_uiprmd(table, Path(path), columns) if columns.kind == "uiprmd" else table.numbers
    )
    numbers = clean_numbers(numbers[rows])
    bodies = []
    for body in range(numbers.shape[1]):
        positions = numbers[:, body]
        seen = positions.any(-1, keepdims=True)  # what is missing in the file stays zero
        if columns.scale:
            positions = np.where(seen, positions * columns.scale + columns.shift, 0.0)
        bodies.append(motion_files.select_joints(positions, table.names, layout, path))
    frames = np.stack(bodies, 1)
    if not columns.scale:
        frames, remark = motion_files.scale_to_metres(frames, layout)
        remarks += [remark] if remark else []
    present = np.flatnonzero((np.abs(frames) > 0).any((1, 2, 3)))  # MSRC-12 begins without a body
    frames = frames[present[0] : present[-1] + 1] if len(present) else frames
    given = {"subject": part.subject} | fields
    return [Clip(frames, item.label, item.id, remark="; ".join(remarks), fps=fps, **given)]


def open_source(
    path: str | Path, *, columns: str | None = None, layout: str | None = None, seed: int = 0
) -> Source:
    """A text file, or a folder with such files and folders of them.

    Args:
        columns: a set that is known, or a .json file that describes the columns.
        layout: the skeleton to take the joints to, by meaning; else that of the columns.
        seed: of the split "random".

    Raises:
        UserError: no file, columns that are not known, or joints that make no known layout.
    """
    described = find_columns(columns)
    names = fnmatch.translate(described.files.lower())
    _, files = list_files(path, names, f"{described.files}, the files of {columns}")
    items = []
    for name, file in files:
        fields = motion_files.match_name(described.name, name) if described.name else {}
        label = fields.pop("label", described.first_label - 1) - described.first_label
        try:
            parts = CUTS[described.cut](file, described) if described.cut else [Part(label=label)]
        except DamagedClip as error:
            items.append(Item(name, DamagedClip(str(error))))  # not the frames that it holds
            continue
        for part in parts:
            whole = f"{name}_{part.name}" if part.name else name
            items.append(Item(whole, (str(file), part, fields), part.label))
    if "{label}" in described.name or described.cut:
        count = max([item.label for item in items] + [len(described.classes) - 1]) + 1
        classes = described.classes or name_classes(count)
    else:
        items, classes = label_by_folder(items)

    def read_names(file: Path) -> Sequence[str]:
        return described.joints or _load(str(file), described).names

    paths = [file for _, file in files]
    chosen = motion_files.choose_layout(layout or described.layout, paths, read_names)
    chosen = with_bodies(chosen, max(described.bodies, chosen.bodies))
    read = functools.partial(read_item, columns=described, layout=chosen)
    splits = split_odd_subjects if columns == "msr_action3d" else None  # the set's own protocol
    return make_source("text", read, items, chosen, classes, splits, seed=seed)
