"""From predictions to metrics, and the files of results that `evaluate` writes and others read.

Accuracies are shares in [0, 1] in files and functions; tables print them in per cent, as papers do.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError
from halp_jax.methods import prepare

HISTORY = "history.jsonl"  # every result of a run, in the order of the commands
# Sections of a config with the settings of a protocol, where they have not its name.
SECTIONS = {"semi": "finetune", "transfer": "finetune"}
# Settings that change no result; k has a part of the file's name for itself.
NO_EVALUATION = ("eval_every", "every_epochs", "save_minutes", "keep_weights", "k")
# Encoders of the results, the cheapest claim first: an encoder has to beat the ones above it.
ENCODERS = {"raw": "raw coordinates", "random": "random encoder", "trained": "pre-trained"}


def summarize(
    predictions: Int[np.ndarray, " clips"],
    labels: Int[np.ndarray, " clips"],
    num_classes: int,
    **more: float,
) -> dict[str, Any]:
    """top1, `more`, per_class (accuracy a class, None for one without clips) and confusion counts.

    confusion[i, j] counts the clips of class i that were taken for class j.
    """
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    top1 = float(np.trace(confusion) / confusion.sum())
    per_class = class_accuracies(confusion)
    return {"top1": top1, **more, "per_class": per_class, "confusion": confusion}


def class_accuracies(confusion: Int[np.ndarray, "classes classes"]) -> list[float | None]:
    """The share of each class that was right, None for one without clips."""
    totals, right = confusion.sum(axis=1), np.diag(confusion)
    return [float(r / n) if n else None for r, n in zip(right, totals, strict=True)]


def name_classes(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The metrics of `summarize`, ready for a file: accuracies by class name, plain numbers.

    Of classes with one name each is called by its number, too.
    """
    own = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names)]
    return {
        **metrics,
        "per_class": dict(zip(own, metrics["per_class"], strict=True)),
        "confusion": {"class_names": list(names), "counts": metrics["confusion"].tolist()},
    }


def result_path(
    workdir: str | os.PathLike[str], result: Mapping[str, Any], older: bool = False
) -> Path:
    """WORKDIR/eval/PROTOCOL.json, where a result belongs.

    Encoders without training, other streams than a run's first, and fractions of the labels have
    files of their own: knn_random.json, knn_motion.json, knn_raw_mean.json, semi_0.05.json; so has
    another part than test: knn_val.json. Another k, split or data set than the run's, and an `older`
    checkpoint than its newest, are named last: knn_k5.json, linear_xview_step300.json. Where a file of
    this name is of other settings of the protocol it stays, and these get a number: linear_1a2b3c.json.
    """
    ending = "" if result["encoder"] == "trained" else f"_{result['encoder']}"
    ending += f"_{result['stream']}" if _is_other_stream(result) else ""
    ending += f"_{part}" if (part := result.get("part", "test")) != "test" else ""
    if "fraction" in result:
        ending = f"_{result['fraction']:g}{ending}"
    ending += _name_departures(Path(workdir) / "config.json", result)
    ending += f"_step{result['step']}" if older else ""
    path = Path(workdir) / "eval" / f"{result['protocol']}{ending}.json"
    return path.with_name(f"{path.stem}{_name_others(path, result)}.json")


def _name_departures(config: Path, result: Mapping[str, Any]) -> str:
    """ "_k5_xview": in what a result departs from the run's own `config`, where there is one."""
    try:
        own, here = json.loads(config.read_text(encoding="utf-8")), result["config"]
        ks, data = own["knn"]["k"], own["data"]
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    named = ""
    if result["protocol"] == "knn" and here["knn"]["k"] != (ks[0] if isinstance(ks, list) else ks):
        named += f"_k{here['knn']['k']}"
    if result["protocol"] != "transfer":  # which is of another data set by its nature
        names = [Path(each or "").name for each in (here["data"]["dir"], data["dir"])]
        names = [name.removesuffix(".npz") for name in names]
        named += f"_{names[0]}" if names[0] != names[1] else ""
        named += f"_{here['data']['split']}" if here["data"]["split"] != data["split"] else ""
    return named


def protocol_settings(protocol: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What a result of a protocol depends on, of the evaluations' sections: {"linear.epochs": 100, ...}."""
    section = SECTIONS.get(protocol, protocol)
    out = (*NO_EVALUATION, "batch_size") if protocol == "knn" else NO_EVALUATION
    kept = {f"{section}.{f}": v for f, v in config.get(section, {}).items() if f not in out}
    if protocol == "semi":
        kept |= {f"semi.{field}": config.get("semi", {}).get(field) for field in ("draw", "runs")}
    if "svm" in config and protocol in ("knn", "linear"):  # of graphs, in its folds
        kept["svm.draws"] = config["svm"]["draws"]
    return kept


def _settings(result: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a result is of, besides those that its name tells."""
    protocol, config = result["protocol"], json.loads(json.dumps(result["config"]))
    kept = protocol_settings(protocol, config)
    kept |= {field: result.get(field) for field in ("seed", "joined")}
    for name in (*prepare.FRAMES, "isc.feature"):  # what an encoder sees
        section, field = name.split(".")
        kept[name] = (config.get(section) or {}).get(field)
    kept |= {section: config.get(section) for section in prepare.SECTIONS}
    if protocol == "transfer":
        kept |= {"data": Path(config["data"]["dir"]).stem, "split": config["data"]["split"]}
    return kept


def _name_others(path: Path, result: Mapping[str, Any]) -> str:
    """ "_1a2b3c" where the file of this name is of other settings of the protocol, which it keeps."""
    try:
        there = _settings(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    own = _settings(result)
    if all(there.get(field, value) == value for field, value in own.items()):
        return ""
    return "_" + hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:6]


def write_result(
    workdir: str | os.PathLike[str],
    result: Mapping[str, Any],
    older: bool = False,
    write_beside: Callable[[Path], Any] = lambda path: None,
) -> Path:
    """Writes the result to its file and as a line of eval/history.jsonl -> the file's path.

    `write_beside(path.npz)` writes what belongs to it. Where one of the three finds no room the older
    result stays with what is beside it.
    """
    path, advice = result_path(workdir, result, older), "make room, or choose another --workdir"
    history = path.with_name(HISTORY)
    with atomic_write(path, advice) as stream:
        stream.write((json.dumps(result, indent=1) + "\n").encode())
        stream.flush()
        size = history.stat().st_size if history.exists() else 0
        try:
            with open(history, "a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(history, size)
            raise UserError(f"cannot write {history} ({error.strerror}); {advice}") from error
        write_beside(path.with_suffix(".npz"))
    return path


def row_name(result: Mapping[str, Any]) -> str:
    """The encoder, and the stream where it is not the run's first."""
    name = ENCODERS[result["encoder"]]
    if (result["stream"], result["encoder"]) == ("graph", "raw"):
        name = "sums of node features"
    return f"{name}, {result['stream']}" if _is_other_stream(result) else name


def column_name(result: Mapping[str, Any]) -> str:
    """The protocol as a column of a table: "1-NN", "semi 5 %" or its own name."""
    if result["protocol"] == "knn":
        return f"{result['config']['knn']['k']}-NN"
    if "fraction" in result:
        return f"{result['protocol']} {100 * result['fraction']:g} %"
    return result["protocol"]


def _is_other_stream(result: Mapping[str, Any]) -> bool:
    return result["stream"] != result["config"]["streams"][0]


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
