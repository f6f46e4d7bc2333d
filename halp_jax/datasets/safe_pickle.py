"""Pickles of plain values and numpy arrays, loaded without trusting whoever wrote them.

A pickle is a program; nothing of it may run but what an array needs. Three fences:

* every opcode is on a list of those that build plain values, and no length or memo index in it
  reaches beyond the file (which would make the loader allocate gigabytes for a tiny file);
* every name it asks for is one of the exact (module, name) pairs that numpy 1 and 2 write;
* what those names stand for is code of this module, never numpy's own: arrays of numbers are
  made from their bytes, everything else (object arrays first of all) is refused.
"""

import math
import mmap
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from halp_jax.datasets.source import tell_content
from halp_jax.errors import UserError

_OPCODES = frozenset(
    """
    PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8
    EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL STACK_GLOBAL REDUCE BUILD
    """.split()
)
_MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT")
_NUMBERS = re.compile(r"[fiu][1248]|b1", re.ASCII)
_MAX_AXES = 8


class PickledArray:
    """An array inside a pickle. `array` is None until its bytes have been read."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _make_array(data, dtype, shape, "F" if fortran else "C")


class _Dtype:
    """A dtype of numbers: its code at first, then (by the pickled state) its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: str) -> None:
        if not (isinstance(code, str) and _NUMBERS.fullmatch(code)):
            raise pickle.UnpicklingError(f"an array of {code!r} holds more than numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("an array has a byte order that is none")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Name:
    """What a permitted name stands for: it can be called, and not changed from the pickle."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a name is no object to fill")


def _make_array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray:
    if not isinstance(dtype, _Dtype) or not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("an array is not made of bytes that are numbers")
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if len(shape) > _MAX_AXES or not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError(f"an array has the shape {str(shape)[:60]}")
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise pickle.UnpicklingError(f"an array of shape {str(shape)[:60]} has {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _empty_array(*_: Any) -> PickledArray:
    return PickledArray()


def _array_of_buffer(
    data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> PickledArray:
    made = PickledArray()
    made.array = _make_array(data, dtype, shape, "F" if order == "F" else "C")
    if order == "K" and axes is not None:  # numpy 2.2 and up: a transposed array
        made.array = made.array.transpose(axes)
    return made


def _dtype(code: Any, *_: Any) -> _Dtype:
    return _Dtype(code)


def _scalar(dtype: Any, data: Any) -> Any:
    return _make_array(data, dtype, (), "C")[()]


def _latin1(text: Any, encoding: Any) -> bytes:
    # How protocol 2 (mmcv's default, so PYSKL's) writes the bytes of an array.
    if encoding != "latin1" or not isinstance(text, str):
        raise pickle.UnpicklingError("bytes are not encoded as latin1")
    return text.encode("latin1")


def _refuse(*_: Any) -> None:
    raise pickle.UnpicklingError("it makes an array in a way that numpy does not")


_ALLOWED: dict[tuple[str, str], _Name] = {
    ("numpy", "dtype"): _Name(_dtype),
    ("numpy", "ndarray"): _Name(_refuse),  # only ever an argument of _reconstruct
    ("numpy.core.multiarray", "_reconstruct"): _Name(_empty_array),
    ("numpy._core.multiarray", "_reconstruct"): _Name(_empty_array),
    ("numpy.core.multiarray", "scalar"): _Name(_scalar),
    ("numpy._core.multiarray", "scalar"): _Name(_scalar),
    ("numpy.core.numeric", "_frombuffer"): _Name(_array_of_buffer),
    ("numpy._core.numeric", "_frombuffer"): _Name(_array_of_buffer),
    ("_codecs", "encode"): _Name(_latin1),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return _ALLOWED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def _check_opcodes(file: mmap.mmap, size: int) -> None:
    """Raises UnpicklingError for an opcode or a number that no pickle of arrays needs."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it uses {opcode.name}, which no array needs")
        if opcode.name in _MEMO_WRITES and not 0 <= argument <= count:
            raise pickle.UnpicklingError(f"it counts to {argument} after {count} steps")
        if opcode.name == "FRAME" and argument > size:
            raise pickle.UnpicklingError("it ends within a frame")


def load_pickle(path: str | Path, max_bytes: int = 16 * 2**30) -> Any:
    """The value in a pickle; arrays in it are `PickledArray`s, scalars numpy scalars.

    Raises:
        UserError: naming the file: it cannot be read, is damaged, or holds more than plain values.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise UserError(f"{path}: {size} bytes, more than the limit of {max_bytes}")
        with path.open("rb") as file:
            # Mapped: a file's read takes memory for as many bytes as are asked for, there or not.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                _check_opcodes(view, size)
            return _Unpickler(file).load()
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from error
    except Exception as error:  # a damaged pickle raises nearly anything, says the manual
        reason = " ".join(f"{error}".split())[:200]
        if not isinstance(error, pickle.UnpicklingError):
            with path.open("rb") as file:
                start = file.read(64)
            reason = f"it holds {tell_content(start)}"
            if start.startswith(b"\x80"):
                reason = "it is damaged or cut short"
        raise UserError(f"{path}: no pickle of arrays: {reason}; fetch it again") from error
