"""Files of other people: found, opened and read with a bound, and what is wrong told in one line."""

import contextlib
import csv
import functools
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import DamagedClip
from halp_jax.errors import UserError

# Larger than any file of one clip or video in the supported data sets; read no further.
MAX_FILE_BYTES = 512 * 2**20


def one_line(error: Exception, most: int = 100) -> str:
    """What a library says of a file, to stand in a line of ours."""
    return " ".join(str(error).split())[:most]


@contextlib.contextmanager
def open_file(path: Path, max_bytes: int | None = None) -> Iterator[IO[bytes]]:
    """A file to read. Raises DamagedClip if it cannot be read or is absurdly large."""
    try:
        if path.exists() and not path.is_file():  # a pipe would never end to be read
            raise DamagedClip(f"{path}: it is no regular file; check what it is")
        size = path.stat().st_size
        if max_bytes is not None and size > max_bytes:
            raise DamagedClip(
                f"{path}: {size} bytes, more than the limit of {max_bytes}; check what it is"
            )
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise DamagedClip(f"{path}: cannot be read ({error.strerror}); check the file") from error


def read_bytes(path: str | Path, max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The content of a file. Raises DamagedClip if it is empty, cannot be read or is too large."""
    with open_file(Path(path), max_bytes) as stream:
        data = stream.read()
    if not data:
        raise DamagedClip(f"{path}: it is empty; write or fetch it again")
    return data


def read_lines(path: str | Path, max_bytes: int = MAX_FILE_BYTES) -> list[str]:
    """The lines of a text. Raises DamagedClip."""
    return read_bytes(path, max_bytes).decode("utf-8", "replace").splitlines()


def load_json(path: str | Path, max_bytes: int = MAX_FILE_BYTES) -> Any:
    """The content of a JSON file. Raises DamagedClip."""
    data = read_bytes(path, max_bytes)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedClip(f"{path}: no JSON ({one_line(error)}); write it again") from error


def read_table(path: str | Path, max_bytes: int) -> list[list[str]]:
    """The cells of each line of a CSV file. Raises DamagedClip."""
    data = read_bytes(path, max_bytes)
    try:
        return list(csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DamagedClip(
            f"{path}: no CSV text in UTF-8 ({one_line(error)}); correct it"
        ) from error


def parse_numbers(text: bytes, where: str) -> Float[np.ndarray, " numbers"]:
    """Numbers between blanks and line ends. Raises DamagedClip."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy only warns of text that is no number
        try:
            return np.fromstring(text, sep=" ")
        except (ValueError, DeprecationWarning) as error:
            reason = "text that is no number; write or fetch it again"
            raise DamagedClip(f"{where}: it holds {reason}") from error


def to_numbers(values: Any) -> np.ndarray:
    """Lists of lists of numbers as a float64 array; an empty one if that is not what they are."""
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.zeros(0)


def is_name(value: Any) -> bool:
    """Whether a value of a file can name a clip or a class."""
    return isinstance(value, str) and 0 < len(value) <= 200 and value.isprintable()


def remember(read: Callable[..., Any]) -> Callable[..., Any]:
    """`read(path, ...)`, which keeps what it last made of a file that has not changed since.

    The clips of a file follow one another, so that it is parsed once and not for each of them.
    """

    @functools.lru_cache(maxsize=1)
    def read_once(path: str, changed_ns: int, *rest: Any) -> Any:
        return read(path, *rest)

    def read_again(path: str, *rest: Any) -> Any:
        try:
            changed = os.stat(path).st_mtime_ns
        except OSError as error:
            raise DamagedClip(f"{path}: cannot be read ({error.strerror}); check it") from error
        return read_once(path, changed, *rest)

    read_again.cache_clear = read_once.cache_clear
    return read_again


def read_first(files: Iterable[Path], read: Callable[[Path], Any]) -> Any:
    """What `read` makes of the first sound file. Raises UserError as it does of the first one."""
    problems = []
    for file in files:
        try:
            return read(file)
        except DamagedClip as error:
            problems.append(str(error))
    problem = problems[0] if problems else "no file can be read"
    raise UserError(f"{problem}; or give the skeleton with --layout")


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


def check_folder(path: str | Path, what: str) -> Path:
    """`path` as a folder that exists. Raises UserError, saying what it should hold, otherwise."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {problem}; give the folder with {what}")
    return folder


def find_single(path: str | Path, suffix: str, what: str) -> Path:
    """`path`, or the one file *`suffix` in the folder that it is.

    Raises:
        UserError: there is none or more than one; `what` says what to give instead.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        found = sorted(path.glob(f"[!.]*{suffix}"))
        if len(found) != 1:
            names = ", ".join(each.name for each in found) or "none"
            raise UserError(f"{path} holds {len(found)} {suffix} files ({names}); give {what}")
        return found[0]
    if not path.is_file():
        raise UserError(f"{path} does not exist; give {what}")
    return path


def list_files(path: str | Path, names: str, what: str) -> tuple[Path, list[tuple[str, Path]]]:
    """The folder and all files of such names in and below it, each with its path without the ending.

    A single file is its own folder's only one. Hidden files, as macOS leaves them (__MACOSX/._0007.npy),
    are none.

    Args:
        names: a regular expression for the whole name, in small letters.
        what: what to give, for the line that refuses.

    Raises:
        UserError: there is none.
    """
    folder = Path(path).expanduser()
    if folder.is_file():
        return folder.parent, [(folder.stem, folder)]
    if not folder.is_dir():
        raise UserError(f"{folder} does not exist; give {what}")
    inside = {file: file.relative_to(folder) for file in sorted(folder.rglob("*"))}
    found = [
        (name.with_suffix("").as_posix(), file) for file, name in inside.items()
        if re.fullmatch(f"(?:.*/)?(?:{names})", name.as_posix().lower()) and file.is_file()
        and not any(part[0] == "." for part in name.parts)
    ]  # fmt: skip
    if not found:
        raise UserError(f"{folder} holds nothing of this kind; give {what}")
    return folder, found
