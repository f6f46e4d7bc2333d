"""Joint angles -> joint positions (forward kinematics), all frames at once."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def rotate_about(
    axis: str, degrees: Float[np.ndarray, "*frames"] | float
) -> Float[np.ndarray, "*frames 3 3"]:
    """One rotation a frame about the axis "x", "y" or "z", for column vectors."""
    angle = np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    rotation = np.tile(np.eye(3), (*angle.shape, 1, 1))
    rotation[..., first, first] = rotation[..., second, second] = cos
    rotation[..., first, second], rotation[..., second, first] = -sin, sin
    return rotation


def rotate_in_order(
    axes: str, degrees: Float[np.ndarray, "time axes"]
) -> Float[np.ndarray, "time 3 3"]:
    """Rotations multiplied as they are written: "zyx" is R_z R_y R_x, which turns about x first."""
    rotation = np.tile(np.eye(3), (len(degrees), 1, 1))
    for axis, angle in zip(axes, degrees.T, strict=True):
        rotation = rotation @ rotate_about(axis, angle)
    return rotation


def place_joints(
    parents: Sequence[int],
    offsets: Float[np.ndarray, "time joints xyz"],
    rotations: Sequence[Float[np.ndarray, "time 3 3"] | None],
) -> Float[np.ndarray, "time joints xyz"]:
    """World positions: R_j = R_parent R_local and p_j = p_parent + R_parent offset.

    Args:
        parents: of each joint, always an earlier one; the root is its own.
        offsets: of each joint in the frame of its parent, the root's in the world.
        rotations: of each joint against its parent; None where nothing hangs on it.
    """
    places, world = np.array(offsets, np.float64), []
    for joint, (parent, rotation) in enumerate(zip(parents, rotations, strict=True)):
        if joint != parent:
            places[:, joint] = places[:, parent] + np.einsum(
                "tij,tj->ti", world[parent], offsets[:, joint]
            )
            rotation = None if rotation is None else world[parent] @ rotation
        world.append(rotation)
    return places
