"""Is a layout's spine line long enough to stand a body on?

Where joints are a centimetre off, a line of 7 cm leans by ten degrees, and normalisation makes the
whole body lean by as much.
"""

from collections.abc import Iterable

import numpy as np

from halp_jax.skeletons.layout import Layout

# Of the way from the spine's lower end to the joint farthest from it: ntu25's line is about 0.3 of
# it, hip centre to "spine" of Kinect v1 about 0.08.
SHORT = 0.15


def advise(clips: Iterable[np.ndarray], layout: Layout) -> str | None:
    """A line for the user if the spine is short in most frames of these clips, else None.

    Clips are [time, bodies, joints, 3]. Joints in a picture are not turned: nothing is said of them.
    """
    if layout.axes == 2:
        return None
    poses = np.concatenate([frames.reshape(-1, layout.num_joints, 3) for frames in clips])
    bottom, top = layout.spine
    poses = poses[poses.any((1, 2))].astype(np.float64)
    # A missing joint is zero, and so is the centre once clips are normalised.
    needed = [joint for joint in layout.spine if joint != layout.centre]
    poses = poses[poses[:, needed].any(-1).all(1)]
    if not len(poses):
        return None
    missing = ~poses.any(-1)
    missing[:, layout.centre] = False
    reach = np.linalg.norm(poses - poses[:, bottom, None], axis=-1)
    farthest = np.where(missing, 0.0, reach).max(1)
    share = float(np.median(reach[:, top] / np.maximum(farthest, 1e-9)))
    if share >= SHORT:
        return None
    line = f"{layout.joints[bottom]} to {layout.joints[top]}"
    return (
        f"{line} is short ({100 * share:.0f} % of the way to the farthest joint): bodies may lean; "
        "name a longer line in the layout, as from the hips to the neck"
    )
