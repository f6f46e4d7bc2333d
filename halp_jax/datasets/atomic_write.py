"""Files that appear when they are whole: a write that is killed or fails leaves nothing that opens."""

import contextlib
import fcntl
import glob
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from halp_jax.errors import UserError


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
        if not overwrite and not _claim(path):
            kept = unfinished.rename(path.with_stem(f"{path.stem}{unfinished.name[:9]}"))
            raise UserError(f"{path} has appeared meanwhile; what was to be there is {kept}")
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


def _claim(path: Path) -> bool:
    """Makes an empty file, unless there is one."""
    with contextlib.suppress(FileExistsError):
        path.open("xb").close()
        return True
    return False


def write_named(
    file: str | os.PathLike[str], suffix: str, overwrite: bool
) -> contextlib.AbstractContextManager[IO[bytes]]:
    """`atomic_write` of a file that the user names, which tells its kind by its ending."""
    path = Path(file).expanduser()
    if path.suffix != suffix:
        raise UserError(f"{path} does not end in {suffix}; name the file so that it can be opened")
    advice = "choose another --out" + ("" if overwrite else ", or --overwrite to replace it")
    return atomic_write(path, advice, overwrite=overwrite)
