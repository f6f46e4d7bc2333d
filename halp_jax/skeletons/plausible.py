"""Whether clips look like people in the joints of their layout.

A skeleton that was guessed from the number of its joints, or sides and an order that a layout file got
wrong, give numbers as sound as any: only lengths and directions tell. `find_faults` measures them on
poses of some clips and says in a line each what no person's body is like. Lengths are compared with each
other and directions are those of the body, so a clip may be raw or normalised, whatever its axes.

The limits lie far from all real data at hand. Of 16 clips each of PKU-MMD, NW-UCLA, NTU RGB+D and the
embedded data set: bones 1.1 to 1.4 times the shortest tree, sides within 9 %, lengths held within 14 %,
arms 0.42 to 0.73 and legs 0.59 to 1.5 of the trunk, people 1.3 to 1.9 m across the corners of their box,
71 % of feet or more ahead; a random order gives about 2.5 to 4 trees and lengths within 30 %.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from halp_jax.skeletons.layout import LAYOUTS, Layout

MIN_POSES = 8  # fewer decide nothing
_POSES_PER_CLIP, _TREE_POSES = 16, 64
_TREES = 2.0
_UNLIKE_SIDES = 1.5
_DRIFT = 0.25
_METRES = (0.4, 4.0)
_PIXELS = 10.0  # people are larger than that in pixels, and smaller in metres
_MOST, _FEW, _HARDLY_ANY = 0.5, 0.25, 0.1  # of all poses
# Of the way from the spine's lower end to the joint farthest from it: ntu25's line is about 0.3 of
# it, hip centre to "spine" of Kinect v1 about 0.08.
_SHORT_SPINE = 0.15
# (from, to, shortest, longest), lengths in trunks.
_LIMBS = (
    ("shoulder", "elbow", 0.2, 2.0),
    ("elbow", "wrist", 0.2, 2.0),
    ("hip", "knee", 0.3, 4.0),
    ("knee", "ankle", 0.3, 4.0),
)

Poses = Float[np.ndarray, "poses joints xyz"]


def find_faults(clips: Sequence[np.ndarray], layout: Layout) -> list[str]:
    """What is wrong with clips [time, bodies, joints, xyz] as people of `layout`, if anything is.

    The most telling fault comes first.

    Joints are found by their names: shoulder, elbow, wrist, hip, knee, ankle, foot or toe of both
    sides, head or nose. What needs others is not looked at, and fewer than `MIN_POSES` poses in which
    no joint is missing decide nothing. Of joints in a picture only the head's place is.
    """
    bodies = _take_bodies(clips, layout)
    poses = np.concatenate(bodies)
    if len(poses) < MIN_POSES:
        return []
    if layout.axes == 2:
        return list(filter(None, [_check_head(poses, layout)]))
    if is_picture(clips, layout):
        return ["their third number is no depth: they look like x, y and a score in a picture"]
    checks = (_check_head, _check_order, _check_sides, _check_limbs, _check_feet, _check_size)
    found = [check(poses, layout) for check in checks]
    found.insert(3, _check_drift(bodies, layout))
    return list(filter(None, found))


def is_picture(clips: Sequence[np.ndarray], layout: Layout) -> bool:
    """Whether raw clips of a 3-D layout are (x, y, score) or (x, y, 0) of a picture.

    Then the third number is the same everywhere; or it lies between 0 and 1, and so do x and y, or
    they are so large that they are pixels.
    """
    bodies = _take_bodies(clips, layout)
    poses = np.concatenate(bodies)
    if layout.axes == 2 or len(poses) < MIN_POSES:
        return False
    third = poses[..., 2]
    if np.ptp(third) == 0:
        return True
    in_unit = third.min() >= 0 and third.max() <= 1.01  # AlphaPose goes a little beyond 1
    plane = poses[..., :2]
    large = np.median(np.ptp(plane, axis=1)) > _PIXELS
    return bool(in_unit and (large or (plane.min() >= 0 and plane.max() <= 1.01)))


def is_person_sized(clips: Sequence[np.ndarray], layout: Layout) -> bool:
    """Whether the points of raw clips take up as much room, in metres, as a person does."""
    poses = np.concatenate(_take_bodies(clips, layout))
    return bool(len(poses)) and not _check_size(poses, layout)


def find_fitting(clips: Sequence[np.ndarray], layout: Layout) -> list[str]:
    """Names of the other known layouts with as many joints that such clips may be of."""
    count, others = layout.num_joints, [each for each in LAYOUTS.values() if each != layout]
    others = [each for each in others if each.num_joints == count]
    if is_picture(clips, layout):
        return [each.name for each in others if each.axes == 2]
    same = [each for each in others if each.axes == layout.axes]
    return [each.name for each in same if not find_faults(clips, each)]


def advise_on_spine(clips: Sequence[np.ndarray], layout: Layout) -> str | None:
    """A line for the user if the spine is short in most frames of these clips, else None.

    Where joints are a centimetre off, a line of 7 cm leans by ten degrees, and normalisation makes the
    whole body lean by as much. Joints in a picture are not turned: nothing is said of them.
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
    if share >= _SHORT_SPINE:
        return None
    line = f"{layout.joints[bottom]} to {layout.joints[top]}"
    return (
        f"{line} is short ({100 * share:.0f} % of the way to the farthest joint): bodies may lean; "
        "name a longer line in the layout, as from the hips to the neck"
    )


