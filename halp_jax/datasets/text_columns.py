"""What stands in which column of a text file of skeletons: the sets that `text` knows, and your own.

A description of one's own is a JSON file with the fields of `Columns`, all but `joints` optional:

    {"joints": ["Head", "Neck", "Spine", "ShoulderLeft", "..."], "layout": "mocap15",
     "files": "*.csv", "skip_lines": 1, "before": 2, "width": 4, "scale": 0.001,
     "key": 0, "key_rate": 30, "name": "a{label}_s{subject}_e{performance}"}

Numbers are separated by blanks, commas, semicolons or tabs; a frame may take one line or many.

Where a file of a known set holds many clips, CUTS tells where each begins and ends, and what it is:
UTKinect has an actionLabel.txt, MSRC-12 a .tagstream of moments (a clip reaches halfway to the gestures
before and after), Florence 3D all its clips in one file.
"""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.files import load_json, read_bytes, read_lines
from halp_jax.datasets.motion_files import MAX_FILE_BYTES
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import KINECT20, MAX_BODIES, NTU25

MAX_NUMBERS = 20_000  # of a frame


@dataclasses.dataclass(frozen=True)
class Columns:
    """A frame is `before` numbers, then for each body and each joint `width` numbers, xyz first.

    Attributes:
        joints: names in the order of the file, in any spelling; the joints of `layout` are found among
            them by meaning. Empty where the file names its joints itself.
        layout: a known one or a .json file; "" for the richest whose joints are all there.
        files: which files of a folder are meant.
        kind: "numbers"; "header" for a first line Hips.x, Hips.y, ...; "irds" for tuples with a name;
            "uiprmd" for offsets in the parent's frame, the angles in a second file.
        skip_lines: lines before the first frame.
        bodies: how many are in a frame.
        scale, shift: metres = scale * number + shift, one factor or one an axis (a negative one turns
            a mirrored axis back). No scale: metres, centimetres or millimetres, told by the body's size.
        key: the column of a frame number or time, by which frames that are there twice are dropped;
            -1 for none. In files of many clips what their parts are named by.
        key_rate: how much it grows in a second; 0 if it does not tell the frame rate.
        fps: the frame rate, where no column tells it.
        name: what a file's path tells, {label} {subject} {camera} {performance}, {} for other numbers.
            Without a {label} the class is the subfolder.
        first_label: the number of the first class in names and in files.
        classes: their names; "class 0", ... if not given.
        cut: the rule by which one file becomes many clips, see CUTS; "" for one clip.
    """

    joints: tuple[str, ...] = ()
    layout: str = ""
    files: str = "*.txt"
    kind: str = "numbers"
    skip_lines: int = 0
    before: int = 0
    width: int = 3
    bodies: int = 1
    scale: tuple[float, ...] = ()
    shift: tuple[float, ...] = (0.0,)
    key: int = -1
    key_rate: float = 0.0
    fps: float = 0.0
    name: str = ""
    first_label: int = 1
    classes: tuple[str, ...] = ()
    cut: str = ""


def _sides(*joints: str) -> tuple[str, ...]:
    return tuple(f"{side} {joint}" for side in ("left", "right") for joint in joints)


_METRES = (1.0,)
_ARMS, _LEGS = _sides("shoulder", "elbow", "wrist"), _sides("hip", "knee", "ankle")

