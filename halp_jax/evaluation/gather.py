"""Finds the evaluations of many runs, and reads of each what a table of them needs.

A file that is damaged or of something else is left out with a line that says so: one bad file must
not cost the table of the others.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from halp_jax.errors import UserError
from halp_jax.evaluation import experiments, table
from halp_jax.evaluation.streams import COMBINED

STREAM_ORDER = ("joint", "motion", "bone", *COMBINED)
NUMBER = (int, float)
FIELDS = {
    "protocol": str, "encoder": str, "stream": str, "split": str, "seed": int, "num_test": int,
    "per_class": dict, "config": dict,
}  # fmt: skip
SEMI = {"fraction": NUMBER, "top1_runs": list, "top1_sd": (*NUMBER, type(None))}
DATA = {"dir": (str, type(None)), "split": str}
# What reading a file of something else may raise.
FOREIGN = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class Run(NamedTuple):
    """A folder with evaluations; `named`: it was asked for itself, not found in another."""

    workdir: Path
    named: bool


class Entry(NamedTuple):
    """One evaluation of one run."""

    path: Path
    run: Run
    result: dict[str, Any]
    value: float  # of the measure
    seed: int
    method: str
    source: dict[str, Any]  # the section `data` of the run's own config
    settings: experiments.Settings
    evaluated: experiments.Settings

    @property
    def data(self) -> str:
        """ "ntu60 xsub", or "ntu60 xsub to pku2 xsub" where it was evaluated on other data."""
        names = [experiments.data_name(d) for d in (self.source, self.result["config"]["data"])]
        return " to ".join(dict.fromkeys(names))


def find_runs(folders: Iterable[str]) -> tuple[list[Run], list[Path]]:
    """(runs with eval/*.json in or under the folders, runs or folders without any)."""
    found: dict[Path, Run] = {}
    empty: list[Path] = []
    for folder in folders:
        top = Path(folder).expanduser()
        if not top.is_dir():
            raise UserError(f"{folder} is no folder; give runs, or folders that hold runs")
        before = len(found) + len(empty)
        again = False
        for path in walk(top):
            place = path.resolve()
            if any((path / "eval").glob("*.json")):
                again |= place in found
                found[place] = Run(path, path == top or (place in found and found[place].named))
            elif (path / "config.json").is_file():
                empty.append(path)
        if len(found) + len(empty) == before and not again:
            empty.append(top)
    return list(found.values()), list(dict.fromkeys(empty))


def walk(top: Path) -> Iterator[Path]:
    """`top` and the folders under it that may be runs, in order of their names, each once."""
    seen = set()
    for folder, inside, _ in os.walk(top, followlinks=True):
        place = os.path.realpath(folder)
        if place in seen:  # a link back up
            inside.clear()
            continue
        seen.add(place)
        inside[:] = sorted(
            name for name in inside if name[0] != "." and name not in ("eval", "checkpoints")
        )
        yield Path(folder)


def read_entries(runs: Iterable[Run], measure: str) -> tuple[list[Entry], list[str]]:
    """(all evaluations of the runs, for each file left out a line with the reason)."""
    entries, skipped = [], []
    for run in runs:
        own = None
        path = run.workdir / "config.json"
        if path.is_file():
            try:
                own = _read_json(path)
                _check(own, {"seed": int, "data": dict})
                _check(own["data"], DATA)
            except FOREIGN as error:
                own = None
                skipped.append(f"{path}: {_reason(error)}; the configs in eval/ are taken")
        for path in sorted((run.workdir / "eval").glob("*.json")):
            try:
                entries.append(read_entry(path, run, own, measure))
            except FOREIGN as error:
                skipped.append(f"{path}: {_reason(error)}")
    return entries, skipped


def _read_json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}")
    return content


def _check(content: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    for name, kind in kinds.items():
        if not isinstance(content[name], kind):
            raise ValueError(f"{name} is {str(content[name])[:40]!r}")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"not of halp_jax.evaluate (no {error})"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return f"damaged, or not of halp_jax.evaluate ({' '.join(str(reason).split())[:120]})"


def read_entry(path: Path, run: Run, own: Mapping[str, Any] | None, measure: str) -> Entry:
    """One file of eval/; `own` is the run's config. Raises one of FOREIGN where it is no result."""
    result = _read_json(path)
    _check(result, FIELDS | (SEMI if result["protocol"] == "semi" else {}))
    config, trained = result["config"], result["encoder"] == "trained"
    _check(config, {"data": dict, "streams": list})
    _check(config["data"], DATA)
    known = {"protocol": experiments.PROTOCOLS, "encoder": table.ROWS, "stream": STREAM_ORDER}
    for name, values in known.items():
        if result[name] not in values:
            raise ValueError(f"{name} is {result[name]!r}")
    value = result[measure]
    if not (isinstance(value, NUMBER) and 0 <= value <= 1):
        raise ValueError(f"{measure} is {value!r}")
    if result["split"] != config["data"]["split"]:
        raise ValueError(f"split is {result['split']!r}, its config has another")
    if not all(isinstance(name, str) for name in config["streams"]):
        raise ValueError(f"streams are {config['streams']!r}")
    table.column_name(result), table.row_name(result)  # raise where something for them is missing
    method = experiments.find_method(experiments.flatten(config)) if trained else ""
    entry = Entry(
        path,
        run,
        result,
        value,
        own["seed"] if trained and own else result["seed"],
        method,
        own["data"] if trained and own else config["data"],
        experiments.experiment_settings(result, method),
        experiments.evaluation_settings(result),
    )
    hash((tuple(entry.settings.values()), tuple(entry.evaluated.values())))  # only plain values
    return entry
