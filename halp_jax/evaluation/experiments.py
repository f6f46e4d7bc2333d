"""Which runs are one experiment, and the names that tell experiments apart: all from their configs.

Runs are one experiment when their configs differ in nothing but the seed, in where things lie (the
folders of data and of `init_from`, numbers at the ends of its parts left out: baseline_0 and
baseline_1 are one), in bookkeeping, and in the evaluations' sections, which `evaluation_settings`
has. HaLP's and CMD's settings count where the method is on. Encoders without training are told
apart by what they are made of alone: it does not matter in which run's folder they were evaluated.
"""

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from halp_jax.evaluation.streams import COMBINED

Settings = dict[str, Any]  # "encoder.width" -> 128

BASELINE, HALP, CMD, HALP_CMD = METHODS = ("baseline", "HaLP", "CMD", "HaLP+CMD")
PROTOCOLS = ("knn", "linear", "finetune", "semi", "transfer")
NEITHER = {
    "seed", "data.dir", "data.split", "train.log_every", "train.num_devices", "train.parallel", "train.recurrence",
    "train.tensorboard", "train.wandb",
}  # fmt: skip
SECTIONS_OUT = {"checkpoint", "cluster", "knn", "linear", "finetune", "semi"}
# Of the evaluations' sections, what changes no figure.
NO_MATTER = {"eval_every", "every_epochs", "save_minutes", "keep_weights"}
UNTRAINED = {"raw": ["data.max_frames", "views.num_frames", "views.min_frames"]}
UNTRAINED["random"] = (
    UNTRAINED["raw"]
    + [f"encoder.{field}" for field in ("name", "width", "num_layers", "direction", "pooling")]
    + [f"encoder.stgcn.{field}" for field in ("width", "last_width", "graph")]
)
OWN_TO = {"bigru": ("width", "num_layers", "direction", "pooling"), "stgcn": ("stgcn",)}
# The streams of the paper's runs, which their method's name says.
USUAL_STREAMS = dict.fromkeys((BASELINE, HALP), ("joint",))
USUAL_STREAMS |= dict.fromkeys((CMD, HALP_CMD), ("joint", "motion", "bone"))
# What was so before there was a field for it.
BEFORE = {
    "method": "moco", "train.precision": "float32", "encoder.name": "bigru",
    "encoder.pooling": "last", "linear.start_std": 0.01, "linear.keep_rest": True,
}  # fmt: skip
# Of fields that differ together the first of these stands in the names.
ORDER = ("encoder", "streams", "halp", "cmd", "train", "moco", "optim", "init_from", "views")


def flatten(config: Mapping[str, Any], prefix: str = "") -> Settings:
    """{"encoder": {"width": 128}} -> {"encoder.width": 128}, lists as tuples."""
    flat = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = _hashable(value)
    return flat


def _hashable(value: Any) -> Hashable:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def find_method(settings: Settings) -> str:
    """One of METHODS, or another method's name, with "+HaLP" where it has HaLP.

    HaLP that would start after the last epoch is none.
    """
    halp = settings.get("halp.mu", 0) > 0
    halp = halp and settings.get("halp.start_epoch", 0) < settings["train.epochs"]
    if (name := settings.get("method", "moco")) != "moco":
        return f"{name}+{HALP}" if halp else name
    cmd = settings.get("cmd.nu", 0) > 0 and len(settings["streams"]) > 1
    return {
        (False, False): BASELINE, (True, False): HALP,
        (False, True): CMD, (True, True): HALP_CMD,
    }[halp, cmd]  # fmt: skip


def experiment_settings(result: Mapping[str, Any], method: str) -> Settings:
    """What two results must have alike to be of one experiment; `num_test` guards the data set."""
    flat = BEFORE | flatten(result["config"])
    others = [
        name for encoder, own in OWN_TO.items() if encoder != flat["encoder.name"] for name in own
    ]
    flat = {
        f: v for f, v in flat.items() if not f.startswith(tuple(f"encoder.{n}" for n in others))
    }
    data = {"num_classes": len(result["per_class"]), "num_test": result["num_test"]}
    if result["encoder"] != "trained":
        kept = UNTRAINED[result["encoder"]] + ["streams"] * (result["stream"] in COMBINED)
        return {field: flat[field] for field in kept if field in flat} | data
    out = set(SECTIONS_OUT)
    out |= set() if HALP in method else {"halp"}
    out |= set() if method in (CMD, HALP_CMD) else {"cmd"}
    kept = {f: v for f, v in flat.items() if f not in NEITHER and f.split(".")[0] not in out}
    source, what = without_seed(kept.get("init_from") or ""), kept.pop("init_what", "all")
    return kept | data | {"init_from": source + (f":{what}" if source and what != "all" else "")}


