"""A standing person in the joints of a layout, which go by their names."""

import numpy as np

from halp_jax.skeletons.layout import KINECT20

# Metres; x to the right of the person, y ahead, z up. Of the right side, mirrored for the left.
_MIDDLE = {
    "spine base": (0, 0, 0), "spine middle": (0, 0, 0.3), "spine shoulder": (0, 0, 0.5),
    "hip centre": (0, 0, 0), "spine": (0, 0, 0.08), "shoulder centre": (0, 0, 0.5),
    "neck": (0, 0, 0.57), "head": (0, 0.02, 0.7), "nose": (0, 0.1, 0.7),
}  # fmt: skip
_RIGHT = {
    "shoulder": (0.2, 0, 0.48), "elbow": (0.25, -0.02, 0.2), "wrist": (0.26, 0.05, -0.05),
    "hand": (0.26, 0.07, -0.12), "hand tip": (0.26, 0.08, -0.2), "thumb": (0.22, 0.1, -0.12),
    "hip": (0.1, 0, -0.05), "knee": (0.1, 0.04, -0.45), "ankle": (0.1, 0, -0.85),
    "foot": (0.1, 0.12, -0.9), "eye": (0.03, 0.09, 0.73), "ear": (0.07, 0.02, 0.72),
}  # fmt: skip
# UTD-MHAD's order: kinect20's joints with the head first.
HEAD_FIRST = ("head", "shoulder centre", "spine", "hip centre", *KINECT20.joints[4:])


def stand(joints: tuple[str, ...]) -> np.ndarray:
    """[joints, 3] of an upright person."""

    def place(name: str) -> tuple[float, float, float]:
        side, _, part = name.partition(" ")
        if side not in ("left", "right"):
            return _MIDDLE[name]
        x, y, z = _RIGHT[part]
        return (x if side == "right" else -x, y, z)

    return np.array([place(name) for name in joints], np.float64)


def move(joints: tuple[str, ...], seed: int = 0, time: int = 10, turn: float = 0.0) -> np.ndarray:
    """[time, 1, joints, 3] float32 as a Kinect sees it: y up, 3 m away, turned by so many degrees.

    The person is of a size of its own, bends and trembles a little.
    """
    rng = np.random.default_rng(seed)
    body = stand(joints) * rng.uniform(0.85, 1.1)
    bend = np.radians(rng.uniform(0, 20) * np.sin(np.linspace(0, 3, time)))[:, None]
    upper = body[:, 2] > 0.1
    y = np.where(upper, body[:, 1] * np.cos(bend) + body[:, 2] * np.sin(bend), body[:, 1])
    z = np.where(upper, body[:, 2] * np.cos(bend) - body[:, 1] * np.sin(bend), body[:, 2])
    x, angle = np.broadcast_to(body[:, 0], y.shape), np.radians(turn)
    seen = [x * np.cos(angle) + y * np.sin(angle), z, 3 + x * np.sin(angle) - y * np.cos(angle)]
    return (np.stack(seen, -1) + rng.normal(0, 0.01, (*y.shape, 3)))[:, None].astype(np.float32)
