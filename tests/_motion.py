"""A walking person, and tiny files of it in the formats of motion capture and text."""

from pathlib import Path

import numpy as np

from halp_jax.skeletons.layout import KINECT20

FORMATS = Path(__file__).resolve().parents[2] / "shared" / "formats"

# Metres, y up, facing +z, so that the left side is at +x: joint, place, parent.
_HALF = (
    ("shoulder", (0.18, 1.42, 0.0), "shoulder centre"), ("elbow", (0.2, 1.14, 0.0), "shoulder"),
    ("wrist", (0.21, 0.9, 0.05), "elbow"), ("hand", (0.21, 0.82, 0.08), "wrist"),
    ("hip", (0.09, 0.95, 0.0), "hip centre"), ("knee", (0.1, 0.52, 0.03), "hip"),
    ("ankle", (0.1, 0.1, 0.0), "knee"), ("foot", (0.1, 0.05, 0.13), "ankle"),
)  # fmt: skip
PERSON = {
    "hip centre": ((0.0, 1.0, 0.0), None),
    "spine": ((0.0, 1.07, 0.0), "hip centre"),
    "shoulder centre": ((0.0, 1.45, 0.0), "spine"),
    "head": ((0.0, 1.62, 0.0), "shoulder centre"),
}
for _side, _sign in (("left", 1), ("right", -1)):
    for _joint, (_x, _y, _z), _parent in _HALF:
        _on = _parent if "centre" in _parent else f"{_side} {_parent}"
        PERSON[f"{_side} {_joint}"] = ((_sign * _x, _y, _z), _on)
JOINTS = tuple(PERSON)
MIXAMO = {
    "hip centre": "Hips", "spine": "Spine", "shoulder centre": "Neck", "head": "Head",
    **{f"{side.lower()} {joint}": f"{side}{name}" for side in ("Left", "Right")
       for joint, name in {"shoulder": "Arm", "elbow": "ForeArm", "wrist": "Hand",
                           "hand": "HandMiddle1", "hip": "UpLeg", "knee": "Leg", "ankle": "Foot",
                           "foot": "ToeBase"}.items()},
}  # fmt: skip

PICK = [JOINTS.index(joint) for joint in KINECT20.joints]


def walk(seed: int = 0, time: int = 6) -> np.ndarray:
    """[time, joints of JOINTS, 3]: the person glides over the floor, arms and legs tremble."""
    rng = np.random.default_rng(seed)
    pose = np.array([place for place, _ in PERSON.values()])
    steps = rng.normal(scale=0.01, size=(time, len(pose), 3))
    steps[:, :4] = 0.0
    steps[:, [JOINTS.index(f"{side} shoulder") for side in ("left", "right")]] = 0.0
    return pose + steps + np.linspace(0, 0.3, time)[:, None, None] * (0.2, 0.0, 1.0)


def walk_bvh(seed=0, time=6, unit=100.0, order="ZYX", names=None) -> bytes:
    """The person as a BVH file whose root turns about y by 10 degrees a frame; no other angles."""
    names = names or {joint: f"mixamorig:{name}" for joint, name in MIXAMO.items()}
    rng = np.random.default_rng(seed)
    channels = " ".join(f"{axis}rotation" for axis in order)
    lines, rows = ["HIERARCHY"], [[] for _ in range(time)]

    def write(joint: str, depth: int) -> None:
        place, parent = PERSON[joint]
        offset = np.subtract(place, PERSON[parent][0] if parent else (0.0, 0.0, 0.0)) * unit
        tab = "\t" * depth
        lines.append(f"{tab}{'JOINT' if parent else 'ROOT'} {names[joint]}")
        lines.append(f"{tab}{{\n{tab}\tOFFSET {' '.join(f'{x:.4f}' for x in offset)}")
        positions = "" if parent else "Xposition Yposition Zposition "
        lines.append(f"{tab}\tCHANNELS {3 if parent else 6} {positions}{channels}")
        for frame, row in enumerate(rows):
            # The root's positions replace its OFFSET.
            row += [] if parent else [*((np.array(place) + (0.02 * frame, 0, 0)) * unit)]
            turn = {"Y": 10.0 * frame} if not parent else {"X": rng.normal() if depth > 3 else 0.0}
            row += [turn.get(axis, 0.0) for axis in order]
        children = [each for each in JOINTS if PERSON[each][1] == joint]
        for child in children:
            write(child, depth + 1)
        if not children:
            lines.append(f"{tab}\tEnd Site\n{tab}\t{{\n{tab}\t\tOFFSET 0 {unit / 20} 0\n{tab}\t}}")
        lines.append(f"{tab}}}")

    write("hip centre", 0)
    lines += ["MOTION", f"Frames: {time}", "Frame Time: .0083333"]
    lines += [" ".join(f"{x:.4f}" for x in row) for row in rows]
    return ("\n".join(lines) + "\n").encode()


