"""The text of a `.skeleton` file -> the bodies in it: quickly where it is regular, else token by token.

A file is a stream of numbers: the frame count; for each frame its body count; for each body ten
values of which the first is its tracking id, the joint count, and twelve values a joint of which
the first three are xyz in metres. Damage is told by the slow way, which knows what is wrong where.

The quick way looks at all bytes at once: where the gaps between numbers are, and nothing else of
the nine values a joint that nobody uses than that they are made of the characters of numbers. Both
ways give the same float64 of every coordinate, the one nearest to the decimal number.
"""

import contextlib
import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from halp_jax.datasets.clip import MAX_COORDINATE, DamagedClip
from halp_jax.skeletons.layout import NTU25

_BODY_VALUES, _JOINT_VALUES = 10, 12
_POSE_VALUES = NTU25.num_joints * _JOINT_VALUES
_HEAD = _BODY_VALUES + 1  # what stands before a body's coordinates
# The longest real file has 300 frames of less than 0.1 MB a second; these stop nonsense early.
_MAX_FRAMES = 5_000
_MAX_BODIES = 100
_MAX_ID = 2**64
_DIGITS = 8  # as many fit a machine word


@dataclasses.dataclass(frozen=True)
class Recording:
    """The bodies of one file, as many rows as there are bodies in all frames together."""

    num_frames: int
    frame: Int[np.ndarray, " rows"]
    slot: Int[np.ndarray, " rows"]  # position among the bodies of its frame
    ids: tuple[int, ...]  # tracking ids; they do not fit a float64, so Python integers
    poses: Float[np.ndarray, "rows joints xyz"]  # float64 metres


def parse_skeleton(data: bytes, where: str) -> Recording:
    """The bytes of a `.skeleton` file. Raises DamagedClip, which says what is wrong `where`."""
    try:
        return parse_regular(data) or parse_tokens(data)
    except _Damage as reason:
        raise DamagedClip(f"{where}: {reason}; fetch the file again or leave it out") from None


# --- the quick way --------------------------------------------------------------------------------


def parse_regular(data: bytes) -> Recording | None:
    """A file of plain numbers with one space or line end between them; None if it is not that."""
    text = data.rstrip() + b"\n" * 16  # so that words of 8 bytes may be read past the last number
    codes = np.frombuffer(text, np.uint8)
    gaps = _find_gaps(text, codes[:-15])
    if gaps is None:
        return None
    try:
        counts, heads, ids = _find_bodies(text, memoryview(gaps))
        if not ids or not 0 <= min(ids) <= max(ids) <= _MAX_ID:
            return None
        # The gaps around the numbers of a pose; the first is the one behind the joint count.
        shape = (len(gaps) - _POSE_VALUES, _POSE_VALUES + 1)
        around = np.ndarray(shape, gaps.dtype, gaps, strides=2 * gaps.strides)[heads + _HEAD - 1]
        if not _say_25(codes, around[:, 0]).all():
            return None
        shape = (-1, NTU25.num_joints, _JOINT_VALUES)
        begin = (around[:, :-1].reshape(shape)[..., :3] + 1).ravel()
        end = around[:, 1:].reshape(shape)[..., :3].ravel()
        values = _parse_decimals(text, codes, begin, end)
    except (ValueError, IndexError):
        return None
    if not (np.abs(values) <= MAX_COORDINATE).all():
        return None
    frame = np.repeat(np.arange(len(counts)), counts)
    slot = np.arange(len(frame)) - (np.cumsum(counts) - counts)[frame]
    return Recording(len(counts), frame, slot, ids, values.reshape(-1, NTU25.num_joints, 3))


def _find_gaps(text: bytes, codes: UInt8[np.ndarray, "bytes"]) -> Int[np.ndarray, " gaps"] | None:
    """Where numbers end; None if there is more than one character between two, or a strange one.

    A carriage return before a line feed counts to the number: Python's int and float ignore it.
    """
    is_gap = blank = (codes == ord(" ")) | (codes == ord("\n"))
    gaps = np.flatnonzero(is_gap)
    expected = len(gaps)
    if b"\r" in text:
        is_return = codes == ord("\r")
        blank = is_gap | is_return
        expected += np.count_nonzero(is_return)
    if (blank[1:] & is_gap[:-1]).any() or b"/" in text:
        return None
    # All others lie from "-" to "9"; what is less wraps around and is more.
    strange = np.count_nonzero(codes - np.uint8(ord("-")) > ord("9") - ord("-"))
    if strange != expected and strange != expected + np.count_nonzero(codes == ord("E")):
        return None
    return gaps


def _find_bodies(
    text: bytes, gaps: memoryview
) -> tuple[Int[np.ndarray, " frames"], Int[np.ndarray, " rows"], tuple[int, ...]]:
    """Bodies of each frame; which number of the file is the first of each body; the tracking ids.

    Raises ValueError, IndexError: a count is none, or they do not fit the length of the file.
    """
    counts, heads, ids, position = [], [], [], 1
    num_frames = int(text[: gaps[0]])
    if num_frames > _MAX_FRAMES:
        raise ValueError
    for _ in range(num_frames):
        count = int(text[gaps[position - 1] + 1 : gaps[position]])
        if not 0 <= count <= _MAX_BODIES:
            raise ValueError
        counts.append(count)
        position += 1
        for _ in range(count):
            heads.append(position)
            ids.append(int(text[gaps[position - 1] + 1 : gaps[position]]))
            position += _HEAD + _POSE_VALUES
    if position != len(gaps):
        raise ValueError
    return np.asarray(counts, int), np.asarray(heads, int), tuple(ids)


