"""People that a detector finds anew in every frame -> bodies that keep their place in a clip.

Detectors write x, y, score, x, y, score, ... of each person, which become points here.

The order of a frame's people says nothing, and their numbers, where there are any, seldom do. Here a
person is whoever is nearest to where a person was: by the mean distance of the joints that both show,
in shares of their size, so that it does not matter how near the camera is. A person who is lost may be
found again within `MAX_GAP` frames.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import MAX_COORDINATE, MAX_FRAMES, DamagedClip
from halp_jax.datasets.files import to_numbers
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import Layout

FARTHEST = 0.3  # of a person's size: the mean joint moves less between two frames
MAX_GAP = 30  # frames; after them the nearest person may well be another
LASTING = 0.2  # a track of a smaller share of the longest one's frames is a chance find
MAX_PEOPLE = 100  # in one frame: comparing all with all must stay cheap
MORE_PEOPLE = (
    "clips with more people than the layout has bodies, those seen longest and moving most kept"
)
_FRAME = re.compile(r"(.*?)[-_. ]?(\d{1,12})", re.DOTALL | re.ASCII)


class Track(NamedTuple):
    """One person: the frames, the points [joints, 3 (x, y, score)] in each."""

    times: list[int]
    poses: list[np.ndarray]


def is_frame_number(value: Any) -> bool:
    """Whether a value of a JSON file can be the number of a frame."""
    return type(value) is int and 0 <= value < 2**40


def to_size(height: Any, width: Any) -> tuple[float, float] | None:
    """(height, width) of a picture, if that is what a file gives."""
    whole = all(type(length) is int and 0 < length < 2**20 for length in (height, width))
    return (float(height), float(width)) if whole else None


def parse_picture(text: str) -> tuple[float, float]:
    """WIDTHxHEIGHT -> (height, width). Raises UserError."""
    size = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text, re.ASCII)
    if size is None:
        raise UserError(f"--picture={text[:40]} is no WIDTHxHEIGHT; give it like 1920x1080")
    return float(size[2]), float(size[1])


def to_points(numbers: Any, where: str) -> Float[np.ndarray, "joints 3"]:
    """x, y, score, x, y, score, ... -> [joints, 3]; a joint of no score, or not a number, is zero.

    Raises:
        DamagedClip: naming `where`: this is no list of such triples.
    """
    points = to_numbers(numbers)
    if points.ndim != 1 or not points.size or points.size % 3:
        raise DamagedClip(f"{where}: key points that are no list of x, y, score; write it again")
    points = points.reshape(-1, 3)
    seen = np.isfinite(points).all(1) & (points[:, 2] > 0)
    points = np.where(seen[:, None], points, 0.0)
    if np.abs(points).max() > MAX_COORDINATE:
        raise DamagedClip(f"{where}: coordinates over {MAX_COORDINATE:g}; write it again")
    return points


def stack_people(people: list[np.ndarray], where: str) -> Float[np.ndarray, "people joints 3"]:
    """The people of one frame as an array, without those of whom no joint was seen.

    Raises:
        DamagedClip: they are too many, or differ in their number of joints.
    """
    if len(people) > MAX_PEOPLE:
        raise DamagedClip(f"{where}: {len(people)} people in one frame; leave it out")
    if len({len(person) for person in people}) > 1:
        raise DamagedClip(f"{where}: people of different numbers of joints; write it again")
    shown = [person for person in people if person.any()]
    return np.stack(shown) if shown else np.zeros((0, 0, 3))


def split_name(name: str) -> tuple[str, int]:
    """A frame's name without ending -> (that of its clip, the frame's number, 0 without one).

    walk_000012 is frame 12 of walk, 00012 of a clip that has no name.
    """
    match = _FRAME.fullmatch(name)
    return (match[1], int(match[2])) if match else (name, 0)


def group_frames(folder: Path, files: Sequence[Path]) -> dict[str, list[tuple[int, str]]]:
    """Files of one frame each -> {clip: [(frame number, file)] in the order of the numbers}."""
    parents: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for file in files:
        group, number = split_name(file.stem.removesuffix("_keypoints"))
        # YOLO's `labels` is the folder of no class and no clip.
        inner = [part for part in file.relative_to(folder).parent.parts if part != "labels"]
        groups = parents.setdefault("/".join(inner), {})
        groups.setdefault(group, []).append((number, str(file)))
    # Where no folder has several clips, folders are clips; else they are classes.
    alone = "" not in parents and all(len(groups) == 1 for groups in parents.values())
    clips = {}
    for inner, groups in parents.items():
        for group, frames in groups.items():
            parts = [inner] if alone else [inner, group or Path(inner).name or folder.name]
            clips["/".join(filter(None, parts))] = sorted(frames)
    return clips


def line_up(
    found: Mapping[int, Float[np.ndarray, "_people _joints 3"]], where: str
) -> list[Float[np.ndarray, "_people _joints 3"]]:
    """Frame number -> people, as a list without gaps: a number that is not there is an empty frame.

    Numbers that all lie a few apart are of a film of which every second or third frame was taken.

    Raises:
        DamagedClip: the numbers span more frames than any clip has.
    """
    numbers = sorted(found)
    step = math.gcd(*(number - numbers[0] for number in numbers)) or 1
    count = (numbers[-1] - numbers[0]) // step + 1
    if count > MAX_FRAMES:
        raise DamagedClip(
            f"{where}: frames {numbers[0]} to {numbers[-1]}, more than the {MAX_FRAMES} of a clip;"
            " keep clips apart"
        )
    nobody = np.zeros((0, 0, 3))
    return [found.get(numbers[0] + step * place, nobody) for place in range(count)]


def track_clip(
    found: Mapping[int, Float[np.ndarray, "_people _joints 3"]], layout: Layout, where: str
) -> tuple[Float[np.ndarray, "time bodies joints 3"], str]:
    """`track_people` of frames that are told by their numbers. Raises DamagedClip."""
    return track_people(line_up(found, where), layout.num_joints, layout.bodies)


def track_people(
    frames: Sequence[Float[np.ndarray, "_people _joints 3"]], joints: int, bodies: int
) -> tuple[Float[np.ndarray, "time bodies joints 3"], str]:
    """The people of each frame in the places of at most `bodies` bodies.

    The first body is the one that lasts, moves and fills the picture most. Those that are never there
    at the same time share a place; what lasts too shortly has none (`LASTING`), so that a person who
    is once found in two halves does not become two.

    Returns:
        (x, y, score) of every joint, 0 where there is none, and `MORE_PEOPLE` if some had no place.
    """
    tracks = sorted(_find_tracks(frames), key=_weigh, reverse=True)
    longest = max((len(track.times) for track in tracks), default=0)
    placed = np.zeros((len(frames), bodies, joints, 3))
    taken = np.zeros((len(frames), bodies), bool)
    remark = ""
    for track in tracks:
        if len(track.times) < LASTING * longest:
            continue
        during = slice(track.times[0], track.times[-1] + 1)
        free = np.flatnonzero(~taken[during].any(0))
        if not len(free):
            remark = MORE_PEOPLE
            continue
        placed[track.times, free[0]] = track.poses
        taken[during, free[0]] = True
    return placed, remark


def _find_tracks(frames: Sequence[Float[np.ndarray, "_people _joints 3"]]) -> list[Track]:
    tracks: list[Track] = []
    alive: list[tuple[Track, np.ndarray]] = []  # with each joint where it was last seen
    for time, people in enumerate(frames):
        alive = [each for each in alive if time - each[0].times[-1] <= MAX_GAP]
        pairs = _match([known for _, known in alive], people)
        for person, pose in enumerate(people):
            if person in pairs:
                place = pairs[person]
                track, known = alive[place]
                alive[place] = (track, np.where(pose[:, 2:] > 0, pose, known))
            else:
                track = Track([], [])
                tracks.append(track)
                alive.append((track, pose))
            track.times.append(time)
            track.poses.append(pose)
    return tracks


def _match(
    known: list[Float[np.ndarray, "joints 3"]], people: Float[np.ndarray, "_people _joints 3"]
) -> dict[int, int]:
    """{person: place in `known`}, the nearest pair first."""
    if not known or not len(people):
        return {}
    before = np.stack(known)
    there, seen = before[:, None, :, 2] > 0, people[None, :, :, 2] > 0
    both, either = there & seen, there | seen
    apart = np.linalg.norm(before[:, None, :, :2] - people[None, :, :, :2], axis=-1)
    apart /= np.maximum(measure(before)[:, None], measure(people))[..., None]
    near = (apart * both).sum(-1) < FARTHEST * both.sum(-1)
    # A joint that one of them lacks counts as far off: of two halves the larger one continues the track.
    cost = np.where(both, apart, FARTHEST * either).sum(-1) / np.maximum(either.sum(-1), 1)
    places, persons = np.nonzero(near)
    pairs: dict[int, int] = {}
    for pair in np.argsort(cost[near], kind="stable"):
        place, person = int(places[pair]), int(persons[pair])
        if person not in pairs and place not in pairs.values():
            pairs[person] = place
    return pairs


def measure(people: Float[np.ndarray, "people joints 3"]) -> Float[np.ndarray, " people"]:
    """The diagonal of the box around each person's joints, in the unit of the points."""
    unseen = people[..., 2:] <= 0
    points = people[..., :2]
    low = np.where(unseen, np.inf, points).min(1)
    high = np.where(unseen, -np.inf, points).max(1)
    return np.maximum(np.linalg.norm(np.maximum(high - low, 0.0), axis=-1), 1e-9)


def _weigh(track: Track) -> float:
    """Frames times the spread of the joints over them: how long, how large, how lively."""
    poses = np.stack(track.poses)
    points = poses[poses[..., 2] > 0][:, :2]
    return len(track.times) * float(points.std(0).sum()) if len(points) else 0.0
