"""Forward kinematics of a 25-joint body: joint angles in, joint positions in metres out.

The body of the embedded data set (`synthetic.py`). Joints and bones are those of the Kinect v2
(the `ntu25` layout). A body is driven by anatomical channels (CHANNELS), written for a near and a
far side, so that one description serves left- and right-handed performances. The local frame of
a body is x to its left, y up, z forward; angles are in degrees, lengths in metres.
"""

import numpy as np
from jaxtyping import Float

from halp_jax.skeletons.kinematics import rotate_about

SEGMENTS = (
    "pelvis", "waist", "chest", "head",
    "left_arm", "left_forearm", "left_hand", "right_arm", "right_forearm", "right_hand",
    "left_thigh", "left_shin", "left_foot", "right_thigh", "right_shin", "right_foot",
)  # fmt: skip

# Joint -> (joint it hangs on, segment that turns the bone, offset in body heights). The pelvis is
# the root here, because people stand on their legs; the bones are those of the ntu25 tree.
_BONES = {
    1: (0, "waist", (0, 0.160, 0)),
    20: (1, "chest", (0, 0.135, 0)),
    2: (20, "chest", (0, 0.045, 0.005)),
    3: (2, "head", (0, 0.085, 0.010)),
    4: (20, "chest", (0.100, -0.030, 0)),
    5: (4, "left_arm", (0, -0.160, 0)),
    6: (5, "left_forearm", (0, -0.140, 0)),
    7: (6, "left_hand", (0, -0.045, 0)),
    22: (7, "left_hand", (0, -0.020, 0.022)),
    21: (22, "left_hand", (0, -0.028, -0.022)),
    8: (20, "chest", (-0.100, -0.030, 0)),
    9: (8, "right_arm", (0, -0.160, 0)),
    10: (9, "right_forearm", (0, -0.140, 0)),
    11: (10, "right_hand", (0, -0.045, 0)),
    24: (11, "right_hand", (0, -0.020, 0.022)),
    23: (24, "right_hand", (0, -0.028, -0.022)),
    12: (0, "pelvis", (0.048, -0.030, 0)),
    13: (12, "left_thigh", (0, -0.235, 0)),
    14: (13, "left_shin", (0, -0.230, 0)),
    15: (14, "left_foot", (0, -0.035, 0.070)),
    16: (0, "pelvis", (-0.048, -0.030, 0)),
    17: (16, "right_thigh", (0, -0.235, 0)),
    18: (17, "right_shin", (0, -0.230, 0)),
    19: (18, "right_foot", (0, -0.035, 0.070)),
}
NUM_JOINTS = 25
_ARM_JOINTS, _LEG_JOINTS = [5, 6, 9, 10], [13, 14, 17, 18]
_TRUNK_JOINTS, _WIDTH_JOINTS = [1, 20], [4, 8, 12, 16]
_ANKLES, _FEET = [14, 18], [14, 15, 18, 19]

# Channel -> segment and axis it turns. A name that starts with "far_" is the other side of the
# body. heading turns the whole body (positive: to the near side), go walks it forward and lift
# raises it from the floor (both metres).
_NEAR = {
    "raise": ("arm", 0), "roll": ("arm", 1), "open": ("arm", 2),
    "elbow": ("forearm", 0), "wrist": ("hand", 0),
    "hip": ("thigh", 0), "spread": ("thigh", 2), "knee": ("shin", 0), "ankle": ("foot", 0),
}  # fmt: skip
_TRUNK = {
    "lean": ("pelvis", 0), "tilt": ("pelvis", 2), "waist": ("waist", 0), "bend": ("chest", 0),
    "twist": ("chest", 1), "side": ("chest", 2), "nod": ("head", 0), "look": ("head", 1),
}  # fmt: skip
_TURNING = (*_TRUNK, *_NEAR, *(f"far_{name}" for name in _NEAR))
CHANNELS = (*_TURNING, "heading", "go", "lift")
CHANNEL = {name: position for position, name in enumerate(CHANNELS)}

# Sign that makes an anatomical angle (flexion, turning outward, moving sideways) a rotation about
# x, y, z: forward flexion of a hanging limb is a negative turn about x, that of a standing trunk
# or of a knee a positive one.
_FLEXION = {"arm": -1, "forearm": -1, "hand": -1, "thigh": -1, "foot": -1}


