"""Tiny data sets in the formats of arrays: AGCN's, CTR-GCN's, a folder of one's own, 2-D PYSKL."""

import json
import pickle
from pathlib import Path

import numpy as np
from _files import poses

HAND = {
    "name": "hand6",
    "joints": ["wrist", "thumb", "index", "middle", "ring", "little"],
    "parents": ["wrist", "wrist", "wrist", "wrist", "wrist", "wrist"],
    "bodies": 2,
    "centre": "wrist",
    "spine": ["wrist", "middle"],
    "shoulders": ["index", "little"],
}


def write_layout(path: Path, **changes) -> Path:
    """The hand as a JSON file, with fields changed, or left out where they are None."""
    fields = {name: value for name, value in (HAND | changes).items() if value is not None}
    path.write_text(json.dumps(fields))
    return path


def write_agcn(folder: Path, clips: dict[str, list[np.ndarray]], frames=8, **changes) -> Path:
    """{"train": clips [time, bodies, joints, 3], "val": ...} as 2s-AGCN's arrays.

    `changes` replaces labels, names or lengths: {"train_labels": [...]}; None leaves lengths out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for part, each in clips.items():
        data = np.zeros((len(each), 3, frames, *each[0].shape[2:0:-1]), np.float32)
        for row, clip in zip(data, each, strict=True):
            row[:, : len(clip)] = clip.transpose(3, 0, 2, 1)
        numbers = range(count, count + len(each))
        count += len(each)
        names = [f"S001C001P{1 + n:03d}R001A{1 + n % 3:03d}.skeleton" for n in numbers]
        names = changes.get(f"{part}_names", names)
        labels = changes.get(f"{part}_labels", [n % 3 for n in numbers])
        lengths = changes.get(f"{part}_lengths", [len(clip) for clip in each])
        np.save(folder / f"{part}_data_joint.npy", data)
        (folder / f"{part}_label.pkl").write_bytes(pickle.dumps((names, labels)))
        if lengths is not None:
            np.save(folder / f"{part}_num_frame.npy", np.array(lengths))
    return folder


def write_ctrgcn(path: Path, clips: dict[str, list[np.ndarray]], frames=8, save=np.savez) -> Path:
    """{"train": clips, "test": clips} as CTR-GCN's generator writes them, class n % 3."""
    arrays, count = {}, 0
    for part, each in clips.items():
        x = np.zeros((len(each), frames, each[0].shape[1] * each[0].shape[2] * 3), np.float32)
        for row, clip in zip(x, each, strict=True):
            row[: len(clip)] = clip.reshape(len(clip), -1)
        arrays[f"x_{part}"] = x
        arrays[f"y_{part}"] = np.eye(3)[np.arange(count, count + len(each)) % 3]
        count += len(each)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(path, **arrays)
    return path


def write_folder(folder: Path, clips: list[np.ndarray], columns="file,label", rows=None) -> Path:
    """Clips as .npy files, and a table: by default clip n is clips/n.npy of class n % 3."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for number, clip in enumerate(clips):
        np.save(folder / "clips" / f"{number}.npy", clip)
    rows = rows or [f"clips/{number}.npy,{number % 3}" for number in range(len(clips))]
    (folder / "labels.csv").write_text("\n".join([columns, *rows]) + "\n")
    return folder


def flat_annotation(name: str, label: int, seed=0, time=5, bodies=2, joints=17) -> dict:
    """One 2-D PYSKL annotation: pixels of a 1080 x 1920 picture, with scores."""
    pose = poses(seed, time, bodies, joints)[..., :2] * 60 + (960, 540)
    scores = np.random.default_rng(seed).uniform(0.1, 1.0, (bodies, time, joints))
    return {
        "frame_dir": name,
        "label": label,
        "total_frames": time,
        "img_shape": (1080, 1920),
        "keypoint": pose.transpose(1, 0, 2, 3).astype(np.float16),
        "keypoint_score": scores.astype(np.float16),
    }


def make_clips(count: int, bodies=2, joints=25, seed=0) -> list[np.ndarray]:
    """Clips of 3 to 6 frames, float32."""
    return [
        poses(seed + n, 3 + n % 4, bodies, joints).astype(np.float32) for n in range(count)
    ]  # fmt: skip
