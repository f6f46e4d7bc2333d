"""Files that appear when they are whole: a write that is killed or fails leaves nothing."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from halp_jax.errors import UserError


@contextlib.contextmanager
def atomic_write(path: Path, advice: str) -> Iterator[IO[bytes]]:
    """A stream to a new file that takes its name, or another's place, when the block ends well.

    Raises:
        UserError: it cannot be written; the line ends with `advice`.
    """
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with open(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(unfinished, 0o644)
        os.replace(unfinished, path)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); {advice}") from error
    finally:
        if unfinished:
            Path(unfinished).unlink(missing_ok=True)
