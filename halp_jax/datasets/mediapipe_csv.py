"""MediaPipe's landmarks in tables: a landmark a row, a frame a row, or a sample a row.

Columns are found by their names, whatever the spelling: left_hip_x, LEFT_HIP_x, x_23, x23, and also
x_24 if the numbers run from 1. Tables that only number their columns, or have no first line of names,
hold 33 x (x, y, z) or (x, y, z, visibility), perhaps with the frame's number before.
"""

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.source import read_bytes
from halp_jax.datasets.tracking import line_up
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import MEDIAPIPE33

GIVEN = MEDIAPIPE33.num_given
_MAX_BYTES = 128 * 2**20
_PLAIN = {name.replace(" ", ""): place for place, name in enumerate(MEDIAPIPE33.joints[:GIVEN])}
_PLAIN |= {"leftmouth": _PLAIN["mouthleft"], "rightmouth": _PLAIN["mouthright"]}
_FRAME = {"frame", "framenumber", "frameid", "frameidx", "frameindex", "frameno"}
_LANDMARK = {"landmark", "landmarkname", "landmarkid", "landmarkindex", "joint"}
_WIDTHS = (GIVEN * 3, GIVEN * 4)


def line_up_frames(
    found: Mapping[int, Float[np.ndarray, "33 3"]], where: str
) -> Float[np.ndarray, "time 33 3"]:
    """{frame number: points} -> all frames, NaN where a number is not there. Raises DamagedClip."""
    frames = line_up({number: points[None] for number, points in found.items()}, where)
    return np.stack([each[0] if len(each) else np.full((GIVEN, 3), np.nan) for each in frames])


def read_samples(path: Path) -> list[tuple[str, np.ndarray]] | None:
    """ML Kit's samples, a row each: [("class/image", points [1, 33, 3])]; None for other tables.

    Raises UserError for a table of samples of which a row is damaged.
    """
    try:
        with path.open("rb") as stream:
            first = stream.readline(2**16).decode("utf-8-sig", "replace").split(",")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    if len(first) != 2 + _WIDTHS[0] or _is_number(first[0]) or not _is_number(first[2]):
        return None
    samples = []
    try:
        for line, row in enumerate(_read_rows(path), 1):
            if len(row) != 2 + _WIDTHS[0]:
                raise DamagedClip(f"{path}: line {line} has {len(row)} cells; correct it")
            name = f"{row[1].strip()}/{row[0].strip()}"
            if not name.isprintable() or len(name) > 200:
                raise DamagedClip(f"{path}: line {line} names no image and class; correct it")
            numbers = _to_numbers(row[2:], path, line)
            samples.append((name, numbers.reshape(1, GIVEN, 3)))
    except DamagedClip as error:
        raise UserError(str(error)) from error
    return samples


def read_csv(path: Path) -> Float[np.ndarray, "time 33 3"]:
    """The frames of a table, NaN where a landmark is not there. Raises DamagedClip."""
    rows = _read_rows(path)
    header = [re.sub(r"[^a-z]", "", cell.lower()) for cell in rows[0]]
    frame = next((place for place, name in enumerate(header) if name in _FRAME), None)
    landmark = next((place for place, name in enumerate(header) if name in _LANDMARK), None)
    if landmark is not None and {"x", "y", "z"} <= set(header) and frame is not None:
        return _read_long(rows, frame, landmark, [header.index(axis) for axis in "xyz"], path)
    columns = _find_columns(rows[0])
    if not columns:
        # Numbers throughout: no line of names, or one that numbers the columns.
        first = 1 if _numbers_columns(rows[0]) else 0
        width = len(rows[0])
        if width not in (*_WIDTHS, *(each + 1 for each in _WIDTHS)):
            raise DamagedClip(
                f"{path}: no columns of landmarks that are known; see mediapipe_csv.py"
            )
        frame = 0 if width not in _WIDTHS else None
        start, axes = (frame is not None), width // GIVEN
        columns = {
            (joint, axis): start + joint * axes + axis
            for joint in range(GIVEN)
            for axis in range(3)
        }
    else:
        first = 1
        whole = {
            joint for joint, _ in columns if all((joint, axis) in columns for axis in range(3))
        }
        if len(whole) < GIVEN:
            raise DamagedClip(
                f"{path}: x, y, z of {len(whole)} of the {GIVEN} landmarks; write all of them, or use"
                " --format=folder with a layout of your own"
            )
    places = [columns[joint, axis] for joint in range(GIVEN) for axis in range(3)]
    found = {}
    for line, row in enumerate(rows[first:], first + 1):
        if len(row) != len(rows[0]):
            raise DamagedClip(f"{path}: line {line} has {len(row)} cells; correct it")
        number = line if frame is None else _to_frame(row[frame], path, line)
        if number in found:
            raise DamagedClip(
                f"{path}: frame {number} is there twice; keep clips in files of their own"
            )
        found[number] = _to_numbers([row[place] for place in places], path, line).reshape(GIVEN, 3)
    if not found:
        raise DamagedClip(f"{path}: no frames in it; leave it out")
    return line_up_frames(found, str(path))


