"""Checkpoints of a run: atomic, written in the background, bitwise, and checked when read.

A workdir holds `config.json` (the resolved config) and `checkpoints/STEP/`. A checkpoint is the
state as a flat table `path -> array`, so that a mismatch can be named, beside `info`: a checksum of
each array and what the run was (layout, steps an epoch). Orbax's CheckpointManager does the files.
"""

import functools
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import absl.logging
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from halp_jax.errors import UserError
from halp_jax.skeletons.layout_file import restore_layout
from halp_jax.training.tree import Template, checksum, flatten, make_template

CONFIG, CHECKPOINTS, DAMAGED = "config.json", "checkpoints", "damaged"
ENCODER_FIELDS = ("params", "key_params", "batch_stats", "key_batch_stats")
log = logging.getLogger("halp_jax")


class _Damaged(Exception):
    """A checkpoint that cannot be read; the message says why."""


def save_config(workdir: str | os.PathLike[str], config: ml_collections.ConfigDict) -> None:
    """Writes `config.json`: all or nothing, one field a line."""
    path = Path(workdir) / CONFIG
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(config.to_json(indent=2) + "\n")
    temporary.replace(path)


def load_config(workdir: str | os.PathLike[str]) -> ml_collections.ConfigDict:
    """The config that `save_config` wrote."""
    path = Path(workdir) / CONFIG
    try:
        return parse_config(path.read_text())
    except OSError:
        raise UserError(f"no {CONFIG} in {workdir}: is it the workdir of a training run?") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy") from None


def parse_config(text: str) -> ml_collections.ConfigDict:
    """A config from its JSON, tuples again tuples. Raises ValueError where it is none."""
    return ml_collections.ConfigDict(_with_tuples(json.loads(text)))


def has_checkpoint(workdir: str | os.PathLike[str]) -> bool:
    folder = Path(workdir).expanduser() / CHECKPOINTS
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def open_manager(
    workdir: str | os.PathLike[str],
    config: ml_collections.ConfigDict,
    steps_per_epoch: int = 1,
) -> ocp.CheckpointManager:
    """The writer: keeps the newest `checkpoint.keep` and every multiple of `keep_every_epochs`."""
    keep = [policies.LatestN(config.checkpoint.keep)]
    if config.checkpoint.keep_every_epochs:
        every = config.checkpoint.keep_every_epochs * steps_per_epoch
        keep.append(policies.EveryNSteps(every))
    options = ocp.CheckpointManagerOptions(
        save_decision_policy=policies.FixedIntervalPolicy(1),  # the loop decides, not orbax
        preservation_policy=policies.AnyPreservationPolicy(keep),
        cleanup_tmp_directories=True,  # what a killed run left half written
        enable_async_checkpointing=True,
    )
    return _manager(workdir, options)


def save(
    manager: ocp.CheckpointManager, step: int, state: Any, info: dict[str, Any] | None = None
) -> None:
    """Starts writing the state as checkpoint `step` and returns; a step already there is kept.

    The arrays are copied first: the next training step may reuse their memory.
    """
    if step in manager.all_steps():
        return
    table = {name: np.array(leaf) for name, leaf in flatten(state).items() if leaf.size}
    info = {**(info or {}), "checksums": {name: checksum(leaf) for name, leaf in table.items()}}
    manager.save(
        step,
        args=ocp.args.Composite(state=ocp.args.PyTreeSave(table), info=ocp.args.JsonSave(info)),
    )


def restore_latest(
    manager: ocp.CheckpointManager, template: Template
) -> tuple[Any, int, dict[str, Any]] | None:
    """The newest readable checkpoint as (state, step, info), or None without any.

    A damaged one is named in a warning, moved to `damaged/` of the workdir, and the one before it
    taken.

    Args:
        template: of `make_template`.

    Raises:
        UserError: the checkpoint is of another architecture, or all are damaged.
    """
    steps = sorted(manager.all_steps(), reverse=True)
    for step in steps:
        try:
            state, info = _read(manager, step, template)
        except _Damaged as damage:
            _set_aside(manager, step, damage)
            continue
        return state, step, info
    if steps:
        raise UserError(
            f"all checkpoints of {manager.directory} are damaged: "
            f"start anew in another --workdir, or from another run with --config.init_from"
        )
    return None


def restore_state(workdir: str | os.PathLike[str], step: int | None = None) -> tuple[Any, int]:
    """The state of a run, from its own config alone: (state, step).

    Args:
        step: which checkpoint; the newest readable one if None. Nothing in the workdir is changed.
    """
    from halp_jax.methods import moco

    config = load_config(workdir)
    with _open_reader(workdir) as manager:
        for chosen in _choose(manager, workdir, step):
            try:
                layout = restore_layout(_read_info(manager, chosen)["layout"])
                template = make_template(functools.partial(moco.create_state, config, layout))
                return _read(manager, chosen, template)[0], chosen
            except _Damaged as damage:
                log.warning("checkpoint %s/%s is damaged (%s)", manager.directory, chosen, damage)
    raise UserError(f"no readable checkpoint in {workdir}: train again, or use a copy of it")


def load_info(workdir: str | os.PathLike[str], step: int | None = None) -> dict[str, Any]:
    """What was saved beside a state, the newest if None: layout, steps an epoch, figures."""
    with _open_reader(workdir) as manager:
        chosen = next(iter(_choose(manager, workdir, step)))
        try:
            return _read_info(manager, chosen)
        except _Damaged as damage:
            raise UserError(f"{manager.directory}/{chosen} is damaged ({damage})") from None


