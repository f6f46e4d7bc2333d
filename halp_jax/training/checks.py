"""What is refused before a run starts, in one line each: what is wrong, where, what to do."""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Int
from ml_collections import ConfigDict

from halp_jax import methods
from halp_jax.errors import UserError
from halp_jax.methods import check
from halp_jax.methods.base import Spec
from halp_jax.training.parallel import DRIVERS, check_batch_size

CHOICES = {"init_what": ("all", "encoder"), "train.parallel": DRIVERS}
# A run cannot resume when one of these changes: other shapes of the state, or another order of data.
# What a method keeps fixed stands in its FIXED.
FIXED = (
    "method", "seed", "streams", "data.split", "data.max_frames", "encoder", "train.batch_size",
)  # fmt: skip


def check_config(config: ConfigDict) -> None:
    """Refuses a training config that cannot work; says nothing of one that can."""
    check.choices(config, CHOICES)
    check.at_least(
        config, 1, "train.batch_size", "train.epochs", "train.log_every", "checkpoint.every_epochs",
        "checkpoint.keep", "knn.batch_size",
    )  # fmt: skip
    check.at_least(
        config, 0, "train.num_devices", "train.epoch_steps", "checkpoint.keep_every_epochs",
        "checkpoint.every_minutes", "knn.every_epochs",
    )  # fmt: skip
    check.seed(config)
    method = methods.find_method(config)
    method.check_config(config)
    if not method.KEEPS_REST:
        check_batch_size(config.train.batch_size, config.train.num_devices)
    if not config.data.dir:
        raise UserError(
            "data.dir is not set: pass --config.data.dir=DIR, the folder of halp_jax.prepare --out"
        )


def check_unit(config: ConfigDict, dataset: Any) -> None:
    """Refuses graphs for a method of clips, and clips for one of graphs."""
    unit = methods.find_method(config).UNIT
    if dataset.unit != unit:
        why = f"it learns from {unit}, {config.data.dir} holds {dataset.unit}"
        check.refuse(config, "method", why)


def find_clips(config: ConfigDict, dataset: Any) -> Int[np.ndarray, " clips"]:
    """The clips to learn from; with a label, of a method that needs one."""
    if not methods.find_method(config).NEEDS_LABELS:
        return dataset.indices(config.data.split, "train")
    found = dataset.labelled(config.data.split, "train")
    if not len(found):
        raise UserError(
            f"{config.data.dir}, split {config.data.split} has no training clips with a label, which "
            f"config.method={config.method!r} learns from"
        )
    return found


def count_steps(config: ConfigDict, clips: int) -> tuple[int, int]:
    """Steps of a pass over so many clips, and of what all settings call an epoch."""
    rest = config.train.batch_size - 1 if methods.find_method(config).KEEPS_REST else 0
    steps = (clips + rest) // config.train.batch_size
    return steps, config.train.epoch_steps or steps


def check_dataset(config: ConfigDict, dataset: Any, indices: Int[np.ndarray, " clips"]) -> None:
    """Refuses a data set, or these clips of it, that this config cannot train on."""
    method = methods.find_method(config)
    where = f"{config.data.dir}, split {config.data.split}"
    check_unit(config, dataset)
    steps, steps_per_epoch = count_steps(config, len(indices))
    if not steps:
        raise UserError(
            f"{where} has {len(indices)} training {dataset.unit}, fewer than train.batch_size="
            f"{config.train.batch_size}: lower it with --config.train.batch_size"
        )
    method.check_config(config, Spec(dataset.layout, steps_per_epoch, dataset.num_classes))
    if config.knn.every_epochs and not lacks_labels(dataset, config.data.split):
        if not len(dataset.indices(config.data.split, "test")):
            raise UserError(f"{where} has no test clips for kNN: give --config.knn.every_epochs=0")


def lacks_labels(dataset: Any, benchmark: str) -> bool:
    """Whether the clips to train on, or those to test on, have no label among them."""
    parts = ("train", "test")
    found = ((dataset.indices(benchmark, p), dataset.labelled(benchmark, p)) for p in parts)
    return any(len(clips) and not len(labelled) for clips, labelled in found)


