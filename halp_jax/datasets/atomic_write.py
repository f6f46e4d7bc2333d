"""Files and folders that appear when they are whole: a write that fails leaves nothing that opens."""

import contextlib
import fcntl
import glob
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from halp_jax.datasets.prepared import METADATA
from halp_jax.errors import UserError

UNFINISHED, GRAPHS = ".unfinished", "graphs.npz"
_OPENING = (METADATA, GRAPHS)  # a folder without them does not open: first to go, last to come
# What prepare writes, and what --overwrite may therefore delete.
_OURS = re.compile(
    rf"{re.escape(METADATA)}|{re.escape(GRAPHS)}|clips\.png|dataset_info\.json|features\.json"
    r"|label\.labels\.txt|halp_clips-clips\.tfrecord-.*"
)


@contextlib.contextmanager
def atomic_write(path: Path, advice: str, *, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """A stream to a new file that takes its name, or another's place, when the block ends well.

    A device or a pipe of this name, and /dev/stdout, are written to as they are; a link stays one.

    Raises:
        UserError: it cannot be written, or is there and not to be overwritten; the line ends with
            `advice`.
    """
    unfinished = None
    try:
        if path.exists() and not overwrite:
            raise UserError(f"{path} exists; {advice}")
        if (descriptor := _find_open(path)) is not None or (path.exists() and not path.is_file()):
            with open(path if descriptor is None else os.dup(descriptor), "wb") as stream:
                yield stream
            return
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        unfinished = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
        with open(unfinished, "xb") as stream:
            with contextlib.suppress(OSError):  # where files have no locks, leftovers stay
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        try:
            if not overwrite:
                path.open("xb").close()  # claims the name
        except FileExistsError:
            kept = unfinished.rename(path.with_stem(f"{path.stem}{unfinished.name[:9]}"))
            raise UserError(
                f"{path} has appeared meanwhile; what was to be there is {kept}"
            ) from None
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); {advice}") from error
    finally:
        if unfinished:
            unfinished.unlink(missing_ok=True)


def _remove_leftovers(path: Path) -> None:
    """What killed commands have left of this file: all that nobody has locked."""
    for left in path.parent.glob(f".{'[0-9a-f]' * 8}.{glob.escape(path.name)}"):
        with contextlib.suppress(OSError), open(left, "rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if left.stat().st_size:  # an empty one may wait for its lock
                left.unlink()


def _find_open(path: Path) -> int | None:
    """The number behind /dev/stdout, /dev/fd/3 and the like: opened by name, a file there begins anew."""
    places = (path, path.parent / os.readlink(path)) if path.is_symlink() else (path,)
    for place in places:
        if str(place.parent.resolve()) in ("/dev/fd", f"/proc/{os.getpid()}/fd"):
            return int(place.name)
    return None


def write_named(
    file: str | os.PathLike[str], suffix: str, overwrite: bool
) -> contextlib.AbstractContextManager[IO[bytes]]:
    """`atomic_write` of a file that the user names, which tells its kind by its ending."""
    path = Path(file).expanduser()
    if path.suffix != suffix:
        raise UserError(f"{path} does not end in {suffix}; name the file so that it can be opened")
    advice = "choose another --out" + ("" if overwrite else ", or --overwrite to replace it")
    return atomic_write(path, advice, overwrite=overwrite)


@contextlib.contextmanager
def claim_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder in `out` for the work; its files move up when the block ends well.

    `out` may be a mount point. What a killed command has left of its work is done away with; nothing
    else is deleted, but an older data set with `overwrite`, and that at the very end.

    Raises:
        UserError: `out` must not be replaced, another command is at work there, or it cannot be
            written.
    """
    check_free(out, overwrite)
    made, folder = not out.exists(), out / UNFINISHED
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _only_one(folder):
            check_free(out, overwrite)  # another may have finished since
            try:
                yield folder
                _move_up(folder, out, overwrite)
            except _Appeared as error:
                raise UserError(
                    f"{out} holds {error} meanwhile, and is left so; the new data set is whole in"
                    f" {folder}: move it to another place"
                ) from error
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {out} ({error.strerror}); check --out") from error
    finally:
        if made:
            with contextlib.suppress(OSError):  # there is something in it
                out.rmdir()


def check_free(out: Path, overwrite: bool) -> None:
    """Refuses, before any work, a folder that must not be replaced, or that TensorFlow cannot name."""
    if str(out).encode(errors="ignore") != os.fsencode(out):
        raise UserError(f"{out} is no name in UTF-8; give another --out")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; give another folder as --out")
    found = sorted(set(os.listdir(out)) - {UNFINISHED}) if out.exists() else []
    if found and not overwrite:
        raise UserError(f"{out} exists; give another --out, or --overwrite to replace it")
    for name in found:
        if not _is_ours(out / name):
            raise UserError(
                f"{out} holds {name}, which prepare did not write; move it away or give another --out"
            )


def _is_ours(path: Path) -> bool:
    return _OURS.fullmatch(path.name) is not None and not path.is_dir()


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Makes the folder, or takes over and empties that of a command that lives no more.

    Where files have no locks, whoever makes the folder has it, and a leftover is for the user to judge.
    """
    try:
        folder.mkdir()
        found = False
    except FileExistsError:
        found = True
    busy = f"another prepare is at work in {folder.parent}: wait for it, or give another --out"
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        except OSError:
            if found:
                raise UserError(f"{busy}; if there is none, delete {folder}") from None
        if not (folder.exists() and os.path.samestat(os.fstat(descriptor), folder.stat())):
            raise UserError(busy)
        for entry in folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        yield
    finally:
        os.close(descriptor)


class _Appeared(Exception):
    """A file is where one of the data set has to go."""


def _move_up(folder: Path, out: Path, overwrite: bool) -> None:
    names, there = os.listdir(folder), os.listdir(out)
    if overwrite:
        for name in sorted(there, key=lambda name: name not in _OPENING):
            if _is_ours(out / name):
                (out / name).unlink()
    elif both := set(names) & set(there):
        raise _Appeared(min(both))
    for name in sorted(names, key=lambda name: name in _OPENING):
        os.replace(folder / name, out / name)