def _take_bodies(clips: Sequence[np.ndarray], layout: Layout) -> list[np.ndarray]:
    """[poses, joints, xyz] of each body of each clip, without poses that miss a joint."""
    bodies = [np.zeros((0, layout.num_joints, 3))]
    for clip in clips:
        chosen = np.unique(np.linspace(0, len(clip) - 1, _POSES_PER_CLIP).astype(int))
        for body in clip[chosen].astype(np.float64).swapaxes(0, 1):
            # One joint may be at the origin: of a normalised clip the centre is.
            bodies.append(body[body.any(-1).sum(-1) >= layout.num_joints - 1])
    return bodies


# --- each returns what is wrong, or "" ------------------------------------------------------------


def _check_head(poses: Poses, layout: Layout) -> str:
    names = [name.lower() for name in layout.joints]
    heads = [names.index(each) for each in ("head", "nose") if each in names]
    if not heads:
        return ""
    head = poses[:, heads[0]]
    shoulders, hips = _middle(poses, layout, "shoulder"), _middle(poses, layout, "hip")
    if np.mean(_length(head - hips) < _length(head - shoulders)) > _MOST:
        return "the head is nearer to the hips than to the shoulders"
    if layout.axes == 3 and np.mean(_dot(head - hips, _spine(poses, layout)) < 0) > _MOST:
        return "the head is below the hips where the layout's spine stands upright"
    return ""


