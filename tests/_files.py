"""Tiny files in the formats that the readers read, made from nothing; and a disk without room."""

import contextlib
import pickle
import resource
from pathlib import Path

import numpy as np

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@contextlib.contextmanager
def little_room(size):
    """No file of this process may become larger than `size` bytes: writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def poses(seed: int, time: int, bodies: int, joints: int = 25) -> np.ndarray:
    """Walking noise in front of a camera, float64 [time, bodies, joints, 3], no zeros."""
    rng = np.random.default_rng(seed)
    place = rng.normal(size=(1, bodies, 1, 3)) + (0.0, 0.0, 3.0)
    shape = rng.normal(scale=0.4, size=(1, bodies, joints, 3))
    steps = rng.normal(scale=0.02, size=(time, bodies, joints, 3)).cumsum(0)
    return np.round(place + shape + steps, 6)


def skeleton_text(frames: list[list[tuple[int, np.ndarray]]]) -> str:
    """A .skeleton file: for each frame a list of (tracking id, pose [25, 3])."""
    lines = [str(len(frames))]
    for bodies in frames:
        lines.append(str(len(bodies)))
        for identity, pose in bodies:
            lines += [f"{identity} 0 1 1 1 1 0 0.1 -0.2 2", str(len(pose))]
            lines += [f"{x:.6f} {y:.6f} {z:.6f} 1 2 3 4 0.5 0.5 0.5 0.5 2" for x, y, z in pose]
    return "\n".join(lines) + "\n"


def write_skeleton(folder: Path, name: str, seed: int = 0, time: int = 4, bodies: int = 1) -> Path:
    """A sound .skeleton file with the given number of frames and bodies."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.skeleton"
    frames = [list(enumerate(pose, 72057594037931101)) for pose in poses(seed, time, bodies)]
    file.write_text(skeleton_text(frames))
    return file


def write_missing_list(path: Path, names: list[str]) -> Path:
    """A list of damaged samples with the three header lines of the official ones."""
    header = f"{len(names)} samples are damaged.\nPlease ignore them.\n\n"
    path.write_text(header + "\n".join(names))
    return path


def write_pku(
    root: Path,
    videos: dict[str, list[tuple]],
    time: int = 12,
    folders: tuple[str, str] = ("skeleton", "label"),
) -> Path:
    """A PKU-MMD folder: {video name: its label rows (action, start, end, confidence)}."""
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
    for seed, (name, rows) in enumerate(videos.items()):
        numbers = poses(seed, time, 2).reshape(time, 150)
        np.savetxt(root / folders[0] / f"{name}.txt", numbers, fmt="%.6f")
        label = "".join(",".join(map(str, row)) + "\n" for row in rows)
        (root / folders[1] / f"{name}.txt").write_text(label)
    return root


def write_split(path: Path, train: list[str], test: list[str]) -> Path:
    """A split file as PKU-MMD's authors write it, spelling included."""
    path.write_text(
        f"Training videos: \n{', '.join(train)}\nValidataion videos: \n{', '.join(test)}\n"
    )
    return path


def annotation(name: str, label: int, seed: int = 0, time: int = 5, bodies: int = 2, joints=25):
    """One PYSKL annotation with a float16 keypoint [bodies, time, joints, 3]."""
    keypoint = poses(seed, time, bodies, joints).transpose(1, 0, 2, 3).astype(np.float16)
    return {"frame_dir": name, "label": label, "total_frames": time, "keypoint": keypoint}


def write_pyskl(path: Path, annotations: list[dict], split: dict, protocol: int = 4) -> Path:
    """A PYSKL annotation file."""
    content = {"split": split, "annotations": annotations}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path
