"""MediaPipe's landmarks in tables: a landmark a row, a frame a row, or a sample a row.

Columns are found by their names, whatever the spelling: left_hip_x, LEFT_HIP_x, x_23, x23, and also
x_24 if the numbers run from 1. Tables that only number their columns, or have no first line of names,
hold 33 x (x, y, z) or (x, y, z, visibility), perhaps with the frame's number before.
"""

import csv
import functools
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.json_files import is_frame_number
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
        for line, row in _read_lines(_read_rows(path), 0, path):
            name = f"{row[1].strip()}/{row[0].strip()}"
            if not name.isprintable() or len(name) > 200:
                raise DamagedClip(f"{path}: line {line} names no image and class; correct it")
            numbers = _to_numbers(row[2:], path, line)
            samples.append((name, np.reshape(numbers, (1, GIVEN, 3))))
    except DamagedClip as error:
        raise UserError(str(error)) from error
    return samples


def read_csv(path: Path) -> Float[np.ndarray, "time 33 3"]:
    """The frames of a table, NaN where a landmark is not there. Raises DamagedClip."""
    rows = _read_rows(path)
    header = [_letters(cell) for cell in rows[0]]
    frame = next((place for place, name in enumerate(header) if name in _FRAME), None)
    landmark = next((place for place, name in enumerate(header) if name in _LANDMARK), None)
    if frame is not None and landmark is not None and {"x", "y", "z"} <= set(header):
        return _read_long(rows, frame, landmark, [header.index(axis) for axis in "xyz"], path)
    first, columns = 1, _find_columns(rows[0], path)
    if not columns:  # numbers throughout: no line of names, or one that numbers the columns
        first, frame = int(_numbers_columns(rows[0])), None if len(rows[0]) in _WIDTHS else 0
        columns = _count_columns(len(rows[0]), path)
    found = {}
    for line, row in _read_lines(rows, first, path):
        number = line if frame is None else _to_frame(row[frame], path, line)
        if number in found:
            raise DamagedClip(f"{path}: frame {number} is there twice; give each clip its own file")
        numbers = _to_numbers([row[place] for place in columns], path, line)
        found[number] = np.reshape(numbers, (GIVEN, 3))
    return line_up_frames(found, str(path))


def _read_long(
    rows: list[list[str]], frame: int, landmark: int, axes: list[int], path: Path
) -> Float[np.ndarray, "time 33 3"]:
    """A landmark a row."""
    found: dict[int, np.ndarray] = {}
    for line, row in _read_lines(rows, 1, path):
        joint = _find_joint(row[landmark].rpartition(".")[2])
        if joint is None or joint >= GIVEN:
            raise DamagedClip(f"{path}: line {line} has {row[landmark][:40]!r}, no pose landmark")
        number = _to_frame(row[frame], path, line)
        if number not in found:
            found[number] = np.full((GIVEN, 3), np.nan)
        found[number][joint] = _to_numbers([row[place] for place in axes], path, line)
    return line_up_frames(found, str(path))


@functools.lru_cache(maxsize=1024)
def _find_joint(name: str) -> int | None:
    """A landmark's number, by its number or its name however that is spelt."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return int(plain) if re.fullmatch(r"\d{1,2}", plain) else _PLAIN.get(plain)


def _find_columns(header: list[str], path: Path) -> list[int]:
    """The columns of x, y, z of all landmarks in turn, by their names; none if no name tells.

    Raises:
        DamagedClip: only some of the landmarks are there.
    """
    found: dict[tuple[int, str], int] = {}
    for place, cell in enumerate(header):
        words = re.findall(r"[a-z]+|\d+", cell.lower())
        axes = [word for word in words if word in ("x", "y", "z")]
        joint = _find_joint("".join(word for word in words if word not in axes))
        if len(axes) == 1 and joint is not None:
            found[joint, axes[0]] = place
    joints = sorted({joint for joint, _ in found})
    in_a_row = joints == [joints[0] + place for place in range(GIVEN)] if joints else True
    if not in_a_row or len(found) != 3 * len(joints):
        raise DamagedClip(
            f"{path}: x, y, z of {len(joints)} of the {GIVEN} landmarks; write all of them, or use"
            " --format=folder with a layout of your own"
        )
    return [found[joint, axis] for joint in joints for axis in "xyz"]  # numbered from 0 or from 1


def _count_columns(width: int, path: Path) -> list[int]:
    """The same of a table without names. Raises DamagedClip."""
    if width not in _WIDTHS and width - 1 not in _WIDTHS:
        raise DamagedClip(
            f"{path}: {width} columns, of which no name is known; give x_0,y_0,z_0 and so on"
        )
    each, start = width // GIVEN, width % GIVEN
    return [start + each * joint + axis for joint in range(GIVEN) for axis in range(3)]


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


def _read_lines(rows: list[list[str]], first: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines behind the header with their numbers. Raises DamagedClip at one of another length."""
    if len(rows) <= first:
        raise DamagedClip(f"{path}: no frames in it; leave it out")
    for line, row in enumerate(rows[first:], first + 1):
        if len(row) != len(rows[0]):
            raise DamagedClip(
                f"{path}: line {line} has {len(row)} cells, not {len(rows[0])}; correct it"
            )
        yield line, row


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
        number = int(float(cell))
    except (ValueError, OverflowError):
        number = -1
    if not is_frame_number(number):
        raise DamagedClip(f"{path}: line {line} has the frame {cell[:40]!r}; correct it")
    return number


def _to_numbers(cells: list[str], path: Path, line: int) -> list[float]:
    """An empty cell is NaN. Raises DamagedClip."""
    try:
        return [float(cell) if cell.strip() else np.nan for cell in cells]
    except ValueError as error:
        raise DamagedClip(
            f"{path}: line {line} has cells that are no numbers; correct it"
        ) from error
