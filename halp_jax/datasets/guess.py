"""Which format a file or folder has: told by its suffix, by the names in it, by the first bytes.

Nothing is loaded, and of a folder only some names, four levels deep, are looked at. A format that this
tells wrongly is given by name, --format=NAME.
"""

import csv
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

from halp_jax.datasets.ctrgcn import JOINTS
from halp_jax.datasets.files import open_file, tell_content
from halp_jax.datasets.npy import map_array
from halp_jax.datasets.prepared import METADATA
from halp_jax.errors import UserError

# Format -> how it looks, for the line that refuses.
LOOKS = {
    "ntu": ".skeleton", "pku": "folders skeleton and label", "nwucla": "a01_s01_e00_v01.json",
    "pyskl": ".pkl", "agcn": "train_data_joint.npy", "aimclr": "train_position.npy",
    "ctrgcn": ".npz", "folder": "a .csv of file,label and .npy", "npy": ".npy", "bvh": ".bvh",
    "trc": ".trc", "mat": ".mat", "openpose": ".json of people", "coco": ".json of annotations",
    "kinetics": ".json of data, label files", "mediapipe": "33 landmarks, .csv .json .npy",
    "text": ".txt .csv with --columns", "yolo": ".txt a frame, of people", "tu": ".zip of NAME_A.txt",
}  # fmt: skip
_BY_SUFFIX = {
    ".skeleton": "ntu", ".bvh": "bvh", ".trc": "trc", ".mat": "mat", ".npz": "ctrgcn",
    ".pkl": "pyskl", ".pickle": "pyskl", ".zip": "tu",
}  # fmt: skip
# Of the names of a folder's files, the surest first.
_BY_ENDING = (
    ("tu", "_graph_indicator.txt"), ("ctrgcn", JOINTS), ("aimclr", "_position.npy"),
    ("agcn", ("_data_joint.npy", "_data.npy")),
)  # fmt: skip
# Words that only one kind of JSON has at its beginning, the surest first.
_JSON_WORDS = (
    ("layout", b'"parents"'),
    ("openpose", b'"people"'),
    ("nwucla", b'"skeletons"'),
    ("kinetics", b'"has_skeleton"'),
    ("kinetics", b'"frame_index"'),
    ("mediapipe", b"andmarks"),  # pose_landmarks, poseLandmarks
    ("coco", b'"instances"'),
    ("coco", b'"meta_info"'),
    ("coco", b'"image_id"'),
    ("coco", b'"keypoints"'),
    ("coco", b'"annotations"'),
    ("coco", b'"images"'),
)
_PEEK, _MAX_NAMES, _MAX_PEEKED = 2**16, 10_000, 20
_LANDMARK = re.compile(r"landmark.*|x_?[01]|nose_(z|v|visibility)|nose\.z")
_NUMBER = re.compile(r"-?\d+(\.\d*)?(e[+-]?\d+)?")
_SEVERAL_NUMBERS = re.compile(r"[-\d.e+\s]+")
_MEDIAPIPE_JOINTS = 33
# A class, then shares: the box, three numbers a joint of 17; perhaps the box's score and the track.
_YOLO = re.compile(rb"\d+( [01](\.\d+)?| \d(\.\d+)?e-\d+){55}( \S+){0,2}\s*$", re.MULTILINE)


