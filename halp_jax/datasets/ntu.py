"""Raw NTU RGB+D 60 and 120: `.skeleton` files of a Kinect v2 -> clips of 25 joints, two bodies.

`skeleton_text` parses a file. The sensor reports chairs and passers-by as bodies, numbers a person anew
who was out of sight, and reorders its list. Ghosts are left out as in the field's data preparation
(`drop_ghosts`), rows of one person are joined (`track_bodies`), and the two people who move most are
kept (`select_bodies`), as in the preparation of 2s-AGCN that HaLP's released code uses.

The samples that the official lists name as damaged are left out (`ntu_missing`), and those of lists
that lie beside the files or are given.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from halp_jax.datasets.clip import Clip, ClipInfo, DamagedClip
from halp_jax.datasets.files import check_folder, read_bytes, read_lines
from halp_jax.datasets.labels import ACTIONS, parse_name
from halp_jax.datasets.ntu_missing import MISSING
from halp_jax.datasets.skeleton_text import Recording, parse_skeleton
from halp_jax.datasets.source import Item, Source, Splits, make_source, split_by_rules
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import NTU25

_NTU60_CLASSES, _NTU60_SETUPS = 60, 17

# The training subjects of the two papers; NTU-120's list begins with NTU-60's.
_TRAIN_SUBJECTS_60 = (1, 2, 4, 5, 8, 9, 13, 14, 15, 16, 17, 18, 19, 25, 27, 28, 31, 34, 35, 38)
_TRAIN_SUBJECTS_120 = _TRAIN_SUBJECTS_60 + (
    45, 46, 47, 49, 50, 52, 53, 54, 55, 56, 57, 58, 59, 70, 74, 78, 80, 81, 82, 83, 84, 85, 86,
    89, 91, 92, 93, 94, 95, 97, 98, 100, 103,
)  # fmt: skip
_TRAIN_CAMERAS = (2, 3)

_MAX_FILE_BYTES = 64 * 2**20
_FPS = 30.0  # of a Kinect v2
BODIES = ("denoised", "id", "slot", "first")
GHOSTS = "clips with a ghost body left out"
OFFICIAL, NONE = "the official ones", "none"
# The released reader looks at this many bodies of a frame, in the order in which they are written.
_SLOTS = 4
# The thresholds of CTR-GCN's preparation, which are those of SGN's and VA-NN's before it.
_FEW_FRAMES = 11  # a body of no more frames is a ghost
_WIDE = 0.8  # in a frame that is wider than this share of its height a body looks like none
_WIDE_SHARE = 0.69754  # a body that looks so in this share of its frames is a ghost


def read_item(item: Item, by: str = "denoised", any_name: bool = False) -> list[Clip]:
    """The one clip of a file; without a label if its name tells none. Raises DamagedClip.

    `by` is one of BODIES.
    """
    path = Path(item.payload)
    numbers = parse_name(path.stem)
    if numbers is None and not any_name:
        raise DamagedClip(f"{path}: its name is not like S001C001P001R001A001; rename or remove it")
    setup, camera, subject, _, action = numbers or (-1, -1, -1, -1, 0)
    if numbers and not action:
        raise DamagedClip(f"{path}: its action is 0, they run from 1; rename or remove it")
    recording = parse_skeleton(read_bytes(path, _MAX_FILE_BYTES), str(path))
    people = drop_ghosts(recording) if by == "denoised" else recording
    frames, _ = select_bodies(people, "id" if by == "denoised" else by)
    frames, remark = frames.astype(np.float32), "" if people is recording else GHOSTS
    return [Clip(frames, action - 1, path.stem, subject, camera, setup, remark=remark, fps=_FPS)]


def make_splits(infos: Sequence[ClipInfo], num_classes: int) -> Splits:
    """xsub and xview of NTU-60, or xsub and xset of NTU-120, by the papers' definitions."""
    subjects = _TRAIN_SUBJECTS_60 if num_classes == _NTU60_CLASSES else _TRAIN_SUBJECTS_120
    rules = {"xsub": lambda info: info.subject in subjects}
    if num_classes == _NTU60_CLASSES:
        rules["xview"] = lambda info: info.camera in _TRAIN_CAMERAS
    else:
        rules["xset"] = lambda info: info.setup % 2 == 0
    return split_by_rules(infos, rules)


