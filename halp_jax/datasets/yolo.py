"""Key points as Ultralytics' YOLO pose models write them (save_txt=True): a `.txt` a frame, a line a person.

    0 0.51 0.48 0.20 0.71  0.52 0.17 0.98  0.53 0.16 0.97 ...      class, box, then x, y, score a joint

A box's score and a track's number may end the line. The files are called VIDEO_12.txt, 12 being the frame;
one that is not there is a frame without people. --source is the folder of one video or of many; folders
in it are the classes, wave/labels/VIDEO_12.txt (`labels`, as YOLO calls its own, is none), unless each
holds one video only: those are clips, whose classes are wave/VIDEO/labels. Without a class folder clips
are unlabelled. The split is "random", as in `folder`.

x and y are shares of the picture's width and height, which no file tells: give its size, or people come
out squeezed. 17 joints are coco17. People are tracked, see `tracking`, whether their tracks are numbered
or not. A joint at (0, 0) was not seen, whatever its score.

Written from the source of Ultralytics 8; held to files made in its likeness.
"""

import functools
from pathlib import Path

import numpy as np

from halp_jax.datasets import tracking
from halp_jax.datasets.clip import Clip, DamagedClip
from halp_jax.datasets.files import list_files, open_file, read_first, to_numbers
from halp_jax.datasets.labels import label_by_folder
from halp_jax.datasets.source import Item, Source, make_source
from halp_jax.errors import UserError
from halp_jax.skeletons.flat import lift_points
from halp_jax.skeletons.layout import Layout, find_layout, tell_layout

WHAT = "a folder of YOLO's key points, VIDEO_12.txt"
_MAX_BYTES = 2**20  # a frame of a few people takes 2 kB
_BOX = 5  # numbers before the key points


def read_frame(path: Path) -> list[np.ndarray]:
    """(x, y, score) of the people of one file, each [joints, 3]. Raises DamagedClip."""
    with open_file(path, _MAX_BYTES) as stream:
        lines = stream.read().decode("utf-8", "replace").splitlines()
    people = []
    for line in filter(str.strip, lines):
        numbers = to_numbers(line.split())
        joints = (len(numbers) - _BOX) // 3
        if joints < 1:
            raise DamagedClip(f"{path}: {line[:40]!r} has no key points; give {WHAT}")
        points = tracking.to_points(numbers[_BOX : _BOX + 3 * joints], str(path))
        points[~points[:, :2].any(1)] = 0.0
        people.append(points)
    return people


def read_item(item: Item, layout: Layout, picture: tuple[float, float]) -> list[Clip]:
    """The files of one clip -> the clip. Raises DamagedClip."""
    height, width = picture
    found = {}
    for number, path in item.payload:
        people = tracking.stack_people(read_frame(Path(path)), path)
        if len(people) and people.shape[1] != layout.num_joints:
            raise DamagedClip(
                f"{path}: people of {people.shape[1]} joints, but {layout.name} has"
                f" {layout.num_joints}; keep clips of other models apart"
            )
        found[number] = people * (width, height, 1.0) if len(people) else people
    points, remark = tracking.track_clip(found, layout, item.id)
    return [Clip(lift_points(points, size=picture), item.label, item.id, remark=remark)]


def open_source(
    path: str | Path, *, picture: str | None = None, layout: str | None = None, seed: int = 0
) -> Source:
    """The folder of one video's files or of many.

    Args:
        picture: WIDTHxHEIGHT of the videos, "1920x1080".
        layout: by default the number of joints tells.
        seed: of the split "random".

    Raises:
        UserError: no such files, no size of the picture, or joints of an unknown skeleton.
    """
    folder, files = list_files(path, r".*\d\.txt", WHAT)
    if picture is None:
        raise UserError(
            f"{folder}: YOLO's key points are shares of the picture's width and height; say its size,"
            " --picture=1920x1080"
        )
    paths = [file for _, file in files]
    clips = tracking.group_frames(folder, paths)
    chosen = find_layout(layout) if layout else read_first(paths, _tell_layout)
    items, class_names = label_by_folder([Item(*clip) for clip in sorted(clips.items())])
    read = functools.partial(read_item, layout=chosen, picture=tracking.parse_picture(picture))
    notes = {"folder": str(folder)}
    return make_source("yolo", read, items, chosen, class_names, seed=seed, notes=notes)


def _tell_layout(file: Path) -> Layout:
    """The layout that the joints of the first person tell. Raises UserError."""
    people = read_frame(file)
    if not people:
        raise DamagedClip(f"{file}: nobody in it; give {WHAT}")
    return tell_layout(len(people[0]), 2, f"{file}: people of {len(people[0])} joints")
