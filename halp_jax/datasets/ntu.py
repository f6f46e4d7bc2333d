"""Raw NTU RGB+D 60 and 120: `.skeleton` files of a Kinect v2 -> clips of 25 joints, two bodies.

`skeleton_text` parses a file. `ntu_bodies` makes people of its bodies and keeps the two that move
most, as in the data preparation of 2s-AGCN that HaLP's released code uses.

The samples that the official lists name as damaged are left out (`ntu_missing`), and those of lists
that lie beside the files or are given.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from halp_jax.datasets.clip import Clip, ClipInfo, DamagedClip, check_clip
from halp_jax.datasets.ntu_bodies import drop_ghosts, select_bodies
from halp_jax.datasets.ntu_missing import MISSING
from halp_jax.datasets.ntu_names import ACTIONS
from halp_jax.datasets.skeleton_text import parse_skeleton
from halp_jax.datasets.source import Item, Source, Splits, check_folder, read_bytes
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import NTU25

# Setup, camera, performer (subject), replication, action; all counted from 1.
_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", re.ASCII)
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
BODIES = ("denoised", "id", "slot")
GHOSTS = "clips with a ghost body left out"
OFFICIAL, NONE = "the official ones", "none"


def parse_name(name: str) -> tuple[int, int, int, int, int] | None:
    """ "S001C002P003R002A013" -> (setup, camera, subject, replication, action), or None."""
    match = _NAME.fullmatch(name)
    return tuple(int(number) for number in match.groups()) if match else None


def read_item(
    item: Item, num_classes: int = 120, by: str = "denoised", any_name: bool = False
) -> list[Clip]:
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
    frames, _ = select_bodies(people, by)
    clip = Clip(
        frames.astype(np.float32), action - 1, path.stem, subject, camera=camera, setup=setup,
        remark="" if people is recording else GHOSTS, fps=_FPS,
    )  # fmt: skip
    return [check_clip(clip, NTU25, num_classes)]


def make_splits(infos: Sequence[ClipInfo], num_classes: int) -> Splits:
    """xsub and xview of NTU-60, or xsub and xset of NTU-120, by the papers' definitions."""
    subjects = _TRAIN_SUBJECTS_60 if num_classes == _NTU60_CLASSES else _TRAIN_SUBJECTS_120
    rules = {"xsub": lambda info: info.subject in subjects}
    if num_classes == _NTU60_CLASSES:
        rules["xview"] = lambda info: info.camera in _TRAIN_CAMERAS
    else:
        rules["xset"] = lambda info: info.setup % 2 == 0
    return {
        benchmark: {
            "train": [info.name for info in infos if trains(info)],
            "test": [info.name for info in infos if not trains(info)],
        }
        for benchmark, trains in rules.items()
    }


def read_missing_list(path: str | Path) -> set[str]:
    """The sample names of an official list; its header lines are no names. Raises UserError."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{path} is no file; give missing= the official list of damaged samples")
    lines = read_bytes(path).decode("utf-8", "replace").splitlines()
    names = {line.strip().removesuffix(".skeleton") for line in lines}
    names = {name for name in names if _NAME.fullmatch(name)}
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
            "slot", as the released code tells people apart. See `ntu_bodies`.

    Raises:
        UserError: no folder, no files in it, or an option that is not known.
    """
    path = Path(path).expanduser()
    single = path.is_file()
    folder = path.parent if single else check_folder(path, "the .skeleton files of NTU RGB+D")
    if str(classes) not in ("auto", "60", "120"):
        raise UserError(f"classes={classes} is not known; use 60, 120 or auto")
    if bodies not in BODIES:
        raise UserError(f"bodies={bodies} is not known; use {', '.join(BODIES)}")

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

    items = tuple(
        Item(name, str(file)) for name, file in files.items() if name not in skip | outside
    )
    if not items:
        raise UserError(
            f"{folder}: every sample is left out, by classes= or the lists of damaged samples"
            " (missing=none takes the official ones in)"
        )
    return Source(
        format="ntu",
        layout=NTU25,
        class_names=ACTIONS[:num_classes],
        items=items,
        read=functools.partial(read_item, num_classes=num_classes, by=bodies, any_name=single),
        splits=functools.partial(make_splits, num_classes=num_classes),
        notes={
            "missing_skipped": len(skip & set(files)),
            "missing_lists": official + [str(each) for each in dict.fromkeys(lists)],
            "outside_ntu60": len(outside - skip),
            "duplicates": len(found) - len(files),
        },
    )
