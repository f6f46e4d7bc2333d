"""The files of runs that may be training, read again and again without being in anybody's way.

    watcher = Watcher(["runs/sweep"])
    runs = watcher.look()          # only what is new is read

Nothing is written into a workdir, nothing there is locked, and nothing is waited for: a line that is
half written is left for the next look, and a file that a resumed run replaced is read anew.
"""

import functools
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from halp_jax.errors import UserError
from halp_jax.evaluation.result_files import walk
from halp_jax.training.report import METRICS

CONFIG, CHECKPOINTS, EVALUATIONS = "config.json", "checkpoints", "eval"
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
            with open(self._path, "rb") as file:
                found = os.fstat(file.fileno())
                same = (found.st_dev, found.st_ino) == self._file and found.st_size >= self._end
                if not same:  # a resumed run drops lines, and puts a new file in place of the old
                    self._file, self._end = (found.st_dev, found.st_ino), 0
                file.seek(self._end)
                text = file.read()
        except OSError:
            changed, self.records = bool(self.records), []
            self._file, self._end = None, 0
            return changed
        text = text[: text.rfind(b"\n") + 1]  # the rest is still being written
        self._end += len(text)
        records = list(self.records) if same else []
        for line in text.splitlines():
            if (record := _parse_line(line)) is not None:
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
        """The runs as they are now, those of the same folders that were started since too."""
        with self._lock:
            places = {path.resolve(): path for top in self.folders for path in find_runs(top)}
            return [self._read(path, name) for path, name in name_runs(list(places))]

    def _read(self, path: Path, name: str) -> Run:
        known = path in self._tails
        tail = self._tails.setdefault(path, Tail(path / METRICS))
        if tail.look() and known:
            self._grown[path] = self._clock()
        age = measure_age(path / METRICS)
        if path in self._grown:  # seen with our own eyes: no clock of another machine is asked
            age = min(age, self._clock() - self._grown[path])
        config = _read_json(path / CONFIG) or {}
        return Run(name, path, config, tail.records, _read_knn(path), find_checkpoint(path), age)


def find_runs(top: Path) -> Iterator[Path]:
    """The folders with a config.json, in and under `top`, in order of their names."""
    return (path for path in walk(top) if (path / CONFIG).is_file())


def name_runs(paths: Sequence[Path]) -> list[tuple[Path, str]]:
    """Each run with the shortest name that tells all of them apart: what follows their common part."""
    if not paths:
        return []
    top = Path(os.path.commonpath([path.parent for path in paths]))
    return [(path, path.relative_to(top).as_posix()) for path in paths]


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
    found = {}
    try:
        # The last of a stream counts: knn.json comes behind knn_k5.json.
        paths = sorted((workdir / EVALUATIONS).glob("knn*.json"), reverse=True)
    except OSError:
        return {}
    for path in paths:
        result = _read_json(path) or {}
        step, top1 = number(result.get("step")), number(result.get("top1"))
        if result.get("encoder") == "trained" and step is not None and top1 is not None:
            found[str(result.get("stream"))] = int(step), top1
    return found


def _read_json(path: Path) -> Record | None:
    """The object of a file, or None where there is none or it is damaged."""
    try:
        found = path.stat()
        return _parse_file(path, found.st_mtime_ns, found.st_size)
    except OSError:
        return None


@functools.lru_cache(maxsize=1024)
def _parse_file(path: Path, written: int, size: int) -> Record | None:
    """`written` and `size`: a file that has changed since is read again."""
    try:
        found = json.loads(path.read_text())
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _parse_line(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    good = isinstance(record, dict) and isinstance(record.get("step"), int)
    return record if good else None


def number(value: Any) -> float | None:
    """A finite number, or None for all else that may stand in its place."""
    real = isinstance(value, (int, float)) and math.isfinite(value)
    return float(value) if real else None