def _read_long(
    rows: list[list[str]], frame: int, landmark: int, axes: list[int], path: Path
) -> Float[np.ndarray, "time 33 3"]:
    found: dict[int, np.ndarray] = {}
    for line, row in enumerate(rows[1:], 2):
        if len(row) != len(rows[0]):
            raise DamagedClip(f"{path}: line {line} has {len(row)} cells; correct it")
        name = row[landmark].strip().rpartition(".")[2]
        joint = (
            int(name) if re.fullmatch(r"\d{1,2}", name, re.ASCII) else _PLAIN.get(_letters(name))
        )
        if joint is None or joint >= GIVEN:
            raise DamagedClip(f"{path}: line {line}: {name[:40]!r} is no pose landmark; correct it")
        number = _to_frame(row[frame], path, line)
        points = found.setdefault(number, np.full((GIVEN, 3), np.nan))
        points[joint] = _to_numbers([row[place] for place in axes], path, line)
    if not found:
        raise DamagedClip(f"{path}: no frames in it; leave it out")
    return line_up_frames(found, str(path))


def _find_columns(header: list[str]) -> dict[tuple[int, int], int]:
    """{(landmark, axis): column} of the columns whose names tell."""
    columns = {}
    for place, cell in enumerate(header):
        words = re.findall(r"[a-z]+|\d+", cell.lower())
        axes = [word for word in words if word in ("x", "y", "z")]
        rest = [word for word in words if word not in ("x", "y", "z")]
        if len(axes) != 1 or not rest:
            continue
        plain = "".join(rest)
        number = int(plain) if re.fullmatch(r"\d{1,2}", plain, re.ASCII) else _PLAIN.get(plain)
        if number is not None:
            columns[number, "xyz".index(axes[0])] = place
    numbers = {number for number, _ in columns}
    if numbers == set(range(1, GIVEN + 1)):
        columns = {(number - 1, axis): place for (number, axis), place in columns.items()}
    return columns


def _numbers_columns(header: list[str]) -> bool:
    """Whether a line is 0, 1, 2, ..., perhaps behind an empty cell."""
    cells = [cell.strip() for cell in header]
    cells = cells[1:] if not cells[0] else cells
    return cells == [str(number) for number in range(len(cells))]


def _read_rows(path: Path) -> list[list[str]]:
    """The lines that are not empty, as cells. Raises DamagedClip."""
    try:
        text = read_bytes(path, _MAX_BYTES).decode("utf-8-sig")
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        reason = " ".join(str(error).split())[:100]
        raise DamagedClip(f"{path}: no CSV text ({reason}); correct it") from error
    if not rows:
        raise DamagedClip(f"{path}: it is empty; leave it out")
    return rows


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _to_frame(cell: str, path: Path, line: int) -> int:
    try:
        return int(float(cell))
    except (ValueError, OverflowError) as error:
        raise DamagedClip(f"{path}: line {line}: frame {cell[:40]!r}; correct it") from error


def _to_numbers(cells: list[str], path: Path, line: int) -> Float[np.ndarray, "numbers"]:
    """An empty cell is NaN. Raises DamagedClip."""
    try:
        return np.array([float(cell) if cell.strip() else np.nan for cell in cells])
    except ValueError as error:
        raise DamagedClip(
            f"{path}: line {line} has cells that are no numbers; correct it"
        ) from error
