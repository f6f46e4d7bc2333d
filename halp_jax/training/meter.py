"""Metrics of the steps between two lines of `metrics.jsonl`, gathered without stopping the device.

Metrics stay on the device until `flush`. Averages are over the interval's steps; rates leave out
whatever else was done in it (compilation, evaluation), which `pause` marks.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

IN_FLIGHT = 4  # steps that may wait on the device: enough to keep it busy, few enough to stop soon
MUST_BE_FINITE = ("loss", "grad_norm")
SCHEDULES = ("learning_rate",)  # of these the newest value, of all others the average


class Meter:
    """Collects the metrics of steps.

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
        self._timed = 0  # steps since `_begin`, as far as they count for the rate
        self._begin = clock()
        self._waited = 0.0

    def pause(self) -> None:
        """What took place until now is not training: the clock starts anew."""
        self._begin, self._timed, self._waited = self._clock(), 0, 0.0

    def fetch(self, batches: Any) -> Any:
        """The next batch; the time until it is there counts as waiting for input."""
        begin = self._clock()
        batch = next(batches)
        self._waited += self._clock() - begin
        return batch

    def add(self, metrics: dict[str, Any]) -> None:
        """Notes a step that was just sent to the device; waits for one of a few steps ago."""
        self._pending.append(metrics)
        self._timed += 1
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
