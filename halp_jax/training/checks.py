"""What is refused before a run starts, in one line each: what is wrong, where, what to do."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import ml_collections
import numpy as np
from jaxtyping import Int

from halp_jax.core import hallucinate, kmeans
from halp_jax.encoders.bigru import RECURRENCES
from halp_jax.encoders.product import PRECISIONS
from halp_jax.errors import UserError
from halp_jax.skeletons.streams import STREAMS
from halp_jax.training.parallel import DRIVERS, check_batch_size

CHOICES = {
    "init_what": ("all", "encoder"),
    "encoder.direction": ("forward", "bidirectional"),
    "encoder.pooling": ("last", "mean"),
    "halp.solver": get_args(hallucinate.Solver),
    "halp.estimator": get_args(hallucinate.Estimator),
    "halp.draw": get_args(hallucinate.Draw),
    "halp.kmeans_mean": kmeans.CHOICES["mean"],
    "train.parallel": DRIVERS,
    "train.precision": PRECISIONS,
    "train.recurrence": RECURRENCES,
}
AT_LEAST_ONE = (
    "data.max_frames", "views.num_frames", "views.min_frames", "encoder.width",
    "encoder.num_layers", "encoder.dim", "moco.queue_size", "halp.num_positives",
    "halp.num_prototypes", "halp.update_every", "halp.queue_entries", "halp.kmeans_restarts",
    "halp.kmeans_max_iterations", "cmd.topk", "train.batch_size", "train.epochs", "train.log_every",
    "checkpoint.every_epochs", "checkpoint.keep", "knn.k", "knn.batch_size",
)  # fmt: skip
AT_LEAST_ZERO = (
    "seed", "views.shear", "views.num_corrupted_joints", "halp.mu", "halp.start_epoch",
    "halp.ramp_epochs", "halp.kmeans_tol", "cmd.nu", "optim.learning_rate", "optim.weight_decay",
    "optim.factor", "optim.warmup_epochs", "train.num_devices", "checkpoint.keep_every_epochs",
    "knn.every_epochs",
)  # fmt: skip
SHARES = ("views.shear_probability", "moco.momentum", "halp.lam", "optim.momentum", "knn.crop")
# A run cannot go on when one of these changes: other shapes of the state, or another order of data.
FIXED = (
    "seed", "streams", "data.split", "data.max_frames", "encoder", "moco.queue_size",
    "halp.num_prototypes", "train.batch_size",
)  # fmt: skip


def check_config(config: ml_collections.ConfigDict) -> None:
    """Refuses a training config that cannot work; says nothing of one that can."""
    for field, known in CHOICES.items():
        if _get(config, field) not in known:
            _refuse(config, field, f"use one of {', '.join(known)}")
    for field in AT_LEAST_ONE:
        if _get(config, field) < 1:
            _refuse(config, field, "it must be at least 1")
    for field in AT_LEAST_ZERO:
        if not _get(config, field) >= 0:
            _refuse(config, field, "it must not be negative")
    for field in SHARES:
        if not 0 <= _get(config, field) <= 1:
            _refuse(config, field, "it must lie in [0, 1]")
    if config.moco.temperature <= 0:
        _refuse(config, "moco.temperature", "it must be above 0")
    crop = tuple(config.views.crop)
    if len(crop) != 2 or not 0 < crop[0] <= crop[1] <= 1:
        _refuse(config, "views.crop", "give (low, high) with 0 < low <= high <= 1")
    milestones = list(config.optim.milestones)
    if milestones != sorted(set(milestones)) or any(epoch < 1 for epoch in milestones):
        _refuse(config, "optim.milestones", "give epochs in rising order, each once")
    streams = tuple(config.streams)
    if not streams or len(set(streams)) < len(streams) or not set(streams) <= set(STREAMS):
        _refuse(config, "streams", f"give one or more of {', '.join(STREAMS)}, each once")
    _check_halp(config.halp, config)
    _check_cmd(config.cmd, config)
    batch_size = config.train.batch_size
    if config.moco.queue_size % batch_size:
        _refuse(config, "moco.queue_size", f"make it a multiple of train.batch_size={batch_size}")
    check_batch_size(batch_size, config.train.num_devices)
    if not config.data.dir:
        raise UserError(
            "data.dir is not set: pass --config.data.dir=DIR, the folder of halp_jax.prepare --out"
        )


def _check_halp(halp: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> None:
    if halp.estimator == "expected" and halp.solver == "pairwise":
        _refuse(config, "halp.estimator", "it needs --config.halp.solver=geodesic or sphere")
    if halp.num_prototypes < 2:
        _refuse(config, "halp.num_prototypes", "it must be at least 2: one to leave, one to go to")
    if halp.num_prototypes > halp.queue_entries:
        _refuse(
            config, "halp.num_prototypes",
            f"it must not exceed halp.queue_entries={halp.queue_entries}, the keys they come from",
        )  # fmt: skip
    if halp.queue_entries > config.moco.queue_size:
        _refuse(
            config, "halp.queue_entries",
            f"it must not exceed moco.queue_size={config.moco.queue_size}",
        )  # fmt: skip


def _check_cmd(cmd: ml_collections.ConfigDict, config: ml_collections.ConfigDict) -> None:
    if not cmd.nu:
        return
    if len(config.streams) < 2:
        _refuse(
            config, "cmd.nu",
            "CMD needs two streams or more; set --config.streams=\"('joint','motion','bone')\"",
        )  # fmt: skip
    if cmd.topk > config.moco.queue_size:
        _refuse(
            config, "cmd.topk", f"it must not exceed moco.queue_size={config.moco.queue_size}"
        )  # fmt: skip
    for name in ("teacher_temperature", "student_temperature"):
        if cmd[name] <= 0:
            _refuse(config, f"cmd.{name}", "it must be above 0")


def check_dataset(config: ml_collections.ConfigDict, dataset: Any) -> None:
    """Refuses a data set that this config cannot train on."""
    count = len(dataset.indices(config.data.split, "train"))
    where = f"{config.data.dir}, split {config.data.split}"
    if count < config.train.batch_size:
        raise UserError(
            f"{where} has {count} training clips, fewer than train.batch_size="
            f"{config.train.batch_size}: lower it with --config.train.batch_size"
        )
    joints = dataset.layout.num_joints
    if config.views.num_corrupted_joints > joints:
        _refuse(config, "views.num_corrupted_joints", f"{dataset.layout.name} has {joints} joints")
    if config.knn.every_epochs and not lacks_labels(dataset, config.data.split):
        if not len(dataset.indices(config.data.split, "test")):
            raise UserError(f"{where} has no test clips: switch --config.knn.every_epochs=0")
        if config.knn.k > (labelled := len(dataset.labelled(config.data.split, "train"))):
            _refuse(config, "knn.k", f"{where} has only {labelled} training clips with a label")


def lacks_labels(dataset: Any, benchmark: str) -> bool:
    """Whether the clips to train on, or those to test on, have no label among them."""
    parts = ("train", "test")
    found = ((dataset.indices(benchmark, p), dataset.labelled(benchmark, p)) for p in parts)
    return any(len(clips) and not len(labelled) for clips, labelled in found)


def fingerprint(
    dataset: Any, indices: Int[np.ndarray, "clips"], normalize: str | None = None
) -> str:
    """Tells whether a run that goes on has the clips that it had: their names, lengths and order.

    `normalize`: as if the clips were normalised by this. The digest of a run of before stays valid:
    the layout shows the one spine that it had then.
    """
    names = [dataset.names[i] for i in indices]
    layout = dataset.layout
    told = (
        dataclasses.replace(layout, spine=layout.view_spine or layout.spine),
        normalize or dataset.metadata.get("normalize"),
        names,
        dataset.lengths[indices].tolist(),
    )
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


def check_same_run(
    old: ml_collections.ConfigDict, new: ml_collections.ConfigDict, workdir: str | os.PathLike[str]
) -> list[str]:
    """The fields in which a run that goes on differs from what it was, as "field: old -> new".

    Raises:
        UserError: one of them would change the shapes of the state or the order of the data.
    """
    before, after = _fields(old), _fields(new)
    changes, refused = [], []
    for field in sorted(before.keys() | after.keys()):
        was, now = before.get(field), after.get(field)
        if was == now:
            continue
        if any(field == fixed or field.startswith(fixed + ".") for fixed in FIXED):
            refused.append((field, was, now))
        changes.append(f"{field}: {was} -> {now}")
    if refused:
        fields, values = (", ".join(f"{f}={r[i]}" for f, *r in refused) for i in (0, 1))
        options = " ".join(f"--config.{field}={was}" for field, was, _ in refused)
        raise UserError(
            f"{workdir} holds a run with {fields}, this config has {values}: use another "
            f"--workdir, or {options} to go on"
        )
    return changes


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


def _get(config: ml_collections.ConfigDict, field: str) -> Any:
    for part in field.split("."):
        config = config[part]
    return config


def _fields(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """{"section.field": value}, values as JSON holds them."""
    flat: dict[str, Any] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                visit(f"{prefix}.{key}" if prefix else key, item)
        else:
            flat[prefix] = tuple(value) if isinstance(value, list) else value

    visit("", json.loads(config.to_json()))
    return flat


def _refuse(config: ml_collections.ConfigDict, field: str, advice: str) -> None:
    raise UserError(f"config.{field}={_get(config, field)!r}: {advice}")
