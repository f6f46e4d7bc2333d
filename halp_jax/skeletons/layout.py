"""What a skeleton is: joint names, bones and body sides, as one small immutable record.

Bones of ntu25 are the pair list of 2s-AGCN that HaLP's bone stream uses (joint minus parent);
kinect20 is the Kinect v1 skeleton of NW-UCLA, as PYSKL distributes it. coco17 and openpose18 are
skeletons in a picture, with the bones of PYSKL and ST-GCN; their clips have z = 0.
A user's own skeleton is a `Layout` from a small file, see `layout_file`. kinect20x2 is kinect20 for
clips of two bodies, and so on for every layout and number. `SYNONYMS` are the joints that two of them
call by different names; `common` takes clips from one layout to another.
"""

import dataclasses
import re
from typing import Any

from halp_jax.errors import UserError

MAX_BODIES = 16


@dataclasses.dataclass(frozen=True)
class Layout:
    """A skeleton. All indices are 0-based; the record is hashable and may be a static argument.

    Attributes:
        name: what commands and dataset files call it.
        joints: one name a joint, in the order of the arrays.
        parents: for each joint the one its bone starts at; a root points to itself.
        bodies: how many bodies a clip holds.
        centre: the joint that normalisation puts at the origin.
        spine: (bottom, top) joints whose line is turned to the z axis. A long line is a good one: of
            bones of a few centimetres the sensor's noise makes the whole body lean.
        shoulders: (right, left) joints whose line is turned to the x axis, about z.
        left, right: paired joints of the two sides, `left[i]` mirrors `right[i]`.
        axes: how many coordinates mean something: 3, or 2 for joints in a picture (x to the right,
            y down, z always 0). Then spine and shoulders are not turned, the spine gives the size.
        view_spine: the spine of `normalize=view`, where that is another one.
    """

    name: str
    joints: tuple[str, ...]
    parents: tuple[int, ...]
    bodies: int
    centre: int
    spine: tuple[int, int]
    shoulders: tuple[int, int]
    left: tuple[int, ...]
    right: tuple[int, ...]
    axes: int = 3
    view_spine: tuple[int, int] | None = dataclasses.field(default=None, repr=False)

    @property
    def num_joints(self) -> int:
        return len(self.joints)


_NTU_JOINTS = (
    "spine base", "spine middle", "neck", "head",
    "left shoulder", "left elbow", "left wrist", "left hand",
    "right shoulder", "right elbow", "right wrist", "right hand",
    "left hip", "left knee", "left ankle", "left foot",
    "right hip", "right knee", "right ankle", "right foot",
    "spine shoulder", "left hand tip", "left thumb", "right hand tip", "right thumb",
)  # fmt: skip

# (joint, parent), counted from 1 as the data set's own papers do. Joint 21 is the root.
_NTU_BONES = (
    (1, 2), (2, 21), (3, 21), (4, 3), (5, 21), (6, 5), (7, 6), (8, 7), (9, 21), (10, 9),
    (11, 10), (12, 11), (13, 1), (14, 13), (15, 14), (16, 15), (17, 1), (18, 17), (19, 18),
    (20, 19), (21, 21), (22, 23), (23, 8), (24, 25), (25, 12),
)  # fmt: skip

_KINECT_JOINTS = (
    "hip centre", "spine", "shoulder centre", "head",
    "left shoulder", "left elbow", "left wrist", "left hand",
    "right shoulder", "right elbow", "right wrist", "right hand",
    "left hip", "left knee", "left ankle", "left foot",
    "right hip", "right knee", "right ankle", "right foot",
)  # fmt: skip

# The shoulder centre is the root, as joint 21 is for ntu25.
_KINECT_BONES = (
    (1, 2), (2, 3), (3, 3), (4, 3), (5, 3), (6, 5), (7, 6), (8, 7), (9, 3), (10, 9),
    (11, 10), (12, 11), (13, 1), (14, 13), (15, 14), (16, 15), (17, 1), (18, 17), (19, 18),
    (20, 19),
)  # fmt: skip


