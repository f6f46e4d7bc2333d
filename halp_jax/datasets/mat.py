"""MATLAB files (.mat) of skeletons: UTD-MHAD, Shelf and Campus, and arrays of one's own.

* UTD-MHAD: `d_skel` [20, 3, time] in metres, in the set's own order of joints; a2_s3_t1_skeleton.mat
  tells class, subject and trial; odd subjects train in "xsub". Taken to kinect20.
* Shelf and Campus: `actor3D`, cells of people of cells of frames of [14, 3] metres; a person who is
  absent from a frame is empty there. Taken to mocap15.
* any other 3-D array, if it is the only one: [time, joints, 3], [joints, 3, time] or [3, joints, time]
  in the order of `layout`, which must be given. The class is the subfolder that a file lies in.

Held to a real file of Shelf; of UTD-MHAD only to one made in its likeness. Files of MATLAB 5 (save
without or with -v7) are parsed here, their structures, text and sparse matrices left out.
scipy.io.loadmat reads more of the format, but a file with a few changed bytes makes it crash the
process or take all memory; here no size is believed before the bytes are there.
"""

import functools
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from halp_jax.datasets import motion_files
from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip
from halp_jax.datasets.files import list_files, one_line, read_bytes, read_first, remember
from halp_jax.datasets.labels import label_by_folder
from halp_jax.datasets.npy import clean_numbers
from halp_jax.datasets.source import Item, Source, make_source, split_odd_subjects
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import (
    KINECT20,
    MAX_BODIES,
    Layout,
    find_layout,
    get_layout,
    with_bodies,
)

UTD_NAME = "a{label}_s{subject}_t{performance}"
UTD_ACTIONS = tuple(
    " ".join(
        """
        right arm swipe to the left; right arm swipe to the right; right hand wave;
        two hand front clap; right arm throw; cross arms in the chest; basketball shoot;
        right hand draw x; right hand draw circle (clockwise);
        right hand draw circle (counter clockwise); draw triangle; bowling (right hand);
        front boxing; baseball swing from right; tennis right hand forehand swing;
        arm curl (two arms); tennis serve; two hand push; right hand knock on door;
        right hand catch an object; right hand pick up and throw; jogging in place;
        walking in place; sit to stand; stand to sit; forward lunge (left foot forward);
        squat (two arms stretch out)
        """.split()
    ).split("; ")
)
UTD_JOINTS = (
    "head", "shoulder centre", "spine", "hip centre",
    *(f"{side} {joint}" for side in ("left", "right")
      for joint in ("shoulder", "elbow", "wrist", "hand")),
    *(f"{side} {joint}" for side in ("left", "right")
      for joint in ("hip", "knee", "ankle", "foot")),
)  # fmt: skip
SHELF_JOINTS = (
    "right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle",
    "right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist",
    "neck", "head",
)  # fmt: skip
_NUMBERS = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_MATRIX, _COMPRESSED = 14, 15
_CELL, _NUMERIC = 1, range(6, 16)
_MAX_EXPANDED = 256 * 2**20
_MAX_DEPTH = 8


class Cells(NamedTuple):
    """A cell array: its shape, and what is in it in MATLAB's order (the first index runs fastest)."""

    shape: tuple[int, ...]
    items: list["np.ndarray | Cells | None"]


def read_item(item: Item, layout: Layout) -> list[Clip]:
    """One file -> one clip. Raises DamagedClip."""
    path, fields = item.payload
    name, value = _read_variable(path)
    remark = ""
    if isinstance(value, Cells):
        bodies = [
            motion_files.select_joints(body, SHELF_JOINTS, layout, path)
            for body in _open_cells(value, path)
        ]
        frames = np.stack(bodies, 1)
    elif name == "d_skel" and value.ndim == 3 and value.shape[:2] == (len(UTD_JOINTS), 3):
        frames = motion_files.select_joints(value.transpose(2, 0, 1), UTD_JOINTS, layout, path)
        frames = frames[:, None]
    else:
        frames = clean_numbers(_order_axes(value, layout, path))[:, None]
        frames, remark = motion_files.scale_to_metres(frames, layout)
    return [Clip(frames, item.label, item.id, remark=remark, **fields)]


