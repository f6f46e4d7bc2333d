"""Folders of OpenPose's JSON: a file a frame, with the people found in it.

    {"version": 1.3, "people": [{"pose_keypoints_2d": [x, y, score, x, y, score, ...], ...}]}

The files are called as OpenPose does (walk_000000000012_keypoints.json), or anything that ends in the
frame's number; ControlNet's kind, a list of one such object with canvas_width and canvas_height, is
read as well. --source is the folder of one clip, a folder of such folders, or folders of those, which
are then the classes: wave/0007/*.json. Several clips may lie in one folder if their names differ before
the number. Without a class folder clips are unlabelled. The split is "random", as in `folder`.

BODY_25, BODY_25B and COCO (18 joints, also padded to 25) are told apart by where the joints lie; hands
and faces are left out. People have no identity from frame to frame and are tracked, see `tracking`;
more than two a clip with --layout=body25x5. A frame without people stays, empty. Coordinates stay in
pixels, or come to lie in the box from -1 to 1 where there is a canvas; all else is done by
normalisation.
"""

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float

from halp_jax.datasets import tracking
from halp_jax.datasets.clip import Clip, DamagedClip
from halp_jax.datasets.files import list_files, load_json
from halp_jax.datasets.labels import label_by_folder
from halp_jax.datasets.source import Item, Source, make_source
from halp_jax.errors import UserError
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import Layout, find_layout, get_layout, tell_layout

WHAT = "a folder of OpenPose's files, CLIP_000000000012_keypoints.json"
_NAMES = r".*\d(_keypoints)?\.json"
_MAX_BYTES = 16 * 2**20  # a frame of a few people takes 10 kB
_TOLD_BY = 50  # people
_PADDED = 25  # joints that COCO's 18 are filled up to with zeros
_POSE = ("pose_keypoints_2d", "pose_keypoints")  # the second until version 1.1
_HANDS = ("hand_left_keypoints_2d", "hand_right_keypoints_2d")
_MIDDLE = 0.04  # of a person's size: BODY_25 computes its middle joints


# A file -> (x, y, score) of its people [people, joints, 3], and the picture's (height, width) if known.
ReadFrame = Callable[[Path], tuple[np.ndarray, tuple[float, float] | None]]


def read_frame(
    path: Path,
) -> tuple[Float[np.ndarray, "people joints 3"], tuple[float, float] | None]:
    """(x, y, score) of the people of one file, and its canvas (height, width) if it tells one.

    Raises DamagedClip.
    """
    content = load_json(path, _MAX_BYTES)
    if isinstance(content, list) and len(content) == 1:
        content = content[0]
    people = content.get("people") if isinstance(content, dict) else None
    if not isinstance(people, list) or not all(isinstance(person, dict) for person in people):
        raise DamagedClip(f"{path}: no list of people in it; this is no file of OpenPose")
    lists = [next((person[key] for key in _POSE if person.get(key)), None) for person in people]
    if people and not any(lists) and any(person.get(hand) for person in people for hand in _HANDS):
        raise DamagedClip(f"{path}: hands without a body; run OpenPose with its body model")
    found = tracking.stack_people(
        [tracking.to_points(each, str(path)) for each in lists if each], str(path)
    )
    return found, tracking.to_size(content.get("canvas_height"), content.get("canvas_width"))


def read_item(item: Item, layout: Layout, read: ReadFrame = read_frame) -> list[Clip]:
    """The files of one clip, of a frame each -> the clip. Raises DamagedClip."""
    found: dict[int, np.ndarray] = {}
    sizes = set()
    for number, path in item.payload:
        if number in found:
            raise DamagedClip(f"clip {item.id}: frame {number} is there twice; remove one file")
        people, size = read(Path(path))
        sizes.add(size)
        joints = people.shape[1]
        if joints == _PADDED and layout.num_joints == 18 and not people[:, 18:].any():
            people = people[:, :18]
        elif len(people) and joints != layout.num_joints:
            raise DamagedClip(
                f"{path}: people of {joints} joints, but {layout.name} has {layout.num_joints};"
                " keep clips of other models apart"
            )
        found[number] = people
    points, remark = tracking.track_clip(found, layout, item.id)
    size = sizes.pop() if len(sizes) == 1 else None
    frames = lift_points(points, size=size)
    return [Clip(frames, item.label, item.id, remark=remark)]


def open_source(path: str | Path, *, layout: str | None = None, seed: int = 0) -> Source:
    """The folder of one clip or of many.

    Args:
        layout: by default where the joints of the first people lie tells.
        seed: of the split "random".

    Raises:
        UserError: no such files, nobody in any of them, or joints of an unknown skeleton.
    """
    folder, found = list_files(path, _NAMES, WHAT)
    return open_frames("openpose", folder, [file for _, file in found], read_frame, layout, seed)


def open_frames(
    format: str, folder: Path, files: list[Path], read: ReadFrame, layout: str | None, seed: int
) -> Source:
    """The clips of files of one frame each. Raises UserError, as `open_source` does."""
    clips = tracking.group_frames(folder, files)
    chosen = find_layout(layout) if layout else _tell_layout(files, read)
    items, class_names = label_by_folder([Item(*clip) for clip in sorted(clips.items())])
    reader = functools.partial(read_item, layout=chosen, read=read)
    notes = {"folder": str(folder)}
    return make_source(format, reader, items, chosen, class_names, seed=seed, notes=notes)


def _tell_layout(files: list[Path], read: ReadFrame) -> Layout:
    people: list[np.ndarray] = []
    damaged = None
    for file in files:
        try:
            people += list(read(file)[0])
        except DamagedClip as error:
            damaged = damaged or error
        if len(people) >= _TOLD_BY:
            break
    if not people:
        problem = (
            damaged
            or f"{files[0].parent}: nobody in any of {len(files)} files; run the pose estimator again"
        )
        raise UserError(str(problem))
    joints = Counter(map(len, people)).most_common(1)[0][0]
    same = np.stack([person for person in people if len(person) == joints])
    if joints == _PADDED:
        return get_layout(tell_kind(same))
    return tell_layout(joints, 2, f"{files[0].parent}: people of {joints} joints")


def tell_kind(people: Float[np.ndarray, "people 25 3"]) -> str:
    """Which of the three skeletons that OpenPose's world writes as 25 joints.

    BODY_25 has a joint in the middle of the hips (8) and one in that of the shoulders (1).
    """
    hips = _find_offset(people, 8, 9, 12)
    if hips < _MIDDLE:
        return "body25"
    if not people[:, 18:].any():
        return "openpose18"
    unseen = not np.isfinite(hips)
    return "body25" if unseen and _find_offset(people, 1, 2, 5) < _MIDDLE else "body25b"


def _find_offset(people: Float[np.ndarray, "people 25 3"], *joints: int) -> float:
    """How far the first joint is from the middle of the others, of a person's size; inf if unseen."""
    shown = people[(people[:, joints, 2] > 0).all(1)]
    if not len(shown):
        return np.inf
    middle, first, second = (shown[:, joint, :2] for joint in joints)
    apart = np.linalg.norm(middle - (first + second) / 2, axis=-1)
    return float(np.median(apart / tracking.measure(shown)))
