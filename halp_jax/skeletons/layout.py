"""Layouts by name: the known ones, a user's own, and either with another number of bodies.

A user's own skeleton is a `Layout` from a small file, see `layout_file`. kinect20x2 is kinect20 for
clips of two bodies, and so on for every layout and number. `SYNONYMS` are the joints that two of them
call by different names; `common` takes clips from one layout to another.
"""

import dataclasses
import re
from collections.abc import Mapping
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
_own: dict[str, Layout] = {}  # of files and data sets that this process has opened
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
    """The layout called `name`: a known one, or the user's own if a data set with it is open.

    Either may have a number of bodies behind it: kinect20x2.

    Raises:
        UserError: there is none; names the known ones.
    """
    layout = find_known(name, LAYOUTS | _own)
    if layout is None:
        raise UserError(
            f"layout {name!r} is not known; use one of {', '.join(LAYOUTS)}, or the .json file of"
            " your own"
        )
    return layout


def is_known(layout: Layout) -> bool:
    """Whether its name says it all: a known layout, or one with another number of bodies."""
    return find_known(layout.name) == layout


def find_known(name: str, layouts: Mapping[str, Layout] = LAYOUTS) -> Layout | None:
    """The known layout of this name, with another number of bodies if the name says so."""
    if name in layouts:
        return layouts[name]
    match = _WITH_BODIES.fullmatch(name)
    return with_bodies(layouts[match[1]], int(match[2])) if match and match[1] in layouts else None


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


def register_layout(layout: Layout) -> Layout:
    """Makes a user's own layout known to `get_layout`, in place of an older one of its name.

    Raises:
        UserError: it has the name of a known layout and is another.
    """
    known = find_known(layout.name)
    if known not in (None, layout):
        raise UserError(f"layout {layout.name!r} is a known one and differs; rename your own")
    if known is None:
        _own[layout.name] = layout
    return layout


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
