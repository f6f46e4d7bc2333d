"""What a skeleton is: joint names, bones and body sides, as one small immutable record.

Bones of ntu25 are the pair list of 2s-AGCN that HaLP's bone stream uses (joint minus parent);
kinect20 is the Kinect v1 skeleton of NW-UCLA, as PYSKL distributes it.
A user's own skeleton is a `Layout` of its own, registered by adding it to `LAYOUTS`.
"""

import dataclasses

from halp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Layout:
    """A skeleton. All indices are 0-based; the record is hashable and may be a static argument.

    Attributes:
        name: what commands and dataset files call it.
        joints: one name a joint, in the order of the arrays.
        parents: for each joint the one its bone starts at; a root points to itself.
        bodies: how many bodies a clip holds.
        centre: the joint that normalisation puts at the origin.
        spine: (bottom, top) joints whose line is turned to the z axis.
        shoulders: (right, left) joints whose line is turned to the x axis.
        left, right: paired joints of the two sides, `left[i]` mirrors `right[i]`.
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
    spine=(0, 1),
    shoulders=(8, 4),
    left=(4, 5, 6, 7, 12, 13, 14, 15),
    right=(8, 9, 10, 11, 16, 17, 18, 19),
)

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (NTU25, KINECT20)}


def get_layout(name: str) -> Layout:
    """The layout called `name`. Raises UserError, naming the known ones, if there is none."""
    if name not in LAYOUTS:
        raise UserError(f"layout {name!r} is not known; use one of {', '.join(sorted(LAYOUTS))}")
    return LAYOUTS[name]