def read_missing_list(path: str | Path) -> set[str]:
    """The sample names of an official list; its header lines are no names. Raises UserError."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(
            f"{path} is not a file; give --missing the official list of damaged samples"
        )
    names = {line.strip().removesuffix(".skeleton") for line in read_lines(path)}
    names = set(filter(parse_name, names))
    if not names:
        raise UserError(f"{path} names no sample like S001C002P005R002A008; is it the right list?")
    return names


def open_source(
    path: str | Path,
    missing: str | Path | Sequence[str] = (),
    classes: int | str = "auto",
    bodies: str = "denoised",
) -> Source:
    """All `.skeleton` files in and below a folder, or a single one of any name.

    Args:
        path: the folder, or the file.
        missing: lists of samples to leave out beside the official ones, one path or several
            (separated by commas); "none" among them takes the official ones in. Files called
            *_missing_skeletons.txt in the folder or beside it are used as well.
        classes: 60, 120, or "auto": 120 if any file has an action above 60 or a setup above 17.
            60 on a folder of NTU-120 takes the NTU-60 part of it.
        bodies: "denoised", people told apart by tracking id, ghosts left out; "id", with ghosts;
            "slot", as HaLP's released code has them, or "first", as AimCLR's. See `select_bodies`.

    Raises:
        UserError: no folder, no files in it, or an option that is not known.
    """
    path = Path(path).expanduser()
    single = path.is_file()
    folder = path.parent if single else check_folder(path, "the .skeleton files of NTU RGB+D")
    if str(classes) not in ("auto", "60", "120"):
        raise UserError(f"--classes={classes} is not known; use 60, 120 or auto")
    if bodies not in BODIES:
        raise UserError(f"--bodies={bodies} is not known; use {', '.join(BODIES)}")

    files: dict[str, Path] = {}
    found = [path] if single else sorted(folder.rglob("*.skeleton"))
    for file in found:
        files.setdefault(file.stem, file)
    if not files:
        raise UserError(f"{folder} holds no .skeleton file; unpack the archives of NTU RGB+D there")

    lists = missing.split(",") if isinstance(missing, str) else missing
    lists = [lists] if isinstance(lists, Path) else [each for each in lists if each]
    official = [] if NONE in lists else [OFFICIAL]
    lists = [Path(each) for each in lists if each != NONE]
    beside = (folder, folder.resolve().parent)
    lists += [list_ for place in beside for list_ in sorted(place.glob("*_missing_skeletons.txt"))]
    skip = (MISSING if official else set()).union(*(read_missing_list(each) for each in lists))

    numbers = {name: parse_name(name) for name in files}
    beyond_60 = {
        name for name, n in numbers.items() if n and (n[0] > _NTU60_SETUPS or n[4] > _NTU60_CLASSES)
    }
    num_classes = int(classes) if str(classes) != "auto" else 120 if beyond_60 else 60
    outside = beyond_60 if num_classes == _NTU60_CLASSES else set()

    left_out = skip | outside
    items = [Item(name, str(file)) for name, file in files.items() if name not in left_out]
    if not items:
        raise UserError(
            f"{folder}: every sample is left out, by --classes or the lists of damaged samples"
            " (--missing=none keeps the official ones)"
        )
    return make_source(
        "ntu",
        functools.partial(read_item, by=bodies, any_name=single),
        items,
        NTU25,
        ACTIONS[:num_classes],
        functools.partial(make_splits, num_classes=num_classes),
        notes={
            "missing_skipped": len(skip & set(files)),
            "missing_lists": official + [str(each) for each in dict.fromkeys(lists)],
            "outside_ntu60": len(outside - skip),
            "duplicates": len(found) - len(files),
        },
    )


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
    the sensor gives a person that it lost a new id. `by="slot"` or "first" is the released code: the person
    is the place in the frame's list, so two people swap where the list is reordered.
    """
    if by in ("slot", "first"):
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
    recording: Recording, by: str = "id"
) -> tuple[Float[np.ndarray, "time bodies joints xyz"], Int[np.ndarray, " bodies"]]:
    """The two people who move most, or by="first" the first two of the file: float64 metres; which they are."""
    tracks, chosen = track_bodies(recording, by), np.arange(NTU25.bodies)
    if by != "first":
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
