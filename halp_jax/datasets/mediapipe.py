"""Pose landmarks of MediaPipe (BlazePose, also of ML Kit): 33 points of a person, frame by frame.

    .csv    frame_number,landmark,x,y,z    a landmark a row, by its name or number
            x_0,y_0,z_0,visibility_0,...   a frame a row; also nose_x,..., numbers only, or no header
    .json   [{"pose_world_landmarks": [{"x": 0.1, "y": 0.2, "z": 0.3, "visibility": 1}, ...]}, ...]
    .npy    [time, 33, 3 or 4], or [time, 99 or 132]

--source is a file, a folder of them, or folders of those, which are then the classes: wave/0007.csv.
Otherwise clips are unlabelled. A CSV file whose rows begin with the names of an image and of a class,
as ML Kit's samples do, holds a clip of one frame in each row. The split is "random", as in `folder`.

Columns are found by their names, whatever the spelling: left_hip_x, LEFT_HIP_x, x_23, x23, and also
x_24 if the numbers run from 1. Tables that only number their columns, or have no first line of names,
hold 33 x (x, y, z) or (x, y, z, visibility), perhaps with the frame's number before.

Frames without a person, rows that are missing, empty or zero, are empty frames. The layout is
mediapipe33, whose mid hip and mid shoulder are made. Coordinates are turned by 180 degrees about z, from x to the
right and y down to the sensor's y up: a rotation, so that left stays left.

Give world landmarks if you have them: metres around the hips. Those of the picture are shares of its
width and of its height, which are different units, and a z that is a guess: with --picture=1920x1080
people keep their proportions, without it they come out narrow in a wide picture. Visibility is not used:
every landmark has a place.
"""

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from halp_jax.datasets import files
from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip
from halp_jax.datasets.labels import label_by_folder
from halp_jax.datasets.npy import map_array
from halp_jax.datasets.source import Item, Source, make_source
from halp_jax.datasets.tracking import is_frame_number, line_up, parse_picture
from halp_jax.skeletons.layout import MEDIAPIPE33

WHAT = "a .csv, .json or .npy file of MediaPipe's 33 pose landmarks, or a folder of them"
SQUEEZED = "clips of landmarks of a picture, squeezed without --picture=WIDTHxHEIGHT"
# Where a JSON frame may hold its landmarks: world ones first, then those of the picture.
_KEYS = (
    "pose_world_landmarks", "poseWorldLandmarks", "world_landmarks", "worldLandmarks",
    "pose_landmarks", "poseLandmarks", "landmarks", "landmark",
)  # fmt: skip
_NUMBERS = ("frame", "frame_number", "frame_index", "frame_id")
_AWAY = 2.0  # metres: the origin lies between the hips, and a joint at (0, 0, 0) would be missing
GIVEN = MEDIAPIPE33.num_given
_MAX_TABLE_BYTES = 128 * 2**20
_PLAIN = {name.replace(" ", ""): place for place, name in enumerate(MEDIAPIPE33.joints[:GIVEN])}
_PLAIN |= {"leftmouth": _PLAIN["mouthleft"], "rightmouth": _PLAIN["mouthright"]}
_FRAME = {"frame", "framenumber", "frameid", "frameidx", "frameindex", "frameno"}
_LANDMARK = {"landmark", "landmarkname", "landmarkid", "landmarkindex", "joint"}
_WIDTHS = (GIVEN * 3, GIVEN * 4)


def read_item(item: Item, picture: tuple[float, float] | None = None) -> list[Clip]:
    """One file, or one row of samples -> one clip. Raises DamagedClip."""
    path, points = item.payload
    if points is None:
        points = _READERS[Path(path).suffix.lower()](Path(path))
    seen = np.isfinite(points).all(-1) & points.any(-1)
    # Of the world half of the numbers are below 0, and pixels are far above 1.
    shares = not seen.any() or 0 < np.quantile(points[seen][:, :2], 0.25) < 1
    if picture and not shares:
        raise DamagedClip(
            f"{path}: landmarks that are no shares of a picture, but metres or pixels; leave"
            " --picture out"
        )
    if picture:
        points = points * (picture[1] / picture[0], 1.0, picture[1] / picture[0])
    turned = np.nan_to_num(points) * (-1.0, -1.0, 1.0) + (0.0, 0.0, _AWAY)
    frames = np.where(seen[..., None], turned, 0.0)[:, None]
    remark = SQUEEZED if shares and not picture else ""
    return [Clip(frames, item.label, item.id, remark=remark)]


def line_up_frames(
    found: Mapping[int, Float[np.ndarray, "33 3"]], where: str
) -> Float[np.ndarray, "time 33 3"]:
    """{frame number: points} -> all frames, NaN where a number is not there. Raises DamagedClip."""
    frames = line_up({number: points[None] for number, points in found.items()}, where)
    return np.stack([each[0] if len(each) else np.full((GIVEN, 3), np.nan) for each in frames])


