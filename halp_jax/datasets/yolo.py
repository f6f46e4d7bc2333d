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
from jaxtyping import Float

from halp_jax.datasets import openpose, tracking
from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.files import list_files, open_file, to_numbers
from halp_jax.datasets.source import Source
from halp_jax.errors import UserError

WHAT = "a folder of YOLO's key points, VIDEO_12.txt"
_MAX_BYTES = 2**20  # a frame of a few people takes 2 kB
_BOX = 5  # numbers before the key points


def read_frame(
    path: Path, picture: tuple[float, float]
) -> tuple[Float[np.ndarray, "people joints 3"], tuple[float, float]]:
    """(x, y, score) of the people of one file, x and y in pixels, and the picture's (height, width).

    Raises DamagedClip.
    """
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
        people.append(points * (*picture[::-1], 1.0))
    return tracking.stack_people(people, str(path)), picture


def open_source(
    path: str | Path, *, picture: str | None = None, layout: str | None = None, seed: int = 0
) -> Source:
    """The folder of one video's files or of many.

    Args:
        picture: WIDTHxHEIGHT of the videos, "1920x1080".
        layout: by default the number of joints tells.
        seed: of the split "random".

    Raises:
        UserError: no such files, no size of the picture, nobody in any of them, or joints of an
            unknown skeleton.
    """
    folder, found = list_files(path, r".*\d\.txt", WHAT)
    if picture is None:
        raise UserError(
            f"{folder}: YOLO's key points are shares of the picture's width and height; say its size,"
            " --picture=1920x1080"
        )
    read = functools.partial(read_frame, picture=tracking.parse_picture(picture))
    return openpose.open_frames("yolo", folder, [file for _, file in found], read, layout, seed)
