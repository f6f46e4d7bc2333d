"""The files of runs that may be training, read again and again without being in anybody's way.

    watcher = Watcher(["runs/sweep"])
    runs = watcher.look()          # only what is new is read

Nothing is written into a workdir, nothing there is locked, and nothing is waited for: a line that is
half written is left for the next look, and a file that a resumed run replaced is read anew.
"""

import functools
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from halp_jax.errors import UserError
from halp_jax.evaluation.result_files import walk
from halp_jax.training.checkpoint_io import CHECKPOINTS
from halp_jax.training.report import METRICS

CONFIG = "config.json"
Record = dict[str, Any]


class Run(NamedTuple):
    """What the files of one run say now."""

    name: str
    workdir: Path
    config: dict[str, Any]
    records: list[Record]  # the whole lines of metrics.jsonl, steps ascending
    knn: dict[str, tuple[int, float]]  # stream -> (step, top1), of eval/
    checkpoint: int | None  # step of the newest one
    age: float  # seconds since metrics.jsonl grew

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self.config.get("streams", ()))

    @property
    def stamp(self) -> tuple[Any, ...]:
        """Differs where there is something new to draw."""
        last = self.records[-1]["step"] if self.records else None
        return self.name, len(self.records), last, tuple(sorted(self.knn.items()))


class Tail:
    """The lines of one metrics.jsonl, read on from where the last look ended."""

    def __init__(self, path: Path):
        self.records: list[Record] = []
        self._path, self._file, self._end = path, None, 0

    def look(self) -> bool:
        """Reads what is new -> has anything changed?"""
        try:
            if not self._path.is_file():  # a pipe would be waited for, and a device has no end
                raise OSError
            with open(self._path, "rb") as file:
                found = os.fstat(file.fileno())
                same = found.st_ino == self._file and found.st_size >= self._end
                if not same:  # a resumed run drops lines, and puts a new file in place of the old
                    self._file, self._end = found.st_ino, 0
                file.seek(self._end)
                text = file.read()
        except OSError:
            changed, self.records = bool(self.records), []
            self._file = None
            return changed
        text = text[: text.rfind(b"\n") + 1]  # the rest is still being written
        self._end += len(text)
        records = list(self.records) if same else []
        for record in filter(None, map(_parse_line, text.splitlines())):
            while records and records[-1]["step"] >= record["step"]:
                records.pop()
            records.append(record)
        self.records = records  # a new list: others may still be reading the old one
        return bool(text) or not same


class Watcher:
    """All runs in and under some folders; may be asked by several threads."""

    def __init__(
        self, folders: Sequence[str | os.PathLike[str]], clock: Callable[[], float] = time.monotonic
    ):
        """Raises UserError where a folder is none, or holds no run."""
        self.folders = [Path(folder).expanduser() for folder in folders]
        self._clock, self._lock = clock, threading.Lock()
        self._tails: dict[Path, Tail] = {}
        self._grown: dict[Path, float] = {}
        for folder in self.folders:
            if not folder.is_dir():
                raise UserError(f"{folder} is no folder; give runs, or folders that hold runs")
            if next(find_runs(folder), None) is None:
                raise UserError(
                    f"no run in {folder}: no folder there has a {CONFIG}; give a --workdir of train"
                )

    def look(self) -> list[Run]:
        """The runs as they are now, those of the same folders that were started since too.

        Each has the shortest name that tells all of them apart: what follows their common part.
        """
        with self._lock:
            runs = dict.fromkeys(path.resolve() for top in self.folders for path in find_runs(top))
            top = os.path.commonpath([path.parent for path in runs]) if runs else "."
            return [self._read(path, path.relative_to(top).as_posix()) for path in runs]

    def _read(self, path: Path, name: str) -> Run:
        known = path in self._tails
        tail = self._tails.setdefault(path, Tail(path / METRICS))
        if tail.look() and known:
            self._grown[path] = self._clock()
        age = measure_age(path / METRICS)
        if path in self._grown:  # seen with our own eyes: no clock of another machine is asked
            age = min(age, self._clock() - self._grown[path])
        config = _read_config(path / CONFIG)
        return Run(name, path, config, tail.records, _read_knn(path), find_checkpoint(path), age)


def find_runs(top: Path) -> Iterator[Path]:
    """The folders with a config.json, in and under `top`, in order of their names."""
    return (path for path in walk(top) if (path / CONFIG).is_file())


def find_checkpoint(workdir: Path) -> int | None:
    """The step of the newest whole checkpoint."""
    try:
        return max((int(p) for p in os.listdir(workdir / CHECKPOINTS) if p.isdigit()), default=None)
    except OSError:
        return None


def measure_age(path: Path) -> float:
    """Seconds since a file was written, as the file system counts them; infinite without one.

    Compared with a file written now, so that nobody has to know the time of day.
    """
    try:
        written = path.stat().st_mtime
    except OSError:
        return float("inf")
    with tempfile.TemporaryFile() as fresh:
        return max(0.0, os.fstat(fresh.fileno()).st_mtime - written)


def _read_knn(workdir: Path) -> dict[str, tuple[int, float]]:
    # The last of a stream counts: knn.json comes behind knn_k5.json.
    results = map(_read_json, sorted((workdir / "eval").glob("knn*.json"), reverse=True))
    trained = [result for result in results if _is_own_knn(result)]
    figures = (
        (str(r.get("stream")), number(r.get("step")), number(r.get("top1"))) for r in trained
    )
    return {
        stream: (int(step), top1) for stream, step, top1 in figures if step and top1 is not None
    }


def _is_own_knn(result: Record) -> bool:
    """Whether it is of this run alone, of its test part, by one neighbour."""
    own = result.get("encoder") == "trained" and not result.get("joined")
    config = result.get("config")
    knn = config.get("knn") if isinstance(config, dict) else None
    k = knn.get("k") if isinstance(knn, dict) else None
    return own and result.get("part", "test") == "test" and k == 1


def _read_config(path: Path) -> Record:
    """Of the config what is looked at, and of that what is of its type: one strange run costs no page."""
    config = _read_json(path)
    streams, train = config.get("streams"), config.get("train")
    names = [each for each in streams if isinstance(each, str)] if isinstance(streams, list) else []
    numbers = {k: v for k, v in train.items() if number(v)} if isinstance(train, dict) else {}
    return {"streams": names, "train": numbers}


def _read_json(path: Path) -> Record:
    """The object of a file; an empty one where there is none or it is damaged."""
    try:
        found = path.stat()
        return _parse_file(path, found.st_mtime_ns, found.st_size) if path.is_file() else {}
    except OSError:
        return {}


@functools.lru_cache(maxsize=1024)
def _parse_file(path: Path, written: int, size: int) -> Record:
    """`written` and `size`: a file that has changed since is read again."""
    try:
        found = json.loads(path.read_text())
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _parse_line(line: bytes) -> Record | None:
    """The record of a line, None in it for what is no finite number, or None where it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    if not isinstance(step, int) or not 0 <= step < 2**53:
        return None
    return {name: number(value) for name, value in record.items()} | {"step": step}


def number(value: Any) -> float | None:
    """A finite number, or None for all else that may stand in its place."""
    # Of whole numbers JSON has some that no float holds.
    real = isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    return float(value) if real else None