@remember  # prepare reads the first one three times
def _read_variable(path: str) -> tuple[str, "np.ndarray | Cells"]:
    """The variable of a file that holds joints, and its name. Raises DamagedClip."""
    variables = parse_mat(read_bytes(path, motion_files.MAX_FILE_BYTES), path)
    for name in ("d_skel", "actor3D"):
        if name in variables:
            return name, variables[name]
    arrays = [
        name
        for name, value in variables.items()
        if isinstance(value, np.ndarray) and value.ndim == 3
    ]
    if len(arrays) != 1:
        names = ", ".join(name[:40] for name in variables)[:200] or "nothing that is read"
        raise DamagedClip(
            f"{path}: not one 3-D array of joints, but {names}; save the one array in its own file"
        )
    return arrays[0], variables[arrays[0]]


def _open_cells(people: Cells, where: str) -> list[Float[np.ndarray, "time joints xyz"]]:
    """{people}{frames} of [joints, 3] -> an array a person, 0 where somebody is absent."""
    count = len(people.items)
    times = {len(each.items) for each in people.items if isinstance(each, Cells)}
    if (
        not 0 < count <= MAX_BODIES
        or len(times) != 1
        or not 0 < (time := times.pop()) <= MAX_FRAMES
    ):
        raise DamagedClip(
            f"{where}: actor3D has {count} people and {sorted(times)[:3]} frames, not up to"
            f" {MAX_BODIES} with equally many; correct it"
        )
    bodies = []
    for person in people.items:
        body = np.zeros((time, len(SHELF_JOINTS), 3))
        for frame, pose in enumerate(person.items if isinstance(person, Cells) else ()):
            if isinstance(pose, np.ndarray) and pose.shape == body.shape[1:]:
                body[frame] = pose
        bodies.append(body)
    return bodies


def _order_axes(
    array: np.ndarray, layout: Layout, where: str
) -> Float[np.ndarray, "time joints xyz"]:
    shape, joints = array.shape, layout.num_joints
    if array.ndim == 3:
        if shape[1:] == (joints, 3):
            return array
        if shape[:2] == (joints, 3):
            return array.transpose(2, 0, 1)
        if shape[:2] == (3, joints):
            return array.transpose(2, 1, 0)
    raise DamagedClip(
        f"{where}: an array {list(shape)}, not [time, {joints}, 3], [{joints}, 3, time] or"
        f" [3, {joints}, time] for {layout.name}; give the right --layout"
    )


def open_source(path: str | Path, *, layout: str | None = None, seed: int = 0) -> Source:
    """A .mat file, or a folder with .mat files and folders of them.

    Args:
        layout: of arrays that are neither UTD-MHAD's nor Shelf's: a known one, or a .json file.
        seed: of the split "random".

    Raises:
        UserError: no file, or a skeleton that is not known.
    """
    _, files = list_files(path, r".*\.mat", "a .mat file, or the folder with .mat files")
    told = [motion_files.match_name(UTD_NAME, name) for name, _ in files]
    paths, splits = [file for _, file in files], None
    if all(told) and read_first(paths, lambda file: _read_variable(str(file))[0]) == "d_skel":
        classes, splits = UTD_ACTIONS, split_odd_subjects
        numbers = [fields.pop("label") - 1 for fields in told]
        given = zip(files, told, numbers, strict=True)
        items = [Item(name, (str(file), fields), n) for (name, file), fields, n in given]
    else:
        items, classes = label_by_folder([Item(name, (str(file), {})) for name, file in files])
    chosen = find_layout(layout) if layout else read_first(paths, _tell_layout)
    read = functools.partial(read_item, layout=chosen)
    return make_source("mat", read, items, chosen, classes, splits, seed=seed)


def _tell_layout(file: Path) -> Layout:
    """What a file's variable tells by its name. Raises UserError."""
    name, value = _read_variable(str(file))
    if isinstance(value, Cells):
        return with_bodies(get_layout("mocap15"), min(max(len(value.items), 1), MAX_BODIES))
    if name == "d_skel":
        return KINECT20
    raise UserError(
        f"{file}: {name[:40]} is an array {list(value.shape)}, whose joints are not known; give the"
        " skeleton with --layout"
    )


