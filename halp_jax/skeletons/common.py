"""Clips of one skeleton as clips of another: what lets one encoder learn from two data sets.

Joints go by meaning: those of the same name first, then those that mean the same in another spelling
(`names`), then the pairs of `layout.SYNONYMS`, so the 25 joints of Kinect v2 (NTU, PKU-MMD) become
the 20 of Kinect v1 (NW-UCLA), and the 18 of OpenPose the 17 of COCO. Nothing is invented: the other way
round joints are missing, and that is an error which names them. Of too many bodies those that move most
are kept, by the rule of the NTU reader; too few are filled up with zeros. Normalisation comes after it,
on joints of the new layout.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from halp_jax.errors import UserError
from halp_jax.skeletons.layout import SYNONYMS, Layout, describe_layout, find_known, with_bodies
from halp_jax.skeletons.layouts_known import Frames
from halp_jax.skeletons.names import find_meanings
from halp_jax.skeletons.normalize import looks_normalized


def match_joints(source: Layout, target: Layout) -> tuple[int, ...]:
    """For each joint of `target` the number of the joint of `source` that means the same.

    Raises:
        UserError: one is a picture and the other is not, or naming the joints that are missing.
    """
    if source.axes != target.axes:
        raise UserError(
            f"{source.name} has joints of {source.axes} coordinates and {target.name} of"
            f" {target.axes}, so neither can be taken to the other; choose another layout"
        )
    found = find_joints(source.joints, target.joints)
    missing = [joint for joint in target.joints if joint not in found]
    if missing:
        # Then perhaps all joints of the source are in the target, and both can have those.
        way = "write a .json layout of joints that both have, for --as-layout"
        if len(find_joints(target.joints, source.joints)) == source.num_joints:
            shared = with_bodies(source, max(source.bodies, target.bodies))
            way = f"prepare both data sets with {name_option(shared)}"
        raise UserError(
            f"{source.name} has no joint that is {target.name}'s {', '.join(missing)}; {way}"
        )
    return tuple(found[joint] for joint in target.joints)


def find_joints(names: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Wanted joint -> the number of its like among `names`, for those that have one.

    The same name comes first, then the same meaning (see `names`), then a synonym. A joint stands for
    one wanted joint only.
    """
    there = find_meanings(names)
    means = {meaning: place for place, meaning in enumerate(there)}
    meanings = dict(zip(wanted, find_meanings(wanted), strict=True))
    # A foot that toes follow is an ankle, and not what a layout calls a foot.
    found = {
        joint: place
        for place, joint in enumerate(names)
        if joint in meanings and (meanings[joint] != joint or there[place] == joint)
    }
    ways = [{meaning: meaning for meaning in means}]
    ways += [{one: other} for pair in SYNONYMS for one, other in (pair, pair[::-1])]
    for way in ways:
        for joint, meaning in meanings.items():
            place = means.get(way.get(meaning, ""))
            if joint not in found and place is not None and place not in found.values():
                found[joint] = place
    return found


def convert_clip(
    frames: Frames, source: Layout, target: Layout
) -> Float[np.ndarray, "time target_bodies target_joints xyz"]:
    """The clip with the joints and the number of bodies of `target`; coordinates stay as they are.

    Raises:
        UserError: see `match_joints`.
    """
    joints = list(match_joints(source, target))
    if frames.shape[1] > target.bodies:
        frames = frames[:, choose_bodies(frames, source, target.bodies)]
    absent = target.bodies - frames.shape[1]
    return np.pad(frames[:, :, joints], ((0, 0), (0, absent), (0, 0), (0, 0)))


def choose_bodies(frames: Frames, layout: Layout, count: int) -> Int[np.ndarray, " chosen"]:
    """The `count` bodies of most motion energy, the first most.

    In a normalised clip the first body is centred and the others are not, so energies say nothing:
    there the first ones that are seen stay, which the data sets' authors ordered in this way.
    """
    seen = frames.any((0, 2, 3))
    rank = seen.astype(np.float64)
    if not looks_normalized(frames, layout):
        energy = [motion_energy(frames[:, body]) for body in range(frames.shape[1])]
        rank = np.where(seen, energy, -1.0)
    return np.argsort(-rank, kind="stable")[:count]


def motion_energy(body: Float[np.ndarray, "time joints xyz"]) -> float:
    """How much a body moves and extends: the sum over xyz of the standard deviation, where it is
    seen. The measure of the released NTU reader, see `datasets.ntu`."""
    poses = body[body.any((1, 2))].astype(np.float64)
    return float(poses.std((0, 1)).sum()) if len(poses) else 0.0


def describe_conversion(source: Layout, target: Layout) -> dict[str, Any]:
    """What a data set's JSON notes of the way: empty where source and target are the same.

    Raises:
        UserError: see `match_joints`.
    """
    if source == target:
        return {}
    joints = match_joints(source, target)
    left_out = [joint for place, joint in enumerate(source.joints) if place not in joints]
    pairs = dict(zip(target.joints, [source.joints[place] for place in joints], strict=True))
    record = {
        "layout": describe_layout(source),
        "bodies": source.bodies,
        "joints": pairs,
        "left_out": left_out,
    }
    return {"converted_from": record}


def tell_conversion(record: dict[str, Any]) -> str:
    """That note as a line: the joints that have another name now, and those that are left out."""
    layout, joints = record["layout"], record["joints"].items()
    name = layout if isinstance(layout, str) else layout["name"]
    changes = [", ".join(f"{old} as {new}" for new, old in joints if old != new)]
    changes += ["without " + ", ".join(record["left_out"])] if record["left_out"] else []
    told = "; ".join(filter(None, changes)) or "the same joints"
    return f"taken from {name}, bodies {record['bodies']}: {told}"


def name_option(layout: Layout) -> str:
    """How the option of `prepare` names this layout."""
    if find_known(layout.name) == layout:
        return f"--as-layout={layout.name}"
    return f"--as-layout=FILE.json, that of {layout.name}, --max-bodies={layout.bodies}"
