"""What a depth sensor makes of people: its point of view, its noise, and what it loses.

Part of the embedded data set (`synthetic.py`). The faults are those that NTU's files show:
trembling hands and feet, limbs behind the body that wander, joints that freeze or are not given,
single frames without anybody, and a second person who is found late.
"""

import numpy as np
from jaxtyping import Bool, Float

from halp_jax.skeletons.body import NUM_JOINTS
from halp_jax.skeletons.kinematics import rotate_about

NUM_CAMERAS, NUM_SETUPS = 3, 6
_CAMERA_ANGLES = (0.0, -45.0, 45.0)  # degrees about the vertical, as in NTU's rooms
MAX_BODIES = 2
# Joints that a sensor follows badly, and groups that it loses together.
_RESTLESS = [7, 11, 15, 19, 21, 22, 23, 24]
_GROUPS = ([6, 7, 21, 22], [10, 11, 23, 24], [5], [9], [14, 15], [18, 19], [15], [19], [3], [22])


def place_before_camera(
    rng: np.random.Generator,
    motion: Float[np.ndarray, "time people joints 3"],
    camera: int,
    setup: int,
) -> Float[np.ndarray, "time people joints 3"]:
    """Motion on the floor (y up) in the frame of a Kinect: x to its left, y up, z away, metres.

    `camera` (from 1) gives the side it looks from, `setup` its height, distance and so its tilt.
    """
    side = rotate_about("y", _CAMERA_ANGLES[camera - 1] + rng.normal(0, 4))
    height = 0.8 + 0.15 * (setup - 1)
    distance = 2.6 + 0.3 * ((setup * 5) % NUM_SETUPS)
    where = rng.normal(0, 0.25, 3) * (1, 0, 1)
    seen = (motion + where) @ side.T + np.array([0, -height, distance])
    tilt = np.arctan2(height - 0.9, distance) + rng.normal(0.05, 0.03)
    c, s = np.cos(tilt), np.sin(tilt)
    # A camera that looks down sees what is farther away higher up.
    return seen @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]]).T


def sense(
    rng: np.random.Generator, seen: Float[np.ndarray, "time people joints 3"]
) -> tuple[
    Float[np.ndarray, "time 2 joints 3"],
    Bool[np.ndarray, "time 2 joints"],
    Bool[np.ndarray, " time"],
]:
    """(frames float32 with absent bodies as zeros, lost joints, frames in which nobody is)."""
    time, people = seen.shape[:2]
    frames = np.zeros((time, MAX_BODIES, NUM_JOINTS, 3))
    frames[:, :people] = seen + _noise(rng, seen)
    lost = np.zeros((time, MAX_BODIES, NUM_JOINTS), bool)
    for body in range(people):
        for _ in range(rng.poisson(0.6)):
            joints = _GROUPS[rng.integers(len(_GROUPS))]
            begin = int(rng.integers(1, time - 5))
            end = min(time, begin + int(rng.integers(4, 26)))
            frozen = rng.random() < 0.8
            frames[begin:end, body, joints] = frames[begin - 1, body, joints] if frozen else 0
            lost[begin:end, body, joints] = True

    missing = np.zeros(time, bool)
    if rng.random() < 0.2:
        begin = int(rng.integers(0, time - 4))
        missing[begin : begin + int(rng.integers(1, 5))] = True
    frames[missing] = 0
    if people > 1 and rng.random() < 0.25:
        late = int(rng.integers(1, 9))
        frames[:late, 1] = 0
        lost[:late, 1] = False
    lost[missing] = False
    return frames.astype(np.float32), lost, missing


def _noise(rng: np.random.Generator, seen: np.ndarray) -> np.ndarray:
    """Trembling from frame to frame and slow wandering of the joint estimates, metres."""
    time = len(seen)
    width = np.full(NUM_JOINTS, 0.006)
    width[_RESTLESS] = 0.014
    # Noise grows with the square of the distance, and behind the trunk the sensor guesses.
    scale = (seen[..., 2:] / 3) ** 2
    scale = scale * np.where(seen[..., 2:] > seen[..., 1:2, 2:] + 0.08, 2.0, 1.0)
    knots = rng.standard_normal((time // 8 + 2, *seen.shape[1:]))
    place, part = np.divmod(np.arange(time) / 8, 1)
    place, part = place.astype(int), part[:, None, None, None]
    wander = knots[place] * (1 - part) + knots[place + 1] * part
    tremble = rng.standard_normal(seen.shape)
    return width[:, None] * scale * (tremble + 1.5 * wander)
