"""What a skeleton is: joint names, bones and body sides, as one small immutable record; and known ones.

Bones of ntu25 are the pair list of 2s-AGCN that HaLP's bone stream uses (joint minus parent);
kinect20 is the Kinect v1 skeleton of NW-UCLA, as PYSKL distributes it. coco17 and openpose18 are
skeletons in a picture, with the bones of PYSKL and ST-GCN, and so are body25 and body25b (OpenPose) and
halpe26 (AlphaPose); their clips have z = 0. mediapipe33 holds BlazePose's 33 landmarks and two means.
h36m17 has Human3.6M's joints, those of poses lifted to 3-D (by VideoPose3D, MotionBERT, MMPose), smpl24
those of the SMPL body model, azure32 those of Azure Kinect's body tracking.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from halp_jax.skeletons.names import find_sides

Frames = Float[np.ndarray, "time bodies joints xyz"]  # a clip; a joint at (0, 0, 0) is missing


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
        means: (joint, joints that it is the mean of) for joints that no file holds, the last ones of
            `joints`: a middle of the hips that has to be made, see `fill_means`.
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
    means: tuple[tuple[int, tuple[int, ...]], ...] = dataclasses.field(default=(), repr=False)

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @property
    def root(self) -> int:
        """The first joint that no bone leads to."""
        return next(joint for joint, parent in enumerate(self.parents) if joint == parent)

    @property
    def num_given(self) -> int:
        """How many joints files of other people hold: all but the means."""
        return len(self.joints) - len(self.means)

    def takes(self, joints: int) -> bool:
        """Whether an array of so many joints is one of this skeleton, with its means or without."""
        return joints in (self.num_joints, self.num_given)


def fill_means(
    frames: Float[np.ndarray, "*frames joints xyz"], layout: Layout
) -> Float[np.ndarray, "*frames all_joints xyz"]:
    """Frames of a file's joints with the layout's means behind them; others as they are.

    The mean of a joint that is missing, at exactly (0, 0, 0), is missing too.
    """
    if not layout.means or frames.shape[-2] != layout.num_given:
        return frames
    filled = [frames]
    for _, joints in layout.means:
        parts = frames[..., list(joints), :]
        mean = parts.mean(-2, keepdims=True, dtype=frames.dtype)
        filled.append(np.where(parts.any(-1).all(-1)[..., None, None], mean, 0))
    return np.concatenate(filled, -2)


def _make(name: str, joints: tuple[str, ...], **fields: Any) -> Layout:
    """A layout whose sides are told by the names of its joints."""
    left, right = find_sides(joints)
    return Layout(name=name, joints=joints, left=left, right=right, **fields)


_LIMBS = (
    "left shoulder", "left elbow", "left wrist", "left hand",
    "right shoulder", "right elbow", "right wrist", "right hand",
    "left hip", "left knee", "left ankle", "left foot",
    "right hip", "right knee", "right ankle", "right foot",
)  # fmt: skip

NTU25 = _make(
    name="ntu25",
    joints=(
        "spine base", "spine middle", "neck", "head", *_LIMBS, "spine shoulder",
        "left hand tip", "left thumb", "right hand tip", "right thumb",
    ),
    parents=(
        1, 20, 20, 2, 20, 4, 5, 6, 20, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18, 20, 22, 7, 24, 11,
    ),
    bodies=2, centre=1, spine=(0, 1), shoulders=(8, 4),
)  # fmt: skip

# The shoulder centre is the root, as joint 20 is for ntu25.
KINECT20 = _make(
    name="kinect20",
    joints=("hip centre", "spine", "shoulder centre", "head", *_LIMBS),
    parents=(1, 2, 2, 2, 2, 4, 5, 6, 2, 8, 9, 10, 0, 12, 13, 14, 0, 16, 17, 18),
    bodies=1,
    centre=1,
    spine=(0, 2),  # "spine" stands only 7 cm above the hip centre, and 4 cm before or behind it
    shoulders=(8, 4),
    view_spine=(0, 1),
)

COCO17 = _make(
    name="coco17",
    joints=(
        "nose", "left eye", "right eye", "left ear", "right ear", "left shoulder",
        "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist", "left hip",
        "right hip", "left knee", "right knee", "left ankle", "right ankle",
    ),
    parents=(0, 0, 0, 1, 2, 0, 0, 5, 6, 7, 8, 5, 6, 11, 12, 13, 14),
    # There is no joint in the middle: the spine is the left side of the trunk.
    bodies=2, centre=0, spine=(11, 5), shoulders=(6, 5), axes=2,
)  # fmt: skip

OPENPOSE18 = _make(
    name="openpose18",
    joints=(
        "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder",
        "left elbow", "left wrist", "right hip", "right knee", "right ankle", "left hip",
        "left knee", "left ankle", "right eye", "left eye", "right ear", "left ear",
    ),
    parents=(1, 1, 1, 2, 3, 1, 5, 6, 2, 8, 9, 5, 11, 12, 0, 0, 14, 15),
    bodies=2, centre=1, spine=(11, 1), shoulders=(2, 5), axes=2,
)  # fmt: skip

# The 18 joints of OpenPose, the middle of the hips, and feet.
BODY25 = _make(
    name="body25",
    joints=(
        "nose", "neck", "right shoulder", "right elbow", "right wrist", "left shoulder",
        "left elbow", "left wrist", "mid hip", "right hip", "right knee", "right ankle", "left hip",
        "left knee", "left ankle", "right eye", "left eye", "right ear", "left ear",
        "left big toe", "left small toe", "left heel", "right big toe", "right small toe",
        "right heel",
    ),
    parents=(
        1, 8, 1, 2, 3, 1, 5, 6, 8, 8, 9, 10, 8, 12, 13, 0, 0, 15, 16, 14, 19, 14, 11, 22, 11,
    ),
    bodies=2, centre=8, spine=(8, 1), shoulders=(2, 5), axes=2,
)  # fmt: skip

# OpenPose's 25 joints of another order: those of COCO, neck and crown, and feet.
BODY25B = _make(
    name="body25b",
    joints=(
        *COCO17.joints, "upper neck", "head top", "left big toe", "left small toe", "left heel",
        "right big toe", "right small toe", "right heel",
    ),
    parents=(*COCO17.parents, 0, 17, 15, 19, 15, 16, 22, 16),
    bodies=2, centre=0, spine=(11, 5), shoulders=(6, 5), axes=2,
)  # fmt: skip

HALPE26 = _make(
    name="halpe26",
    joints=(
        *COCO17.joints, "head top", "neck", "mid hip", "left big toe", "right big toe",
        "left small toe", "right small toe", "left heel", "right heel",
    ),
    parents=(18, 0, 0, 1, 2, 18, 18, 5, 6, 7, 8, 19, 19, 11, 12, 13, 14, 0, 19, 19, 15, 16, 20, 21,
             15, 16),
    bodies=2, centre=19, spine=(19, 18), shoulders=(6, 5), axes=2,
)  # fmt: skip

# BlazePose has no joint in the middle of the body: the two that stand it upright are made.
MEDIAPIPE33 = _make(
    name="mediapipe33",
    joints=(
        "nose", "left eye inner", "left eye", "left eye outer", "right eye inner", "right eye",
        "right eye outer", "left ear", "right ear", "mouth left", "mouth right", "left shoulder",
        "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist", "left pinky",
        "right pinky", "left index", "right index", "left thumb", "right thumb", "left hip",
        "right hip", "left knee", "right knee", "left ankle", "right ankle", "left heel",
        "right heel", "left foot index", "right foot index", "mid hip", "mid shoulder",
    ),
    parents=(34, 0, 1, 2, 0, 4, 5, 3, 6, 0, 0, 34, 34, 11, 12, 13, 14, 15, 16, 15, 16, 15, 16, 33,
             33, 23, 24, 25, 26, 27, 28, 27, 28, 33, 33),
    bodies=1, centre=33, spine=(33, 34), shoulders=(12, 11),
    means=((33, (23, 24)), (34, (11, 12))),
)  # fmt: skip

H36M17 = _make(
    name="h36m17",
    joints=(
        "hip centre", "right hip", "right knee", "right ankle", "left hip", "left knee",
        "left ankle", "spine", "shoulder centre", "neck", "head", "left shoulder", "left elbow",
        "left wrist", "right shoulder", "right elbow", "right wrist",
    ),
    parents=(0, 0, 1, 2, 0, 4, 5, 0, 7, 8, 9, 8, 11, 12, 8, 14, 15),
    bodies=1, centre=0, spine=(0, 8), shoulders=(14, 11),
)  # fmt: skip

SMPL24 = _make(
    name="smpl24",
    joints=(
        "hip centre", "left hip", "right hip", "lower spine", "left knee", "right knee", "spine",
        "left ankle", "right ankle", "chest", "left foot", "right foot", "neck", "left collar",
        "right collar", "head", "left shoulder", "right shoulder", "left elbow", "right elbow",
        "left wrist", "right wrist", "left hand", "right hand",
    ),
    parents=(0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21),
    bodies=1, centre=0, spine=(0, 12), shoulders=(17, 16),
)  # fmt: skip

AZURE32 = _make(
    name="azure32",
    joints=(
        "hip centre", "spine middle", "chest", "neck", "left collar", "left shoulder", "left elbow",
        "left wrist", "left hand", "left hand tip", "left thumb", "right collar", "right shoulder",
        "right elbow", "right wrist", "right hand", "right hand tip", "right thumb", "left hip",
        "left knee", "left ankle", "left foot", "right hip", "right knee", "right ankle",
        "right foot", "head", "nose", "left eye", "left ear", "right eye", "right ear",
    ),
    parents=(0, 0, 1, 2, 2, 4, 5, 6, 7, 8, 7, 2, 11, 12, 13, 14, 15, 14, 0, 18, 19, 20, 0, 22, 23,
             24, 3, 26, 26, 26, 26, 26),
    bodies=1, centre=0, spine=(0, 3), shoulders=(12, 5),
)  # fmt: skip


def _leave_out(layout: Layout, name: str, words: tuple[str, ...]) -> Layout:
    """The layout without the joints that have one of the words in their names."""
    keep = [j for j, joint in enumerate(layout.joints) if not set(words) & set(joint.split())]
    number = {joint: place for place, joint in enumerate(keep)}

    def find(joint: int) -> int:
        while joint not in number:
            joint = layout.parents[joint]
        return number[joint]

    return _make(
        name=name,
        joints=tuple(layout.joints[joint] for joint in keep),
        parents=tuple(find(layout.parents[joint]) for joint in keep),
        bodies=layout.bodies,
        centre=number.get(layout.centre, number[layout.spine[0]]),
        spine=(find(layout.spine[0]), find(layout.spine[1])),
        shoulders=(find(layout.shoulders[0]), find(layout.shoulders[1])),
    )


# What motion capture has of kinect20: often no hands beyond the wrists, of markers no spine, then no
# feet. No array is taken for one of these by its number of joints alone.
MOCAP_LAYOUTS = (
    _leave_out(KINECT20, "mocap18", ("hand",)),
    _leave_out(KINECT20, "mocap17", ("hand", "spine")),
    _leave_out(KINECT20, "mocap15", ("hand", "spine", "foot")),
)
