"""What a run says: `metrics.jsonl`, and TensorBoard or W&B if asked for.

`metrics.jsonl` holds one flat JSON object a line, each with `step`. A run that is resumed at step s
drops the lines after s first, so that no step stands there twice.
"""

import contextlib
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError, import_optional

METRICS = "metrics.jsonl"
log = logging.getLogger("halp_jax")
ADVICE = "make room and start the same command again: it resumes from the newest checkpoint"
OTHERWISE = ", or leave it False (metrics.jsonl is always written)"
IN_FLIGHT = 4  # steps that may wait on the device: enough to keep it busy, few enough to stop soon
MUST_BE_FINITE = ("loss", "grad_norm")
SCHEDULES = ("learning_rate",)  # of these the newest value, of all others the average


class Meter:
    """Collects the metrics of the steps between two lines, without stopping the device.

    Metrics stay on the device until `flush`. Averages are over the interval's steps; rates leave out
    whatever else was done in it (compilation, evaluation), which `pause` marks.

    Args:
        clips_per_step: the global batch.
        flops_per_step: model FLOPs, for `model_tflops_per_s`.
        newest: metrics of which the newest value counts, as of the learning rate.
    """

    def __init__(
        self,
        clips_per_step: int,
        flops_per_step: float,
        clock: Callable[[], float] = time.perf_counter,
        newest: Sequence[str] = (),
    ):
        self._newest = (*SCHEDULES, *newest)
        self._clips, self._flops, self._clock = clips_per_step, flops_per_step, clock
        self._pending: list[dict[str, Any]] = []
        self._timed = 0.0  # whole batches since `_begin`, as far as they count for the rate
        self._begin = clock()
        self._waited = 0.0

    def pause(self) -> None:
        """What took place until now is not training: the clock starts anew."""
        self._begin, self._timed, self._waited = self._clock(), 0.0, 0.0

    def fetch(self, batches: Any) -> Any:
        """The next batch; the time until it is there counts as waiting for input."""
        begin = self._clock()
        batch = next(batches)
        self._waited += self._clock() - begin
        return batch

    def add(self, metrics: dict[str, Any], share: float = 1.0) -> None:
        """Notes a step that was just sent to the device; waits for one of a few steps ago.

        `share`: of a whole batch, where the step had fewer clips.
        """
        self._pending.append(metrics)
        self._timed += share
        if len(self._pending) > IN_FLIGHT:
            jax.block_until_ready(self._pending[-1 - IN_FLIGHT])

    def flush(self) -> tuple[dict[str, float], int | None]:
        """Waits for the device -> (averages of the interval, how many steps ago they went bad).

        The second is None when all losses and gradients are finite; 0 means the newest step.
        """
        steps = jax.device_get(self._pending)
        self._pending = []
        seconds, timed, waited = self._clock() - self._begin, self._timed, self._waited
        self.pause()
        averages = {name: float(np.mean([step[name] for step in steps])) for name in steps[0]}
        averages |= {name: float(steps[-1][name]) for name in self._newest if name in steps[-1]}
        if timed and seconds > 0:
            averages["clips_per_s"] = self._clips * timed / seconds
            averages["model_tflops_per_s"] = self._flops * timed / seconds / 1e12
            averages["input_wait"] = waited / seconds  # share of the time
        for i, step in enumerate(steps):
            values = [float(step[name]) for name in MUST_BE_FINITE if name in step]
            if not all(map(math.isfinite, values)):
                return averages, len(steps) - 1 - i
        return averages, None


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


class Journal(contextlib.ExitStack):
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
        super().__init__()
        self._path = Path(workdir) / METRICS
        self._enabled = enabled
        self.records = truncate_metrics(workdir, last_step) if enabled else []
        self._board = self._wandb = None
        if tensorboard and enabled:
            self._board = open_tensorboard(workdir, last_step)
            self.callback(self._board.close)
        if wandb and enabled:
            self._wandb = open_wandb(workdir)
            self.callback(self._wandb.finish)

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
