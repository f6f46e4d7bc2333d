"""Checkpoints on disk, read and written one at a time: the part of `checkpoint.py` that knows orbax.

In a run of many processes one of them writes, and each that reads does so by itself: orbax, asked
for that, never waits for the others. So what one process cannot do leaves none hanging.
"""

import glob
import os
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from halp_jax.errors import UserError
from halp_jax.methods.upgrade import current_path

PathLike = str | os.PathLike[str]
CHECKPOINTS = "checkpoints"
# Seconds a save may take. Orbax reads them off the time of day: with its 600 a clock that is set
# forward, or a machine that slept, fails the save.
PATIENCE = 10**9


class Damaged(Exception):
    """A checkpoint that cannot be read; the message says why."""


class Template(NamedTuple):
    """What a state looks like, without its memory: structure, and shape and dtype of each leaf."""

    structure: Any
    leaves: dict[str, jax.ShapeDtypeStruct]


class Manager(ocp.CheckpointManager):
    """Orbax's, of this process alone."""

    def reached_preemption(self, step: int) -> bool:
        """Not asked from here: JAX counts the calls, and a save's would confuse the loop's own."""
        return False


def make_manager(workdir: PathLike, **options: Any) -> Manager:
    """The manager of `workdir`/checkpoints, with these ocp.CheckpointManagerOptions."""
    directory = Path(workdir).expanduser().resolve() / CHECKPOINTS
    try:
        os.fspath(directory).encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(
            f"{directory} is no name in UTF-8, so no checkpoint can be read or written there: "
            "rename the folder"
        ) from None
    for step in list_steps(directory):
        if (directory / str(step) / "default").exists():
            raise UserError(f"{directory}/{step} is of another program: move it away")
    # Orbax collects the parts of an OCDBT file by a pattern, and takes [x] in the path for one.
    plain = glob.escape(os.fspath(directory)) == os.fspath(directory)
    registry = ocp.handlers.DefaultCheckpointHandlerRegistry()
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(process, {process}, f"process{process}")
    for kind in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore):
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone, use_ocdbt=plain)
        registry.add("state", kind, handler)
    for kind in (ocp.args.JsonSave, ocp.args.JsonRestore):
        registry.add("info", kind, ocp.JsonCheckpointHandler(multiprocessing_options=alone))
    return Manager(
        directory,
        options=ocp.CheckpointManagerOptions(
            create=False,
            multiprocessing_options=alone,
            async_options=ocp.options.AsyncOptions(timeout_secs=PATIENCE),
            **options,
        ),
        handler_registry=registry,
    )


def list_steps(directory: PathLike) -> list[int]:
    """The steps that are whole on disk, the newest first."""
    if not Path(directory).is_dir():
        return []
    return sorted(
        (int(p.name) for p in Path(directory).iterdir() if p.name.isdigit()), reverse=True
    )


def cannot_save(directory: PathLike, error: Exception) -> UserError:
    """What to say of a failed save. What it has left half written goes at the next start, not now:
    orbax's threads may still be writing there."""
    steps = list_steps(directory)
    good = f"the newest good one is of step {steps[0]}" if steps else "none is there yet"
    return UserError(
        f"cannot write a checkpoint to {directory} ({one_line(error)}); {good}. Make room, or what "
        "else it needs, and start the same command again: it resumes from there"
    )


def make_template(create: Callable[[], Any]) -> Template:
    """The template of the state that `create()` would make; nothing is computed."""
    structures, names = [], []

    def leaves() -> list[Any]:
        state = create()
        structures.append(jax.tree.structure(state))
        names.extend(flatten(state))
        return jax.tree.leaves(state)

    shapes = jax.eval_shape(leaves)
    return Template(structures[0], dict(zip(names, shapes, strict=True)))


def flatten(tree: Any) -> dict[str, Any]:
    """Any pytree as {"params/layer0/kernel": leaf}, in jax's order of leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def checksum(leaf: np.ndarray) -> list[Any]:
    """[CRC-32 of the bytes, dtype, shape], as JSON holds them."""
    array = np.ascontiguousarray(leaf)
    return [zlib.crc32(array.reshape(-1).view(np.uint8)), str(leaf.dtype), list(leaf.shape)]


def read_info(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """What was saved beside the state. Raises Damaged."""
    try:
        wanted = ocp.args.Composite(info=ocp.args.JsonRestore())
        info = manager.restore(step, args=wanted)["info"]
        return {**info, "checksums": dict(info["checksums"])}
    except Exception as error:  # of many kinds: orbax, tensorstore, json
        raise _explain(manager, step, error) from error


def _explain(manager: ocp.CheckpointManager, step: int, error: Exception) -> Exception:
    """UserError where this user may not read the files, which says nothing of them; else Damaged."""
    where = Path(manager.directory) / str(step)
    for path in (where, *where.rglob("*")):
        if path.exists() and not os.access(path, os.R_OK | os.X_OK * path.is_dir()):
            return UserError(
                f"{path} may not be read (permission denied): have its owner open it, or use a copy"
            )
    return Damaged(one_line(error))


def read(
    manager: ocp.CheckpointManager,
    step: int,
    template: Template,
    fields: Iterable[str] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Fills the template (only some of its fields, if given) from one checkpoint; checks it all.

    Leaves that are not read stay the template's own. Raises Damaged, or UserError where the
    checkpoint is of another architecture.
    """
    info = read_info(manager, step)
    where = f"{manager.directory}/{step}"
    wanted = template.leaves
    chosen = {
        name: leaf
        for name, leaf in wanted.items()
        if leaf.size and (fields is None or name.startswith(tuple(f"{field}/" for field in fields)))
    }
    names = {current_path(name): name for name in info["checksums"]}
    stored = {name: info["checksums"][old] for name, old in names.items()}
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
    items = {names[name]: np.empty(leaf.shape, leaf.dtype) for name, leaf in chosen.items()}
    how = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), items)
    request = ocp.args.PyTreeRestore(items, restore_args=how, partial_restore=True)
    try:
        table = manager.restore(step, args=ocp.args.Composite(state=request))["state"]
    except Exception as error:
        raise _explain(manager, step, error) from error
    if fields is None and int(table.get("step", step)) != step:
        raise Damaged(f"it is of step {int(table['step'])}, not of {step}")
    table = {name: table[names[name]] for name in chosen}
    for name, leaf in table.items():
        if checksum(leaf) != list(stored[name]):
            raise Damaged(f"the checksum of {name} is wrong")
    leaves = []
    for name, leaf in wanted.items():
        empty = isinstance(leaf, jax.ShapeDtypeStruct) and not leaf.size  # nothing was stored
        value = table.get(name, np.zeros(leaf.shape, leaf.dtype) if empty else leaf)
        leaves.append(jnp.array(value))
    return jax.tree.unflatten(template.structure, leaves), info


def one_line(error: BaseException) -> str:
    """Why orbax or tensorstore failed: the end of their message, where what the system said stands."""
    text = re.split(r" \[(?:source locations|tensorstore_spec)", " ".join(str(error).split()))[0]
    return (text if len(text) < 200 else f"... {text[-200:]}") or type(error).__name__
