"""What every reader gives: a folder or file of any format as a `Source` of clips.

A reader lists its items cheaply (`open_source`) and turns one item into clips (`Source.read`),
which may then run in a process pool. What all readers share of splits is here too.
"""

import dataclasses
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halp_jax.datasets.clip import Clip, ClipInfo, DamagedClip, check_clip
from halp_jax.datasets.npy import to_float32
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import Layout
from halp_jax.skeletons.normalize import looks_normalized

TEST_SHARE = 5  # every fifth subject or clip tests where files tell no split
# What people call the parts of a split, as folders and as keys.
PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
PARTS |= {"val": "val", "valid": "val", "validation": "val"}
_BENCHMARKS = {
    "xsub": "xsub", "csub": "xsub", "cs": "xsub", "xview": "xview", "cview": "xview", "cv": "xview",
    "xset": "xset", "xsetup": "xset", "cset": "xset", "csetup": "xset",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Item:
    """One file, or one clip of a file, still unread.

    Attributes:
        id: its name, each once.
        payload: the reader's own, picklable; a DamagedClip where it is known what is wrong with it.
        label: 0-based class, -1 where there is none or the reader will find it.
    """

    id: str
    payload: Any
    label: int = -1


Splits = dict[str, dict[str, list[str]]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set in the files of its authors.

    Attributes:
        format: the reader's name, e.g. "ntu".
        layout: the skeleton of all clips.
        class_names: one name a label.
        items: one for each file or clip, in a fixed order.
        read: item -> its clips. Picklable; raises DamagedClip. May return several clips, or none.
        splits: what is known of all clips -> {benchmark: {"train": names, "test": names}}.
        notes: what the user should know, e.g. how many samples a missing list left out.
        normalized: what the coordinates are normalised by already, "upright" or "view" (or
            released); they are left so unless asked for. "" for raw ones.
        guessed: whether the layout is only a guess from the number of joints.
    """

    format: str
    layout: Layout
    class_names: tuple[str, ...]
    items: tuple[Item, ...]
    read: Callable[[Item], list[Clip]]
    splits: Callable[[Sequence[ClipInfo]], Splits]
    notes: dict[str, Any]
    normalized: str = ""
    guessed: bool = False


def make_source(
    format: str,
    read: Callable[[Item], list[Clip]],
    items: Sequence[Item],
    layout: Layout,
    class_names: Sequence[str],
    splits: Callable[[Sequence[ClipInfo]], Splits] | Splits | None = None,
    *,
    seed: int = 0,
    notes: Mapping[str, Any] | None = None,
    guessed: bool = False,
) -> Source:
    """A Source whose clips, of any real type, are checked as they are read.

    `splits` may be those that a file gives by name; without any `split_by_default` makes them.
    """
    if splits is None:
        splits = functools.partial(split_by_default, seed=seed)
    elif isinstance(splits, dict):
        splits = functools.partial(fixed_splits, splits=splits)
    names = tuple(class_names)
    read = functools.partial(read_checked, read=read, layout=layout, num_classes=len(names))
    notes = dict(notes or {})
    return Source(format, layout, names, tuple(items), read, splits, notes, guessed=guessed)


def read_checked(
    item: Item, read: Callable[[Item], list[Clip]], layout: Layout, num_classes: int
) -> list[Clip]:
    """The clips of an item as float32. Raises DamagedClip."""
    if isinstance(item.payload, DamagedClip):
        raise DamagedClip(str(item.payload))
    clips = []
    for clip in read(item):
        if clip.frames.dtype != np.float32:
            clip = dataclasses.replace(clip, frames=to_float32(clip.frames))
        clips.append(check_clip(clip, layout, num_classes))
    return clips


def find_normalized(source: Source, count: int = 16) -> Source:
    """The source with `normalized` set if most of its first `count` clips look like it.

    Clips that are damaged do not count. A sound raw clip never passes the test by chance.
    """
    verdicts: Counter[str] = Counter()
    for item in source.items[:count]:
        try:
            clips = source.read(item)
        except DamagedClip:
            continue
        found = (np.nan_to_num(clip.frames) for clip in clips)
        verdicts.update(looks_normalized(frames, source.layout) for frames in found)
    if 2 * verdicts[""] >= verdicts.total():
        return source
    del verdicts[""]
    found = verdicts.most_common(1)[0][0]
    notes = source.notes | {
        "normalised": f"by whoever wrote the files ({found}); kept as they are unless --normalize is given"
    }
    return dataclasses.replace(source, normalized=found, notes=notes)


def guess_benchmark(path: Path) -> str:
    """The benchmark that a file's or folder's name tells: xsub, xview or xset; else "given"."""
    for part in (path.stem, path.name, path.parent.name):
        for word in re.split(r"[^a-z0-9]+", part.lower()):
            if word in _BENCHMARKS:
                return _BENCHMARKS[word]
    return "given"


def fixed_splits(infos: Sequence[ClipInfo], splits: Splits) -> Splits:
    """The splits that a file gives by name, whatever clips there are. (A picklable constant.)"""
    return splits


def split_by_rules(
    infos: Sequence[ClipInfo], rules: Mapping[str, Callable[[ClipInfo], bool]]
) -> Splits:
    """{benchmark: whether a clip is trained on} -> the names of both parts of each."""
    return {
        benchmark: {
            "train": [info.name for info in infos if trains(info)],
            "test": [info.name for info in infos if not trains(info)],
        }
        for benchmark, trains in rules.items()
    }


def tell_part(name: str) -> str:
    """The part whose folder a clip lies in, "train" of train/wave/0007; else ""."""
    folder, _, inside = name.partition("/")
    return PARTS.get(folder.lower(), "") if inside else ""


def split_by_parts(infos: Sequence[ClipInfo], parts: Mapping[str, str]) -> Splits:
    """{"own": ...} as `parts`, {name of a clip: train, test, val or ""}, says."""
    return {
        "own": {
            part: [info.name for info in infos if parts[info.name] == part]
            for part in ("train", "test", "val")
            if part != "val" or part in parts.values()
        }
    }


def split_odd_subjects(infos: Sequence[ClipInfo]) -> Splits:
    """{"xsub": ...}: odd subjects train, even ones test, as papers on MSR Action3D and UTD-MHAD have it."""
    return split_by_rules(infos, {"xsub": lambda info: info.subject % 2 == 1})


def split_by_default(infos: Sequence[ClipInfo], seed: int) -> Splits:
    """{"own": ...} of folders train and test (or val), {"xsub": ...} of two subjects, or {"random": ...}."""
    folders = {info.name: tell_part(info.name) for info in infos}
    if "test" not in folders.values():
        folders = {name: "test" if part == "val" else part for name, part in folders.items()}
    if {"train", "test"} <= set(folders.values()):
        return split_by_parts(infos, folders)
    # A clip of an unknown person could be of anyone, so it is in neither part.
    known = [info for info in infos if info.subject >= 0]
    subjects = sorted({info.subject for info in known})
    if len(subjects) > 1:
        testing = set(subjects[TEST_SHARE - 1 :: TEST_SHARE] or subjects[-1:])
        return split_by_rules(known, {"xsub": lambda info: info.subject not in testing})
    order = sorted(
        (info.name for info in infos),
        key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest(),
    )
    count = max(1, len(order) // TEST_SHARE) if len(order) > 1 else 0
    return {"random": {"train": sorted(order[count:]), "test": sorted(order[:count])}}


def number_splits(
    splits: Splits, names: Sequence[str]
) -> tuple[dict[str, dict[str, list[int]]], dict[str, int]]:
    """Splits by name -> by sorted clip number; and benchmark -> how many of its names have no clip.

    Raises:
        UserError: a benchmark names clips, and none of them is there.
    """
    number = {name: place for place, name in enumerate(names)}
    numbered, absent = {}, {}
    for benchmark, parts in splits.items():
        numbered[benchmark] = {
            part: sorted({number[name] for name in wanted if name in number})
            for part, wanted in parts.items()
        }
        wanted = [name for part in parts.values() for name in part]
        missing = sum(name not in number for name in wanted)
        if missing and missing == len(wanted):
            raise UserError(
                f"split {benchmark}: none of its {missing} names is that of a clip (the first is"
                f" {str(wanted[0])[:60]!r}, a clip is called {str(names[0])[:60]!r}); correct the"
                " names or leave the split out"
            )
        if missing:
            absent[benchmark] = missing
    return numbered, absent


def count_overlap(splits: dict[str, dict[str, list[int]]], count: int) -> dict[str, str]:
    """What prepare says of numbered splits: clips to train and to test on, and clips of no part."""
    notes = {}
    for benchmark, parts in splits.items():
        train, used = set(parts.get("train", ())), set().union(*parts.values())
        for part in parts.keys() - {"train"}:
            if both := len(train & set(parts[part])):
                notes[f"warning, split {benchmark}"] = (
                    f"{both} clips are in train and in {part}: accuracies will be too high"
                )
        if used and len(used) < count:
            notes[f"split {benchmark}"] = f"{count - len(used)} clips are in no part of it"
    return notes
