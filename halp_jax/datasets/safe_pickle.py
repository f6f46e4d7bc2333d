"""Pickles of plain values and numpy arrays, loaded without trusting whoever wrote them.

A pickle is a program; nothing of it may run but what an array needs. Three fences:

* every opcode is on a list of those that build plain values, no length or memo index in it reaches
  beyond the file (which would make the loader allocate gigabytes for a tiny file), and what its
  values amount to, each reference counted as often as it is made, stays within a multiple of it;
* every name it asks for is one of the exact (module, name) pairs that numpy 1 and 2 write;
* what those names stand for is code of this module, never numpy's own: arrays of numbers are
  made from their bytes, everything else (object arrays first of all) is refused.
"""

import math
import mmap
import pickle
import pickletools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.files import one_line, open_file, tell_content

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
_MEMO_READS = ("GET", "BINGET", "LONG_BINGET")
_MAX_DEPTH = 50
_UNFOLDED = 16  # times the file: names of clips stand in every split, arrays once
_NUMBERS = re.compile(r"[fiu][1248]|b1", re.ASCII)
_MAX_AXES = 8


class PickledArray:
    """An array inside a pickle. `array` is None until its bytes have been read."""

    __slots__ = ("array",)

    def __init__(self, *_: Any) -> None:
        self.array = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.array = _make_array(data, dtype, shape, "F" if fortran else "C")


class _Dtype:
    """A dtype of numbers: its code at first, then (by the pickled state) its byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any, *_: Any) -> None:
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


def _array_of_buffer(
    data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
) -> PickledArray:
    made = PickledArray()
    made.array = _make_array(data, dtype, shape, "F" if order == "F" else "C")
    if order == "K" and axes is not None:  # numpy 2.2 and up: a transposed array
        made.array = made.array.transpose(axes)
    return made


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
    ("numpy", "dtype"): _Name(_Dtype),
    ("numpy", "ndarray"): _Name(_refuse),  # only ever an argument of _reconstruct
    ("numpy.core.multiarray", "_reconstruct"): _Name(PickledArray),
    ("numpy._core.multiarray", "_reconstruct"): _Name(PickledArray),
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


class _Value:
    """What the loader has on its stack, as far as its cost goes."""

    __slots__ = ("size", "depth", "shared")

    def __init__(self, parts: Iterable["_Value"], size: int = 1) -> None:
        self.size, self.depth, self.shared = size, 0, False
        self.add(parts)

    def add(self, parts: Iterable["_Value"]) -> None:
        for part in parts:
            self.size += part.size
            self.depth = max(self.depth, part.depth + 1)


def _check_opcodes(file: mmap.mmap, size: int) -> None:
    """Raises UnpicklingError for an opcode or a number that no pickle of arrays needs, and for a value
    that is far larger, with all that it refers to written out, than the file is."""
    stack: list[_Value | None] = []  # None is a mark
    memo: dict[int, _Value] = {}
    called, most = 0, _UNFOLDED * size + 2**20
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        name = opcode.name
        if name not in _OPCODES:
            raise pickle.UnpicklingError(f"it uses {name}, which no array needs")
        if name == "FRAME" and argument > size:
            raise pickle.UnpicklingError("it ends within a frame")
        if name in _MEMO_WRITES or name == "MEMOIZE":
            place = len(memo) if name == "MEMOIZE" else argument
            if not 0 <= place <= count:
                raise pickle.UnpicklingError(f"it counts to {place} after {count} steps")
            memo[place] = stack[-1]
        elif name in _MEMO_READS or name == "DUP":
            value = stack[-1] if name == "DUP" else memo[int(argument)]
            value.shared = True  # to grow afterwards, unseen by whoever has counted it
            stack.append(value)
        elif name not in ("PROTO", "FRAME", "STOP"):
            if type(argument) is int and argument.bit_length() > 64:
                raise pickle.UnpicklingError("it has a whole number of more than 64 bits")
            value = _step(stack, opcode, argument)
            called += value.size if name in ("REDUCE", "BUILD") else 0
            if max(value.size, called) > most or value.depth > _MAX_DEPTH:
                raise pickle.UnpicklingError(
                    f"its values refer to one another until they are larger than {most} bytes or"
                    f" deeper than {_MAX_DEPTH} levels"
                )


def _step(stack: list[_Value | None], opcode: pickletools.OpcodeInfo, argument: Any) -> _Value:
    """What any other opcode does to the stack -> the value that it makes or fills."""
    if opcode.name == "MARK":
        stack.append(None)
        return _Value(())
    before = opcode.stack_before
    if pickletools.markobject in before:
        start = len(stack) - 1 - stack[::-1].index(None)
        parts = stack[start + 1 :]
        del stack[start:]
        kept = before.index(pickletools.markobject)
    else:
        kept = 1 if opcode.name in ("APPEND", "SETITEM", "BUILD") else 0
        parts = [stack.pop() for _ in before[kept:]]
    if not opcode.stack_after:
        return _Value(())
    if not kept:
        size = len(argument) if isinstance(argument, str | bytes | bytearray) else 1
        stack.append(_Value(parts, 1 + size))
    elif stack[-1].shared:
        raise pickle.UnpicklingError("it fills a value that it has used before")
    else:
        stack[-1].add(parts)
    return stack[-1]


def load_pickle(path: str | Path, max_bytes: int = 16 * 2**30) -> Any:
    """The value in a pickle; arrays in it are `PickledArray`s, scalars numpy scalars.

    Raises:
        DamagedClip: naming the file: it cannot be read, is damaged, or holds more than plain values.
    """
    path = Path(path)
    with open_file(path, max_bytes) as file:
        start = file.read(64)
        file.seek(0)
        try:
            # Mapped: a file's read takes memory for as many bytes as are asked for, there or not.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                _check_opcodes(view, len(view))
            return _Unpickler(file).load()
        except OSError:
            raise
        except Exception as error:  # a damaged pickle raises nearly anything, says the manual
            reason = f"it holds {tell_content(start)}"
            if isinstance(error, pickle.UnpicklingError):
                reason = one_line(error, 200)
            elif start.startswith(b"\x80"):
                reason = "it is damaged or cut short"
            raise DamagedClip(f"{path}: no pickle of arrays: {reason}; fetch it again") from error
