"""Fine-tuning that is not finished: with what is kept of it a command that was stopped resumes.

A command's runs lie in WORKDIR/eval/unfinished/PROTOCOL_DIGEST/, a folder a run. The digest is of all
that the result depends on, weights of the encoder and clips included; so what does not fit is never
resumed. When the command's results are written the folder goes. One that is not wanted any more can
go, too.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from halp_jax.training import checks
from halp_jax.training.checkpoint_io import checksum, flatten

FOLDER = "unfinished"
# Sections of the config that a run of fine-tuning depends on; of others it is a field, below.
_SECTIONS = ("seed", "streams", "data", "views", "encoder", "finetune")


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
    fusions: Sequence[str],
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
    parts += [json.dumps(settings, sort_keys=True), *fusions]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Path(workdir).expanduser() / "eval" / FOLDER / f"{protocol}_{digest}"


def remove_folder(folder: Path) -> None:
    """Removes a command's records, and the folder above when it held no others."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.parent.rmdir()
    except OSError:
        pass  # of other commands, or never made
