"""TRC, the marker files of OpenSim and Pose2Sim: positions in every frame, a file a person.

Files that differ only in `_P1`, `_P2`, ... at the end of their names are the people of one clip, as
Pose2Sim writes them. Of a trial that it has written raw, filtered (`_filt_butterworth`) and augmented
(`_LSTM`), the first that is there is read. A clip's class is the subfolder it lies in. Columns are taken
by the names of the markers, three numbers each; an empty cell is a missing marker. `Units` may be m, cm
or mm, `DataRate` is the frame rate. Markers become joints by meaning: those of `layout`, or of kinect20,
mocap18, mocap17 or mocap15 if the first file has them. Markers on the skin (R.ASIS) are no joints; a
.json layout may use them by their names.
"""

import functools
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip
from halp_jax.datasets.files import list_files, one_line, read_bytes
from halp_jax.datasets.labels import label_by_folder
from halp_jax.datasets.motion_files import MAX_FILE_BYTES, choose_layout, select_joints
from halp_jax.datasets.source import Item, Source, make_source
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import MAX_BODIES, Layout, with_bodies

_UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}
_VERSION = re.compile(r"_filt_[A-Za-z]+|_LSTM")
# S00_P01_T02_P1_0-100: of participant 01's trial the first person. The range of frames may follow.
_PERSON = re.compile(r"_P([1-9]\d{0,2})(?=(_\d+-\d+)?$)", re.ASCII)


def parse_trc(
    data: bytes, where: str
) -> tuple[list[str], Float[np.ndarray, "time markers xyz"], float]:
    """The bytes of a file -> names of the markers, metres (NaN: missing), frames a second.

    Raises DamagedClip.
    """
    lines = data.decode("utf-8", "replace").splitlines()
    try:
        header = dict(zip(lines[1].split("\t"), lines[2].split("\t"), strict=False))
        units, rate = header["Units"].strip().lower(), float(header["DataRate"])
        if units not in _UNITS:
            raise ValueError(f"Units {units[:20]!r}, not one of {', '.join(_UNITS)}")
        cells = lines[3].split("\t")[2:]
        columns = [place for place, name in enumerate(cells) if name.strip()]
        names = [cells[place].strip() for place in columns]
        rows = [line.split("\t")[2:] for line in lines[5:] if line.strip()]
        if not names or not 0 < len(rows) <= MAX_FRAMES:
            raise ValueError(f"{len(names)} markers in {len(rows)} frames")
        width = columns[-1] + 3
        if columns != list(range(0, width, 3)):
            raise ValueError("its names do not stand over every third column")
        numbers = np.full((len(rows), width), np.nan)
        for row, line in zip(numbers, rows, strict=True):
            # Empty cells at the end of a line are often left out.
            row[: len(line)] = [float(cell) if cell.strip() else np.nan for cell in line[:width]]
    except (ValueError, IndexError, KeyError) as error:
        reason = one_line(error)
        raise DamagedClip(f"{where}: no sound TRC file ({reason}); export it again") from error
    fps = rate if 0 < rate < 1e4 else 0.0
    return names, numbers.reshape(len(rows), len(names), 3) * _UNITS[units], fps


def read_item(item: Item, layout: Layout) -> list[Clip]:
    """The files of one clip, a body each. Raises DamagedClip."""
    bodies, fps = [], 0.0
    for path in item.payload:
        names, positions, fps = parse_trc(read_bytes(path, MAX_FILE_BYTES), path)
        bodies.append(select_joints(positions, names, layout, path))
    frames = np.zeros((max(map(len, bodies)), len(bodies), layout.num_joints, 3))
    for body, positions in enumerate(bodies):
        frames[: len(positions), body] = positions
    return [Clip(frames, item.label, item.id, fps=fps)]


def open_source(path: str | Path, *, layout: str | None = None, seed: int = 0) -> Source:
    """A .trc file, or a folder with .trc files and folders of them.

    Args:
        layout: a known one, or a .json file whose joints are named as in the files or as known ones.
        seed: of the split "random".

    Raises:
        UserError: no file, too many people in a clip, or no layout whose joints the first file has.
    """
    clips: dict[str, list[tuple[int, str]]] = {}
    _, found = list_files(path, r".*\.trc", "a .trc file, or the folder with .trc files")
    trials: dict[str, Path] = {}
    for name, file in found:  # raw ones come first
        trials.setdefault(_VERSION.sub("", name), file)
    for name, file in trials.items():
        person = _PERSON.search(name)
        clips.setdefault(_PERSON.sub("", name), []).append(
            (int(person[1]) if person else 0, str(file))
        )
    most = max(map(len, clips.values()))
    if most > MAX_BODIES:
        raise UserError(f"{path}: a clip of {most} people (files _P1, _P2, ...); join fewer")

    def read_names(file: Path) -> list[str]:
        return parse_trc(read_bytes(file, MAX_FILE_BYTES), str(file))[0]

    chosen = choose_layout(layout, list(trials.values()), read_names)
    chosen = with_bodies(chosen, max(most, chosen.bodies))
    items, classes = label_by_folder(
        [Item(name, [file for _, file in sorted(people)]) for name, people in clips.items()]
    )
    read = functools.partial(read_item, layout=chosen)
    notes = {"filtered twins left out": len(found) - len(trials)}
    return make_source("trc", read, items, chosen, classes, seed=seed, notes=notes)
