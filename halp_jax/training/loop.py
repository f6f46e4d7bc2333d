"""The training loop: resume or start, step, report, save, evaluate, and leave cleanly.

The order at an epoch's end is fixed: averages are fetched and checked, the state is checked and
saved, then evaluated, then the line of `metrics.jsonl` is written. So a checkpoint never holds a
NaN, and a run that is killed anywhere resumes as if it had not been.
"""

import contextlib
import io
import logging
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Int
from ml_collections import ConfigDict

from halp_jax import methods
from halp_jax.errors import Stopped, UserError
from halp_jax.methods.base import Spec
from halp_jax.progress import Progress
from halp_jax.training import checkpoint, checks, cluster, normalization, parallel, report
from halp_jax.training.checkpoint_io import CHECKPOINTS, PathLike, list_steps, make_template
from halp_jax.training.shutdown import Interrupted, StopRequest

log = logging.getLogger("halp_jax")

Evaluator = Callable[[Any], dict[str, float]]  # state -> metrics, as evaluation.knn makes them


def train(
    config: ConfigDict,
    workdir: PathLike,
    *,
    dataset: Any,
    evaluators: Sequence[Evaluator] = (),
    stream: io.TextIOBase | None = None,
    indices: Int[np.ndarray, " clips"] | None = None,
    prepare: Callable[[Any], Any] | None = None,
    title: str = "train",
    local: bool = False,
    programs: dict[int, methods.Program] | None = None,
) -> Any:
    """Trains until `train.epochs` and returns the final state.

    Goes on from the newest checkpoint in `workdir`, else from `init_from`, else from the start.
    Writes config.json, checkpoints/ and metrics.jsonl there.

    Args:
        dataset: as `datasets.open_dataset` gives it.
        evaluators: called on the state every `knn.every_epochs`; their metrics join the metrics.
        stream: where progress is shown; standard error if None.
        indices: the clips to learn from; those of config.data.split if None.
        prepare: state -> state, puts weights of another run into a state that starts anew.
        title: of the progress line.
        local: of several processes each trains alone and alike, on its own devices.
        programs: what is compiled, by the steps of an epoch; for runs that differ in seed, clips and
            workdir alone.

    Raises:
        UserError: the config does not fit, or the loss is no longer finite.
        Stopped: SIGTERM or SIGINT came and the state is saved.
    """
    workdir = Path(workdir).expanduser()
    with cluster.fail_together():
        checks.check_config(config)
        if indices is None:
            indices = checks.find_clips(config, dataset)
        checks.check_dataset(config, dataset, indices)
    cluster.assert_same_on_all("config", config.to_json())
    cluster.assert_same_on_all("version of jax", jax.__version__)
    batch_size, num_devices = config.train.batch_size, config.train.num_devices
    method = methods.find_method(config)
    steps_per_pass, steps_per_epoch = checks.count_steps(config, len(indices))
    clips = min(len(indices), steps_per_pass * batch_size)  # those that a pass takes
    total = config.train.epochs * steps_per_epoch
    lengths = dataset.lengths[indices]
    spec = Spec(dataset.layout, steps_per_epoch, dataset.num_classes, float(lengths.mean()))
    devices = {"num_devices": num_devices, "local": local}
    programs = {} if programs is None else programs
    if steps_per_epoch not in programs:
        made = methods.make_program(config, spec)
        run = parallel.compile_step(made.step, driver=config.train.parallel, **devices)
        programs[steps_per_epoch] = made._replace(step=run)
    program = programs[steps_per_epoch]
    main = cluster.is_first()  # the process that writes
    alone = jax.process_count() == 1 or local
    if method.KEEPS_REST and dataset.unit == "clips" and not alone:
        raise cluster.AgreedError(
            f"config.method={config.method!r}: the last, smaller batch of an epoch, which it trains on, does "
            "not divide over processes; start one"
        )
    info = {
        "layout": dataset.describe(), "steps_per_epoch": steps_per_pass,
        "clips": len(indices), "data": checks.fingerprint(dataset, indices),
        "normalize": normalization.of_dataset(dataset.metadata),
        "num_classes": dataset.num_classes, "order": "shuffled",
    }  # fmt: skip
    cluster.assert_same_on_all("data set", info)

    with contextlib.ExitStack() as stack:
        manager, averages = None, {}
        with cluster.fail_together():
            if main:
                stack.enter_context(checks.lock_workdir(workdir))
                if checkpoint.has_checkpoint(workdir):
                    before = checkpoint.load_config(workdir)
                    changes = checks.check_same_run(before, config, workdir)
                    if max(list_steps(workdir / CHECKPOINTS)) >= total:
                        checks.check_finished(changes, workdir)
                    for change in changes:
                        log.warning("resuming in %s with another %s", workdir, change)
                checkpoint.save_config(workdir, config)
                opened = checkpoint.open_manager(workdir, config, steps_per_epoch)
                manager = stack.enter_context(opened)
                state, averages = _begin(config, program, total, dataset, info, manager, prepare)
            else:
                state = program.create(config.seed)
            journal = report.Journal(
                workdir, int(state.step),
                tensorboard=config.train.tensorboard, wandb=config.train.wandb, enabled=main,
            )  # fmt: skip
        stack.enter_context(journal)
        cut = dataset.tell_cut(indices, config.data.get("max_frames"), "training")
        if main and cut:
            log.warning(cut)
        state = cluster.broadcast_tree(state)
        step = int(state.step)
        stream = stream if main else stack.enter_context(open(os.devnull, "w"))
        start, end = (
            n // steps_per_pass * clips + n % steps_per_pass * batch_size for n in (step, total)
        )
        progress = Progress(end, title, start=start, unit=dataset.unit, stream=stream)
        stack.enter_context(progress)
        if steps_per_epoch != steps_per_pass:
            passes = total / steps_per_pass
            progress.note(f"{total:,} steps: {passes:,.1f} passes over {clips:,} {dataset.unit}")
        stop = stack.enter_context(StopRequest(enabled=alone))
        stack.enter_context(cluster.interrupts())

        def is_due(step: int, every_epochs: int) -> bool:
            return every_epochs > 0 and step % (every_epochs * steps_per_epoch) == 0

        def is_evaluated(step: int) -> bool:
            every = config.knn.every_epochs if evaluators else 0
            return is_due(step, every) or (every > 0 and step == total)

        def save(state: Any, step: int, averages: dict[str, float]) -> None:
            if not _is_finite(state):
                raise _explain_not_finite("the state", step, manager, method.ADVICE)
            if manager:
                checkpoint.save(manager, step, state, info | {"figures": averages})

        def leave(step: int) -> Stopped:
            if manager:
                checkpoint.finish(manager)
            return Stopped(stop.received or signal.SIGTERM, step, workdir)

        def evaluate(state: Any, step: int, averages: dict[str, float]) -> dict[str, float]:
            results: dict[str, float] = {}
            try:
                for evaluator in evaluators if is_evaluated(step) else ():
                    with stop.interruptible():
                        results |= evaluator(parallel.local_view(state))
            except Interrupted:  # its line is written when the run resumes
                save(state, step, averages)
                raise leave(step) from None
            return results

        state, seed = parallel.replicate((state, np.uint32(config.seed)), **devices)
        missing = cluster.broadcast_scalar(not journal.has(step))
        if missing and (is_evaluated(step) or cluster.broadcast_scalar(bool(averages))):
            # The encoder before training, or a line that the last run did not come to write.
            journal.write(step, averages | evaluate(state, step, averages))
        if step >= total:
            progress.note(f"{workdir} is at step {step} of {total}: nothing left to do")
            return state

        place = parallel.make_placer(driver=config.train.parallel, **devices)
        reading = dataset.training_batches(
            config, indices, start_step=step, keeps_rest=method.KEEPS_REST,
            process=(0, 1) if alone else (jax.process_index(), jax.process_count()),
            num_devices=len(parallel.get_devices(num_devices, local)),
        )  # fmt: skip
        batches = parallel.prefetch(reading, place)
        stack.callback(batches.close)
        meter = report.Meter(batch_size, method.step_flops(config, spec), newest=method.NEWEST)
        shown = ("epoch", "loss", *method.SHOWN, "model_tflops_per_s")
        first, warned, saved_at = step, False, time.monotonic()
        patience = 60 * config.checkpoint.every_minutes or math.inf

        while step < total:
            (state, seed), metrics = program.step((state, seed), meter.fetch(batches))
            step += 1
            done = min(batch_size, clips - (step - 1) % steps_per_pass * batch_size)
            meter.add(metrics, done / batch_size)
            if step == first + 1:  # has compiled: that is no rate
                jax.block_until_ready(metrics)
                meter.pause()
                progress.restart(done)
            else:
                progress.update(done)
            # With several processes all must stop at the same step: jax agrees on one for them.
            stopping = bool(stop.received) if alone else cluster.should_stop(step)
            saving = is_due(step, config.checkpoint.every_epochs) or step == total or stopping
            saving |= alone and time.monotonic() - saved_at >= patience
            if not (saving or is_evaluated(step) or step % config.train.log_every == 0):
                continue

            if manager:
                checkpoint.check(manager)
            averages, steps_ago = meter.flush()
            if steps_ago is not None:
                journal.write(step, averages)
                raise _explain_not_finite("the loss", step - steps_ago, manager, method.ADVICE)
            averages["epoch"] = step / steps_per_epoch
            if saving:
                save(state, step, averages)
                saved_at = time.monotonic()
            results = evaluate(state, step, averages)
            journal.write(step, averages | results)
            progress.update(0, **{n: averages[n] for n in shown if n in averages} | results)
            if not warned and (warning := method.find_trouble(journal.records)):
                progress.note(f"warning: {warning}")
                warned = True
            if stopping and step < total:
                raise leave(step)
            meter.pause()
        if manager:
            checkpoint.finish(manager)
        return state


