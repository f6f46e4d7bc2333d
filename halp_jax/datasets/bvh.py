"""BVH, the files of motion capture and animation: a tree of joints and their angles in every frame.

A folder of .bvh files, each a clip; its class is the subfolder it lies in. Positions follow from the
angles (forward kinematics) in the order in which each joint lists its channels; position channels
replace the joint's OFFSET. Ends of bones ("End Site") are only used where a hand or foot has no other
joint. All files of a source are taken to one layout, joints found by meaning whatever their names:
`layout`, or kinect20, mocap18, mocap17 or mocap15 if the first file has its joints.

The files do not tell their unit. Metres, centimetres and millimetres are told apart by the length of
the body; another unit (CMU's files) is scaled until the person is 1.7 m tall. They do not tell what
is up either, nor need they: normalisation stands the body upright.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from halp_jax.datasets import motion_files
from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip
from halp_jax.datasets.files import list_files, one_line, parse_numbers, read_bytes
from halp_jax.datasets.labels import label_by_folder
from halp_jax.datasets.source import Item, Source, make_source
from halp_jax.skeletons.kinematics import place_joints, rotate_in_order
from halp_jax.skeletons.layout import Layout

_MAX_JOINTS = 500
_CHANNELS = {f"{axis}{kind}" for axis in "xyz" for kind in ("position", "rotation")}


class Skeleton(NamedTuple):
    """The tree of a file. The end of a bone is a joint "NAME end" without channels."""

    names: list[str]
    parents: list[int]
    offsets: list[list[float]]
    channels: list[list[str]]


def parse_bvh(
    data: bytes, where: str
) -> tuple[Skeleton, Float[np.ndarray, "time joints xyz"], float]:
    """The bytes of a file -> its skeleton, positions in the file's unit, frames a second (0: unknown).

    Raises DamagedClip.
    """
    head, found, motion = data.partition(b"MOTION")
    try:
        skeleton = _parse_tree(head.decode("utf-8", "replace").split())
        words = motion.split(None, 5)  # Frames: 120 Frame Time: .0083333 numbers
        if not found or [word.lower() for word in (words[0], *words[2:4])] != _MOTION_WORDS:
            raise ValueError("no MOTION with Frames: and Frame Time:")
        count, frame_time = int(words[1]), float(words[4])
    except (ValueError, IndexError) as error:
        reason = one_line(error)
        raise DamagedClip(f"{where}: no sound BVH file ({reason}); export it again") from error
    numbers = parse_numbers(words[5] if len(words) > 5 else b"", where)
    width = sum(map(len, skeleton.channels))
    if not 0 < count <= MAX_FRAMES or len(numbers) != count * width:
        raise DamagedClip(
            f"{where}: {len(numbers)} numbers for {count} frames of {width} channels (at most"
            f" {MAX_FRAMES} frames); export it again"
        )
    fps = 1 / frame_time if 1e-4 < frame_time < 1e4 else 0.0
    with np.errstate(all="ignore"):
        positions = _place(skeleton, numbers.reshape(count, width))
    if not np.isfinite(positions).all():
        raise DamagedClip(f"{where}: numbers that are NaN, infinite or absurd; export it again")
    return skeleton, positions, fps


_MOTION_WORDS = [b"frames:", b"frame", b"time:"]


def _parse_tree(words: list[str]) -> Skeleton:
    """The tokens before MOTION. Raises ValueError, IndexError."""
    names, parents, offsets, channels = [], [], [], []
    open_joints: list[int] = []
    place = words.index("ROOT")
    while place < len(words):
        word = words[place].upper()
        if word in ("ROOT", "JOINT", "END"):
            joint, parent = len(names), open_joints[-1] if open_joints else len(names)
            if len(names) >= _MAX_JOINTS or (joint == parent) != (joint == 0):
                raise ValueError(f"more than {_MAX_JOINTS} joints, or more than one ROOT")
            # A name may have blanks in it.
            brace = words.index("{", place)
            name = " ".join(words[place + 1 : brace])
            names.append(f"{names[parent]} end" if word == "END" else name)
            parents.append(parent)
            offsets.append([0.0, 0.0, 0.0])
            channels.append([])
            open_joints.append(joint)
            place = brace + 1
        elif word == "OFFSET":
            offsets[open_joints[-1]] = [float(words[place + axis]) for axis in (1, 2, 3)]
            place += 4
        elif word == "CHANNELS":
            count = int(words[place + 1])
            listed = [each.lower() for each in words[place + 2 : place + 2 + count]]
            if not 0 <= count <= 6 or len(listed) != count or not set(listed) <= _CHANNELS:
                raise ValueError(f"channels {' '.join(listed)}")
            channels[open_joints[-1]] = listed
            place += 2 + count
        elif word == "}":
            open_joints.pop()
            place += 1
        else:
            raise ValueError(f"{words[place][:20]!r} in the hierarchy")
    if open_joints:
        raise ValueError("it ends within the hierarchy")
    return Skeleton(names, parents, offsets, channels)


def _place(
    skeleton: Skeleton, numbers: Float[np.ndarray, "time channels"]
) -> Float[np.ndarray, "time joints xyz"]:
    offsets = np.tile(np.array(skeleton.offsets), (len(numbers), 1, 1))
    rotations, first = [], 0
    for joint, listed in enumerate(skeleton.channels):
        values = numbers[:, first : first + len(listed)]
        turning = [place for place, channel in enumerate(listed) if channel.endswith("rotation")]
        for place, channel in enumerate(listed):
            if channel.endswith("position"):
                offsets[:, joint, "xyz".index(channel[0])] = values[:, place]
        axes = "".join(listed[place][0] for place in turning)
        is_parent = joint == 0 or joint in skeleton.parents
        rotations.append(rotate_in_order(axes, values[:, turning]) if is_parent else None)
        first += len(listed)
    return place_joints(skeleton.parents, offsets, rotations)


def read_item(item: Item, layout: Layout) -> list[Clip]:
    """One file -> one clip. Raises DamagedClip."""
    path = item.payload
    skeleton, positions, fps = parse_bvh(read_bytes(path, motion_files.MAX_FILE_BYTES), path)
    frames = motion_files.select_joints(positions, skeleton.names, layout, path)
    frames, remark = motion_files.scale_to_metres(frames[:, None], layout)
    return [Clip(frames, item.label, item.id, remark=remark, fps=fps)]


def open_source(path: str | Path, *, layout: str | None = None, seed: int = 0) -> Source:
    """A .bvh file, or a folder with .bvh files and folders of them.

    Args:
        layout: a known one, or a .json file whose joints are named as in the files or as known ones.
        seed: of the split "random".

    Raises:
        UserError: no file, or no layout whose joints the first sound file has.
    """
    _, files = list_files(path, r".*\.bvh", "a .bvh file, or the folder with .bvh files")
    items, classes = label_by_folder([Item(name, str(file)) for name, file in files])

    def read_names(file: Path) -> list[str]:
        return parse_bvh(read_bytes(file, motion_files.MAX_FILE_BYTES), str(file))[0].names

    chosen = motion_files.choose_layout(layout, [file for _, file in files], read_names)
    read = functools.partial(read_item, layout=chosen)
    return make_source("bvh", read, items, chosen, classes, seed=seed)
