"""Layouts by name: the known ones, with another number of bodies if the name says so.

A user's own skeleton is a `Layout` from a small file, see `layout_file`. kinect20x2 is kinect20 for
clips of two bodies, and so on for every layout and number. `SYNONYMS` are the joints that two of them
call by different names; `common` takes clips from one layout to another.
"""

import dataclasses
import re
from typing import Any

from halp_jax.errors import UserError
from halp_jax.skeletons.layouts_known import (
    BODY25,
    BODY25B,
    COCO17,
    HALPE26,
    KINECT20,
    MEDIAPIPE33,
    MOCAP_LAYOUTS,
    NTU25,
    OPENPOSE18,
    Layout,
)

MAX_BODIES = 16

_KNOWN = (
    KINECT20, NTU25, COCO17, OPENPOSE18, BODY25, BODY25B, HALPE26, MEDIAPIPE33, *MOCAP_LAYOUTS,
)  # fmt: skip
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _KNOWN}
_WITH_BODIES = re.compile(r"(.+)x([1-9][0-9]{0,2})")

# Two names of one joint, in Kinect v1 and v2; all others have the same name in both. v1's shoulder
# centre lies between the shoulders, as v2's spine shoulder does; the neck, above it, is new in v2.
SYNONYMS = (
    ("hip centre", "spine base"), ("spine", "spine middle"), ("shoulder centre", "spine shoulder"),
    ("hip centre", "mid hip"), ("spine base", "mid hip"),
    ("shoulder centre", "mid shoulder"), ("spine shoulder", "mid shoulder"),
    ("shoulder centre", "neck"),  # where there is only one of the two
    ("left wrist", "left hand"), ("right wrist", "right hand"),
    ("left ankle", "left foot"), ("right ankle", "right foot"),
)  # fmt: skip


def get_layout(name: str) -> Layout:
    """The known layout called `name`, perhaps with a number of bodies behind it: kinect20x2.

    Raises:
        UserError: there is none; names the known ones.
    """
    layout = find_known(name)
    if layout is None:
        raise UserError(
            f"layout {name!r} is not known; use one of {', '.join(LAYOUTS)}, or the .json file of"
            " your own"
        )
    return layout


def find_known(name: str) -> Layout | None:
    """The known layout of this name, with another number of bodies if the name says so."""
    if name in LAYOUTS:
        return LAYOUTS[name]
    match = _WITH_BODIES.fullmatch(name)
    return with_bodies(LAYOUTS[match[1]], int(match[2])) if match and match[1] in LAYOUTS else None


def with_bodies(layout: Layout, bodies: int) -> Layout:
    """The layout for clips of so many bodies, which its name tells: kinect20 with 2 is kinect20x2.

    Raises:
        UserError: no clip has so many.
    """
    if not 1 <= bodies <= MAX_BODIES:
        raise UserError(
            f"layout {layout.name} with {bodies} bodies: a clip holds 1 to {MAX_BODIES}; give another"
            " number"
        )
    if bodies == layout.bodies:
        return layout
    match = _WITH_BODIES.fullmatch(layout.name)
    name = match[1] if match and int(match[2]) == layout.bodies else layout.name
    plain = LAYOUTS.get(name)
    if plain is not None and plain.bodies == bodies:
        return plain
    return dataclasses.replace(layout, name=f"{name}x{bodies}", bodies=bodies)


def guess_layout(joints: int, axes: int) -> Layout | None:
    """The known layout with this number of joints and coordinates, if there is one.

    Of the two with 25 joints in a picture it is body25, OpenPose's default. No array is taken for one of
    motion capture by its number of joints alone.
    """
    known = (each for each in LAYOUTS.values() if each not in MOCAP_LAYOUTS)
    return next((each for each in known if each.takes(joints) and each.axes == axes), None)


def describe_layout(layout: Layout) -> str | dict[str, Any]:
    """What a data set's JSON holds of its layout: the name of a known one, all of the user's own."""
    return layout.name if LAYOUTS.get(layout.name) == layout else dataclasses.asdict(layout)
