"""The text of a `.skeleton` file -> the bodies in it.

A file is a stream of numbers: the frame count; for each frame its body count; for each body ten
values of which the first is its tracking id, the joint count, and twelve values a joint of which
the first three are xyz in metres. Of the others it is only asked that they are numbers.

The coordinates are made of the text all at once; each is the float64 nearest to the decimal number.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from halp_jax.datasets.clip import MAX_COORDINATE, DamagedClip
from halp_jax.datasets.files import parse_numbers
from halp_jax.skeletons.layout import NTU25

_BODY_VALUES, _JOINT_VALUES = 10, 12
_POSE_VALUES = NTU25.num_joints * _JOINT_VALUES
# The longest real file has 300 frames of less than 0.1 MB a second; these stop nonsense early.
_MAX_FRAMES = 5_000
_MAX_BODIES = 100
_MAX_ID = 2**64
_DIGITS = 8  # as many fit a machine word
_OF_NUMBERS = b" \t\r\n+-.0123456789eE"  # what numbers and the blanks between them are made of


@dataclasses.dataclass(frozen=True)
class Recording:
    """The bodies of one file, as many rows as there are bodies in all frames together."""

    num_frames: int
    frame: Int[np.ndarray, " rows"]
    slot: Int[np.ndarray, " rows"]  # position among the bodies of its frame
    ids: tuple[int, ...]  # tracking ids; they do not fit a float64, so Python integers
    poses: Float[np.ndarray, "rows joints xyz"]  # float64 metres


class _Tokens:
    """What stands between the blanks of a text: found all at once, looked at one by one."""

    def __init__(self, data: bytes) -> None:
        self.text = b" " + data + b" " * 16  # words of 8 bytes may be read past the last number
        self.codes = np.frombuffer(self.text, np.uint8)
        blank = self.codes <= ord(" ")
        edges = np.flatnonzero(blank[1:] != blank[:-1]) + 1
        self.begin, self.end = edges[::2], edges[1::2]

    def __len__(self) -> int:
        return len(self.begin)

    def __getitem__(self, place: int) -> bytes:
        return self.text[self.begin[place] : self.end[place]]


class _Damage(Exception):  # noqa: N818
    """Why a file cannot be read, before it is known which."""


def parse_skeleton(data: bytes, where: str) -> Recording:
    """The bytes of a `.skeleton` file. Raises DamagedClip, which says what is wrong `where`."""
    if data.translate(None, _OF_NUMBERS):
        parse_numbers(data, where)  # nan and inf are numbers, too
    try:
        return _parse(_Tokens(data))
    except _Damage as reason:
        raise DamagedClip(f"{where}: {reason}; fetch the file again or leave it out") from None


def _parse_count(tokens: _Tokens, position: int, most: int, what: str, frame: int = 0) -> int:
    try:
        number = int(tokens[position])
    except IndexError:
        raise _Damage(f"it ends before the {what.format(frame)}") from None
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        found = tokens[position][:20].decode("ascii", "replace")
        raise _Damage(f"the {what.format(frame)} is {found}")
    return number


def _parse(tokens: _Tokens) -> Recording:
    """Walks over the counts; the coordinates are then taken in one step. Raises _Damage."""
    frame, slot, ids, starts = [], [], [], []
    num_frames = _parse_count(tokens, 0, _MAX_FRAMES, "number of frames")
    position = 1
    for index in range(num_frames):
        what = "number of bodies of frame {}"
        num_bodies = _parse_count(tokens, position, _MAX_BODIES, what, index)
        position += 1
        for body in range(num_bodies):
            ids.append(_parse_count(tokens, position, _MAX_ID, "body id in frame {}", index))
            position += _BODY_VALUES
            joints = _parse_count(tokens, position, 1000, "number of joints in frame {}", index)
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

    joints = np.asarray(starts)[:, None] + np.arange(0, _POSE_VALUES, _JOINT_VALUES)
    try:
        poses = _parse_decimals(tokens, joints[..., None] + np.arange(3))
    except ValueError:
        raise _Damage("it holds text that is no number") from None
    if not (np.abs(poses) <= MAX_COORDINATE).all():
        raise _Damage("coordinates are NaN, infinite or absurdly large")
    return Recording(num_frames, np.asarray(frame), np.asarray(slot), tuple(ids), poses)


def _parse_decimals(
    tokens: _Tokens, places: Int[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """The numbers that stand there, float64; those like -0.1234567 all at once.

    These are a digit, a point and up to 8 decimals. Digits and power of ten are exact in float64,
    so one division rounds once, and the result is the nearest float64, as Python's float gives it.

    Raises ValueError: one is no number.
    """
    text, codes = tokens.text, tokens.codes
    begin, end = tokens.begin[places.ravel()], tokens.end[places.ravel()]
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
    return values.reshape(places.shape)
