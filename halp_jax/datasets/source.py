"""What every reader gives: a folder or file of any format as a `Source` of clips.

A reader lists its items cheaply (`open_source`) and turns one item into clips (`Source.read`),
which may then run in a process pool. Small helpers that all readers share are here too.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from halp_jax.datasets.clip import Clip, ClipInfo, DamagedClip
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import Layout

# Larger than any file of one clip or video in the supported data sets; read no further.
MAX_FILE_BYTES = 512 * 2**20


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
    """

    format: str
    layout: Layout
    class_names: tuple[str, ...]
    items: tuple[Item, ...]
    read: Callable[[Item], list[Clip]]
    splits: Callable[[Sequence[ClipInfo]], Splits]
    notes: dict[str, Any]


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
        if size > max_bytes:
            raise DamagedClip(
                f"{path}: {size} bytes, more than the limit of {max_bytes}; check what it is"
            )
        return path.read_bytes()
    except OSError as error:
        raise DamagedClip(f"{path}: cannot be read ({error.strerror}); check the file") from error
