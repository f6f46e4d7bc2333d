"""Checkpoints of a run: atomic, written in the background, bitwise, and checked when read.

A workdir holds `config.json` (the resolved config) and `checkpoints/STEP/`. A checkpoint is the
state as a flat table `path -> array`, so that a mismatch can be named, beside `info`: a checksum of
each array and what the run was (layout, steps an epoch). Orbax's CheckpointManager does the files
(`checkpoint_io.py`). Of many processes the first one writes, and reads what a run resumes from.
"""

import contextlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers as policies

from halp_jax import methods
from halp_jax.datasets import graphs
from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError
from halp_jax.methods.base import Spec
from halp_jax.methods.upgrade import upgrade_config
from halp_jax.training import checkpoint_io
from halp_jax.training.checkpoint_io import CHECKPOINTS, Damaged, PathLike, Template, flatten

CONFIG, DAMAGED = "config.json", "damaged"
LOOKS = 20  # at the checkpoints of a run that replaces them while they are read
log = logging.getLogger("halp_jax")


def save_config(workdir: PathLike, config: ConfigDict) -> None:
    """Writes `config.json`: all or nothing, one field a line."""
    advice = "make room there or choose another --workdir"
    with atomic_write(Path(workdir).expanduser() / CONFIG, advice) as file:
        file.write((config.to_json(indent=2) + "\n").encode())


def load_config(workdir: PathLike) -> ConfigDict:
    """The config that `save_config` wrote."""
    path = Path(workdir).expanduser() / CONFIG
    try:
        return parse_config(path.read_text())
    except OSError as error:
        reason = f"no {CONFIG} in {workdir} ({error.strerror})"
        raise UserError(f"{reason}: is it the workdir of a training run?") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore it from a copy") from None


def parse_config(text: str) -> ConfigDict:
    """A config from its JSON, tuples again tuples, as a run of today has it.

    Raises ValueError where it is none.
    """
    fields = json.loads(text)
    if not isinstance(fields, dict) or not {"data", "train"} <= fields.keys():
        raise ValueError("it holds no settings of a run")
    return upgrade_config(ConfigDict(_with_tuples(fields)))


def has_checkpoint(workdir: PathLike) -> bool:
    return bool(checkpoint_io.list_steps(Path(workdir).expanduser() / CHECKPOINTS))


@contextlib.contextmanager
def open_manager(
    workdir: PathLike, config: ConfigDict, steps_per_epoch: int = 1
) -> Iterator[ocp.CheckpointManager]:
    """The writer: keeps the newest `checkpoint.keep` and every multiple of `keep_every_epochs`.

    At its end it waits for what is still being written.

    Raises:
        UserError: that, or the folder, cannot be written.
    """
    keep = [policies.LatestN(config.checkpoint.keep)]
    if config.checkpoint.keep_every_epochs:
        every = config.checkpoint.keep_every_epochs * steps_per_epoch
        keep.append(policies.EveryNSteps(every))
    directory = Path(workdir).expanduser() / CHECKPOINTS
    try:
        directory.mkdir(parents=True, exist_ok=True)
        manager = checkpoint_io.make_manager(
            workdir,
            save_decision_policy=policies.FixedIntervalPolicy(1),  # the loop decides, not orbax
            preservation_policy=policies.AnyPreservationPolicy(keep),
            cleanup_tmp_directories=True,  # what a killed run left half written
            enable_async_checkpointing=True,
        )
    except OSError as error:
        raise checkpoint_io.cannot_save(directory, error) from error
    try:
        yield manager
        finish(manager)
    finally:
        with contextlib.suppress(Exception):  # it is known already, or something worse is
            manager.close()


