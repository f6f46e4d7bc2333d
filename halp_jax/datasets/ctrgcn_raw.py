"""CTR-GCN's NTU clips before its normalisation: raw_denoised_joints.pkl and the lists beside it.

    raw_denoised_joints.pkl   a list of float32 [time, 75] (one body) or [time, 150] (two), metres
    frames_cnt.txt            the number of frames of each, a line a clip
    skes_available_name.txt   the name of each, S001C001P001R001A001; here or in ../statistics

Names tell action, subject, camera and setup, and so the official splits, as of the .skeleton files.
All clips are held in memory: about 2 GB of NTU RGB+D 60. Pickles are not trusted, see `safe_pickle`.

Written from the structure of the real files; none of them was at hand to read.
"""

import functools
from pathlib import Path

from halp_jax.datasets.clip import MAX_FRAMES, Clip, DamagedClip, check_clip
from halp_jax.datasets.labels import parse_name_fields
from halp_jax.datasets.npy import to_float32
from halp_jax.datasets.ntu import make_splits, parse_name
from halp_jax.datasets.ntu_names import ACTIONS
from halp_jax.datasets.safe_pickle import PickledArray, load_pickle
from halp_jax.datasets.source import Item, Source, read_bytes
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import NTU25

JOINTS, COUNTS, NAMES = "raw_denoised_joints.pkl", "frames_cnt.txt", "skes_available_name.txt"
_BODY = NTU25.num_joints * 3
_MAX_LIST_BYTES = 64 * 2**20


def find_joints(path: Path) -> Path | None:
    """The pickle that is meant, or that lies in the folder that is meant."""
    file = path / JOINTS if path.is_dir() else path
    return file if file.suffix == ".pkl" and file.is_file() else None


def read_item(item: Item, num_classes: int) -> list[Clip]:
    """One array -> one clip. Raises DamagedClip."""
    array, count = item.payload
    numbers = parse_name(item.id)
    if numbers is None or numbers[-1] < 1:
        raise DamagedClip(f"clip {item.id[:80]!r}: no name like S001C001P001R001A001; correct it")
    sound = array is not None and array.dtype.kind == "f" and array.ndim == 2
    if not sound or array.shape[1] not in (_BODY, 2 * _BODY) or len(array) > MAX_FRAMES:
        shape = list(array.shape) if array is not None else "no array"
        raise DamagedClip(
            f"clip {item.id}: {shape}, not numbers [time, {_BODY} or {2 * _BODY}]; make it again"
        )
    if len(array) != count:
        raise DamagedClip(
            f"clip {item.id}: {len(array)} frames, but {COUNTS} says {count}; give files that belong"
        )
    frames = to_float32(array).reshape(len(array), -1, NTU25.num_joints, 3)
    clip = Clip(frames, numbers[-1] - 1, item.id, **parse_name_fields(item.id))
    return [check_clip(clip, NTU25, num_classes)]


def open_source(file: Path) -> Source:
    """The pickle, with the two lists where its authors put them.

    Raises:
        UserError: a file is missing or refused, or they do not fit together.
    """
    content = load_pickle(file)
    if not isinstance(content, list) or not content:
        raise UserError(f"{file}: no list of arrays; give CTR-GCN's {JOINTS}")
    names = _read_list(file, NAMES)
    counts = _read_list(file, COUNTS)
    for what, lines in ((NAMES, names), (COUNTS, counts)):
        if len(lines) != len(content):
            raise UserError(
                f"{file}: {len(content)} clips, but {what} has {len(lines)} lines; give files that"
                " belong together"
            )
    if len(set(names)) != len(names):
        raise UserError(f"{file}: {NAMES} has a name twice; give the file that belongs to it")
    if not all(each.isprintable() for each in names) or not all(map(str.isdecimal, counts)):
        raise UserError(f"{file}: {NAMES} or {COUNTS} is damaged; make them again")
    numbers = [parse_name(name) for name in names]
    num_classes = 120 if any(n and (n[0] > 17 or n[4] > 60) for n in numbers) else 60
    return Source(
        format="ctrgcn",
        layout=NTU25,
        class_names=ACTIONS[:num_classes],
        items=tuple(
            Item(name, (each.array if isinstance(each, PickledArray) else None, int(count)))
            for name, each, count in zip(names, content, counts, strict=True)
        ),
        read=functools.partial(read_item, num_classes=num_classes),
        splits=functools.partial(make_splits, num_classes=num_classes),
        notes={"file": str(file)},
    )


def _read_list(file: Path, name: str) -> list[str]:
    """The lines of a list that lies beside the pickle, or in the folder `statistics` there."""
    folders = (file.parent, file.parent / "statistics", file.parent.parent / "statistics")
    found = next((each / name for each in folders if (each / name).is_file()), None)
    if found is None:
        raise UserError(f"{file.parent} holds no {name}; put CTR-GCN's list there, beside {JOINTS}")
    text = read_bytes(found, _MAX_LIST_BYTES).decode("utf-8", "replace")
    return text.split()  # the lines may end in CR LF