def read_json(path: Path) -> Float[np.ndarray, "time 33 3"]:
    """A list of frames, or one under `frames`. Raises DamagedClip."""
    content = files.load_json(path)
    frames = content.get("frames") if isinstance(content, dict) else content
    if not isinstance(frames, list) or not frames:
        raise DamagedClip(f"{path}: no list of frames with landmarks; give {WHAT}")
    found = {}
    for place, frame in enumerate(frames):
        fields = frame if isinstance(frame, dict) else {}
        number = next((fields[key] for key in _NUMBERS if is_frame_number(fields.get(key))), place)
        if number in found:
            raise DamagedClip(f"{path}: frame {number} is there twice; correct it")
        found[number] = _read_landmarks(frame, f"{path}: frame {number}")
    return line_up_frames(found, str(path))


def _read_landmarks(frame: Any, where: str) -> Float[np.ndarray, "33 3"]:
    """The points of one frame, NaN if nobody is in it. Raises DamagedClip."""
    while isinstance(frame, dict):
        key = next((key for key in _KEYS if key in frame), None)
        if key is None:
            raise DamagedClip(f"{where} has no landmarks; write {_KEYS[0]} for each frame")
        frame = frame[key]
    if isinstance(frame, list) and len(frame) == 1 and isinstance(frame[0], list | dict):
        return _read_landmarks(frame[0], where)  # a list of people
    if not frame:
        return np.full((GIVEN, 3), np.nan)
    try:
        array = files.to_numbers(
            [[each[a] for a in "xyz"] if isinstance(each, dict) else each[:3] for each in frame]
        )
    except (TypeError, KeyError):
        array = np.zeros(0)
    if array.shape != (GIVEN, 3):
        raise DamagedClip(f"{where} is no list of {GIVEN} landmarks with x, y, z; write it again")
    return array


def read_npy(path: Path) -> Float[np.ndarray, "time 33 3"]:
    """[time, 33, 3 or 4], or the same with a frame's numbers in a row. Raises DamagedClip."""
    array = map_array(path)
    if array.ndim == 4 and array.shape[1] == 1:  # one body
        array = array[:, 0]
    if array.ndim == 2 and array.shape[1] in (GIVEN * 3, GIVEN * 4):
        array = array.reshape(len(array), GIVEN, -1)
    if array.ndim != 3 or array.shape[1] != GIVEN or array.shape[2] not in (3, 4):
        raise DamagedClip(
            f"{path}: shape {list(array.shape)}, not [time, {GIVEN}, 3 or 4]; correct it"
        )
    with np.errstate(invalid="ignore"):  # some bytes are a NaN that raises when it is copied
        return array[: MAX_FRAMES + 1, :, :3].astype(np.float64)


def read_samples(path: Path) -> list[tuple[str, np.ndarray]] | None:
    """ML Kit's samples, a row each: [("class/image", points [1, 33, 3])]; None for other tables.

    Raises DamagedClip for a table of samples of which a row is damaged.
    """
    with files.open_file(path) as stream:
        first = stream.readline(2**16).decode("utf-8-sig", "replace").split(",")
    numbers = [files.to_numbers([cell]).size for cell in first[:3]]
    if len(first) != 2 + _WIDTHS[0] or numbers[0] or not numbers[2]:
        return None
    samples = []
    for line, row in _read_lines(_read_rows(path), 0, path):
        name = f"{row[1].strip()}/{row[0].strip()}"
        if not files.is_name(name):
            raise DamagedClip(f"{path}: line {line} names no image and class; correct it")
        samples.append((name, np.reshape(_parse_cells(row[2:], path, line), (1, GIVEN, 3))))
    return samples


def read_csv(path: Path) -> Float[np.ndarray, "time 33 3"]:
    """The frames of a table, NaN where a landmark is not there. Raises DamagedClip."""
    rows = _read_rows(path)
    header = [re.sub(r"[^a-z]", "", cell.lower()) for cell in rows[0]]
    frame = next((place for place, name in enumerate(header) if name in _FRAME), None)
    landmark = next((place for place, name in enumerate(header) if name in _LANDMARK), None)
    first = 1
    if frame is not None and landmark is not None and {"x", "y", "z"} <= set(header):
        columns = [header.index(axis) for axis in "xyz"]
    else:
        landmark, columns = None, _find_columns(rows[0], path)
    if not columns:  # numbers throughout: no line of names, or one that numbers the columns
        first, frame = int(_numbers_columns(rows[0])), None if len(rows[0]) in _WIDTHS else 0
        columns = _count_columns(len(rows[0]), path)
    found: dict[int, np.ndarray] = {}
    for line, row in _read_lines(rows, first, path):
        number = line if frame is None else _parse_frame(row[frame], path, line)
        numbers = _parse_cells([row[place] for place in columns], path, line)
        if landmark is not None:
            joint = _find_joint(row[landmark].rpartition(".")[2])
            if joint is None or joint >= GIVEN:
                raise DamagedClip(
                    f"{path}: line {line} has {row[landmark][:40]!r}, no pose landmark"
                )
            found.setdefault(number, np.full((GIVEN, 3), np.nan))[joint] = numbers
        elif number in found:
            raise DamagedClip(f"{path}: frame {number} is there twice; give each clip its own file")
        else:
            found[number] = np.reshape(numbers, (GIVEN, 3))
    return line_up_frames(found, str(path))


