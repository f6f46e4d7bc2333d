"""What the readers of motion files (bvh, trc, mat, text) share: joints, metres, labels."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import MAX_COORDINATE, DamagedClip
from halp_jax.datasets.files import read_first
from halp_jax.errors import UserError
from halp_jax.skeletons.common import find_joints
from halp_jax.skeletons.layout import KINECT20, MOCAP_LAYOUTS, Layout, find_layout

MAX_FILE_BYTES = 256 * 2**20
SCALED = "clips in another unit than metres, scaled: by 0.01 or 0.001 if that makes a person, else to 1.7 m"
# Means that stand for a joint which no marker shows.
_MIDDLES = {
    "hip centre": ("left hip", "right hip"),
    "shoulder centre": ("left shoulder", "right shoulder"),
}
# Ankle, knee, hip, neck, head: 1.45 m of bones in a person of 1.7 m.
_TALL, _SHORTEST, _TALLEST = 1.45, 0.8, 2.1
_CHAIN = ("left ankle", "left knee", "left hip", "hip centre", "shoulder centre", "head")


def choose_layout(
    option: str | None, files: Sequence[Path], read_names: Callable[[Path], Sequence[str]]
) -> Layout:
    """The layout that the user gives, else the richest known one with joints of the first sound file.

    Raises:
        UserError: there is none.
    """
    if option:
        return find_layout(option)
    names = read_first(files, read_names)
    for known in (KINECT20, *MOCAP_LAYOUTS):
        if len(_find_all(names, known)) == known.num_joints:
            return known
    raise UserError(
        f"{files[0]}: its joints are not those of {KINECT20.name} or of"
        f" {', '.join(each.name for each in MOCAP_LAYOUTS)}; give --layout, a .json file with some of"
        f" {', '.join(names or ('its joints',))[:300]}"
    )


def _find_all(names: Sequence[str], layout: Layout) -> dict[str, int]:
    """`find_joints`, and for a missing middle the number that it gets behind all names."""
    found = find_joints(names, layout.joints)
    for place, (middle, pair) in enumerate(_MIDDLES.items()):
        if middle in layout.joints and middle not in found and len(find_joints(names, pair)) == 2:
            found[middle] = len(names) + place
    return found


def select_joints(
    frames: Float[np.ndarray, "time joints xyz"], names: Sequence[str], layout: Layout, where: str
) -> Float[np.ndarray, "time layout_joints xyz"]:
    """The joints of the layout, found by meaning. A joint that has no sound number is NaN: lost.

    A middle of the hips or shoulders that the file does not have is the mean of both.

    Raises:
        DamagedClip: naming the joints that are missing.
    """
    found = _find_all(names, layout)
    missing = [joint for joint in layout.joints if joint not in found]
    if missing:
        raise DamagedClip(
            f"{where}: no joint that is {layout.name}'s {', '.join(missing)[:200]}; leave it out, or"
            " give a --layout that all files have"
        )
    frames = np.where(np.isfinite(frames).all(-1, keepdims=True), frames, np.nan)
    for pair in _MIDDLES.values():
        both = frames[:, list(find_joints(names, pair).values())]
        seen = both.any(-1).all(-1)[:, None, None]
        middle = np.where(seen, both.sum(1, keepdims=True) / 2, 0.0)  # used if both are there
        frames = np.concatenate([frames, middle], 1)
    return frames[:, [found[joint] for joint in layout.joints]]


def scale_to_metres(
    frames: Float[np.ndarray, "time bodies joints xyz"], layout: Layout
) -> tuple[Float[np.ndarray, "time bodies joints xyz"], str]:
    """The frames in metres, and a remark if they were not: for files that do not tell their unit.

    Measured along the bones, so that the pose does not matter. What is in centimetres or millimetres
    keeps its size; other units are scaled until a person is 1.7 m tall. Left as it is without a body.
    """
    found = find_joints(layout.joints, _CHAIN)  # of a layout of one's own, in its spelling
    chain = [found[joint] for joint in _CHAIN if joint in found]
    # What is beyond any unit is damage, which the check of the clip names.
    sane = not np.fmax.reduce(np.abs(frames), axis=None, initial=0) > MAX_COORDINATE**2
    there = np.abs(frames[:, :, chain]) > 0  # NaN is not
    body = frames[there.any(-1).all(-1) & sane]  # [poses, joints, xyz]
    if len(chain) < len(_CHAIN) or not len(body):
        return frames, ""
    length = float(np.median(np.linalg.norm(np.diff(body[:, chain], axis=1), axis=-1).sum(-1)))
    for factor in (1.0, 0.01, 0.001):
        if _SHORTEST <= factor * length <= _TALLEST:
            return frames * factor, "" if factor == 1 else SCALED
    return (frames * (_TALL / length), SCALED) if length > 1e-9 else (frames, "")


def match_name(template: str, name: str) -> dict[str, int]:
    """ "a{label}_s{subject}" of "x/a04_s02_e01" -> {"label": 4, "subject": 2}; {} if it does not fit.

    {} stands for a number that says nothing. The template may be anywhere in the name.
    """
    pattern = re.escape(template).replace(r"\{\}", r"\d{1,12}(?!\d)")
    pattern = re.sub(r"\\\{([a-z]+)\\\}", r"(?P<\1>\\d{1,6})(?!\\d)", pattern)
    match = re.search(rf"(?<![A-Za-z0-9]){pattern}", name, re.ASCII)
    return {field: int(number) for field, number in match.groupdict().items()} if match else {}
