"""Tiny files as pose detectors write them: OpenPose, COCO and AlphaPose, YOLO,
Kinetics-skeleton, MediaPipe."""

import json
from pathlib import Path

import numpy as np

from halp_jax.skeletons.layout import MEDIAPIPE33

FORMATS = Path(__file__).resolve().parents[2] / "shared" / "formats"
CLASSES = ("bow", "wave")


def people(seed: int, time: int, joints: int, count: int = 1) -> np.ndarray:
    """[time, people, joints, 3 (x, y, score)] in pixels, no zeros; person n stands at x = 300 n + 300."""
    rng = np.random.default_rng(seed)
    shape = rng.uniform(-60, 60, (1, count, joints, 2)) * (1, 3)
    steps = rng.normal(scale=2, size=(time, count, joints, 2)).cumsum(0)
    places = shape + steps + np.array([[300 * (n + 1), 400] for n in range(count)])[:, None]
    scores = rng.uniform(0.2, 1, (time, count, joints, 1))
    return np.concatenate([places, scores], -1).round(3)


def body25(seed: int, time: int, count: int = 1) -> np.ndarray:
    """The same with the joints in the middle where BODY_25 has them."""
    points = people(seed, time, 25, count)
    points[..., 8, :2] = (points[..., 9, :2] + points[..., 12, :2]) / 2
    points[..., 1, :2] = (points[..., 2, :2] + points[..., 5, :2]) / 2
    return points


def write_frame(path: Path, found, **fields) -> None:
    """One file of OpenPose's."""
    entries = [
        {"person_id": [-1], "pose_keypoints_2d": np.ravel(person).tolist()} for person in found
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"version": 1.3, "people": entries, **fields}))


def write_openpose(folder: Path, clip: np.ndarray, name: str = "clip") -> Path:
    """[time, people, joints, 3] as a folder of files, numbered as OpenPose does."""
    for time, found in enumerate(clip):
        write_frame(folder / f"{name}_{time:012d}_keypoints.json", found)
    return folder


def make_openpose(folder):
    for n in range(4):
        write_openpose(folder / CLASSES[n % 2] / f"{n}", body25(n, 3, 1 + n % 2))
    return "openpose", folder, {}


def spoil_openpose(path):
    (path / "wave" / "3" / "clip_000000000001_keypoints.json").write_text('{"people": 3}')
    return "wave/3"


def write_results(path: Path, clip: np.ndarray, numbers=None, name: str = "") -> Path:
    """[time, people, joints, 3] as AlphaPose's list."""
    numbers = range(len(clip)) if numbers is None else numbers
    entries = [
        {"image_id": f"{name}{n}.jpg", "category_id": 1, "keypoints": np.ravel(person).tolist(),
         "score": 2.5, "idx": [0.0]}
        for n, found in zip(numbers, clip, strict=True) for person in found
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return path


def write_mmpose(path: Path, clip: np.ndarray, demo: bool = False) -> Path:
    """[time, people, joints, 3] as MMPose's inferencer writes a video, or as its demos do."""
    frames = [
        {"frame_id": n + demo, "instances": [
            {"keypoints": person[:, :2].tolist(), "keypoint_scores": person[:, 2].tolist(),
             "bbox": [[1.0, 2.0, 3.0, 4.0]], "bbox_score": 0.9} for person in found
        ]} for n, found in enumerate(clip)
    ]  # fmt: skip
    content = {"meta_info": {"num_keypoints": 17}, "instance_info": frames} if demo else frames
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_annotations(path: Path, clip: np.ndarray, names: list[str]) -> Path:
    """[images, people, joints, 3] as COCO's annotations of the images of these names."""
    images = [{"id": 7 + n, "file_name": name, "height": 600, "width": 800}
              for n, name in enumerate(names)]  # fmt: skip
    entries = [
        {"id": n, "image_id": 7 + n, "category_id": 1, "keypoints": np.ravel(person).tolist()}
        for n, found in enumerate(clip) for person in found
    ]  # fmt: skip
    content = {"images": images, "annotations": entries, "categories": [{"id": 1}]}
    path.write_text(json.dumps(content))
    return path


def make_coco(folder):
    for n in range(4):
        write_results(folder / CLASSES[n % 2] / f"{n}.json", people(n, 3, 17, 1 + n % 2))
    return "coco", folder, {}


def spoil_coco(path):
    (path / "wave" / "3.json").write_text("[{}]")
    return "wave/3"


def kinetics_clip(clip: np.ndarray) -> dict:
    """[time, people, 18, 3] in shares of the picture, as a file of Kinetics-skeleton."""
    return {
        "data": [
            {"frame_index": 1 + time,
             "skeleton": [{"pose": person[:, :2].ravel().tolist(), "score": person[:, 2].tolist()}
                          for person in found]}
            for time, found in enumerate(clip)
        ],
        "label": "bow", "label_index": 0,
    }  # fmt: skip


def make_kinetics(folder):
    for part in ("train", "val"):
        table = {f"{part}_none": {"has_skeleton": False, "label": "bow", "label_index": 0}}
        (folder / f"kinetics_{part}").mkdir(parents=True)
        for n in range(3):
            clip = people(n, 3, 18, 1 + n % 2) / (1000, 800, 1)
            file = folder / f"kinetics_{part}" / f"{part}_{n}.json"
            file.write_text(json.dumps(kinetics_clip(clip)))
            entry = {"has_skeleton": True, "label": CLASSES[n % 2], "label_index": n % 2}
            table[file.stem] = entry
        (folder / f"kinetics_{part}_label.json").write_text(json.dumps(table))
    return "kinetics", folder, {}


def spoil_kinetics(path):
    (path / "kinetics_val" / "val_2.json").write_text('{"data": []}')
    return "val_2"


def write_yolo(folder: Path, clip: np.ndarray, name: str, ends: str = "") -> Path:
    """[time, people, joints, 3] of a picture of 1000 x 800, a file for each frame with people in it."""
    for time, found in enumerate(clip):
        rows = [(person / (1000, 800, 1)).ravel() for person in found]
        lines = ["0 0.5 0.5 0.2 0.6 " + " ".join(f"{n:g}" for n in row) + ends for row in rows]
        if lines:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}_{time + 1}.txt").write_text("\n".join(lines) + "\n")
    return folder


