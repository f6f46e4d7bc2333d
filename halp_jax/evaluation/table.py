"""Joins the evaluations of many runs: rows of a data frame, named by what tells experiments apart.

Runs are one experiment when their configs differ in nothing but the seed, in where things lie (the
folder of the data, the numbers in `init_from`), in bookkeeping, and in the evaluations' sections,
which must be alike within a cell. HaLP's and CMD's settings count where the term is on. Encoders
without training are told apart by what they are made of alone, in whichever run's folder they lie.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np
import pandas as pd

from halp_jax.errors import UserError
from halp_jax.evaluation import paper, result_files
from halp_jax.evaluation.streams import COMBINED
from halp_jax.methods import prepare
from halp_jax.methods.upgrade import upgrade_config

PROTOCOLS = ("knn", "linear", "finetune", "semi", "transfer", "svm")
NO_EXPERIMENT = (
    "seed", "method", "streams", "data.dir", "data.split", "train.log_every", "train.num_devices",
    "train.parallel", "train.tensorboard", "train.wandb", "checkpoint.",
    "cluster.", "knn.", "linear.", "finetune.", "semi.", "svm.",
)  # fmt: skip
RAW = (*prepare.FRAMES, *(f"{n}." for n in prepare.SECTIONS))
# Settings of the one encoder that are nothing to a run with another.
OWN_TO = {
    "bigru": (
        "width", "num_layers", "direction", "pooling", "input_norm", "bodies", "padding",
    ),
    "stgcn": ("stgcn",), "agcn": ("agcn",), "lstm": ("lstm",), "transformer": ("transformer",),
}  # fmt: skip
UNTRAINED = {
    "raw": RAW,
    "random": (*RAW, *(f"encoder.{f}" for f in ("name", *sum(OWN_TO.values(), ())))),
}


def find_runs(folders: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """(runs with eval/*.json in or under the folders, runs or folders without any)."""
    found: dict[Path, Path] = {}
    empty: list[Path] = []
    for top in map(Path, folders):
        if not top.is_dir():
            raise UserError(f"{top} is no folder; give runs, or folders that hold runs")
        runs = [
            path
            for path in result_files.walk(top)
            if (path / "config.json").exists() or _results(path)
        ]
        found |= {path.resolve(): path for path in runs if _results(path)}
        empty += [path for path in runs or [top] if not _results(path)]
    return list(found.values()), list(dict.fromkeys(empty))


def _results(workdir: Path) -> list[Path]:
    return sorted((workdir / "eval").glob("*.json"))


def read_results(runs: Iterable[Path], measure: str) -> tuple[list[dict[str, Any]], list[str]]:
    """(a record of each evaluation of the runs, for each file left out a line with the reason)."""
    records, skipped = [], []
    for path in (path for run in runs for path in _results(run)):
        try:
            records.append(read_result(path, measure))
        except UserError as error:
            skipped.append(f"{path}: {error}")
        except (OSError, ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:120]
            skipped.append(f"{path}: damaged, or not of halp_jax.evaluate ({reason})")
        except LookupError as error:
            skipped.append(f"{path}: not of halp_jax.evaluate (no {error})")
    return records, skipped


def read_result(path: Path, measure: str) -> dict[str, Any]:
    """What a table needs of one file of eval/. Raises what reading another file may raise."""
    result = json.loads(path.read_text(encoding="utf-8"))
    if "protocol" in result and measure not in result:
        raise UserError(f"it has no {measure}")
    config = upgrade_config(ml_collections.ConfigDict(result["config"])).to_dict()
    encoder, own = result["encoder"], config
    if encoder == "trained" and (run := path.parents[1] / "config.json").exists():
        own = json.loads(run.read_text(encoding="utf-8"))  # what it was trained on, its own seed
    method = name_method(config) if encoder == "trained" else ""
    data = " to ".join(dict.fromkeys(data_name(each["data"]) for each in (own, config)))
    part = result.get("part", "test")
    stream = f", {result['stream']}" if result["stream"] not in ("joint", "graph") else ""
    draws = result.get("top1_sd") is not None and measure == "top1"
    order = {"knn": result["config"]["knn"]["k"]}.get(result["protocol"], result.get("fraction", 0))
    if not isinstance(order, int | float) or not isinstance(result["stream"], str):
        raise TypeError("k, the fraction or the stream is of another type")
    return {
        "path": path, "encoder": encoder,
        "workdir": str(path.parents[1]).encode(errors="backslashreplace").decode(),
        "method": method + name_streams(method, config["streams"]),
        "data": data if part == "test" else f"{data} {part}", "stream": result["stream"],
        "kind": result_files.row_name(result).split(", ")[0] + stream,
        "protocol": result_files.column_name(result), "order": (PROTOCOLS.index(result["protocol"]), order),
        "seed": int(own["seed"] if encoder == "trained" else result["seed"]),
        "value": float(result[measure]), "paper": paper.find_number(result, method, own["data"], measure),
        "draws": len(result["top1_runs"]) if draws else 0,
        "sd_draws": result["top1_sd"] if draws else None,
        "host": config["method"] if method else "",
        "settings": experiment_settings(config, result, method),
        "evaluated": evaluation_settings(config, result),
    }  # fmt: skip


def name_method(config: Mapping[str, Any]) -> str:
    """ "baseline" for MoCo alone, "HaLP+CMD", "simclr"; HaLP that would start after the end is none."""
    halp, cmd = config.get("halp", {}), config.get("cmd", {})
    has_halp = halp.get("mu", 0) > 0 and halp.get("start_epoch", 0) < config["train"]["epochs"]
    has_cmd = cmd.get("nu", 0) > 0 and len(config["streams"]) > 1
    host = [] if config["method"] == "moco" else [config["method"]]
    if host == ["aimclr"] and not config["aimclr"]["extreme_views"]:
        host = ["skeletonclr"]
    return "+".join(host + ["HaLP"] * has_halp + ["CMD"] * has_cmd) or "baseline"


def name_streams(method: str, streams: Sequence[str]) -> str:
    """ " of bone", and nothing for the usual: joint alone, or all three under CMD; graphs."""
    usual = ["joint", "motion", "bone"][: 3 if "CMD" in method else 1]
    return "" if not method or list(streams) in (usual, ["graph"]) else f" of {'+'.join(streams)}"


def data_name(data: Mapping[str, Any]) -> str:
    """data/ntu60 or ntu60.npz of split xsub -> "ntu60 xsub"."""
    name = Path(data["dir"] or "?")
    return f"{name.stem if name.suffix == '.npz' else name.name} {data['split']}"


def flatten(config: Mapping[str, Any]) -> dict[str, str]:
    """{"encoder": {"width": 128}} -> {"encoder.width": "128"}: values as names show them."""

    def show(value):
        if isinstance(value, list | tuple):
            return "+".join(map(str, value)) or "none"
        if isinstance(value, float):
            return f"{value:g}"
        if isinstance(value, bool | np.bool_):
            return str(value)
        return "none" if value == "" else str(value or 0)

    return {name: show(v) for name, v in pd.json_normalize(config).iloc[0].items()}


def experiment_settings(
    config: Mapping[str, Any], result: Mapping[str, Any], method: str
) -> dict[str, str]:
    """What two results must have alike to be of one experiment; `num_test` guards the data set."""
    flat = flatten(config)
    encoder = flat.get("encoder.name", "")
    others = [
        f"encoder.{x}" for name, own in OWN_TO.items() if name != encoder for x in own if encoder
    ]
    flat = {field: value for field, value in flat.items() if not field.startswith(tuple(others))}
    counts = {"num_classes": str(len(result["per_class"])), "num_test": str(result["num_test"])}
    if not method:
        kept = UNTRAINED[result["encoder"]] + ("streams",) * (result["stream"] in COMBINED)
        return {field: value for field, value in flat.items() if field.startswith(kept)} | counts
    out = NO_EXPERIMENT + ("halp.",) * ("HaLP" not in method) + ("cmd.",) * ("CMD" not in method)
    # runs/halp_1/checkpoints/400 -> runs/halp@400: the run's number left out.
    start, _, step = (config.get("init_from") or "").partition("/checkpoints/")
    start = re.sub(r"(^|[_.\-/])(s|seed)?\d+(?=/|$)", "", start)
    flat["init_from"] = (start + (f"@{step}" if step else "")) or "none"
    return {field: value for field, value in flat.items() if not field.startswith(out)} | counts


def evaluation_settings(config: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, str]:
    """What two results must have alike besides, to stand in one cell: how they were evaluated."""
    flat = flatten(result_files.protocol_settings(result["protocol"], config))
    if result["stream"] != "ensemble":
        flat = {field: value for field, value in flat.items() if ".weights." not in field}
    return flat | ({"step": str(result["step"])} if result["encoder"] == "trained" else {})


def tabulate(records: list[dict[str, Any]]) -> tuple[pd.DataFrame, list[str]]:
    """A line for each cell, in the order of the table, and notes on what the names do not say.

    Lines have row, method, data, encoder, stream, protocol, mean, sd, count, sd_over (seeds, or draws
    of the labels for a single seed), seeds, paper, workdirs. Raises UserError where a seed of an
    experiment is there twice.
    """
    frame = pd.DataFrame(records)
    settings, evaluated = (
        pd.DataFrame(frame.pop(name).tolist()).sort_index(axis="columns")
        for name in ("settings", "evaluated")
    )
    # A field that runs of the same method have, and an older one of them not; streams tell apart
    # untrained encoders where several are joined.
    for _, rows in frame.groupby(["encoder", "method"]):
        has = settings.loc[rows.index].notna().any()
        columns = has.index[has].difference(["streams"])
        settings.loc[rows.index, columns] = settings.loc[rows.index, columns].fillna("unset")
    start = (
        frame.method.where(frame.method == "", frame.method + ", ") + frame.data + ", " + frame.kind
    )
    # Methods differ in most settings by their nature, and so do encoders in those of their own: between
    # them the encoder's name alone is told.
    groups = [frame.data, frame.encoder, frame.host]
    differing = _differ(settings, groups)
    if "encoder.name" in settings:
        name = settings["encoder.name"].fillna("")
        for field in settings.filter(like="encoder."):
            within = groups[:2] if field == "encoder.name" else [*groups, name]
            differing[field] = settings[field].groupby(within).transform("nunique") > 1
    row = start + _describe(settings, differing)
    beside_paper = (frame.paper.notna() & (frame.host == paper.HOST)).groupby(row).transform("any")
    departing = settings.apply(lambda column: ~column.isin(paper.SETTINGS.get(column.name, column)))
    shown = differing | departing.mul(beside_paper, axis=0)
    unlike = _differ(evaluated, [row, frame.protocol])
    frame["row"] = start + _describe(settings, shown) + _describe(evaluated, unlike)

    untold = _differ(evaluated, [frame.data, frame.protocol]) & ~unlike
    untold = [field for field in evaluated if field != "step" and untold[field].any()]
    notes = [f"not all rows were evaluated alike: {', '.join(untold)}"] if untold else []
    frame["place"] = [_place(line) for line in frame.itertuples()]
    frame = frame.sort_values(["place", "order", "seed"], kind="stable", ignore_index=True)
    return _average(frame), notes


def _differ(settings: pd.DataFrame, groups: list[pd.Series]) -> pd.DataFrame:
    """Where a field has several values within a group."""
    return settings.groupby(groups).transform("nunique") > 1


def _describe(settings: pd.DataFrame, shown: pd.DataFrame) -> pd.Series:
    """ ", encoder.width=128, ..." for each line: the fields that are to be shown."""
    lines = [
        "".join(f", {field}={value}" for field, value in line.dropna().items())
        for _, line in settings.where(shown).iterrows()
    ]
    return pd.Series(lines, settings.index, dtype=object)


def _place(line: Any) -> tuple:
    """Rows in order: data, encoder, method as in the paper, then numbers in names by their size."""
    methods = {name: f"{i}" for i, name in enumerate(paper.OWN)}
    parts = re.split(r"(\d+(?:\.\d+)?)", line.row)
    parts[1::2] = map(float, parts[1::2])
    place = methods.get(line.method.split(" of ")[0], line.method)
    encoder = list(result_files.ENCODERS).index(line.encoder)
    return line.data, encoder, place, line.method, tuple(parts)


def _average(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and deviation over the seeds of each cell."""
    cell = ["row", "protocol"]
    # Encoders without training may lie in many runs' folders: any where all agree.
    copy = frame.duplicated([*cell, "seed", "value"]) & (frame.method == "")
    frame = frame[~copy]
    if (twice := frame.duplicated([*cell, "seed"], keep=False)).any():
        first, second, *_ = frame[twice].itertuples()
        raise UserError(
            f"{first.path} and {second.path} are both of seed {first.seed} of '{first.row}, "
            f"{first.protocol}'; leave one of these runs out"
        )
    cells = frame.groupby(cell, sort=False).agg(
        **{name: (name, "first") for name in ("method", "data", "encoder", "stream", "order", "paper")},
        mean=("value", "mean"), sd=("value", "std"), count=("value", "size"),
        draws=("draws", "first"), sd_draws=("sd_draws", "first"),
        seeds=("seed", lambda seeds: " ".join(map(str, seeds))), workdirs=("workdir", ";".join),
    )  # fmt: skip
    drawn = (cells["count"] == 1) & (cells.draws > 1)
    cells["sd"] = cells.sd.where(~drawn, cells.sd_draws)
    cells["sd_over"] = cells.sd.notna().map({True: "seeds", False: ""}).mask(drawn, "draws")
    cells["draws"] = cells.draws.where(drawn, 0)
    return cells.reset_index().drop(columns="sd_draws")
