"""What every reader gives: a folder or file of any format as a `Source` of clips.

A reader lists its items cheaply (`open_source`) and turns one item into clips (`Source.read`),
which may then run in a process pool. Small helpers that all readers share are here too.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halp_jax.datasets.clip import Clip, ClipInfo, DamagedClip
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import Layout
from halp_jax.skeletons.normalize import looks_normalized

# Larger than any file of one clip or video in the supported data sets; read no further.
MAX_FILE_BYTES = 512 * 2**20
_BENCHMARKS = {
    "xsub": "xsub", "csub": "xsub", "cs": "xsub", "xview": "xview", "cview": "xview", "cv": "xview",
    "xset": "xset", "xsetup": "xset", "cset": "xset", "csetup": "xset",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Item:
    """One file, or one clip of a file, still unread. `payload` is the reader's own, picklable."""

    id: str
    payload: Any


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
        "normalised": f"by whoever wrote the files ({found}); kept unless --normalize says"
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


def check_folder(path: str | Path, what: str) -> Path:
    """`path` as a folder that exists. Raises UserError, saying what it should hold, otherwise."""
    folder = Path(path).expanduser()
    if not folder.exists():
        raise UserError(f"{folder} does not exist; give the folder with {what}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; give the folder with {what}")
    return folder


def read_bytes(path: Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The content of a file. Raises DamagedClip if it cannot be read or is absurdly large."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end to be read
            raise DamagedClip(f"{path}: it is no regular file; check what it is")
        size = path.stat().st_size
        if not size:
            raise DamagedClip(f"{path}: it is empty; write or fetch it again")
        if size > max_bytes:
            raise DamagedClip(
                f"{path}: {size} bytes, more than the limit of {max_bytes}; check what it is"
            )
        return path.read_bytes()
    except OSError as error:
        raise DamagedClip(f"{path}: cannot be read ({error.strerror}); check the file") from error


def read_first(files: Iterable[Path], read: Callable[[Path], Any]) -> Any:
    """What `read` makes of the first sound file. Raises UserError as it does of the first one."""
    problems = []
    for file in files:
        try:
            return read(file)
        except UserError as error:
            problems.append(str(error))
    raise UserError(problems[0])


def tell_content(data: bytes) -> str:
    """What the first bytes of a file look like, in words that end a sentence "it holds"."""
    if not data.strip():
        return "nothing"
    if data.startswith(b"\x93NUMPY"):
        return "a .npy array"
    if data.startswith(b"PK\x03\x04"):
        return "a zip archive, as .npz is one"
    if data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "a pickle"
    if data.startswith((b"\x89HDF", b"MATLAB")):
        return "MATLAB's or HDF5's data"
    if data.lstrip().startswith((b"{", b"[")):
        return "JSON"
    line = data.lstrip().splitlines()[0].decode("utf-8", "replace")[:40]
    return f"the text {line!r}" if line.isprintable() and "\ufffd" not in line else "no text"


def find_single(path: Path, suffix: str, what: str) -> Path:
    """`path`, or the one file *`suffix` in the folder that it is.

    Raises:
        UserError: there is none or more than one; `what` says what to give instead.
    """
    if path.is_dir():
        found = sorted(path.glob(f"*{suffix}"))
        if len(found) != 1:
            names = ", ".join(each.name for each in found) or "none"
            raise UserError(
                f"{path} holds {len(found)} {suffix} files ({names}); give the one to read"
            )
        return found[0]
    if not path.is_file():
        raise UserError(f"{path} does not exist; give {what}")
    return path