def parse_mat(data: bytes, where: str) -> dict[str, "np.ndarray | Cells"]:
    """The bytes of a file -> its variables: float64 arrays, and cells of such.

    Raises:
        DamagedClip: it is of another version, or damaged.
    """
    if data[:4] == b"\x89HDF" or data.startswith(b"MATLAB 7.3"):
        raise DamagedClip(f"{where}: MATLAB's format 7.3; save it again with save(..., '-v7')")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise DamagedClip(f"{where}: no MATLAB file of version 5 to 7; save it with '-v7'")
    try:
        return _read_variables(data, order)
    except (ValueError, zlib.error) as error:
        raise DamagedClip(f"{where}: damaged ({one_line(error)}); fetch it again") from error


def _read_variables(data: bytes, order: str) -> dict[str, "np.ndarray | Cells"]:
    variables, place, expanded = {}, 128, 0
    while place + 8 <= len(data):
        kind, payload, place = _read_element(data, place, order)
        if kind == _COMPRESSED:
            stream = zlib.decompressobj()
            payload = stream.decompress(payload, _MAX_EXPANDED - expanded)
            expanded += len(payload)
            if not stream.eof:
                raise ValueError(f"a variable is cut short, or larger than {_MAX_EXPANDED} bytes")
            kind, payload, _ = _read_element(payload, 0, order)
        if kind == _MATRIX:
            name, value = _read_matrix(payload, order, 0)
            if value is not None:
                variables[name] = value
    return variables


def _read_element(data: bytes, place: int, order: str) -> tuple[int, bytes, int]:
    """(type, content, where the next one begins). Raises ValueError."""
    if place + 8 > len(data):
        raise ValueError("it ends within a variable")
    kind, size = (int(number) for number in np.frombuffer(data, f"{order}u4", 2, place))
    if kind >> 16:  # up to four bytes stand within the tag
        return kind & 0xFFFF, data[place + 4 : place + 4 + min(kind >> 16, 4)], place + 8
    end = place + 8 + size
    if end > len(data):
        raise ValueError("it ends within a variable")
    return kind, data[place + 8 : end], end if kind == _COMPRESSED else end + -size % 8


def _read_matrix(data: bytes, order: str, depth: int) -> tuple[str, "np.ndarray | Cells | None"]:
    """(name, value); None for a kind that is not read. Raises ValueError."""
    if not data:
        return "", np.zeros((0, 0))
    if depth > _MAX_DEPTH:
        raise ValueError("cells within cells without end")
    _, flags, place = _read_element(data, 0, order)
    kind, dims, place = _read_element(data, place, order)
    _, name, place = _read_element(data, place, order)
    if len(flags) != 8 or kind != 5 or not 8 <= len(dims) <= 32 or len(dims) % 4:
        raise ValueError("a variable without its shape")
    what = int(np.frombuffer(flags, f"{order}u4")[0]) & 0xFF
    shape = tuple(int(size) for size in np.frombuffer(dims, f"{order}i4"))
    count = math.prod(shape)
    text = name.decode("utf-8", "replace")
    if min(shape) < 0 or count > len(data):  # each number takes a byte at least
        raise ValueError("a variable larger than its bytes")
    if what == _CELL:
        items = []
        for _ in range(count):
            kind, payload, place = _read_element(data, place, order)
            items.append(_read_matrix(payload, order, depth + 1)[1] if kind == _MATRIX else None)
        return text, Cells(shape, items)
    if what not in _NUMERIC:
        return text, None
    kind, payload, _ = _read_element(data, place, order)
    if kind not in _NUMBERS:
        raise ValueError(f"numbers of type {kind}")
    numbers = np.frombuffer(payload, np.dtype(order + _NUMBERS[kind]))
    if len(numbers) != count:
        raise ValueError(f"{len(numbers)} numbers for the shape {list(shape)}")
    return text, numbers.astype(np.float64).reshape(shape, order="F")