def make_yolo(folder):
    for n in range(4):
        write_yolo(folder / CLASSES[n % 2] / "labels", people(n, 3, 17, 1 + n % 2), f"{n}")
    return "yolo", folder, {"picture": "1000x800"}


def spoil_yolo(path):
    (path / "wave" / "labels" / "3_2.txt").write_text("0 0.5 0.5 0.2 0.6\n")
    return "wave/labels/3_2.txt"


def landmarks(seed: int, time: int) -> np.ndarray:
    """World landmarks [time, 33, 3] of someone who faces the camera: x to the right, y down, metres.

    The left side is at larger x, the head above, the nose before (at smaller z).
    """
    rng = np.random.default_rng(seed)
    points = rng.normal(scale=0.02, size=(time, 33, 3))
    points[:, :11, 1] -= 0.65
    points[:, 0, 2] -= 0.15
    for joint, x, y in ((11, 0.2, -0.5), (13, 0.3, -0.25), (15, 0.3, 0.0), (23, 0.1, 0.0),
                        (25, 0.1, 0.4), (27, 0.1, 0.8)):  # fmt: skip
        points[:, joint, :2] += (x, y)
        points[:, joint + 1, :2] += (-x, y)
    return points.round(5)


def write_long(path: Path, clip: np.ndarray) -> Path:
    """[time, 33, 3] as a table with a landmark a row."""
    names = [name.upper().replace(" ", "_") for name in MEDIAPIPE33.joints[:33]]
    lines = [f"{time},{name},{x},{y},{z}" for time, points in enumerate(clip)
             for name, (x, y, z) in zip(names, points, strict=True)]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["frame_number,landmark,x,y,z", *lines]) + "\n")
    return path


def write_wide(path: Path, clip: np.ndarray, columns: list[str] | None = None) -> Path:
    """[time, 33, 3 or 4] as a table with a frame a row, and these names of columns above."""
    rows = [",".join(map(str, points.ravel().tolist())) for points in clip]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(([",".join(columns)] if columns else []) + rows) + "\n")
    return path


def make_mediapipe(folder):
    clips = [landmarks(n, 3) for n in range(4)]
    write_long(folder / "bow" / "0.csv", clips[0])
    write_wide(folder / "wave" / "1.csv", clips[1])
    np.save(folder / "bow" / "2.npy", clips[2])
    frames = [{"pose_world_landmarks": [dict(zip("xyz", point, strict=True)) for point in points]}
              for points in clips[3].tolist()]  # fmt: skip
    (folder / "wave" / "3.json").write_text(json.dumps(frames))
    return "mediapipe", folder, {}


def spoil_mediapipe(path):
    (path / "wave" / "3.json").write_text('[{"hands": 3}]')
    return "wave/3"


SETS = {
    "openpose": (make_openpose, spoil_openpose),
    "coco": (make_coco, spoil_coco),
    "kinetics": (make_kinetics, spoil_kinetics),
    "mediapipe": (make_mediapipe, spoil_mediapipe),
    "yolo": (make_yolo, spoil_yolo),
}
