"""MATLAB files (.mat) of skeletons: UTD-MHAD, Shelf and Campus, and arrays of one's own.

* UTD-MHAD: `d_skel` [20, 3, time] in metres, in the set's own order of joints; a2_s3_t1_skeleton.mat
  tells class, subject and trial. Taken to kinect20.
* Shelf and Campus: `actor3D`, cells of people of cells of frames of [14, 3] metres; a person who is
  absent from a frame is empty there. Taken to mocap15.
* any other 3-D array, if it is the only one: [time, joints, 3], [joints, 3, time] or [3, joints, time]
  in the order of `layout`, which must be given. The class is the subfolder that a file lies in.

Held to a real file of Shelf; of UTD-MHAD only to one made in its likeness.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip, check_clip
from halp_jax.datasets.folder import make_source
from halp_jax.datasets.labels import label_by_folder
from halp_jax.datasets.mat_file import Cells, parse_mat
from halp_jax.datasets.motion_files import (
    MAX_FILE_BYTES,
    list_files,
    match_name,
    scale_to_metres,
    select_joints,
)
from halp_jax.datasets.npy import clean_numbers, to_float32
from halp_jax.datasets.source import Item, Source, read_bytes
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import KINECT20, MAX_BODIES, Layout, get_layout, with_bodies
from halp_jax.skeletons.layout_file import find_layout

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


def read_item(item: Item, layout: Layout, num_classes: int) -> list[Clip]:
    """One file -> one clip. Raises DamagedClip."""
    path, fields = item.payload
    variables = parse_mat(read_bytes(Path(path), MAX_FILE_BYTES), path)
    name, value = _find_variable(variables, path)
    remark = ""
    if isinstance(value, Cells):
        bodies = [
            select_joints(body, SHELF_JOINTS, layout, path) for body in _open_cells(value, path)
        ]
        frames = np.stack(bodies, 1)
    elif name == "d_skel" and value.shape[:2] == (len(UTD_JOINTS), 3):
        frames = select_joints(value.transpose(2, 0, 1), UTD_JOINTS, layout, path)[:, None]
    else:
        frames, remark = scale_to_metres(
            np.nan_to_num(clean_numbers(_order_axes(value, layout, path))), layout
        )
        frames = frames[:, None]
    clip = Clip(to_float32(frames), name=item.id, remark=remark, **fields)
    return [check_clip(clip, layout, num_classes)]


def _find_variable(variables: dict, where: str) -> tuple[str, "np.ndarray | Cells"]:
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
            f"{where}: not one 3-D array of joints, but {names}; save the one array in its own file"
        )
    return arrays[0], variables[arrays[0]]


def _open_cells(people: Cells, where: str) -> list[Float[np.ndarray, "time joints xyz"]]:
    """{people}{frames} of [joints, 3] -> an array a person, NaN where somebody is absent."""
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
        body = np.full((time, len(SHELF_JOINTS), 3), np.nan)
        for frame, pose in enumerate(person.items if isinstance(person, Cells) else ()):
            if isinstance(pose, np.ndarray) and pose.shape == body.shape[1:]:
                body[frame] = pose
        bodies.append(body)
    return bodies


def _order_axes(
    array: np.ndarray, layout: Layout, where: str
) -> Float[np.ndarray, "time joints xyz"]:
    shape, joints = array.shape, layout.num_joints
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
    files = list_files(path, "*.mat", ".mat files")
    names = [name for name, _ in files]
    fields = [match_name(UTD_NAME, name) for name in names]
    if all(fields) and not layout:
        labelled, classes = [each | {"label": each["label"] - 1} for each in fields], UTD_ACTIONS
    else:
        labels, classes = label_by_folder(names)
        labelled = [{"label": labels[name]} for name in names]
    chosen = find_layout(layout) if layout else _guess_layout(files)
    items = [
        Item(name, (str(file), each)) for (name, file), each in zip(files, labelled, strict=True)
    ]
    return make_source("mat", read_item, items, chosen, classes, seed)


def _guess_layout(files: Sequence[tuple[str, Path]]) -> Layout:
    """What the variables of the first sound file tell by their names."""
    problem = "no file can be read"
    for _, file in files:
        try:
            name, value = _find_variable(
                parse_mat(read_bytes(file, MAX_FILE_BYTES), str(file)), str(file)
            )
        except DamagedClip as error:
            problem = str(error)
            continue
        if isinstance(value, Cells):
            return with_bodies(get_layout("mocap15"), min(max(len(value.items), 1), MAX_BODIES))
        if name == "d_skel":
            return KINECT20
        problem = f"{file}: {name[:40]} is an array {list(value.shape)}, whose joints are not known"
        break
    raise UserError(f"{problem}; give the skeleton with --layout")
