"""Key points of COCO's kind: annotation files, and results as AlphaPose and MMPose write them.

    {"images": [{"id": 7, "file_name": "walk/000012.jpg", "height": 480, "width": 640}],
     "annotations": [{"image_id": 7, "keypoints": [x, y, v, ...]}], "categories": [...]}
    [{"image_id": "000012.jpg", "keypoints": [x, y, score, ...], "score": 2.8}, ...]
    [{"frame_id": 12, "instances": [{"keypoints": [[x, y], ...], "keypoint_scores": [...]}]}, ...]

--source is one file, a folder of files, or folders of files, which are then the classes
(wave/0007.json); where the files are called alphapose-results.json, their folder names the clip.
Otherwise clips are unlabelled. The split is "random", as in `folder`.

Images are put in the order of the numbers that end their names, and what comes before tells several
clips of one file apart. A number that is not there is an empty frame. Of annotation files, images whose
numbers are mostly not neighbours are photographs, as COCO's own: each is a clip of one frame. People
are tracked by their distance, see `tracking`, as AlphaPose's idx mostly says nothing. 17 joints are
coco17, 26 halpe26; of 133 (whole body) the first 17 are read, of 136 (Halpe) the first 26. v of 0 or a
score of 0 is a joint that is not there; more than two people a clip with --layout=coco17x5.
"""

import functools
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from halp_jax.datasets import tracking
from halp_jax.datasets.clip import Clip, DamagedClip
from halp_jax.datasets.files import is_name, list_files, load_json, read_first, to_numbers
from halp_jax.datasets.labels import label_by_folder
from halp_jax.datasets.source import Item, Source, make_source
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import Layout, find_layout, tell_layout

WHAT = "a .json file of COCO key points, of AlphaPose's or MMPose's results, or folders of them"
_BODY = {133: 17, 136: 26}  # joints of which the first are a body's, the others hands and face
_RESULTS = "alphapose-results"
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")


class Image(NamedTuple):
    """One frame: its name without ending, (height, width) if known, each person's [joints, 3]."""

    name: str
    size: tuple[float, float] | None
    people: list[np.ndarray]


def read_item(item: Item, layout: Layout) -> list[Clip]:
    """One file -> its clips. Raises DamagedClip."""
    path = item.payload
    groups = group_images(*read_images(Path(path)))
    clips = []
    for group, images in groups.items():
        people = {
            number: tracking.stack_people([_cut(each, layout, path) for each in image.people], path)
            for number, image in images.items()
        }
        if not any(map(len, people.values())):
            continue  # a photograph of nobody
        points, remark = tracking.track_clip(people, layout, path)
        sizes = {image.size for image in images.values()}
        frames = lift_points(points, size=sizes.pop() if len(sizes) == 1 else None)
        name = f"{item.id}/{group.rstrip('/')}" if group and len(groups) > 1 else item.id
        clips.append(Clip(frames, item.label, name, remark=remark))
    if not clips:
        raise DamagedClip(f"{path}: nobody in it; leave it out")
    return clips


def group_images(images: list[Image], annotated: bool) -> dict[str, dict[int, Image]]:
    """{clip: {frame number: image}}; of the images of one number the people together."""
    groups: dict[str, dict[int, Image]] = {}
    for image in images:
        group, number = tracking.split_name(image.name)
        there = groups.setdefault(group, {}).setdefault(number, image)
        if there is not image:
            there.people.extend(image.people)
    if not annotated:  # images without people are not in a list of results, so all may be gaps
        return groups
    parted: dict[str, dict[int, Image]] = {}
    for group, found in groups.items():
        if len(found) > 1 and 2 * len(found) < max(found) - min(found) + 1:
            parted |= {image.name: {0: image} for image in found.values()}
        else:
            parted[group] = found
    return parted


