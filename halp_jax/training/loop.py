"""The training loop: resume or start, step, report, save, evaluate, and leave cleanly.

The order at an epoch's end is fixed: figures are fetched and checked, the state is checked and
saved, then evaluated, then the line of `metrics.jsonl` is written. So a checkpoint never holds a
NaN, and a run that is killed anywhere goes on as if it had not been.
"""

import contextlib
import io
import logging
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import orbax.checkpoint as ocp

from halp_jax.datasets import pipeline
from halp_jax.methods import moco
from halp_jax.progress import Progress
from halp_jax.skeletons.layout import describe_layout
from halp_jax.training import (
    checkpoint,
    checks,
    cluster,
    collapse,
    normalization,
    parallel,
    report,
)  # fmt: skip
from halp_jax.training.meter import Meter
from halp_jax.training.signals import Interrupted, StopRequest
from halp_jax.training.tree import make_template

USED = ("frames", "length")  # leaves of a batch that the step reads
# Figures of the progress line.
SHOWN = ("epoch", "loss", "contrast_accuracy", "mu", "kept", "model_tflops_per_s")
log = logging.getLogger("halp_jax")

Evaluator = Callable[[Any], dict[str, float]]  # state -> figures, as evaluation.knn makes them


class Stopped(Exception):
    """The run was asked to stop and has saved its state; `exit_code` is the command's."""

    def __init__(self, signum: int, step: int, workdir: Path):
        name = signal.Signals(signum).name
        super().__init__(f"{name}: saved step {step} in {workdir}; the same command goes on")
        self.exit_code = 128 + signum


def train(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    dataset: Any,
    evaluators: Sequence[Evaluator] = (),
    stream: io.TextIOBase | None = None,
) -> Any:
    """Trains until `train.epochs` and returns the final state.

    Goes on from the newest checkpoint in `workdir`, else from `init_from`, else from the start.
    Writes config.json, checkpoints/ and metrics.jsonl there.

    Args:
        dataset: as `datasets.open_dataset` gives it.
        evaluators: called on the state every `knn.every_epochs`; their figures join the metrics.
        stream: where progress is shown; standard error if None.

    Raises:
        UserError: the config does not fit, or the loss is no longer finite.
        Stopped: SIGTERM or SIGINT came and the state is saved.
    """
    workdir = Path(workdir).expanduser()
    with cluster.together():
        checks.check_config(config)
        checks.check_dataset(config, dataset)
    cluster.check_alike("config", config.to_json())
    cluster.check_alike("version of jax", jax.__version__)
    batch_size, num_devices = config.train.batch_size, config.train.num_devices
    indices = dataset.indices(config.data.split, "train")
    steps_per_epoch = len(indices) // batch_size
    total = config.train.epochs * steps_per_epoch
    main = cluster.is_first()  # the process that writes
    alone = jax.process_count() == 1
    info = {
        "layout": describe_layout(dataset.layout), "steps_per_epoch": steps_per_epoch,
        "clips": len(indices), "data": checks.fingerprint(dataset, indices),
        "normalize": normalization.of_dataset(dataset.metadata),
    }  # fmt: skip
    cluster.check_alike("data set", info)

    with contextlib.ExitStack() as stack:
        manager, figures = None, {}
        with cluster.together():
            if main:
                stack.enter_context(checks.lock_workdir(workdir))
                _write_config(workdir, config)
                opened = checkpoint.open_manager(workdir, config, steps_per_epoch)
                manager = stack.enter_context(opened)
                state, figures = _begin(config, dataset.layout, info, manager)
            else:
                state = moco.create_state(config, dataset.layout)
            journal = report.Journal(
                workdir, int(state.step),
                tensorboard=config.train.tensorboard, wandb=config.train.wandb, enabled=main,
            )  # fmt: skip
        stack.enter_context(journal)
        cut = pipeline.describe_cut(dataset.lengths[indices], config.data.max_frames, "training")
        if main and cut:
            log.warning(cut)
        state = cluster.from_first(state)
        step = int(state.step)
        stream = stream if main else stack.enter_context(open(os.devnull, "w"))
        progress = stack.enter_context(
            Progress(
                total * batch_size, "train", start=step * batch_size, unit="clips", stream=stream
            )
        )
        stop = stack.enter_context(StopRequest(enabled=alone))
        stack.enter_context(cluster.interrupts())

        def is_due(step: int, every_epochs: int) -> bool:
            return every_epochs > 0 and step % (every_epochs * steps_per_epoch) == 0

        def is_evaluated(step: int) -> bool:
            every = config.knn.every_epochs if evaluators else 0
            return is_due(step, every) or (every > 0 and step == total)

        def evaluate(state: Any) -> dict[str, float]:
            results = {}
            for evaluator in evaluators:
                with stop.interruptible():
                    results |= evaluator(parallel.local_view(state))
            return results

        def save(state: Any, step: int, figures: dict[str, float]) -> None:
            if not _is_finite(state):
                raise _explain_not_finite("the state", step, manager)
            if manager:
                checkpoint.save(manager, step, state, info | {"figures": figures})

        def leave(step: int) -> Stopped:
            if manager:
                checkpoint.finish(manager)
            return Stopped(stop.received or signal.SIGTERM, step, workdir)

        state = parallel.replicate(state, num_devices)
        missing = cluster.first_says(not journal.has(step))
        if missing and (is_evaluated(step) or cluster.first_says(bool(figures))):
            try:  # the encoder before training, or a line that the last run did not come to write
                journal.write(step, figures | (evaluate(state) if is_evaluated(step) else {}))
            except Interrupted:
                save(state, step, figures)
                raise leave(step) from None
        if step >= total:
            progress.note(f"{workdir} is at step {step} of {total}: nothing left to do")
            return state

        run = parallel.compile_step(
            moco.make_train_step(config, dataset.layout, steps_per_epoch),
            driver=config.train.parallel,
            num_devices=num_devices,
        )
        place = parallel.make_placer(driver=config.train.parallel, num_devices=num_devices)
        batches = parallel.prefetch(_read(config, dataset, indices, step), place)
        stack.callback(batches.close)
        meter = Meter(batch_size, report.step_flops(config, dataset.layout))
        first, warned = step, False

        while step < total:
            state, metrics = run(state, meter.fetch(batches))
            step += 1
            meter.add(metrics)
            progress.update(batch_size)
            if step == first + 1:  # has compiled: that is no rate
                jax.block_until_ready(metrics)
                meter.pause()
            # With several processes all must stop at the same step: jax agrees on one for them.
            stopping = bool(stop.received) if alone else cluster.should_stop(step)
            saving = is_due(step, config.checkpoint.every_epochs) or step == total or stopping
            evaluating = is_evaluated(step)
            if not (saving or evaluating or step % config.train.log_every == 0):
                continue

            if manager:
                checkpoint.check(manager)
            figures, steps_ago = meter.flush()
            if steps_ago is not None:
                journal.write(step, figures)
                raise _explain_not_finite("the loss", step - steps_ago, manager)
            figures["epoch"] = step / steps_per_epoch
            if saving:
                save(state, step, figures)
            results: dict[str, float] = {}
            if evaluating:
                try:
                    results = evaluate(state)
                except Interrupted:  # its line is written when the run goes on
                    save(state, step, figures)
                    raise leave(step) from None
            journal.write(step, figures | results)
            progress.figures |= {name: figures[name] for name in SHOWN if name in figures} | results
            warning = collapse.find_collapse(journal.records)
            if warning and not warned:
                progress.note(f"warning: {warning}")
            warned = bool(warning) or (warned and figures.get("mu", 0) > 0)
            if stopping and step < total:
                raise leave(step)
            meter.pause()
        if manager:
            checkpoint.finish(manager)
        return state