def _say_25(
    codes: UInt8[np.ndarray, "bytes"], end: Int[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """Whether the numbers that end there are all 25, the joint count."""
    end = end - (codes[end - 1] == ord("\r"))
    before, tens, ones = codes[end - 3], codes[end - 2], codes[end - 1]
    return (before <= ord(" ")) & (tens == ord("2")) & (ones == ord("5"))


def _parse_decimals(
    text: bytes,
    codes: UInt8[np.ndarray, "bytes"],
    begin: Int[np.ndarray, " numbers"],
    end: Int[np.ndarray, " numbers"],
) -> Float[np.ndarray, " numbers"]:
    """The numbers text[begin:end], float64; those like -0.1234567 all at once.

    These are a digit, a point and up to 8 decimals. Digits and power of ten are exact in float64,
    so one division rounds once, and the result is the nearest float64, as Python's float gives it.

    Raises ValueError: one is no number.
    """
    negative = codes.take(begin) == ord("-")
    first = begin + negative
    length = end - first - 2
    easy = (length >= 1) & (length <= _DIGITS) & (codes.take(first + 1) == ord("."))
    units = codes.take(first) - np.uint8(ord("0"))  # below "0" wraps around, above 9 too
    easy &= units <= 9
    length = np.where(easy, length, _DIGITS)

    # Eight characters are one little-endian word, its lowest byte the first decimal. Shifted up,
    # the last decimal is the highest byte, and zeros stand before the first.
    words = np.ndarray(len(text) - 7, "<u8", text, strides=(1,))[first + 2]
    words ^= np.uint64(0x3030303030303030)  # a digit's character becomes its value
    words <<= (8 * (_DIGITS - length)).view(np.uint64)
    beyond_9 = words | (words + np.uint64(0x7676767676767676))
    easy &= beyond_9 & np.uint64(0x8080808080808080) == 0
    # Neighbours are joined: bytes to numbers of two digits, these to four, these to eight.
    for factor, shift, mask in (
        (10 * 2**8 + 1, 8, 0x00FF00FF00FF00FF),
        (100 * 2**16 + 1, 16, 0x0000FFFF0000FFFF),
        (10_000 * 2**32 + 1, 32, 0x00000000FFFFFFFF),
    ):
        words *= np.uint64(factor)
        words >>= np.uint64(shift)
        words &= np.uint64(mask)
    scale = (10.0 ** np.arange(_DIGITS + 1)).take(length)
    values = (units * scale + words) / scale
    np.negative(values, out=values, where=negative)
    for place in np.flatnonzero(~easy).tolist():
        values[place] = float(text[begin[place] : end[place]])
    return values


# --- token by token -------------------------------------------------------------------------------


class _Damage(Exception):  # noqa: N818
    """Why a file cannot be read, before it is known which."""


def _parse_count(tokens: list[bytes], position: int, what: str, most: int) -> int:
    if position >= len(tokens):
        raise _Damage(f"it ends before the {what}")
    try:
        number = int(tokens[position])
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        raise _Damage(f"the {what} is {tokens[position][:20].decode('ascii', 'replace')}")
    return number


def parse_tokens(data: bytes) -> Recording:
    """Walks over the counts alone; the coordinates are then taken from all values in one step.

    Raises _Damage.
    """
    tokens, values = data.split(), np.zeros(0)
    with contextlib.suppress(ValueError, DeprecationWarning):
        values = np.fromstring(data, sep=" ")
    if len(values) != len(tokens):
        raise _Damage("it holds text that is no number")
    frame, slot, ids, starts = [], [], [], []
    num_frames = _parse_count(tokens, 0, "number of frames", _MAX_FRAMES)
    position = 1
    for index in range(num_frames):
        what = f"number of bodies of frame {index}"
        num_bodies = _parse_count(tokens, position, what, _MAX_BODIES)
        position += 1
        for body in range(num_bodies):
            ids.append(_parse_count(tokens, position, f"body id in frame {index}", _MAX_ID))
            position += _BODY_VALUES
            what = f"number of joints in frame {index}"
            joints = _parse_count(tokens, position, what, 1000)
            position += 1
            if joints != NTU25.num_joints:
                raise _Damage(f"frame {index} has a body of {joints} joints, not 25")
            if position + _POSE_VALUES > len(tokens):
                raise _Damage(f"it ends within frame {index} of {num_frames}")
            frame.append(index)
            slot.append(body)
            starts.append(position)
            position += _POSE_VALUES
    if position < len(tokens):
        raise _Damage(f"{len(tokens) - position} values follow its last frame")
    if not starts:
        raise _Damage("no frame has a body in it")

    rows = np.asarray(starts)[:, None] + np.arange(_POSE_VALUES)
    poses = values[rows].reshape(-1, NTU25.num_joints, _JOINT_VALUES)[..., :3]
    if not (np.abs(poses) <= MAX_COORDINATE).all():
        raise _Damage("coordinates are NaN, infinite or absurdly large")
    return Recording(num_frames, np.asarray(frame), np.asarray(slot), tuple(ids), poses)