def read_images(path: Path) -> tuple[list[Image], bool]:
    """The images of a file and whether they are annotations. Raises DamagedClip."""
    content = load_json(path)
    if isinstance(content, dict) and "instance_info" in content:  # as MMPose's demos write it
        content = content["instance_info"]
    if isinstance(content, list) and content and "instances" in _check_list(content, path)[0]:
        return [_read_frame(frame, path) for frame in content], False
    images: dict[Any, Image] = {}
    entries = content
    if isinstance(content, dict):
        entries = content.get("annotations")
        for image in _check_list(content.get("images"), path):
            if not isinstance(image.get("id"), int | str):
                raise DamagedClip(f"{path}: an image without id; write it again")
            size = tracking.to_size(image.get("height"), image.get("width"))
            images[image["id"]] = Image(_check_name(image.get("file_name"), path), size, [])
    for entry in _check_list(entries, path):
        image = entry.get("image_id")
        if not isinstance(image, int | str) or (isinstance(content, dict) and image not in images):
            raise DamagedClip(
                f"{path}: key points of image {str(image)[:40]!r}, which it does not list; give {WHAT}"
            )
        if image not in images:
            images[image] = Image(_check_name(str(image), path), None, [])
        if "keypoints" in entry:
            images[image].people.append(tracking.to_points(entry["keypoints"], str(path)))
    return list(images.values()), isinstance(content, dict)


def _read_frame(frame: dict[str, Any], path: Path) -> Image:
    """One frame of a video as MMPose 1.x writes it. Raises DamagedClip."""
    people = []
    for person in _check_list(frame.get("instances"), path):
        points = to_numbers(person.get("keypoints"))
        scores = to_numbers(person.get("keypoint_scores"))
        if points.ndim != 2 or points.shape[1] != 2 or scores.shape != points.shape[:1]:
            raise DamagedClip(
                f"{path}: key points that are no [x, y] with a score each; give MMPose's results in 2-D"
            )
        people.append(tracking.to_points(np.c_[points, scores].ravel(), str(path)))
    return Image(_check_name(str(frame.get("frame_id", "")), path), None, people)


def _check_list(entries: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DamagedClip(
            f"{path}: neither images and annotations nor a list of results; give {WHAT}"
        )
    return entries


def _check_name(name: Any, path: Path) -> str:
    """An image's name without its ending. Raises DamagedClip."""
    if not is_name(name):
        raise DamagedClip(f"{path}: an image has the name {str(name)[:40]!r}; write it again")
    return _ENDING.sub("", name.replace("\\", "/"))


def _cut(points: Float[np.ndarray, "joints 3"], layout: Layout, path: str) -> np.ndarray:
    joints = len(points)
    if _BODY.get(joints, joints) != layout.num_joints:
        raise DamagedClip(
            f"{path}: people of {joints} joints, but {layout.name} has {layout.num_joints}; keep"
            " files of other models apart"
        )
    return points[: layout.num_joints]


def open_source(path: str | Path, *, layout: str | None = None, seed: int = 0) -> Source:
    """A file or a folder of them.

    Args:
        layout: by default the number of joints tells.
        seed: of the split "random".

    Raises:
        UserError: no such files, nobody in any of them, or joints of an unknown skeleton.
    """
    folder, files = list_files(path, r".*\.json", WHAT)
    clips = {}
    for name, file in files:
        own = name.rpartition("/")[0] if file.stem == _RESULTS else ""
        clips[own or name] = str(file)
    paths = [file for _, file in files]
    chosen = find_layout(layout) if layout else read_first(paths, _tell_layout)
    items, class_names = label_by_folder([Item(name, file) for name, file in clips.items()])
    read, notes = functools.partial(read_item, layout=chosen), {"folder": str(folder)}
    return make_source("coco", read, items, chosen, class_names, seed=seed, notes=notes)


def _tell_layout(file: Path) -> Layout:
    """The layout that the joints of the first person tell. Raises UserError."""
    people = [person for image in read_images(file)[0] for person in image.people]
    if not people:
        raise DamagedClip(f"{file}: nobody in it; give {WHAT}")
    joints = _BODY.get(len(people[0]), len(people[0]))
    return tell_layout(joints, 2, f"{file}: people of {joints} joints")
