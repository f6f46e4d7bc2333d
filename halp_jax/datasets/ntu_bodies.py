"""Which bodies of an NTU recording are people, which rows are one person, and who comes first.

The sensor reports chairs and passers-by as bodies, numbers a person anew who was out of sight, and
reorders its list. Ghosts are left out as in the field's data preparation (`drop_ghosts`), rows of one
person are joined (`track_bodies`), and the two people who move most are kept (`select_bodies`).
"""

import numpy as np
from jaxtyping import Float, Int

from halp_jax.datasets.skeleton_text import Recording
from halp_jax.skeletons.layout import NTU25

# The released reader looks at this many bodies of a frame, in the order in which they are written.
_SLOTS = 4
# The thresholds of CTR-GCN's preparation, which are those of SGN's and VA-NN's before it.
_FEW_FRAMES = 11  # a body of no more frames is a ghost
_WIDE = 0.8  # in a frame that is wider than this share of its height a body looks like none
_WIDE_SHARE = 0.69754  # a body that looks so in this share of its frames is a ghost


def drop_ghosts(recording: Recording) -> Recording:
    """The recording without the bodies that are no people; itself if there is none.

    A body (a tracking id) is a ghost if it is seen in 11 frames or fewer, or if in 69.754 % of its
    frames or more its extent in x is over 0.8 times that in y. That is the denoising of CTR-GCN's
    data preparation, and of SGN's and VA-NN's. Somebody always stays: where all bodies are short none
    is a ghost for that, and where all are wide the one that is so least often stays.
    """
    if _is_alone(recording):
        return recording
    keys = _name_bodies(recording)
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    body = np.asarray([number[key] for key in keys])
    extent = np.ptp(recording.poses, axis=1)  # [rows, xyz]
    frames = np.bincount(body, extent.any(1))  # poses of zeros tell nothing
    wide = np.bincount(body, extent[:, 0] > _WIDE * extent[:, 1]) / np.maximum(frames, 1)
    kept = frames > _FEW_FRAMES
    if not kept.any():
        kept = frames > 0
    if kept.sum() > 1:
        least = wide[kept].min()
        kept &= (wide < _WIDE_SHARE) | ((wide == least) & (least >= _WIDE_SHARE))
    rows = kept[body]
    if rows.all() or not rows.any():
        return recording
    ids = tuple(each for each, stays in zip(recording.ids, rows, strict=True) if stays)
    frame, slot, poses = recording.frame[rows], recording.slot[rows], recording.poses[rows]
    return Recording(recording.num_frames, frame, slot, ids, poses)


def track_bodies(recording: Recording, by: str = "id") -> Int[np.ndarray, " rows"]:
    """For each row the number of the person it belongs to; -1 for rows that are left out.

    `by="id"` follows the tracking id. A new id takes over from one that is never seen again, since
    the sensor gives a person that it lost a new id. `by="slot"` is the released code: the person is
    the place in the frame's list, so two people swap where the list is reordered.
    """
    if by == "slot":
        return np.where(recording.slot < _SLOTS, recording.slot, -1)
    if _is_alone(recording):
        return np.zeros(len(recording.ids), int)
    keys = _name_bodies(recording)
    last = {key: frame for key, frame in zip(keys, recording.frame.tolist(), strict=True)}
    track_of: dict[tuple[int, int], int] = {}
    free_after: list[int] = []  # for each track, the last frame of its present id
    for key, frame in zip(keys, recording.frame.tolist(), strict=True):
        if key in track_of:
            continue
        ended = [track for track, end in enumerate(free_after) if end < frame]
        if ended:
            track_of[key] = max(ended, key=lambda track: free_after[track])
            free_after[track_of[key]] = last[key]
        else:
            track_of[key] = len(free_after)
            free_after.append(last[key])
    return np.asarray([track_of[key] for key in keys])


def motion_energy(
    recording: Recording, tracks: Int[np.ndarray, " rows"]
) -> Float[np.ndarray, " tracks"]:
    """How much each person moves and extends: the sum over xyz of the standard deviation.

    At least four long, as in the released code; a person who is never seen has 0.
    """
    energy = np.zeros(max(_SLOTS, int(tracks.max()) + 1))
    tracked = np.where(recording.poses.any((1, 2)), tracks, -1)  # poses of zeros tell nothing
    for track in range(tracked.max() + 1):
        poses = recording.poses[tracked == track]
        if len(poses):
            energy[track] = poses[..., 0].std() + poses[..., 1].std() + poses[..., 2].std()
    return energy


def select_bodies(
    recording: Recording, by: str = "denoised"
) -> tuple[Float[np.ndarray, "time bodies joints xyz"], Int[np.ndarray, " bodies"]]:
    """The two people of most motion energy, the first most: float64 metres, and which they are.

    `by="denoised"` is "id" without ghosts.
    """
    if by == "denoised":
        recording, by = drop_ghosts(recording), "id"
    tracks = track_bodies(recording, by)
    chosen = motion_energy(recording, tracks).argsort(kind="stable")[::-1][: NTU25.bodies]
    frames = np.zeros((recording.num_frames, NTU25.bodies, NTU25.num_joints, 3))
    for body, track in enumerate(chosen):
        rows = tracks == track
        frames[recording.frame[rows], body] = recording.poses[rows]
    return frames, chosen


def _is_alone(recording: Recording) -> bool:
    """One person, as in most files."""
    return len(set(recording.ids)) == 1 and bool((np.diff(recording.frame) > 0).all())


def _name_bodies(recording: Recording) -> list[tuple[int, int]]:
    """For each row its id and the how-manieth of that id in its frame.

    An id twice in one frame would be two people in one place: the number tells them apart.
    """
    keys, seen = [], {}
    for frame, body in zip(recording.frame.tolist(), recording.ids, strict=True):
        seen[frame, body] = seen.get((frame, body), -1) + 1
        keys.append((body, seen[frame, body]))
    return keys
