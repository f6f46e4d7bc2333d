"""Text files of many clips: where each begins and ends, and what it is.

UTKinect has an actionLabel.txt, MSRC-12 a .tagstream of moments (a clip reaches halfway to the gestures
before and after), Florence 3D all its clips in one file.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.motion_files import MAX_FILE_BYTES
from halp_jax.datasets.source import read_bytes
from halp_jax.datasets.text_columns import Columns


class Part(NamedTuple):
    """A clip of a file: the rows whose key lies from `first` to `last`."""

    name: str = ""
    label: int = -1
    first: float = -np.inf
    last: float = np.inf
    subject: int = -1


def cut_utkinect(file: Path, columns: Columns) -> list[Part]:
    """The rows "walk: 150 190" (numbers of frames) below the name of the sequence."""
    sequence, parts = file.stem.removeprefix("joints_"), []
    found = [folder / "actionLabel.txt" for folder in (file.parent, file.parent.parent)]
    labels = next((each for each in found if each.is_file()), found[0])
    here = False
    for line in read_bytes(labels, MAX_FILE_BYTES).decode("utf-8", "replace").splitlines():
        action, colon, frames = (word.strip() for word in line.partition(":"))
        if not colon:
            here = action == sequence if action else here
        elif here and "NaN" not in frames:
            match = re.fullmatch(r"(\d{1,9})\s+(\d{1,9})", frames, re.ASCII)
            if not match or action not in columns.classes:
                raise DamagedClip(
                    f"{labels}: {line[:40]!r} is no action with two frames; correct it"
                )
            label = columns.classes.index(action)
            parts.append(Part(action, label, int(match[1]), int(match[2])))
    if not parts:
        raise DamagedClip(f"{labels}: no action of {sequence} in it; add its rows")
    return parts


def cut_msrc12(file: Path, columns: Columns) -> list[Part]:
    """The marks "49933186918;G1 ..." of the .tagstream: ticks of another clock than the frames'."""
    tags, marks = file.with_suffix(".tagstream"), []
    for line in read_bytes(tags, MAX_FILE_BYTES).decode("utf-8", "replace").splitlines()[1:]:
        if line.strip():
            match = re.fullmatch(r"\s*(\d{1,15})\s*;\s*G(\d{1,2})\b.*", line, re.ASCII)
            if not match or not 1 <= int(match[2]) <= len(columns.classes):
                raise DamagedClip(f"{tags}: {line[:40]!r} is no gesture with its time; correct it")
            marks.append(((int(match[1]) * 1000 + 24937.5) / 49875, int(match[2]) - 1))
    marks.sort()
    times = np.array([time for time, _ in marks])
    bounds = [-np.inf, *(times[1:] + times[:-1]) / 2, np.inf]
    return [
        Part(f"{number:02d}", label, bounds[number], bounds[number + 1])
        for number, (_, label) in enumerate(marks)
    ]


def cut_florence3d(file: Path, columns: Columns) -> list[Part]:
    """Rows that begin with idvideo idactor idcategory, a clip being those of one idvideo."""
    parts: dict[float, Part] = {}
    for line in read_bytes(file, MAX_FILE_BYTES).splitlines():
        if words := line.split(None, 3)[:3]:
            try:
                video, actor, category = (int(float(word)) for word in words)
            except (ValueError, OverflowError) as error:
                raise DamagedClip(f"{file}: a row without video, actor, class; fetch it") from error
            label = category - columns.first_label
            parts.setdefault(video, Part(f"{video:03d}", label, video, video, actor))
    return list(parts.values())


CUTS = {"utkinect": cut_utkinect, "msrc12": cut_msrc12, "florence3d": cut_florence3d}