def _write_config(workdir: Path, config: ml_collections.ConfigDict) -> None:
    """Saves the config; names what differs from the run that this one continues, or refuses."""
    if checkpoint.has_checkpoint(workdir):
        for change in checks.check_same_run(checkpoint.load_config(workdir), config, workdir):
            log.warning("going on in %s with another %s", workdir, change)
    checkpoint.save_config(workdir, config)


def _begin(
    config: ml_collections.ConfigDict, layout: Any, info: dict[str, Any], manager: Any
) -> tuple[Any, dict[str, float]]:
    """The state to start from, and the figures of its step where it was saved with some."""
    template = make_template(lambda: moco.create_state(config, layout))
    found = checkpoint.restore_latest(manager, template)
    if found:
        state, step, saved = found
        workdir = Path(manager.directory).parent
        normalization.check(info["normalize"], config.data.dir, workdir, saved)
        checks.check_epoch(saved, info, f"{manager.directory}/{step}", "use another --workdir")
        log.info("going on from step %d of %s", step, manager.directory)
        return state, saved.get("figures", {})
    state = moco.create_state(config, layout)
    if config.init_from:
        state, saved = checkpoint.warm_start(state, config.init_from, config.init_what)
        source, _ = checkpoint.split_path(config.init_from)
        normalization.check(info["normalize"], config.data.dir, source, saved)
        if config.init_what == "all":
            checks.check_epoch(saved, info, config.init_from, "use --config.init_what=encoder")
        log.info("starting from %s, %s", config.init_from, config.init_what)
    elif config.halp.mu > 0 and config.halp.start_epoch == 0:
        log.warning(
            "HaLP is on from the start (halp.mu=%g, halp.start_epoch=0) without a trained MoCo: "
            "expect no learning. Set --config.halp.start_epoch, or --config.init_from",
            config.halp.mu,
        )
    return state, {}


def _read(
    config: ml_collections.ConfigDict, dataset: Any, indices: Any, start_step: int
) -> Iterator[dict[str, Any]]:
    """This process's share of every batch from `start_step` on."""
    batches = pipeline.train_batches(
        dataset, indices,
        batch_size=config.train.batch_size, seed=config.seed, start_step=start_step,
        max_frames=config.data.max_frames,
        process_index=jax.process_index(), process_count=jax.process_count(),
    )  # fmt: skip
    for batch in batches:
        yield {name: batch[name] for name in USED}


@jax.jit
def _all_finite(leaves: list[jax.Array]) -> jax.Array:
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _is_finite(state: Any) -> bool:
    leaves = jax.tree.leaves(state)
    return bool(_all_finite([x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]))


def _explain_not_finite(
    what: str, step: int, manager: ocp.CheckpointManager | None
) -> cluster.AgreedError:
    if not manager:
        return cluster.AgreedError(f"{what} is not finite at step {step}; see process 0")
    checkpoint.finish(manager)
    last = manager.latest_step()
    good = f"{manager.directory}/{last}" if last is not None else "none was saved yet"
    return cluster.AgreedError(
        f"{what} is not finite at step {step}; last good checkpoint: {good}. Try a lower "
        f"--config.optim.learning_rate, --config.optim.warmup_epochs=5 or a higher "
        f"--config.moco.temperature, and look for clips with huge coordinates"
    )