BUILT_IN = {
    "utkinect": Columns(
        joints=KINECT20.joints, layout="kinect20", files="joints_*.txt", before=1, scale=_METRES,
        key=0, key_rate=30.0, name="s{subject}_e{performance}", cut="utkinect",
        classes=("walk", "sitDown", "standUp", "pickUp", "carry", "throw", "push", "pull",
                 "waveHands", "clapHands"),
    ),
    "msr_action3d": Columns(
        joints=(
            "left shoulder", "right shoulder", "shoulder centre", "spine", "left hip", "right hip",
            "hip centre", "left elbow", "right elbow", "left wrist", "right wrist", "left hand",
            "right hand", "left knee", "right knee", "left ankle", "right ankle", "left foot",
            "right foot", "head",
        ),
        layout="kinect20", files="*skeleton*.txt", width=4, scale=_METRES, fps=15.0,
        name="a{label}_s{subject}_e{performance}",
        classes=("high arm wave", "horizontal arm wave", "hammer", "hand catch", "forward punch",
                 "high throw", "draw x", "draw tick", "draw circle", "hand clap", "two hand wave",
                 "side-boxing", "bend", "forward kick", "side kick", "jogging", "tennis swing",
                 "tennis serve", "golf swing", "pick up & throw"),
    ),
    "msrc12": Columns(
        joints=KINECT20.joints, layout="kinect20", files="*.csv", before=1, width=4, scale=_METRES,
        key=0, key_rate=1e6, name="p{subject}", cut="msrc12",
        classes=("lift outstretched arms", "duck", "push right", "goggles", "wind it up", "shoot",
                 "bow", "throw", "had enough", "change weapon", "beat both", "kick"),
    ),
    "florence3d": Columns(
        joints=("head", "neck", "spine", *_ARMS, *_LEGS), layout="mocap15",
        files="*WorldCoordinates*.txt", before=3, scale=(0.001,), key=0, cut="florence3d",
        classes=("wave", "drink from a bottle", "answer phone", "clap", "tight lace", "sit down",
                 "stand up", "read watch", "bow"),
    ),
    # Of a picture of 640 x 480 and a depth that were divided; the factors are of the set's own note.
    "sbu": Columns(
        joints=("head", "neck", "torso", *_sides("shoulder", "elbow", "hand"),
                *_sides("hip", "knee", "foot")),
        layout="mocap15", files="skeleton_pos.txt", before=1, bodies=2,
        scale=(-2.56, -1.92, 1.28), shift=(1.28, 0.96, 0.0), key=0, key_rate=15.0,
        name="s{subject}s{}/{label}/{performance}",
        classes=tuple(f"action {number}" for number in range(1, 9)),
    ),
    "irds": Columns(
        joints=NTU25.joints, layout="ntu25", kind="irds", skip_lines=1, before=3, width=5,
        scale=_METRES, key=2, key_rate=1000.0, name="{subject}_{}_{label}_{performance}_",
        first_label=0,
        classes=(*(f"{move} {side}" for move in ("elbow flexion", "shoulder flexion",
                                                 "shoulder abduction") for side in ("left", "right")),
                 "shoulder forward elevation", "side tap left", "side tap right"),
    ),
    "uiprmd": Columns(
        joints=("waist", "spine", "chest", "neck", "head", "head tip",
                *_sides("collar", "upper arm", "forearm", "hand"),
                *_sides("upper leg", "lower leg", "foot", "toes")),
        layout="mocap18", files="*_positions*.txt", kind="uiprmd", scale=(0.01,), fps=30.0,
        name="m{label}_s{subject}_e{performance}",
        classes=("deep squat", "hurdle step", "inline lunge", "side lunge", "sit to stand",
                 "standing active straight leg raise", "standing shoulder abduction",
                 "standing shoulder extension", "standing shoulder internal-external rotation",
                 "standing shoulder scaption"),
    ),
    "named": Columns(files="*.csv", kind="header"),
}  # fmt: skip


def find_columns(given: str | None) -> Columns:
    """What --columns names: a known set, or a JSON file.

    Raises:
        UserError: it is neither, or a field of the file is unsound.
    """
    if given in BUILT_IN:
        return BUILT_IN[given]
    if not given or not given.endswith(".json"):
        what = f"columns {given[:40]!r} are not known" if given else "--columns is missing"
        raise UserError(
            f"{what}; give one of {', '.join(BUILT_IN)}, or a .json file that describes the columns"
        )
    fields = load_json(Path(given).expanduser(), 2**20)
    if not isinstance(fields, Mapping):
        raise UserError(f"{given}: no table of columns; see halp_jax/datasets/text_columns.py")
    columns = Columns(**{name: _check_field(name, fields[name], given) for name in fields})
    return _check_together(columns, given)


def _check_field(name: str, value: Any, where: str) -> Any:
    """A field of the file as `Columns` has it. Raises UserError."""
    known = {field.name: field.default for field in dataclasses.fields(Columns)}
    if name not in known:
        raise UserError(
            f"{where}: {name[:40]!r} is no field; use some of {', '.join(sorted(known))}"
        )
    kind = type(known[name])
    if name in ("scale", "shift") and isinstance(value, int | float):
        value = [value]
    each = float if name in ("scale", "shift") else str
    if kind is tuple and isinstance(value, list) and all(_is_a(part, each) for part in value):
        return tuple(each(part) for part in value)
    if kind is not tuple and _is_a(value, kind):
        return kind(value)
    wanted = {tuple: "a list", str: "text", int: "a whole number", float: "a number"}[kind]
    raise UserError(f"{where}: {name} must be {wanted}; correct it")


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return type(value) in (int, float) and abs(value) < 1e12
    return type(value) is kind


def _check_together(columns: Columns, where: str) -> Columns:
    frame = columns.before + columns.bodies * columns.width * max(len(columns.joints), 1)
    checks = {
        "joints must be named, or kind be header": columns.joints or columns.kind == "header",
        "joints has a name twice": len(set(columns.joints)) == len(columns.joints),
        "kind must be numbers or header": columns.kind in ("numbers", "header"),
        "cut is for the sets that are known": not columns.cut,
        "before, skip_lines and first_label must be 0 or more, width 3 or more, bodies 1 to 16": (
            min(columns.before, columns.skip_lines, columns.first_label) >= 0
            and columns.width >= 3
            and 1 <= columns.bodies <= MAX_BODIES
        ),
        f"a frame has more than {MAX_NUMBERS} numbers": frame <= MAX_NUMBERS,
        "key must be one of the columns before the joints": -1 <= columns.key < columns.before,
        "scale and shift must be one number or three": (
            len(columns.scale) in (0, 1, 3) and len(columns.shift) in (1, 3)
        ),
    }
    for reason, sound in checks.items():
        if not sound:
            raise UserError(f"{where}: {reason}; correct it")
    return columns


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
    for line in read_lines(labels, MAX_FILE_BYTES):
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
    for line in read_lines(tags, MAX_FILE_BYTES)[1:]:
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
