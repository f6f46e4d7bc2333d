"""Raw PKU-MMD v1 and v2: long videos of two bodies, cut into the clips that their labels name.

A skeleton file has a row a frame: 150 numbers, two bodies of 25 joints of xyz in metres. A label
file has a row an action: action (from 1), first frame (from 0), the frame after the last,
confidence; or, as some hand the set on, a number a frame: its action, 0 where there is none. Then two
clips of one action that touch are one. Where both kinds lie side by side (label_per_frame,
label_segments) the rows are read. Split files name videos: a line "Training videos:", then the names,
then the same for validation (which v1 spells "Validataion").
"""

import functools
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import Clip, ClipInfo, DamagedClip
from halp_jax.datasets.files import check_folder, parse_numbers, read_bytes, read_lines, remember
from halp_jax.datasets.labels import PKU_VIDEO, parse_name_fields
from halp_jax.datasets.npy import to_float32
from halp_jax.datasets.source import Item, Source, Splits, make_source
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import NTU25

ACTIONS = tuple(
    " ".join(
        """
        bow; brushing hair; brushing teeth; check time (from watch); cheer up; clapping;
        cross hands in front (say stop); drink water; drop; eat meal/snack; falling;
        giving something to other person; hand waving; handshaking; hopping (one foot jumping);
        hugging other person; jump up; kicking other person; kicking something;
        make a phone call/answer phone; pat on back of other person; pickup;
        playing with phone/tablet; point finger at the other person;
        pointing to something with finger; punching/slapping other person; pushing other person;
        put on a hat/cap; put something inside pocket; reading; rub two hands together; salute;
        sitting down; standing up; take off a hat/cap; take off glasses; take off jacket;
        take out something from pocket; taking a selfie; tear up paper; throw;
        touch back (backache); touch chest (stomachache/heart pain); touch head (headache);
        touch neck (neckache); typing on a keyboard;
        use a fan (with hand or paper)/feeling warm; wear jacket; wear on glasses; wipe face;
        writing
        """.split()
    ).split("; ")
)

_LABEL_ROW = re.compile(r"\s*(\d{1,9})\s*,\s*(\d{1,9})\s*,\s*(\d{1,9})\s*(?:,[^,]*)?", re.ASCII)
_FRAME_LABEL = re.compile(r"\s*(\d{1,4})\s*", re.ASCII)
_SPLIT_FILES = {
    "cross-subject": "xsub",
    "cross-subject-v2": "xsub",
    "cross-view": "xview",
    "cross-view-v2": "xview",
}
_BODIES = 2
_ROW = _BODIES * NTU25.num_joints * 3
# A minute has 1,800 frames and videos last three or four.
_MAX_FILE_BYTES = 128 * 2**20
_MAX_LABELS = 1000  # of a video, which has about twenty


def parse_video(data: bytes, where: str) -> Float[np.ndarray, "time bodies joints xyz"]:
    """The bytes of a skeleton file -> float32 metres. Raises DamagedClip."""
    lines = [line for line in data.splitlines() if line.strip()]
    values = parse_numbers(data, where)
    if not lines:
        raise DamagedClip(f"{where}: it is empty; fetch it again")
    wrong = next((n for n, line in enumerate(lines, 1) if len(line.split()) != _ROW), None)
    if wrong or len(values) != len(lines) * _ROW:
        raise DamagedClip(f"{where}: row {wrong or 1} has not {_ROW} numbers; fetch it again")
    return to_float32(values).reshape(len(lines), _BODIES, NTU25.num_joints, 3)


def parse_labels(data: bytes, where: str) -> list[tuple[int, int, int, int]]:
    """The bytes of a label file -> (action, start, end, frames of the video, 0 if it does not tell).

    Raises DamagedClip.
    """
    text = data.decode("utf-8", "replace")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    framewise = bool(lines) and lines[0][1].strip().isdigit()
    pattern = _FRAME_LABEL if framewise else _LABEL_ROW
    found = []
    for number, line in lines:
        match = pattern.fullmatch(line)
        if not match:
            what = "the number of an action" if framewise else "action,start,end,confidence"
            raise DamagedClip(f"{where}: line {number} is not {what}; correct it")
        found.append(tuple(map(int, match.groups())))
    rows = _join_frames([row[0] for row in found]) if framewise else [(*row, 0) for row in found]
    if not 0 < len(rows) <= _MAX_LABELS:
        raise DamagedClip(
            f"{where}: {len(rows)} actions are labelled in it; correct it or leave it out"
        )
    return rows