def without_seed(path: str) -> str:
    """runs/pku2/halp_1/checkpoints/400 -> runs/pku2/halp@400: the run's number left out."""
    parts = list(Path(path).parts)
    step = ""
    if len(parts) > 2 and parts[-2] == "checkpoints":
        step = f"@{parts.pop()}"
        parts.pop()
    parts = [re.sub(r"(^|[_.\-])(s|seed)?\d+$", "", part) for part in parts]
    return "/".join(part for part in parts if part) + step


def evaluation_settings(result: Mapping[str, Any]) -> Settings:
    """What two results must have alike besides, to stand in one cell: how they were evaluated."""
    protocol, config = result["protocol"], result["config"]
    section = {"semi": "finetune", "transfer": "finetune"}.get(protocol, protocol)
    before = {field: value for field, value in BEFORE.items() if field.startswith(f"{section}.")}
    flat = before | flatten({section: config[section]})
    ignored = NO_MATTER | ({"batch_size"} if protocol == "knn" else set())
    flat = {f: v for f, v in flat.items() if f.split(".")[1] not in ignored}
    if result["stream"] != "ensemble":
        flat = {f: v for f, v in flat.items() if not f.startswith("linear.weights.")}
    if protocol == "semi":
        flat |= {f"semi.{field}": config["semi"].get(field) for field in ("draw", "runs")}
    return flat | {"step": result["step"] if result["encoder"] == "trained" else None}


def data_name(data: Mapping[str, Any]) -> str:
    """data/ntu60 or ntu60.npz of split xsub -> "ntu60 xsub"."""
    name = Path(data["dir"] or "?")
    return f"{name.stem if name.suffix == '.npz' else name.name} {data['split']}"


def find_differences(
    settings: Sequence[Settings], kinds: Sequence[Hashable]
) -> tuple[list[Settings], list[str]]:
    """The fewest fields, in ORDER, that tell experiments apart, whatever their methods.

    Args:
        settings: of each experiment.
        kinds: those of one kind have the same fields; a field that one of them lacks (its config is
            older) is "unset" there.

    Returns:
        for each experiment those fields, and the names of the fields that differ besides.
    """
    shown: list[Settings] = [{} for _ in settings]
    besides = []
    for field in sorted({field for each in settings for field in each}, key=_order):
        having = {kind for each, kind in zip(settings, kinds, strict=True) if field in each}
        values = [
            each.get(field, "unset") if kind in having else None
            for each, kind in zip(settings, kinds, strict=True)
        ]
        classes: dict[tuple, set] = {}  # of what is told apart so far
        for told, value in zip(shown, values, strict=True):
            classes.setdefault(tuple(told.items()), set()).add(value)
        if any(len(found - {None}) > 1 for found in classes.values()):
            if field == "init_from":
                values = _shorten(values)
            shown = [
                told | ({} if value is None else {field: value})
                for told, value in zip(shown, values, strict=True)
            ]
        elif len(set(values) - {None}) > 1:
            besides.append(field)
    return shown, besides


def _order(field: str) -> tuple[int, str]:
    section = field.split(".")[0]
    return (ORDER.index(section) if section in ORDER else len(ORDER), field)


def _shorten(paths: Iterable[str | None]) -> list[str | None]:
    """As few of the last parts of each path as tell them apart."""
    paths = list(paths)
    tails = paths
    for count in range(1, 20):
        tails = [p and "/".join(p.split("/")[-count:]) for p in paths]
        if len(set(tails)) == len(set(paths)):
            break
    return tails


def format_setting(field: str, value: Any) -> str:
    """encoder.width=128, streams=joint+bone, optim.milestones=40,50."""
    if isinstance(value, tuple):
        value = ("+" if field == "streams" else ",").join(f"{each}" for each in value)
    elif isinstance(value, float):
        value = f"{value:g}"
    return f"{field}={'none' if value in ('', None) else value}"
