"""Records of fine-tuning that is not finished: with them a command that was stopped goes on, bitwise.

A command's records lie in WORKDIR/eval/unfinished/PROTOCOL_DIGEST/, a file a run: its step, the test
logits seen so far, and weights, batch statistics and optimiser. The digest is of all that the result
depends on, weights of the encoder and clips included; so what does not fit is never gone on with.
When the command's results are written the folder goes. One that is not wanted any more can go, too.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from jaxtyping import Float

from halp_jax.datasets.whole_file import open_whole
from halp_jax.errors import UserError
from halp_jax.training import checks
from halp_jax.training.tree import checksum, flatten

FOLDER = "unfinished"
# Sections of the config that a run of fine-tuning depends on; of others it is a field, below.
_SECTIONS = ("seed", "streams", "data", "views", "encoder", "finetune")
log = logging.getLogger("halp_jax")


class Record(NamedTuple):
    """A run after `step` steps; the state is None where a finished run keeps its logits alone."""

    step: int
    logits: Float[np.ndarray, "looks queries classes"]
    state: Any


def fingerprint(*trees: Any) -> str:
    """16 hex digits that tell pytrees of arrays apart, by their names, shapes and bytes."""
    tables = [{n: checksum(np.asarray(x)) for n, x in flatten(tree).items()} for tree in trees]
    return hashlib.sha256(json.dumps(tables, sort_keys=True).encode()).hexdigest()[:16]


def find_folder(
    workdir: str | Path,
    protocol: str,
    config: ml_collections.ConfigDict,
    dataset: Any,
    variables: Any,
    looks: Sequence[str],
) -> Path:
    """Where the records of this command are kept; nothing is made yet."""
    given = json.loads(config.to_json())
    settings = {name: given[name] for name in _SECTIONS}
    settings["finetune"].pop("save_minutes", None)
    settings |= {"draw": given["semi"]["draw"], "precision": given["train"].get("precision")}
    settings |= {"batch": given["knn"]["batch_size"]}  # of the test clips: of other sums
    split = config.data.split
    chosen = [dataset.indices(split, part) for part in ("train", "test")]
    parts = [fingerprint(variables, [dataset.labels, *chosen])]
    parts += [checks.fingerprint(dataset, numbers) for numbers in chosen]
    parts += [json.dumps(settings, sort_keys=True), *looks]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Path(workdir).expanduser() / "eval" / FOLDER / f"{protocol}_{digest}"


def remove_folder(folder: Path) -> None:
    """Removes a command's records, and the folder above when it held no others."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.rmdir()
    except OSError:
        pass  # of other commands, or never made


def save(path: Path, record: Record) -> None:
    """Writes a record in the place of the one before it, whole or not at all."""
    table = {f"state/{name}": np.asarray(leaf) for name, leaf in flatten(record.state).items()}
    with open_whole(path, "fine-tuning goes on from what was saved before, if anything") as stream:
        np.savez(stream, step=np.int64(record.step), logits=record.logits, **table)


def load(path: Path, template: Any) -> Record | None:
    """The record, its state shaped as `template`; None, with a line in the log, if it is damaged."""
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            table = dict(arrays)
        step, logits = int(table.pop("step")), table.pop("logits")
        if not table:
            return Record(step, logits, None)
        leaves = []
        for name, leaf in flatten(template).items():
            found = table[f"state/{name}"]
            if found.shape != leaf.shape or found.dtype != leaf.dtype:
                raise ValueError(f"{name} is {found.dtype}{list(found.shape)}")
            leaves.append(found)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); change its mode") from error
    except Exception as error:  # of many kinds: zipfile, zlib, numpy's header
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        log.warning("%s is damaged (%s): this run begins anew", path, reason)
        return None
    return Record(step, logits, jax.tree.unflatten(jax.tree.structure(template), leaves))