def _begin(
    config: ConfigDict,
    program: methods.Program,
    total: int,
    dataset: Any,
    info: dict[str, Any],
    manager: Any,
    prepare: Callable[[Any], Any] | None,
) -> tuple[Any, dict[str, float]]:
    """The state to start from, and the averages of its step where it was saved with some."""
    template = make_template(lambda: program.create(config.seed))
    found = checkpoint.restore_latest(manager, template)
    if found:
        state, step, saved = found
        workdir = Path(manager.directory).parent
        normalization.check(info["normalize"], config.data.dir, workdir, saved)
        where = f"{manager.directory}/{step}"
        checks.check_epoch(saved, info, where, "use another --workdir")
        if step < total:
            checks.check_order(config, saved, dataset, where)
        log.info("resuming from step %d of %s", step, manager.directory)
        return state, saved.get("figures", {})
    state, method = program.create(config.seed), methods.find_method(config)
    figures: dict[str, float] = {}
    if prepare:
        state = prepare(state)
    elif config.init_from:
        fields = None if config.init_what == "all" else method.ENCODER
        state, saved = checkpoint.warm_start(state, config.init_from, fields)
        source, _ = checkpoint.split_path(config.init_from)
        normalization.check(info["normalize"], config.data.dir, source, saved)
        normalization.check_layout(dataset.layout, saved)
        if config.init_what == "all":
            figures = saved.get("figures", {})  # what `find_trouble` compares with
            checks.check_epoch(saved, info, config.init_from, "use --config.init_what=encoder")
            checks.check_order(config, saved, dataset, config.init_from)
            if int(state.step) >= total:
                raise UserError(
                    f"{config.init_from} is at step {int(state.step)}, and train.epochs="
                    f"{config.train.epochs} end at step {total}: give more with --config.train.epochs, "
                    "or --config.init_what=encoder to start at step 0"
                )
        # Shapes tell neither one stream from another nor the direction of a recurrence. A checkpoint
        # that was copied alone has no config beside it.
        known = (source / checkpoint.CONFIG).exists()
        before = checkpoint.load_config(source) if known else config
        for name, was, now in checks.find_changes(before, config):
            if name.startswith(("streams", "encoder.")):
                log.warning("%s has another %s: %s -> %s", config.init_from, name, was, now)
        log.info("starting from %s, %s", config.init_from, config.init_what)
    if warning := method.warn_at_start(config):
        log.warning(warning)
    return state, figures


@jax.jit
def _is_finite(state: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))


def _explain_not_finite(
    what: str, step: int, manager: ocp.CheckpointManager | None, advice: str
) -> cluster.AgreedError:
    if not manager:
        return cluster.AgreedError(f"{what} is not finite at step {step}; see process 0")
    checkpoint.finish(manager)
    last = manager.latest_step()
    good = f"{manager.directory}/{last}" if last is not None else "none was saved yet"
    return cluster.AgreedError(
        f"{what} is not finite at step {step}; last good checkpoint: {good}. Try {advice}, and look "
        "for samples with huge numbers"
    )
