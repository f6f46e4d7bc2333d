"""Arrays of numbers in .npy and .npz files of other people: mapped or streamed, never trusted.

Nothing is allocated from what a header says before that is checked against the bytes that are
there; arrays of Python objects are refused, so nothing is unpickled.
"""

import io
import math
import warnings
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from halp_jax.datasets.clip import MAX_COORDINATE, DamagedClip
from halp_jax.datasets.files import one_line, open_file, tell_content

_MAX_AXES = 8
_MAX_HEADER = 10_000
_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What zipfile and zlib say of a file that is cut short, changed, or something else.
ZIP_DAMAGE = (
    zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError,
    OverflowError,
)  # fmt: skip
_LOCAL_HEADER = 30  # bytes before the name and the extra field of a zip's member


class Header(NamedTuple):
    """What a .npy file says of its array; `offset` is where the numbers begin."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: io.BufferedIOBase, where: str) -> Header:
    """The header at the start of a .npy stream, checked to be of numbers.

    Raises:
        DamagedClip: naming `where`: it is no .npy file, or its array holds more than numbers.
    """
    try:
        start = stream.read(64)
        if not start.startswith(np.lib.format.MAGIC_PREFIX):
            raise DamagedClip(
                f"{where}: no .npy array, it holds {tell_content(start)}; write it with np.save"
            )
        stream.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            version = np.lib.format.read_magic(stream)
            if version not in _READERS:
                raise ValueError(f"version {version} of the format")
            shape, fortran, dtype = _READERS[version](stream, max_header_size=_MAX_HEADER)
    except DamagedClip:
        raise
    except Exception as error:  # a damaged header is parsed as Python and raises nearly anything
        raise DamagedClip(
            f"{where}: no .npy array, its header is damaged; write or fetch it again"
        ) from error
    if dtype.kind == "O":
        raise DamagedClip(
            f"{where}: an array of Python objects, only numbers are read; save each clip as an array"
            " of its own"
        )
    if dtype.kind not in "fiu" or dtype.itemsize > 8:
        raise DamagedClip(f"{where}: its array is of {str(dtype)[:40]}; only numbers are read")
    if len(shape) > _MAX_AXES or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
        raise DamagedClip(f"{where}: its array has the shape {str(shape)[:60]}; fetch it again")
    return Header(shape, dtype, bool(fortran), stream.tell())


def map_array(path: str | Path) -> np.ndarray:
    """The array of a .npy file, mapped: only what is used of it is read, and it cannot be written.

    Raises:
        DamagedClip: the file is missing, cut short, or holds more than numbers.
    """
    path = Path(path)
    with open_file(path) as stream:
        header = read_header(stream, str(path))
        size = path.stat().st_size
        if size < header.offset + header.nbytes:
            raise DamagedClip(_tell_size(str(path), size, header))
        return _map(path, header, header.offset)


def _tell_size(where: str, size: int, header: Header) -> str:
    shape, needed = str(list(header.shape))[:60], header.offset + header.nbytes
    return f"{where}: {size} bytes, but an array {shape} of {header.dtype} takes {needed}; fetch it again"


def _map(path: Path, header: Header, offset: int) -> np.ndarray:
    if not header.nbytes:
        return np.zeros(header.shape, header.dtype)
    order = "F" if header.fortran else "C"
    return np.memmap(path, header.dtype, "r", offset, header.shape, order)


def open_zip(path: Path) -> zipfile.ZipFile:
    """A .npz file. Raises DamagedClip."""
    with open_file(path) as stream:
        start = stream.read(64)
        try:
            return zipfile.ZipFile(path)
        except ZIP_DAMAGE as error:
            cut = start.startswith(b"PK")
            what = "it is cut short" if cut else f"it holds {tell_content(start)}"
            raise DamagedClip(f"{path}: no whole .npz file, {what}; fetch it again") from error


class Rows:
    """The rows (entries of the first axis) of one array of a .npz file.

    A stored member, which is what `np.savez` writes, is mapped: a row costs its own bytes. A
    compressed one is streamed: going forward skips by decompressing, going back starts anew, and no
    more than a row is held in memory.

    Raises:
        DamagedClip: there is no such array, it is cut short, holds more than numbers, or lies in
            Fortran order.
    """

    def __init__(self, path: str | Path, name: str):
        path = Path(path)
        self.where = f"{path}, {name}"
        with open_zip(path) as file:
            try:
                info = file.getinfo(f"{name}.npy")
            except KeyError:
                there = ", ".join(sorted(each.filename[:40] for each in file.infolist())[:12])
                raise DamagedClip(
                    f"{path} has no array {name}; it has: {there or 'none'}"
                ) from None
            with self._open(file, info) as stream:
                self.header = read_header(stream, self.where)
        if self.header.fortran and len(self.header.shape) > 1:
            raise DamagedClip(f"{self.where}: in Fortran order; save it in C order")
        if info.file_size != self.header.offset + self.header.nbytes:
            raise DamagedClip(_tell_size(self.where, info.file_size, self.header))
        # No deflate stream shrinks further; a header that claims more is not believed.
        if info.file_size > 1100 * min(info.compress_size, path.stat().st_size) + 2**16:
            raise DamagedClip(
                f"{self.where}: {info.file_size} bytes cannot be in it; fetch it again"
            )
        self._info, self._mapped = info, None
        if info.compress_type == zipfile.ZIP_STORED:
            self._mapped = _map(path, self.header, self._find_data(path) + self.header.offset)
        else:
            self._file = open_zip(path)
            weakref.finalize(self, self._file.close)
            self._stream = self._open(self._file, info)

    def _open(self, file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
        try:
            return file.open(info)
        except (*ZIP_DAMAGE, OSError) as error:
            raise DamagedClip(
                f"{self.where}: damaged ({one_line(error)}); fetch it again"
            ) from error

    def _find_data(self, path: Path) -> int:
        """Where a stored member's bytes begin: behind a header whose lengths only it knows."""
        with path.open("rb") as stream:
            stream.seek(self._info.header_offset)
            local = stream.read(_LOCAL_HEADER)
        start = self._info.header_offset + _LOCAL_HEADER
        start += int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        if start + self._info.file_size > path.stat().st_size:
            raise DamagedClip(f"{self.where}: the file ends within it; fetch it again")
        return start

    @property
    def shape(self) -> tuple[int, ...]:
        return self.header.shape

    def read(self, first: int, count: int = 1) -> np.ndarray:
        """Rows first .. first + count. Raises DamagedClip if the file is damaged there."""
        if self._mapped is not None:
            return self._mapped[first : first + count]
        row = math.prod(self.shape[1:]) * self.header.dtype.itemsize
        try:
            self._stream.seek(self.header.offset + first * row)
            data = self._stream.read(count * row)
        except (*ZIP_DAMAGE, OSError) as error:
            # A stream that failed stays broken; the next row starts a new one.
            self._stream = self._open(self._file, self._info)
            raise DamagedClip(
                f"{self.where}: damaged ({one_line(error)}); fetch it again"
            ) from error
        if len(data) != count * row:
            raise DamagedClip(f"{self.where}: it ends within row {first}; fetch it again")
        return np.frombuffer(data, self.header.dtype).reshape(count, *self.shape[1:])


def clean_numbers(array: np.ndarray) -> np.ndarray:
    """Coordinates as float64; absurd ones become infinite, which `check_clip` names.

    NaN stays: it is a joint that was not found.
    """
    with np.errstate(invalid="ignore"):  # some bytes are a NaN that raises when it is copied
        array = np.asarray(array, np.float64)
        sound = np.abs(array) <= MAX_COORDINATE
        if sound.all():
            return array
        return np.where(sound, array, np.where(np.isnan(array), np.nan, np.inf))


def to_float32(array: np.ndarray) -> np.ndarray:
    """`clean_numbers` as clips hold them."""
    return clean_numbers(array).astype(np.float32)