def _route(near_is_left: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segment, axis and sign of every turning channel, for either side being the near one."""
    sides = {True: "left", False: "right"}
    segments, axes, signs = [], [], []
    for name in _TURNING:
        if name in _TRUNK:
            segment, axis = _TRUNK[name]
            sign = 1 if axis == 0 else (1 if near_is_left else -1) * (1 if axis == 1 else -1)
        else:
            part, axis = _NEAR[name.removeprefix("far_")]
            left = near_is_left != name.startswith("far_")
            segment = f"{sides[left]}_{part}"
            sign = _FLEXION.get(part, 1) if axis == 0 else (1 if left else -1)
        segments.append(SEGMENTS.index(segment))
        axes.append(axis)
        signs.append(sign)
    return np.array(segments), np.array(axes), np.array(signs, np.float64)


_ROUTES = {left: _route(left) for left in (True, False)}


def _ancestry() -> tuple[np.ndarray, np.ndarray]:
    """0/1 matrix [joint, bone] of the bones between the pelvis and a joint; segment of a bone."""
    chain = np.zeros((NUM_JOINTS, NUM_JOINTS))
    for joint in range(NUM_JOINTS):
        step = joint
        while step != 0:
            chain[joint, step] = 1
            step = _BONES[step][0]
    turned_by = np.zeros(NUM_JOINTS, np.int64)
    for joint, (_, segment, _) in _BONES.items():
        turned_by[joint] = SEGMENTS.index(segment)
    return chain, turned_by


_CHAIN, _TURNED_BY = _ancestry()
_OFFSETS = np.array([_BONES[j][2] if j else (0, 0, 0) for j in range(NUM_JOINTS)], np.float64)
_LEVELS = (  # (segments, the segments they hang on), from the pelvis outward
    ([1, 10, 13], [0, 0, 0]),
    ([2, 11, 14], [1, 10, 13]),
    ([3, 4, 7, 12, 15], [2, 2, 2, 11, 14]),
    ([5, 8], [4, 7]),
    ([6, 9], [5, 8]),
)


def plot_bones(rng: np.random.Generator) -> Float[np.ndarray, "25 3"]:
    """One person's bones: offset of every joint from the joint it hangs on, metres, at rest."""
    height = rng.uniform(1.50, 1.95)
    arms, legs, trunk, width, single = np.split(rng.normal(1, 0.06, 4 + NUM_JOINTS), [1, 2, 3, 4])
    bones = _OFFSETS * height
    bones[_ARM_JOINTS] *= arms
    bones[_LEG_JOINTS] *= legs
    bones[_TRUNK_JOINTS] *= trunk
    bones[_WIDTH_JOINTS] *= width
    # Left and right limbs of one person are alike, so only the trunk gets its own small factors.
    bones[[1, 20, 2, 3]] *= np.clip(single[:4, None], 0.9, 1.1)
    return bones


def _rotate_locally(angles: np.ndarray) -> np.ndarray:
    """Rx Rz Ry of angles [..., 3] in radians, as matrices [..., 3, 3]."""
    (a, b, c), (x, y, z) = np.moveaxis(np.cos(angles), -1, 0), np.moveaxis(np.sin(angles), -1, 0)
    rows = [
        c * b, -z, c * y,
        a * z * b + x * y, a * c, a * z * y - x * b,
        x * z * b - a * y, x * c, x * z * y + a * b,
    ]  # fmt: skip
    return np.stack(rows, -1).reshape(*angles.shape[:-1], 3, 3)


def pose_body(
    channels: Float[np.ndarray, "time channels"],
    bones: Float[np.ndarray, "25 3"],
    near_is_left: bool,
) -> Float[np.ndarray, "time 25 3"]:
    """Joint positions [time, joints, xyz] in metres of a body that starts at the origin.

    The feet carry the body: the lower foot rests on the floor (y = 0) unless `lift` is positive,
    and the pelvis moves so that the foot that carries does not slide. Walking therefore travels,
    and sitting down moves the pelvis back, without either being written down.
    """
    time = len(channels)
    segments, axes, signs = _ROUTES[near_is_left]
    angles = np.zeros((time, len(SEGMENTS), 3))
    angles[:, segments, axes] = channels[:, : len(_TURNING)] * signs
    for thigh, shin, foot in ((10, 11, 12), (13, 14, 15)):
        # Hips are measured from the vertical: who bows does not swing the legs with the trunk.
        angles[:, thigh, 0] -= angles[:, 0, 0]
        # Feet stay level: the ankle takes back what hip, knee and pelvis turned.
        turned = angles[:, 0, 0] + angles[:, thigh, 0] + angles[:, shin, 0]
        angles[:, foot, 0] -= np.clip(turned, -50, 50)

    rotations = _rotate_locally(np.radians(angles))
    for children, parents in _LEVELS:
        rotations[:, children] = rotations[:, parents] @ rotations[:, children]
    vectors = (rotations[:, _TURNED_BY] @ bones[:, :, None])[..., 0]
    heading = rotate_about("y", channels[:, CHANNEL["heading"]] * (1 if near_is_left else -1))
    joints = (_CHAIN @ vectors) @ np.swapaxes(heading, -1, -2)

    ankles = joints[:, _ANKLES]
    carries = 1 / (1 + np.exp(np.clip((ankles[:, :1, 1] - ankles[:, 1:, 1]) / 0.015, -40, 40)))
    carries = np.concatenate([carries, 1 - carries], 1)[1:, :, None]
    travel = np.zeros((time, 3))
    travel[1:] = -np.cumsum((carries * np.diff(ankles, axis=0)).sum(1), 0)
    travel += channels[:, CHANNEL["go"], None] * heading[:, :, 2]
    travel[:, 1] = channels[:, CHANNEL["lift"]] - joints[:, _FEET, 1].min(1)
    return joints + travel[:, None]