def save(
    manager: ocp.CheckpointManager, step: int, state: Any, info: dict[str, Any] | None = None
) -> None:
    """Starts writing the state as checkpoint `step` and returns; a step already there is kept.

    The arrays are copied first: the next training step may reuse their memory.

    Raises:
        UserError: this one, or the one before, cannot be written.
    """
    if step in manager.all_steps():
        return
    finish(manager)
    table = {name: np.array(leaf) for name, leaf in flatten(state).items() if leaf.size}
    info = {
        **(info or {}),
        "checksums": {name: checkpoint_io.checksum(leaf) for name, leaf in table.items()},
    }
    content = ocp.args.Composite(state=ocp.args.PyTreeSave(table), info=ocp.args.JsonSave(info))
    try:
        manager.save(step, args=content)
    except Exception as error:  # of many kinds: orbax, tensorstore, the file system
        raise checkpoint_io.cannot_save(manager.directory, error) from error


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits for the checkpoint that is being written. Raises UserError where it failed."""
    try:
        manager.wait_until_finished()
    except Exception as error:
        raise checkpoint_io.cannot_save(manager.directory, error) from error


def check(manager: ocp.CheckpointManager) -> None:
    """Raises UserError where a checkpoint could not be written; does not wait for one that is."""
    if not manager.is_saving_in_progress():
        finish(manager)


def restore_latest(
    manager: ocp.CheckpointManager, template: Template
) -> tuple[Any, int, dict[str, Any]] | None:
    """The newest readable checkpoint as (state, step, info), or None without any.

    Those after it that cannot be read are named in a warning and moved to `damaged/` of the workdir.
    Where none can be read nothing is moved: then it may be this program that cannot read them.

    Args:
        template: of `make_template`.

    Raises:
        UserError: the checkpoint is of another architecture, or none can be read.
    """
    damaged: dict[int, Damaged] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            state, info = checkpoint_io.read(manager, step, template)
        except Damaged as damage:
            damaged[step] = damage
            continue
        for bad, damage in damaged.items():
            _set_aside(manager, bad, damage)
        return state, step, info
    if damaged:
        newest, damage = next(iter(damaged.items()))
        raise UserError(
            f"no checkpoint of {manager.directory} can be read (of step {newest}: {damage}); they stay "
            "where they are: start anew in another --workdir, or from another run with "
            "--config.init_from"
        )
    return None


def restore_state(workdir: PathLike, step: int | None = None) -> tuple[Any, int]:
    """The state of a run, from its own config alone: (state, step).

    Args:
        step: which checkpoint; the newest readable one if None. Nothing in the workdir is changed.
    """
    config = load_config(workdir)

    def read(manager, chosen):
        info = checkpoint_io.read_info(manager, chosen)
        layout, classes = graphs.restore(info["layout"]), info.get("num_classes", 0)
        spec = Spec(layout, num_classes=classes)
        template = checkpoint_io.make_template(lambda: methods.create_state(config, spec))
        return checkpoint_io.read(manager, chosen, template)[0], chosen

    return _read_newest(workdir, step, read)


def _read_newest(
    workdir: PathLike,
    step: int | None,
    read: Callable,
    advice: str = "train again, or use a copy of it",
) -> Any:
    """read(manager, step) of the newest checkpoint that can be read, or of `step`.

    A run at work replaces its checkpoints: where one is gone that was just there, looks again.
    """
    for _ in range(LOOKS):
        with _open_reader(workdir) as manager:
            steps = sorted(manager.all_steps(), reverse=True)
            if not steps:
                raise UserError(
                    f"no checkpoint in {workdir} yet: train for longer, or use another workdir"
                )
            if step not in (None, *steps):
                known = ", ".join(map(str, steps))
                raise UserError(f"no checkpoint of step {step} in {workdir}: it has {known}")
            for chosen in steps if step is None else [step]:
                try:
                    return read(manager, chosen)
                except Damaged as damage:
                    where = Path(manager.directory) / str(chosen)
                    if where.is_dir():
                        older = step is None and chosen != steps[-1]
                        then = "; taking the one before" if older else ""
                        log.warning("checkpoint %s is damaged (%s)%s", where, damage, then)
        if step is not None or all((where.parent / str(each)).is_dir() for each in steps):
            break
    raise UserError(f"no readable checkpoint in {workdir}: {advice}")


def load_info(workdir: PathLike, step: int | None = None) -> dict[str, Any]:
    """What was saved beside a state, the newest if None: layout, steps an epoch, metrics."""
    return _read_newest(workdir, step, checkpoint_io.read_info)


def split_path(init_from: PathLike) -> tuple[Path, int | None]:
    """(workdir, step) of a workdir or one of its checkpoints; no step stands for the newest."""
    path = Path(init_from).expanduser()
    if path.parent.name == CHECKPOINTS and path.name.isdigit():
        return path.parent.parent, int(path.name)
    return path, None


def warm_start(
    state: Any, init_from: PathLike, fields: Iterable[str] | None = None
) -> tuple[Any, dict[str, Any]]:
    """The state with weights of another run put in: (state, that checkpoint's info).

    Args:
        init_from: a workdir, for its newest checkpoint, or one of them: `workdir/checkpoints/STEP`.
        fields: the paths in the state that are taken over; None for the whole state, with the step.
    """
    path, step = split_path(init_from)
    template = Template(jax.tree.structure(state), flatten(state))

    def read(manager, chosen):
        return checkpoint_io.read(manager, chosen, template, fields)

    return _read_newest(path, step, read, "set init_from to another run")


def _open_reader(workdir: PathLike) -> ocp.CheckpointManager:
    if not (Path(workdir).expanduser() / CHECKPOINTS).is_dir():
        raise UserError(f"no checkpoint in {workdir}: is it the workdir of a training run?")
    # Orbax warns that a read-only manager is read-only; that is what is asked for here.
    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        return checkpoint_io.make_manager(workdir, read_only=True)
    finally:
        absl.logging.set_verbosity(verbosity)


def _set_aside(manager: ocp.CheckpointManager, step: int, damage: Damaged) -> None:
    """Moves a damaged checkpoint away, so that the run can write that step again."""
    source = Path(manager.directory) / str(step)
    target = source.parent.parent / DAMAGED / f"{step}"
    number = 0
    while target.exists():
        number += 1
        target = target.with_name(f"{step}.{number}")
    log.warning(
        "checkpoint %s is damaged (%s): moved to %s, resuming from the one before it",
        source, damage, target,
    )  # fmt: skip
    try:
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
    except OSError as error:
        raise UserError(f"cannot move {source} ({error.strerror}): move it away yourself") from None
    manager.reload()


def _with_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_tuples(item) for key, item in value.items()}
    return tuple(_with_tuples(item) for item in value) if isinstance(value, list) else value
