"""The folder of a data set while it is written: claimed at the start, opened by nobody before the end."""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

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
    """Refuses, before any work, a folder that must not be replaced."""
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