def fingerprint(
    dataset: Any, indices: Int[np.ndarray, " clips"], normalize: str | None = None
) -> str:
    """Tells whether a run that resumes has the clips that it had: their names, lengths and order.

    `normalize`: as if the clips were normalised by this.
    """
    names = [dataset.names[i] for i in indices]
    told = (*dataset.identity(normalize), names, dataset.lengths[indices].tolist())
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def check_epoch(saved: dict[str, Any], info: dict[str, Any], where: Any, advice: str) -> None:
    """Steps mean the same data only where an epoch has as many clips and steps."""
    for name in ("clips", "steps_per_epoch"):
        if saved.get(name) != info[name]:
            raise UserError(
                f"{where} was trained with {name}={saved.get(name)}, "
                f"this data set has {info[name]}: {advice}"
            )
    if saved.get("data", info["data"]) != info["data"]:
        raise UserError(
            f"{where} was trained on other clips than those of config.data.dir (other names, lengths, "
            f"order or normalisation): give the data set of that run, or {advice}"
        )


def check_order(config: ConfigDict, saved: dict[str, Any], dataset: Any, where: Any) -> None:
    """Refuses to finish what began when clips in memory came in an order of their own."""
    if dataset.in_memory and "order" not in saved and not methods.find_method(config).KEEPS_REST:
        raise UserError(
            f"{where} is from before packed clips came in the order of a folder's: start anew in another "
            "--workdir, or from its weights with --config.init_what=encoder"
        )


def find_changes(old: ConfigDict, new: ConfigDict) -> list[tuple[str, Any, Any]]:
    """(field, what it was, what it is) of the fields that differ."""
    before, after = _fields(old), _fields(new)
    names = sorted(before.keys() | after.keys())
    changes = [(name, before.get(name), after.get(name)) for name in names]
    return [(name, was, now) for name, was, now in changes if was != now]


def check_same_run(old: ConfigDict, new: ConfigDict, workdir: str | os.PathLike[str]) -> list[str]:
    """The fields in which a run that resumes differs from what it was, as "field: old -> new".

    Raises:
        UserError: one of them would change the shapes of the state or the order of the data.
    """
    changes = find_changes(old, new)
    fixed = (*FIXED, *methods.find_method(new).FIXED)
    starts = tuple(f"{name}." for name in fixed)
    refused = [each for each in changes if f"{each[0]}.".startswith(starts)]
    if refused:
        held = ", ".join(f"{name}={was}" for name, was, _ in refused)
        wanted = ", ".join(f"{name}={now}" for name, _, now in refused)
        options = " ".join(f"--config.{name}={was}" for name, was, _ in refused)
        raise UserError(
            f"{workdir} holds a run with {held}, this config has {wanted}: use another "
            f"--workdir, or {options} to resume"
        )
    return [f"{name}: {was} -> {now}" for name, was, now in changes]


# What a finished run may have otherwise when its command is typed again.
FREE = (
    "knn.", "linear.", "finetune.", "semi.", "svm.", "checkpoint.", "cluster.", "data.dir",
    "train.log_every", "train.num_devices", "train.parallel", "train.tensorboard", "train.wandb",
)  # fmt: skip


def check_finished(changes: Sequence[str], workdir: str | os.PathLike[str]) -> None:
    """Refuses to give weights that are trained to their end another config than theirs.

    Args:
        changes: of `check_same_run`. A field that an older config lacks is none.
    """
    real = [each for each in changes if not each.startswith(FREE) and ": None -> " not in each]
    if real:
        raise UserError(
            f"{workdir} holds a finished run with another {real[0]}: use another --workdir, or leave "
            "the change out"
        )


def _fields(config: ConfigDict) -> dict[str, Any]:
    """{"section.field": value}, values as JSON holds them, lists as tuples."""
    flat = flatten_dict(json.loads(config.to_json()), sep=".")
    return {name: tuple(v) if isinstance(v, list) else v for name, v in flat.items()}


@contextlib.contextmanager
def lock_workdir(workdir: str | os.PathLike[str]) -> Iterator[None]:
    """Holds the workdir for this process; a second run in it is refused. Ends with the process."""
    path = Path(workdir) / ".lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")
    except OSError as error:
        raise UserError(
            f"cannot write to {workdir} ({error.strerror}): choose another --workdir"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(
                f"another run (process {owner}) is at work in {workdir}: "
                f"wait for it, stop it, or use another --workdir"
            ) from None
        except OSError:  # a file system without locks, as some network ones: go without
            pass
        with contextlib.suppress(OSError):  # a full disk: it is for the message above alone
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        yield
