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


def write_nwucla(folder: Path, names=("a01_s01_e00_v01", "a08_s02_e01_v02", "a12_s03_e00_v03")):
    """NW-UCLA's JSON files, whose labels are 1, 7 and 10 of ten actions."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = {name: 1 + (1, 2, 3, 4, 5, 6, 8, 9, 11, 12).index(int(name[1:3])) for name in names}
    for seed, (name, label) in enumerate(labels.items()):
        frames = poses(seed, 3 + seed, 1, 20)[:, 0].tolist()
        content = {"file_name": name, "skeletons": frames, "label": label}
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def write_aimclr(folder: Path, parts: dict[str, int]) -> Path:
    """{"train": number of clips, "val": ...} as AimCLR's arrays of 5 frames, joint 20 at zero."""
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for part, number in parts.items():
        clips = [poses(seed, 5, 2) for seed in range(count, count + number)]
        data = np.stack([clip - clip[:, :, 20:21] for clip in clips]).transpose(0, 4, 1, 3, 2)
        data[0, ..., 1] = 0  # an absent body
        names = [
            f"S001C001P{1 + n:03d}R001A{1 + n % 3:03d}.skeleton"
            for n in range(count, count + number)
        ]
        np.save(folder / f"{part}_position.npy", data.astype(np.float32))
        labels = [n % 3 for n in range(count, count + number)]
        (folder / f"{part}_label.pkl").write_bytes(pickle.dumps((names, labels)))
        count += number
    return folder


def write_ctrgcn_raw(folder: Path, lengths=(4, 5, 3, 6)) -> Path:
    """CTR-GCN's denoised clips, the last of two bodies, and the lists beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    clips, names = [], []
    for number, length in enumerate(lengths):
        bodies = 2 if number == len(lengths) - 1 else 1
        clips.append(poses(number, length, bodies).reshape(length, -1).astype(np.float32))
        names.append(f"S001C00{1 + number % 3}P00{1 + 2 * (number % 2)}R001A00{1 + number}")
    (folder / "raw_denoised_joints.pkl").write_bytes(pickle.dumps(clips))
    for file, lines in (("frames_cnt.txt", lengths), ("skes_available_name.txt", names)):
        (folder / file).write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return folder


def write_kinetics400(folder: Path, count=4, packed=True) -> Path:
    """PYSKL's Kinetics-400: annotations without key points, which lie in kpfiles of two clips each.

    Two people walk apart in every second frame; of frames 5 and 7 there are no rows. Not `packed`:
    the files of MMAction2, one a clip.
    """
    (folder / "kpfiles").mkdir(parents=True, exist_ok=True)
    (folder / "skeletons_mmaction").mkdir(exist_ok=True)
    annotations, files = [], {}
    for number in range(count):
        frames = np.array([1, 1, 3, 3, 9, 9, 9, 11, 11], np.int16)
        points = np.random.default_rng(number).uniform(0, 60, (1, 17, 2)) + (100, 100)
        people = points + np.array([[0, 0], [400, 0]] * 2 + [[400, 0], [0, 0], [700, 0]]
                                   + [[0, 0], [400, 0]])[:, None]  # fmt: skip
        scores = np.full((*people.shape[:2], 1), 0.5)
        name = f"clip{number:07d}"
        entry = {"keypoint": np.concatenate([people, scores], -1).astype(np.float16)}
        files.setdefault(f"{number // 2:04d}.pkl", {})[name] = entry
        place = {"raw_file": f"data/k400/kpfiles/{number // 2:04d}.pkl", "key": name}
        annotations.append(
            {"frame_dir": name, "label": number % 3, "img_shape": (800, 1000), "total_frames": 12,
             "frame_inds": frames} | (place if packed else {})
        )  # fmt: skip
        if not packed:
            (folder / "skeletons_mmaction" / f"{name}.pkl").write_bytes(pickle.dumps(entry))
    for file, content in files.items() if packed else ():
        (folder / "kpfiles" / file).write_bytes(pickle.dumps(content))
    split = {"mine_train": ["clip0000000", "clip0000002"], "mine_val": ["clip0000001"]}
    path = folder / "k400_hrnet.pkl"
    path.write_bytes(pickle.dumps({"split": split, "annotations": annotations}))
    return path


def write_npy(folder: Path, clips: list[np.ndarray], classes="ab") -> Path:
    """Clips as .npy files without a table, in folders that are called as their classes."""
    for number, clip in enumerate(clips):
        file = folder / classes[number % len(classes)] / f"{number}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, clip)
    return folder