def guess_format(path: str | Path) -> str:
    """The name of the reader that a file or folder is for.

    Raises:
        UserError: there is nothing, it is empty or a prepared data set, or it looks like no format.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist; check the path")
    if path.is_dir():
        if (path / METADATA).exists():
            raise UserError(f"{path} is a prepared data set; give the files that it was made of")
        found = _guess_folder(path)
        what = "a folder whose files tell no format"
    else:
        data = _peek(path)
        if not data:
            raise UserError(f"{path} is empty; write or fetch it again")
        found = _guess_file(path)
        kind = f"a {path.suffix} file" if path.suffix else "a file without suffix"
        what = f"{kind} that holds {tell_content(data)}, which tells no format"
    if found == "layout":
        raise UserError(f"{path} is a layout; give it as --layout, and the clips beside it")
    if found is None:
        known = ", ".join(f"{name} ({look})" for name, look in LOOKS.items())
        raise UserError(
            f"{path}: {what}; give --format, one of {known}; videos go through a pose estimator first"
            " (GUIDE.md, Your own clips)"
        )
    return found


def _peek(path: Path) -> bytes:
    with open_file(path) as stream:
        return stream.read(_PEEK)


def _guess_file(path: Path) -> str | None:
    suffix = path.suffix.lower()
    if path.name == JOINTS:
        return "ctrgcn"
    if suffix == ".json":
        data = _peek(path)
        return next((name for name, word in _JSON_WORDS if word in data), None)
    if suffix == ".csv":
        return _guess_table(_peek(path))
    if suffix == ".npy":
        return _guess_array(path)
    if suffix == ".txt":
        return "yolo" if _YOLO.match(_peek(path)) else "text"
    return _BY_SUFFIX.get(suffix)


def _guess_array(path: Path) -> str:
    shape = map_array(path).shape
    if len(shape) == 5:
        return "aimclr" if "position" in path.name else "agcn"
    flat = len(shape) == 2 and shape[1] in (3 * _MEDIAPIPE_JOINTS, 4 * _MEDIAPIPE_JOINTS)
    return "mediapipe" if flat or shape[-2:-1] == (_MEDIAPIPE_JOINTS,) else "npy"


def _guess_table(data: bytes) -> str | None:
    """Of the first line: names of columns, or numbers."""
    lines = data.decode("utf-8-sig", "replace").splitlines()
    line = lines[0] if lines else ""
    if _SEVERAL_NUMBERS.fullmatch(line) and len(line.split()) > 3:
        return "text"
    try:
        cells = [cell.strip().lower() for cell in next(csv.reader([line]), [])]
    except csv.Error:
        return None
    if "file" in cells or b".npy" in data:  # a table of clips, whatever its columns are called
        return "folder"
    numbers = sum(bool(_NUMBER.fullmatch(cell)) for cell in cells)
    if any(map(_LANDMARK.fullmatch, cells)) or numbers in (99, 132):
        return "mediapipe"
    x, y, z = ({cell[:-1] for cell in cells if cell.endswith(axis)} for axis in "xyz")
    return "text" if (x & y & z) - {""} else None


def _guess_folder(folder: Path) -> str | None:
    """By the files in it, else by those a folder deeper, and so on; a .txt may be a readme."""
    text = None
    for pattern in ("*", "*/*", "*/*/*", "*/*/*/*"):
        there = (each for each in folder.glob(pattern) if each.name[0] != "." and each.is_file())
        found = _guess_files(sorted(itertools.islice(there, _MAX_NAMES)))
        if found and found != "text":
            return found
        text = text or found
    return text


def _guess_files(files: Sequence[Path]) -> str | None:
    """By the surest of these files of one level."""
    for format, endings in _BY_ENDING:
        if any(each.name.endswith(endings) for each in files):
            return format
    texts = {each.parent for each in files if each.suffix == ".txt"}
    names = [each.name.lower() for each in texts]
    if any("skeleton" in each for each in names) and any("label" in each for each in names):
        return "pku"
    tables = [each for each in files if each.suffix.lower() == ".csv"][:_MAX_PEEKED]
    if "folder" in map(_guess_file, tables):
        return "folder"
    for suffix in (*_BY_SUFFIX, ".json", ".npy", ".csv", ".txt"):
        some = [each for each in files if each.suffix.lower() == suffix][:_MAX_PEEKED]
        told = [each for each in map(_guess_file, some) if each not in (None, "layout")]
        if told:
            return "yolo" if "yolo" in told else told[0]
    return None
