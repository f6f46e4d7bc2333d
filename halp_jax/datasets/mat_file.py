"""Numbers and cells of a MATLAB 5 file (save without or with -v7), read without trust.

scipy.io.loadmat reads more of the format, but a file with a few changed bytes makes it crash the
process or take all memory; here no size is believed before the bytes are there. Structures, text and
sparse matrices are left out.
"""

import math
import zlib
from typing import NamedTuple

import numpy as np

from halp_jax.datasets.clip import DamagedClip

_NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_MATRIX, _COMPRESSED = 14, 15
_CELL, _NUMERIC = 1, range(6, 16)
_MAX_EXPANDED = 256 * 2**20
_MAX_DEPTH = 8


class Cells(NamedTuple):
    """A cell array: its shape, and what is in it in MATLAB's order (the first index runs fastest)."""

    shape: tuple[int, ...]
    items: list["np.ndarray | Cells | None"]


def parse_mat(data: bytes, where: str) -> dict[str, "np.ndarray | Cells"]:
    """The bytes of a file -> its variables: float64 arrays, and cells of such.

    Raises:
        DamagedClip: it is of another version, or damaged.
    """
    if data[:4] == b"\x89HDF" or data.startswith(b"MATLAB 7.3"):
        raise DamagedClip(f"{where}: MATLAB's format 7.3; save it again with save(..., '-v7')")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise DamagedClip(f"{where}: no MATLAB file of version 5 to 7; save it with '-v7'")
    try:
        return _read_variables(data, order)
    except (ValueError, zlib.error) as error:
        reason = " ".join(str(error).split())[:80]
        raise DamagedClip(f"{where}: damaged ({reason}); save or fetch it again") from error


def _read_variables(data: bytes, order: str) -> dict[str, "np.ndarray | Cells"]:
    variables, place, expanded = {}, 128, 0
    while place + 8 <= len(data):
        kind, payload, place = _read_element(data, place, order)
        if kind == _COMPRESSED:
            stream = zlib.decompressobj()
            payload = stream.decompress(payload, _MAX_EXPANDED - expanded)
            expanded += len(payload)
            if not stream.eof:
                raise ValueError(f"a variable is cut short, or larger than {_MAX_EXPANDED} bytes")
            kind, payload, _ = _read_element(payload, 0, order)
        if kind == _MATRIX:
            name, value = _read_matrix(payload, order, 0)
            if value is not None:
                variables[name] = value
    return variables


def _read_element(data: bytes, place: int, order: str) -> tuple[int, bytes, int]:
    """(type, content, where the next one begins). Raises ValueError."""
    if place + 8 > len(data):
        raise ValueError("it ends within a variable")
    kind, size = (int(number) for number in np.frombuffer(data, f"{order}u4", 2, place))
    if kind >> 16:  # up to four bytes stand within the tag
        return kind & 0xFFFF, data[place + 4 : place + 4 + min(kind >> 16, 4)], place + 8
    end = place + 8 + size
    if end > len(data):
        raise ValueError("it ends within a variable")
    return kind, data[place + 8 : end], end if kind == _COMPRESSED else end + -size % 8


def _read_matrix(data: bytes, order: str, depth: int) -> tuple[str, "np.ndarray | Cells | None"]:
    """(name, value); None for a kind that is not read. Raises ValueError."""
    if not data:
        return "", np.zeros((0, 0))
    if depth > _MAX_DEPTH:
        raise ValueError("cells within cells without end")
    _, flags, place = _read_element(data, 0, order)
    kind, dims, place = _read_element(data, place, order)
    _, name, place = _read_element(data, place, order)
    if len(flags) != 8 or kind != 5 or not 8 <= len(dims) <= 32 or len(dims) % 4:
        raise ValueError("a variable without its shape")
    what = int(np.frombuffer(flags, f"{order}u4")[0]) & 0xFF
    shape = tuple(int(size) for size in np.frombuffer(dims, f"{order}i4"))
    count = math.prod(shape)
    text = name.decode("utf-8", "replace")
    if min(shape) < 0 or count > len(data):  # each number takes a byte at least
        raise ValueError("a variable larger than its bytes")
    if what == _CELL:
        items = []
        for _ in range(count):
            kind, payload, place = _read_element(data, place, order)
            items.append(_read_matrix(payload, order, depth + 1)[1] if kind == _MATRIX else None)
        return text, Cells(shape, items)
    if what not in _NUMERIC:
        return text, None
    kind, payload, _ = _read_element(data, place, order)
    if kind not in _NUMBERS:
        raise ValueError(f"numbers of type {kind}")
    numbers = np.frombuffer(payload, np.dtype(order + _NUMBERS[kind]))
    if len(numbers) != count:
        raise ValueError(f"{len(numbers)} numbers for the shape {list(shape)}")
    return text, numbers.astype(np.float64).reshape(shape, order="F")