def _join_frames(actions: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """An action for each frame -> a row for each run of frames of one action."""
    rows, end = [], 0
    for action, run in itertools.groupby(actions):
        start, end = end, end + len(list(run))
        if action:
            rows.append((action, start, end, len(actions)))
    return rows


@remember
def _load_video(path: str) -> Float[np.ndarray, "time bodies joints xyz"]:
    return parse_video(read_bytes(path, _MAX_FILE_BYTES), path)


def read_item(item: Item) -> list[Clip]:
    """One label row -> one clip. Raises DamagedClip."""
    video_path, label_path, row = item.payload
    video = Path(video_path).stem
    if not PKU_VIDEO.fullmatch(video):
        raise DamagedClip(f"{video_path}: its name is not like 0105-M or A01N02-L; rename it")
    frames = _load_video(video_path)
    action, start, end, labelled = row
    if labelled not in (0, len(frames)):
        raise DamagedClip(
            f"{label_path}: {labelled} labels for {len(frames)} frames; give files that belong"
        )
    if not 1 <= action <= len(ACTIONS):
        raise DamagedClip(f"{label_path}: action {action} is not in 1..{len(ACTIONS)}; correct it")
    if not start < min(end, len(frames)):
        raise DamagedClip(
            f"{label_path}: frames {start} to {end} of a video of {len(frames)}; correct it"
        )
    # A few labels of the data set end after the last frame.
    return [Clip(frames[start:end].copy(), action - 1, item.id, **parse_name_fields(video))]


def read_split_file(path: Path) -> dict[str, list[str]]:
    """{"train": video names, "test": video names}. Raises UserError."""
    videos: dict[str, list[str]] = {"train": [], "test": []}
    part = None
    for line in read_lines(path):
        head = line.strip().lower()
        if head.startswith("train"):
            part = "train"
        elif head.startswith(("valid", "test")):
            part = "test"
        elif part:
            videos[part] += [match[0] for match in PKU_VIDEO.finditer(line)]
    if not all(videos.values()):
        raise UserError(
            f'{path}: no lines "Training videos:" and "Validation videos:", each with names; '
            "fetch it again"
        )
    return videos


def make_splits(infos: Sequence[ClipInfo], videos: dict[str, dict[str, list[str]]]) -> Splits:
    """Splits of videos -> splits of clips. A video that a file does not name is in neither part."""
    clips: dict[str, list[str]] = {}
    for info in infos:
        clips.setdefault(info.name.rsplit("_", 1)[0], []).append(info.name)
    return {
        benchmark: {
            part: [clip for video in dict.fromkeys(names) for clip in clips.get(video, ())]
            for part, names in parts.items()
        }
        for benchmark, parts in videos.items()
    }


def open_source(path: str | Path) -> Source:
    """The folder of PKU-MMD v1 or v2, or one above or holding its skeleton and label folders.

    Raises:
        UserError: folders are missing or ambiguous, or a split file or action list is damaged.
    """
    folder = check_folder(path, "the skeleton and label folders of PKU-MMD")
    skeletons, labels = _find_folder(folder, "skeleton"), _find_folder(folder, "label")
    videos = {file.stem: file for file in sorted(skeletons.glob("*.txt"))}
    if not videos:
        raise UserError(f"{skeletons} holds no .txt file; unpack the skeletons of PKU-MMD there")

    items: list[Item] = []
    unlabelled = 0
    for name, video in videos.items():
        label = labels / f"{name}.txt"
        if not label.is_file():
            unlabelled += 1
            continue
        try:
            rows = parse_labels(read_bytes(label, _MAX_FILE_BYTES), str(label))
        except DamagedClip as error:
            items.append(Item(name, DamagedClip(str(error))))  # not the frames that it holds
            continue
        used: set[str] = set()
        for row in rows:
            clip = f"{name}_{row[1]:05d}"
            while clip in used:  # two labels that start together
                clip += "b"
            used.add(clip)
            items.append(Item(clip, (str(video), str(label), row)))
    if not items:
        raise UserError(f"{labels} has no label file for any video of {skeletons}; unpack both")

    split_files = _find_split_files(folder, videos)
    splits = functools.partial(
        make_splits, videos={name: read_split_file(file) for name, file in split_files.items()}
    )
    notes = {
        "videos_without_labels": unlabelled,
        "split_files": {name: str(file) for name, file in split_files.items()},
    }
    return make_source("pku", read_item, items, NTU25, _read_actions(folder), splits, notes=notes)


def _find_folder(folder: Path, what: str) -> Path:
    """The one folder, at most two levels down, that is called something with `what` in it."""
    for pattern in ("*/", "*/*/"):
        found = [d for d in sorted(folder.glob(pattern)) if what in d.name.lower()]
        found = [each for each in found if any(each.glob("*.txt"))] or found
        if len(found) > 1 and what == "label":
            found = [each for each in found if not _is_framewise(each)] or found
        if len(found) > 1:
            names = ", ".join(str(each.relative_to(folder)) for each in found)
            raise UserError(f"{folder} has several {what} folders ({names}); give one version's")
        if found:
            return found[0]
    raise UserError(f"{folder} has no folder called {what}; unpack PKU-MMD's archives there")


def _is_framewise(folder: Path) -> bool:
    """Whether its first label file has a number a frame, and no rows."""
    first = min(folder.glob("*.txt"), default=None)
    return first is not None and b"," not in read_bytes(first, _MAX_FILE_BYTES)[:1000]


def _find_split_files(folder: Path, videos: dict[str, Path]) -> dict[str, Path]:
    """{benchmark: split file} of the version (v1 or v2) whose videos these are."""
    v2 = any(name.startswith("A") for name in videos)
    found: dict[str, Path] = {}
    for pattern in ("*.txt", "*/*.txt", "*/*/*.txt"):
        for file in sorted(folder.glob(pattern)):
            key = file.stem.lower().replace("_", "-")
            if key in _SPLIT_FILES and key.endswith("v2") == v2:
                found.setdefault(_SPLIT_FILES[key], file)
    return found


def _read_actions(folder: Path) -> tuple[str, ...]:
    """The names in action_names.txt ("1 bow"), where there is one; else the data set's own."""
    file = folder / "action_names.txt"
    if not file.is_file():
        return ACTIONS
    pattern = re.compile(r"\s*(\d{1,4})[\s.,:]+(.*\S)\s*", re.ASCII)
    names = {int(match[1]): match[2] for match in map(pattern.fullmatch, read_lines(file)) if match}
    lacking = [number for number in range(1, len(ACTIONS) + 1) if number not in names]
    if lacking:
        raise UserError(f"{file}: no name for action {lacking[0]}; write a line a class: 1 bow")
    return tuple(names[number] for number in range(1, len(ACTIONS) + 1))
