"""What a run says: `metrics.jsonl`, and TensorBoard or W&B if asked for.

`metrics.jsonl` holds one flat JSON object a line, each with `step`. A run that is resumed at step s
drops the lines after s first, so that no step stands there twice.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError, import_optional

METRICS = "metrics.jsonl"
log = logging.getLogger("halp_jax")
ADVICE = "make room and start the same command again: it resumes from the newest checkpoint"

OTHERWISE = ", or leave it False (metrics.jsonl is always written)"


def read_metrics(workdir: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; others, as one that a killed run left unfinished, are skipped."""
    path = Path(workdir) / METRICS
    records = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
        else:
            log.warning("%s: a line that is none of a run is left out (%r)", path, line[:60])
    return records


def truncate_metrics(workdir: str | os.PathLike[str], last_step: int) -> list[dict[str, Any]]:
    """Drops the lines after `last_step`, which a resumed run will write again; -> those kept."""
    path = Path(workdir) / METRICS
    kept = [record for record in read_metrics(workdir) if record["step"] <= last_step]
    if path.exists():
        with atomic_write(path, ADVICE) as file:
            file.write("".join(json.dumps(record) + "\n" for record in kept).encode())
    return kept


class Journal:
    """The metrics of a run: appended to `metrics.jsonl`, and to TensorBoard or W&B if asked for.

    Attributes:
        records: the lines so far, those of the runs before this one too.
    """

    def __init__(
        self,
        workdir: str | os.PathLike[str],
        last_step: int,
        *,
        tensorboard: bool = False,
        wandb: bool = False,
        enabled: bool = True,
    ):
        """Forgets the lines after `last_step`. Not `enabled`, it only keeps `records`."""
        self._path = Path(workdir) / METRICS
        self._enabled = enabled
        self.records = truncate_metrics(workdir, last_step) if enabled else []
        self._board = open_tensorboard(workdir, last_step) if tensorboard and enabled else None
        self._wandb = open_wandb(workdir) if wandb and enabled else None

    def has(self, step: int) -> bool:
        return any(record["step"] == step for record in self.records)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line; metrics that JSON cannot hold (NaN, infinity) become null."""
        record: dict[str, Any] = {"step": int(step)}
        for name, value in values.items():
            number = float(value)
            record[name] = number if math.isfinite(number) else None
        self.records.append(record)
        try:
            if self._enabled:
                with open(self._path, "a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            if self._board:
                for name, value in values.items():
                    self._board.add_scalar(name, value, step)
                self._board.flush()
        except OSError as error:
            raise UserError(f"cannot write {self._path} ({error.strerror}); {ADVICE}") from error
        if self._wandb:
            self._wandb.log(dict(values), step=step)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._board:
            self._board.close()
        if self._wandb:
            self._wandb.finish()


def open_tensorboard(workdir: str | os.PathLike[str], last_step: int) -> Any:
    """A tensorboardX writer for `workdir/tensorboard`, which hides what came after `last_step`."""
    library = import_optional("tensorboardX", "tensorboardX", "train.tensorboard=True", OTHERWISE)
    return library.SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=last_step + 1)


def open_wandb(workdir: str | os.PathLike[str]) -> Any:
    """A Weights & Biases run named after the workdir; started again, the same run resumes.

    Where and whether it uploads is wandb's own setting (WANDB_MODE=offline keeps it in the workdir).
    """
    wandb = import_optional("wandb", "wandb", "train.wandb=True", OTHERWISE)
    path = Path(workdir).resolve()
    identity = hashlib.sha256(str(path).encode()).hexdigest()[:16]
    config = json.loads((path / "config.json").read_text())
    return wandb.init(
        project="halp_jax", name=path.name, id=identity, resume="allow", dir=path, config=config
    )
