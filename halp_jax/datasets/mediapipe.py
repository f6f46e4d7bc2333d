"""Pose landmarks of MediaPipe (BlazePose, also of ML Kit): 33 points of a person, frame by frame.

    .csv    frame_number,landmark,x,y,z    a landmark a row, by its name or number
            x_0,y_0,z_0,visibility_0,...   a frame a row; also nose_x,..., numbers only, or no header
    .json   [{"pose_world_landmarks": [{"x": 0.1, "y": 0.2, "z": 0.3, "visibility": 1}, ...]}, ...]
    .npy    [time, 33, 3 or 4], or [time, 99 or 132]

--source is a file, a folder of them, or folders of those, which are then the classes: wave/0007.csv.
Otherwise clips are unlabelled. A CSV file whose rows begin with the names of an image and of a class,
as ML Kit's samples do, holds a clip of one frame in each row. The split is "random", as in `folder`.

Frames without a person, rows that are missing, empty or zero, are empty frames. The layout is
mediapipe33, whose mid hip and mid shoulder are made. Coordinates are half turned about z, from x to the
right and y down to the sensor's y up: a rotation, so that left stays left.

Give world landmarks if you have them: metres around the hips. Those of the picture are shares of its
width and of its height, which are different units, and a z that is a guess; they are read as they are,
and people come out narrow in a wide picture. Visibility is not used: every landmark has a place.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip, check_clip
from halp_jax.datasets.folder import make_source
from halp_jax.datasets.json_files import is_frame_number, list_files, load_json
from halp_jax.datasets.labels import label_by_folder
from halp_jax.datasets.mediapipe_csv import GIVEN, line_up_frames, read_csv, read_samples
from halp_jax.datasets.npy import map_array, to_float32
from halp_jax.datasets.source import Item, Source
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import MEDIAPIPE33, Layout

WHAT = "a .csv, .json or .npy file of MediaPipe's 33 pose landmarks, or a folder of them"
# Where a JSON frame may hold its landmarks: world ones first, then those of the picture.
_KEYS = (
    "pose_world_landmarks", "poseWorldLandmarks", "world_landmarks", "worldLandmarks",
    "pose_landmarks", "poseLandmarks", "landmarks", "landmark",
)  # fmt: skip
_NUMBERS = ("frame", "frame_number", "frame_index", "frame_id")
_AWAY = 2.0  # metres: the origin lies between the hips, and a joint at (0, 0, 0) would be missing


def read_item(item: Item, layout: Layout, num_classes: int) -> list[Clip]:
    """One file, or one row of samples -> one clip. Raises DamagedClip."""
    path, points, label = item.payload
    if points is None:
        try:
            points = _READERS[Path(path).suffix.lower()](Path(path))
        except UserError as error:
            raise DamagedClip(str(error)) from error
    if len(points) > MAX_FRAMES:
        raise DamagedClip(f"{path}: {len(points)} frames, more than {MAX_FRAMES}; cut it")
    seen = np.isfinite(points).all(-1) & points.any(-1)
    turned = np.nan_to_num(points) * (-1.0, -1.0, 1.0) + (0.0, 0.0, _AWAY)
    frames = to_float32(np.where(seen[..., None], turned, 0.0))[:, None]
    return [check_clip(Clip(frames, label, item.id), layout, num_classes)]


def read_json(path: Path) -> Float[np.ndarray, "time 33 3"]:
    """A list of frames, or one under `frames`. Raises DamagedClip."""
    content = load_json(path)
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
        points = [
            [each[axis] for axis in "xyz"] if isinstance(each, dict) else each[:3] for each in frame
        ]
        array = np.array(points, np.float64)
    except (TypeError, ValueError, KeyError, OverflowError):
        array = np.zeros(0)
    if array.shape != (GIVEN, 3):
        raise DamagedClip(f"{where} is no list of {GIVEN} landmarks with x, y, z; write it again")
    return array


def read_npy(path: Path) -> Float[np.ndarray, "time 33 3"]:
    """[time, 33, 3 or 4], or the same with a frame's numbers in a row. Raises UserError."""
    array = map_array(path)
    if array.ndim == 2 and array.shape[1] in (GIVEN * 3, GIVEN * 4):
        array = array.reshape(len(array), GIVEN, -1)
    if array.ndim != 3 or array.shape[1] != GIVEN or array.shape[2] not in (3, 4):
        raise UserError(
            f"{path}: shape {list(array.shape)}, not [time, {GIVEN}, 3 or 4]; correct it"
        )
    with np.errstate(invalid="ignore"):  # some bytes are a NaN that raises when it is copied
        return array[: MAX_FRAMES + 1, :, :3].astype(np.float64)


_READERS = {".csv": read_csv, ".json": read_json, ".npy": read_npy}


def open_source(path: str | Path, *, seed: int = 0) -> Source:
    """A file, a folder of files, or a folder of a folder a class.

    Args:
        seed: of the split "random".

    Raises:
        UserError: no such files.
    """
    folder, files = list_files(path, r".*\.(csv|json|npy)", WHAT)
    found: list[tuple[str, str, np.ndarray | None]] = []
    times: Counter[str] = Counter()
    for file in files:
        samples = read_samples(file) if file.suffix.lower() == ".csv" else None
        if samples is None:
            samples = [(file.relative_to(folder).with_suffix("").as_posix(), None)]
        for name, points in samples:
            times[name] += 1
            unique = name if times[name] == 1 else f"{name}#{times[name]}"
            found.append((unique, str(file), points))
    labels, class_names = label_by_folder([name for name, _, _ in found])
    items = [Item(name, (file, points, labels[name])) for name, file, points in found]
    return make_source("mediapipe", read_item, items, MEDIAPIPE33, class_names, seed, folder)