def warm_start(
    state: Any, init_from: str | os.PathLike[str], what: str = "all"
) -> tuple[Any, dict[str, Any]]:
    """The state with weights of another run put in: (state, that checkpoint's info).

    Args:
        init_from: a workdir, for its newest checkpoint, or one of them: `workdir/checkpoints/STEP`.
        what: "all" takes the whole state, with the step; "encoder" only the encoders' weights and
            batch statistics.
    """
    path, step = Path(init_from).expanduser(), None
    if path.parent.name == CHECKPOINTS and path.name.isdigit():
        path, step = path.parent.parent, int(path.name)
    fields = None if what == "all" else ENCODER_FIELDS
    template = Template(jax.tree.structure(state), flatten(state))
    with _open_reader(path) as manager:
        for chosen in _choose(manager, path, step):
            try:
                return _read(manager, chosen, template, fields)
            except _Damaged as damage:
                log.warning("checkpoint %s/%s is damaged (%s)", manager.directory, chosen, damage)
    raise UserError(f"no readable checkpoint in {path}: set init_from to another run")


def _manager(
    workdir: str | os.PathLike[str], options: ocp.CheckpointManagerOptions
) -> ocp.CheckpointManager:
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    for kind in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
        registry.add("state", kind, ocp.PyTreeCheckpointHandler())
    for kind in (ocp.args.JsonSave, ocp.args.JsonRestore):
        registry.add("info", kind, ocp.JsonCheckpointHandler())
    directory = Path(workdir).expanduser().resolve() / CHECKPOINTS
    return ocp.CheckpointManager(directory, options=options, handler_registry=registry)


def _open_reader(workdir: str | os.PathLike[str]) -> ocp.CheckpointManager:
    if not (Path(workdir).expanduser() / CHECKPOINTS).is_dir():
        raise UserError(f"no checkpoint in {workdir}: is it the workdir of a training run?")
    # Orbax warns that a read-only manager is read-only; that is what is asked for here.
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        return _manager(workdir, ocp.CheckpointManagerOptions(read_only=True, create=False))
    finally:
        absl.logging.set_verbosity(verbosity)


def _choose(manager: ocp.CheckpointManager, workdir: Any, step: int | None) -> Iterable[int]:
    steps = sorted(manager.all_steps(), reverse=True)
    if not steps:
        raise UserError(f"no checkpoint in {workdir} yet: train for longer, or use another workdir")
    if step is None:
        return steps
    if step not in steps:
        known = ", ".join(map(str, steps))
        raise UserError(f"no checkpoint of step {step} in {workdir}: it has {known}")
    return [step]


def _read_info(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    try:
        wanted = ocp.args.Composite(info=ocp.args.JsonRestore())
        return manager.restore(step, args=wanted)["info"]
    except Exception as error:  # of many kinds: orbax, tensorstore, json
        raise _Damaged(_one_line(error)) from error


def _read(
    manager: ocp.CheckpointManager,
    step: int,
    template: Template,
    fields: Iterable[str] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Fills the template (only some of its fields, if given) from one checkpoint; checks it all.

    Leaves that are not read stay the template's own.
    """
    info = _read_info(manager, step)
    where = f"{manager.directory}/{step}"
    wanted = template.leaves
    chosen = {
        name: leaf
        for name, leaf in wanted.items()
        if leaf.size and (fields is None or name.split("/")[0] in fields)
    }
    stored = info.get("checksums", {})
    for name in sorted(chosen.keys() | {n for n in stored if fields is None}):
        if name not in stored:
            raise UserError(f"{where} has no {name}: it is of another architecture, use its config")
        if name not in chosen:
            raise UserError(
                f"{where} has {name}, which this config lacks: use the config it was made with"
            )
        _, dtype, shape = stored[name]
        leaf = chosen[name]
        if tuple(shape) != tuple(leaf.shape) or dtype != str(leaf.dtype):
            raise UserError(
                f"{where} has {name} of {dtype}{list(shape)}, this config needs "
                f"{leaf.dtype}{list(leaf.shape)}: use the config it was made with"
            )
    # Only the wanted arrays are read: the others of a partial restore stay on disk.
    items = {name: np.empty(leaf.shape, leaf.dtype) for name, leaf in chosen.items()}
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), items)
    request = ocp.args.PyTreeRestore(items, restore_args=how, partial_restore=True)
    try:
        table = manager.restore(step, args=ocp.args.Composite(state=request))["state"]
    except Exception as error:
        raise _Damaged(_one_line(error)) from error
    for name, leaf in table.items():
        if checksum(leaf) != list(stored[name]):
            raise _Damaged(f"the checksum of {name} is wrong")
    leaves = []
    for name, leaf in wanted.items():
        empty = isinstance(leaf, jax.ShapeDtypeStruct) and not leaf.size  # nothing was stored
        value = table.get(name, np.zeros(leaf.shape, leaf.dtype) if empty else leaf)
        leaves.append(jnp.array(value))
    return jax.tree.unflatten(template.structure, leaves), info


def _set_aside(manager: ocp.CheckpointManager, step: int, damage: _Damaged) -> None:
    """Moves a damaged checkpoint away, so that the run can write that step again."""
    source = Path(manager.directory) / str(step)
    target = source.parent.parent / DAMAGED / f"{step}"
    number = 0
    while target.exists():
        number += 1
        target = target.with_name(f"{step}.{number}")
    log.warning(
        "checkpoint %s is damaged (%s): moved to %s, going on from the one before it",
        source, damage, target,
    )  # fmt: skip
    if jax.process_index() == 0:
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
    manager.reload()


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
