"""A plain reader of `.skeleton` files: line by line, a dict a body and a joint, then arrays.

It is how the field's repositories prepare NTU RGB+D: every number of the file is made a float and
kept under its name, and the array is filled joint by joint. It keeps the first four bodies of a
frame by their place, so its result is that of our reader with bodies="slot", bit for bit.
"""

import os

import numpy as np

BODY_NAMES = (
    "id", "clipped_edges", "hand_left_confidence", "hand_left_state", "hand_right_confidence",
    "hand_right_state", "restricted", "lean_x", "lean_y", "tracking_state",
)  # fmt: skip
JOINT_NAMES = (
    "x", "y", "z", "depth_x", "depth_y", "colour_x", "colour_y",
    "turn_w", "turn_x", "turn_y", "turn_z", "tracking_state",
)  # fmt: skip
SLOTS, KEPT, JOINTS = 4, 2, 25


def read_frames(path: str | os.PathLike[str]) -> list[list[dict]]:
    """The file as it is: a list of frames, each a list of bodies, each a dict with its joints."""
    frames = []
    with open(path, encoding="ascii") as file:
        num_frames = int(file.readline())
        for _ in range(num_frames):
            bodies = []
            num_bodies = int(file.readline())
            for _ in range(num_bodies):
                words = file.readline().split()
                body = {name: float(word) for name, word in zip(BODY_NAMES, words, strict=True)}
                body["joints"] = []
                num_joints = int(file.readline())
                for _ in range(num_joints):
                    words = file.readline().split()
                    joint = {
                        name: float(word) for name, word in zip(JOINT_NAMES, words, strict=True)
                    }
                    body["joints"].append(joint)
                bodies.append(body)
            frames.append(bodies)
    return frames


def fill_array(frames: list[list[dict]]) -> np.ndarray:
    """[time, slots, joints, xyz] float64: the bodies by their place in the frame's list."""
    array = np.zeros((len(frames), SLOTS, JOINTS, 3))
    for t, bodies in enumerate(frames):
        for m, body in enumerate(bodies[:SLOTS]):
            for v, joint in enumerate(body["joints"]):
                array[t, m, v] = joint["x"], joint["y"], joint["z"]
    return array


def find_energy(body: np.ndarray) -> float:
    """[time, joints, xyz] -> the sum of the standard deviations, over the frames that show it."""
    seen = body[body.any(axis=(1, 2))]
    if not len(seen):
        return 0.0
    return seen[..., 0].std() + seen[..., 1].std() + seen[..., 2].std()


def read_clip(path: str | os.PathLike[str]) -> np.ndarray:
    """[time, 2, joints, xyz] float32 metres: the two bodies that move most, the first most."""
    array = fill_array(read_frames(path))
    energy = np.array([find_energy(array[:, m]) for m in range(SLOTS)])
    chosen = energy.argsort(kind="stable")[::-1][:KEPT]
    return array[:, chosen].astype(np.float32)