def _check_order(poses: Poses, layout: Layout) -> str:
    poses = poses[:: -(-len(poses) // _TREE_POSES)]  # all pairs of joints are measured in each
    trees = np.median(_bones(poses, layout).sum(-1) / np.maximum(_shortest_tree(poses), 1e-9))
    if trees <= _TREES:
        return ""
    return f"the bones are {trees:.1f} times as long as lines that join the same points need be"


def _check_sides(poses: Poses, layout: Layout) -> str:
    length = np.maximum(np.median(_bones(poses, layout), axis=0), 1e-9)
    if layout.left:
        ratios = length[list(layout.left)] / length[list(layout.right)]
        unlike = np.exp(np.median(np.abs(np.log(ratios))))
        if unlike > _UNLIKE_SIDES:
            return f"bones of the left and the right differ {unlike:.1f} times in length"
    shoulders, hips = _across(poses, layout, "shoulder"), _across(poses, layout, "hip")
    wide = _length(hips) > 0.1 * _length(shoulders)
    if wide.sum() >= MIN_POSES and np.mean(_dot(shoulders, hips)[wide] > 0) < _HARDLY_ANY:
        return "left and right of the hips are not those of the shoulders"
    return ""


def _check_drift(bodies: Sequence[np.ndarray], layout: Layout) -> str:
    drifts = []
    for poses in bodies:
        if len(poses) >= 4:
            bones = _bones(poses, layout)
            middle = np.median(bones, axis=0)
            spread = np.median(np.abs(bones - middle), axis=0)
            drifts.append(np.median(spread / np.maximum(middle, 1e-9)))
    drift = np.median(drifts) if drifts else 0.0
    return f"bones change their length by {drift:.0%} within a clip" if drift > _DRIFT else ""


def _check_limbs(poses: Poses, layout: Layout) -> str:
    shoulders, hips = _middle(poses, layout, "shoulder"), _middle(poses, layout, "hip")
    trunk = np.maximum(np.median(_length(shoulders - hips)), 1e-9)
    for start, end, shortest, longest in _LIMBS:
        bones = _find_sides(poses, layout, start) - _find_sides(poses, layout, end)
        limb = np.median(_length(bones)) / trunk
        if limb < shortest or limb > longest:
            return f"from {start} to {end} it is {limb:.1f} times the length of the trunk"
    return ""


def _check_feet(poses: Poses, layout: Layout) -> str:
    right, left = layout.shoulders
    ahead = np.cross(_spine(poses, layout), poses[:, right] - poses[:, left])
    steps = _find_sides(poses, layout, "foot", "toe") - _find_sides(poses, layout, "ankle")
    if steps.any() and np.mean((steps * ahead[:, None]).sum(-1) <= 0) > 1 - _FEW:
        return "the feet point backwards: left and right are swapped, or the clips are mirrored"
    return ""


def _check_size(poses: Poses, layout: Layout) -> str:
    size = np.median(_length(np.ptp(poses, axis=1)))
    if _METRES[0] <= size <= _METRES[1]:
        return ""
    return f"a person takes up {size:.3g}, which cannot be metres"


# --- joints and lengths: NaN, of which nothing is wrong, where a layout has no such joint -----------


def _find_sides(poses: Poses, layout: Layout, *parts: str) -> Float[np.ndarray, "poses 2 xyz"]:
    """The left and the right joint whose names have a word of these in them, the first best."""
    for part in parts:
        for left, right in zip(layout.left, layout.right, strict=True):
            if part in layout.joints[left].lower():
                return poses[:, [left, right]]
    return np.full((len(poses), 2, 3), np.nan)


def _middle(poses: Poses, layout: Layout, part: str) -> Float[np.ndarray, "poses xyz"]:
    return _find_sides(poses, layout, part).mean(1)


def _across(poses: Poses, layout: Layout, part: str) -> Float[np.ndarray, "poses xyz"]:
    left, right = _find_sides(poses, layout, part).swapaxes(0, 1)
    return right - left


def _spine(poses: Poses, layout: Layout) -> Float[np.ndarray, "poses xyz"]:
    return poses[:, layout.spine[1]] - poses[:, layout.spine[0]]


def _bones(poses: Poses, layout: Layout) -> Float[np.ndarray, "poses joints"]:
    """The length of the bone that ends at each joint, 0 at the root."""
    return _length(poses - poses[:, list(layout.parents)])


def _shortest_tree(poses: Poses) -> Float[np.ndarray, " poses"]:
    """The length of the shortest lines that join all points of a pose (Prim's algorithm)."""
    count, joints = poses.shape[:2]
    every = np.arange(count)
    apart = _length(poses[:, :, None] - poses[:, None])
    nearest, total = apart[:, 0].copy(), np.zeros(count)
    outside = np.arange(joints) > np.zeros((count, 1))
    for _ in range(joints - 1):
        joint = np.where(outside, nearest, np.inf).argmin(-1)
        total += nearest[every, joint]
        outside[every, joint] = False
        nearest = np.minimum(nearest, apart[every, joint])
    return total


def _length(vectors: Float[np.ndarray, "*shape xyz"]) -> Float[np.ndarray, "*shape"]:
    return np.linalg.norm(vectors, axis=-1)


def _dot(a: Float[np.ndarray, "poses xyz"], b: Float[np.ndarray, "poses xyz"]) -> np.ndarray:
    return (a * b).sum(-1)
