"""JSON of pose detectors: parsed with a bound, and its flat lists of numbers as points."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import MAX_COORDINATE, DamagedClip
from halp_jax.datasets.source import MAX_FILE_BYTES, read_bytes
from halp_jax.errors import UserError

MAX_PEOPLE = 100  # in one frame: comparing all with all must stay cheap
_FRAME = re.compile(r"(.*?)[-_. ]?(\d{1,12})", re.DOTALL | re.ASCII)


def load_json(path: Path, max_bytes: int = MAX_FILE_BYTES) -> Any:
    """The content of a JSON file. Raises DamagedClip."""
    try:
        return json.loads(read_bytes(path, max_bytes))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DamagedClip(f"{path}: no JSON ({reason}); write it again or leave it out") from error


def is_frame_number(value: Any) -> bool:
    """Whether a value of a JSON file can be the number of a frame."""
    return type(value) is int and 0 <= value < 2**40


def to_size(height: Any, width: Any) -> tuple[float, float] | None:
    """(height, width) of a picture, if that is what a file gives."""
    whole = all(type(length) is int and 0 < length < 2**20 for length in (height, width))
    return (float(height), float(width)) if whole else None


def to_points(numbers: Any, where: str) -> Float[np.ndarray, "joints 3"]:
    """x, y, score, x, y, score, ... -> [joints, 3]; a joint of no score, or not a number, is zero.

    Raises:
        DamagedClip: naming `where`: this is no list of such triples.
    """
    try:
        points = np.array(numbers, np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.zeros(0)
    if points.ndim != 1 or not points.size or points.size % 3:
        raise DamagedClip(f"{where}: key points that are no list of x, y, score; write it again")
    points = points.reshape(-1, 3)
    seen = np.isfinite(points).all(1) & (points[:, 2] > 0)
    points = np.where(seen[:, None], points, 0.0)
    if np.abs(points).max() > MAX_COORDINATE:
        raise DamagedClip(f"{where}: coordinates over {MAX_COORDINATE:g}; write it again")
    return points


def stack_people(people: list[np.ndarray], where: str) -> Float[np.ndarray, "people joints 3"]:
    """The people of one frame as an array, without those of whom no joint was seen.

    Raises:
        DamagedClip: they are too many, or differ in their number of joints.
    """
    if len(people) > MAX_PEOPLE:
        raise DamagedClip(f"{where}: {len(people)} people in one frame; leave it out")
    if len({len(person) for person in people}) > 1:
        raise DamagedClip(f"{where}: people of different numbers of joints; write it again")
    shown = [person for person in people if person.any()]
    return np.stack(shown) if shown else np.zeros((0, 0, 3))


def split_name(name: str) -> tuple[str, int]:
    """A frame's name without ending -> (that of its clip, the frame's number, 0 without one).

    walk_000012 is frame 12 of walk, 00012 of a clip that has no name.
    """
    match = _FRAME.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, 0)


def list_files(path: str | Path, names: str, what: str) -> tuple[Path, list[Path]]:
    """The folder and its files of such names: in itself, else a folder deeper, else two.

    A single file is its own folder's only one.

    Args:
        names: a regular expression for the whole name, in small letters.
        what: what to give, for the line that refuses.

    Raises:
        UserError: there is none.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        return folder.parent, [folder]
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; give {what}")
    for pattern in ("*", "*/*", "*/*/*"):
        found = [
            each for each in folder.glob(pattern)
            if re.fullmatch(names, each.name.lower()) and each.is_file()
        ]  # fmt: skip
        if found:
            return folder, sorted(found)
    raise UserError(f"{folder} holds nothing of this kind; give {what}")