@functools.lru_cache(maxsize=1024)
def _find_joint(name: str) -> int | None:
    """A landmark's number, by its number or its name however that is spelt."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return int(plain) if re.fullmatch(r"\d{1,2}", plain) else _PLAIN.get(plain)


def _find_columns(header: list[str], path: Path) -> list[int]:
    """The columns of x, y, z of all landmarks in turn, by their names; none if no name tells.

    Raises:
        DamagedClip: only some of the landmarks are there.
    """
    found: dict[tuple[int, str], int] = {}
    for place, cell in enumerate(header):
        words = re.findall(r"[a-z]+|\d+", cell.lower())
        axes = [word for word in words if word in ("x", "y", "z")]
        joint = _find_joint("".join(word for word in words if word not in axes))
        if len(axes) == 1 and joint is not None:
            found[joint, axes[0]] = place
    joints = sorted({joint for joint, _ in found})
    in_a_row = joints == [joints[0] + place for place in range(GIVEN)] if joints else True
    if not in_a_row or len(found) != 3 * len(joints):
        raise DamagedClip(
            f"{path}: x, y, z of {len(joints)} of the {GIVEN} landmarks; write all of them, or use"
            " --format=folder with a layout of your own"
        )
    return [found[joint, axis] for joint in joints for axis in "xyz"]  # numbered from 0 or from 1


def _count_columns(width: int, path: Path) -> list[int]:
    """The same of a table without names. Raises DamagedClip."""
    if width not in _WIDTHS and width - 1 not in _WIDTHS:
        raise DamagedClip(
            f"{path}: {width} columns, of which no name is known; give x_0,y_0,z_0 and so on"
        )
    each, start = width // GIVEN, width % GIVEN
    return [start + each * joint + axis for joint in range(GIVEN) for axis in range(3)]


def _numbers_columns(header: list[str]) -> bool:
    """Whether a line is 0, 1, 2, ..., perhaps behind an empty cell."""
    cells = [cell.strip() for cell in header]
    cells = cells[1:] if not cells[0] else cells
    return cells == [str(number) for number in range(len(cells))]


def _read_rows(path: Path) -> list[list[str]]:
    """The lines that are not empty, as cells. Raises DamagedClip."""
    rows = [row for row in files.read_table(path, _MAX_TABLE_BYTES) if row]
    if not rows:
        raise DamagedClip(f"{path}: it is empty; leave it out")
    return rows


def _read_lines(rows: list[list[str]], first: int, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The lines behind the header with their numbers. Raises DamagedClip at one of another length."""
    if len(rows) <= first:
        raise DamagedClip(f"{path}: no frames in it; leave it out")
    for line, row in enumerate(rows[first:], first + 1):
        if len(row) != len(rows[0]):
            raise DamagedClip(
                f"{path}: line {line} has {len(row)} cells, not {len(rows[0])}; correct it"
            )
        yield line, row


def _parse_frame(cell: str, path: Path, line: int) -> int:
    (number,) = _parse_cells([cell], path, line)
    if not 0 <= number < 2**40:
        raise DamagedClip(f"{path}: line {line} has the frame {cell[:40]!r}; correct it")
    return int(number)


def _parse_cells(cells: list[str], path: Path, line: int) -> list[float]:
    """An empty cell is NaN. Raises DamagedClip."""
    try:
        return [float(cell) if cell.strip() else np.nan for cell in cells]
    except ValueError as error:
        raise DamagedClip(
            f"{path}: line {line} has cells that are no numbers; correct it"
        ) from error


_READERS = {".csv": read_csv, ".json": read_json, ".npy": read_npy}


def open_source(path: str | Path, *, picture: str | None = None, seed: int = 0) -> Source:
    """A file, a folder of files, or a folder of a folder a class.

    Args:
        picture: WIDTHxHEIGHT of the pictures whose landmarks these are; None for those of the world.
        seed: of the split "random".

    Raises:
        UserError: no such files.
    """
    folder, listed = files.list_files(path, r".*\.(csv|json|npy)", WHAT)
    items: list[Item] = []
    times: Counter[str] = Counter()
    for own, file in listed:
        samples = read_samples(file) if file.suffix.lower() == ".csv" else None
        for name, points in [(own, None)] if samples is None else samples:
            times[name] += 1
            unique = name if times[name] == 1 else f"{name}#{times[name]}"
            items.append(Item(unique, (str(file), points)))
    items, class_names = label_by_folder(items)
    size = parse_picture(picture) if picture else None
    read, notes = functools.partial(read_item, picture=size), {"folder": str(folder)}
    return make_source("mediapipe", read, items, MEDIAPIPE33, class_names, seed=seed, notes=notes)