def walk_trc(seed=0, time=6, units="mm", names=JOINTS) -> bytes:
    """The person as a TRC file of the joints `names`."""
    factor = {"m": 1, "cm": 100, "mm": 1000}[units]
    frames = walk(seed, time)[:, [JOINTS.index(name) for name in names]] * factor
    spelled = ["".join(word.capitalize() for word in name.split()) for name in names]
    lines = [
        "PathFileType\t4\t(X/Y/Z)\twalk.trc",
        "DataRate\tCameraRate\tNumFrames\tNumMarkers\tUnits",
        f"60\t60\t{time}\t{len(names)}\t{units}",
        "Frame#\tTime\t" + "\t\t\t".join(spelled) + "\t\t",
        "\t\t" + "\t".join(f"{axis}{n + 1}" for n in range(len(names)) for axis in "XYZ"),
    ]
    for number, frame in enumerate(frames):
        numbers = "\t".join(f"{x:.5f}" for x in frame.ravel())
        lines.append(f"{number + 1}\t{(number + 1) / 60:.5f}\t{numbers}")
    return ("\n".join(lines) + "\n").encode()


def mat_bytes(**variables) -> bytes:
    """A MATLAB 5 file of float64 arrays, uncompressed, as MATLAB's documentation lays it out."""

    def element(kind: int, data: bytes) -> bytes:
        return np.array([kind, len(data)], "<u4").tobytes() + data + bytes(-len(data) % 8)

    def matrix(name: str, value) -> bytes:
        cell = isinstance(value, list)
        shape = (1, len(value)) if cell else value.shape
        parts = [
            element(6, np.array([1 if cell else 6, 0], "<u4").tobytes()),
            element(5, np.array(shape, "<i4").tobytes()),
            element(1, name.encode()),
        ]
        if cell:
            parts += [matrix("", each) for each in value]
        else:
            parts.append(element(9, np.asarray(value, "<f8").tobytes("F")))
        return element(14, b"".join(parts))

    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    return head + b"".join(matrix(name, value) for name, value in variables.items())


def named_csv(seed=0, time=6, unit=100.0) -> bytes:
    """The person as bvh-converter writes it: time,Hips.x,Hips.y,...; 120 Hz."""
    frames = walk(seed, time) * unit
    head = ",".join(f"{MIXAMO[joint]}.{axis}" for joint in JOINTS for axis in "xyz")
    rows = [
        f"{number / 120:10.5f}," + ",".join(f"{x:10.5f}" for x in frame.ravel())
        for number, frame in enumerate(frames)
    ]
    return "\n".join([f"time,{head}", *rows, ""]).encode()


def write_motion(folder: Path, format: str, clips: int = 6, time: int = 6) -> dict[str, str]:
    """So many clips of `time` frames in three subfolders, its classes. Returns the reader's options."""
    options = {"mat": {"layout": "kinect20"}, "text": {"columns": "named"}}
    suffix = {"text": "csv"}.get(format, format)
    for number in range(clips):
        data = {
            "bvh": walk_bvh, "trc": walk_trc, "text": named_csv,
            "mat": lambda seed, time: mat_bytes(x=walk(seed, time)[:, PICK]),
        }[format](number, time)  # fmt: skip
        file = folder / "abc"[number % 3] / f"clip{number}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return options.get(format, {})