def _parents(bones: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """One-based (joint, parent) pairs, in any order -> 0-based parents in joint order."""
    return tuple(parent - 1 for _, parent in sorted(bones))


NTU25 = Layout(
    name="ntu25",
    joints=_NTU_JOINTS,
    parents=_parents(_NTU_BONES),
    bodies=2,
    centre=1,
    spine=(0, 1),
    shoulders=(8, 4),
    left=(4, 5, 6, 7, 12, 13, 14, 15, 21, 22),
    right=(8, 9, 10, 11, 16, 17, 18, 19, 23, 24),
)

KINECT20 = Layout(
    name="kinect20",
    joints=_KINECT_JOINTS,
    parents=_parents(_KINECT_BONES),
    bodies=1,
    centre=1,
    spine=(0, 2),  # "spine" stands only 7 cm above the hip centre, and 4 cm before or behind it
    shoulders=(8, 4),
    left=(4, 5, 6, 7, 12, 13, 14, 15),
    right=(8, 9, 10, 11, 16, 17, 18, 19),
    view_spine=(0, 1),
)

COCO17 = Layout(
    name="coco17",
    joints=(
        "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder",
        "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist", "left hip",
        "right hip", "left knee", "right knee", "left ankle", "right ankle",
    ),
    parents=(0, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
    bodies=2,
    centre=0,
    spine=(11, 5),  # there is no joint in the middle: the left side of the trunk
    shoulders=(6, 5),
    left=(1, 3, 5, 7, 9, 11, 13, 15),
    right=(2, 4, 6, 8, 10, 12, 14, 16),
    axes=2,
)  # fmt: skip

OPENPOSE18 = Layout(
    name="openpose18",
    joints=(
        "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder",
        "left elbow", "left wrist", "right hip", "right knee", "right ankle", "left hip",
        "left knee", "left ankle", "right eye", "left eye", "right ear", "left ear",
    ),
    parents=(1, 1, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15),
    bodies=2,
    centre=1,
    spine=(11, 1),
    shoulders=(2, 5),
    left=(5, 6, 7, 11, 12, 13, 15, 17),
    right=(2, 3, 4, 8, 9, 10, 14, 16),
    axes=2,
)  # fmt: skip

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (KINECT20, NTU25, COCO17, OPENPOSE18)
}
_own: dict[str, Layout] = {}  # of files and data sets that this process has opened
_WITH_BODIES = re.compile(r"(.+)x([1-9][0-9]{0,2})")

# Two names of one joint, in Kinect v1 and v2; all others have the same name in both. v1's shoulder
# centre lies between the shoulders, as v2's spine shoulder does; the neck, above it, is new in v2.
SYNONYMS = (
    ("hip centre", "spine base"),
    ("spine", "spine middle"),
    ("shoulder centre", "spine shoulder"),
)


def get_layout(name: str) -> Layout:
    """The layout called `name`: a known one, or the user's own if a data set with it is open.

    Either may have a number of bodies behind it: kinect20x2.

    Raises:
        UserError: there is none; names the known ones.
    """
    layout = _find(name, LAYOUTS | _own)
    if layout is None:
        raise UserError(
            f"layout {name!r} is not known; use one of {', '.join(LAYOUTS)}, or the .json file of"
            " your own"
        )
    return layout


def is_known(layout: Layout) -> bool:
    """Whether its name says it all: a known layout, or one with another number of bodies."""
    return find_known(layout.name) == layout


def find_known(name: str) -> Layout | None:
    """The known layout of this name, with another number of bodies if the name says so."""
    return _find(name, LAYOUTS)


def _find(name: str, layouts: dict[str, Layout]) -> Layout | None:
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
    """The known layout with this number of joints and coordinates, if there is one."""
    found = [each for each in LAYOUTS.values() if (each.num_joints, each.axes) == (joints, axes)]
    return found[0] if found else None


def describe_layout(layout: Layout) -> str | dict[str, Any]:
    """What a data set's JSON holds of its layout: the name of a known one, all of the user's own."""
    return layout.name if LAYOUTS.get(layout.name) == layout else dataclasses.asdict(layout)
