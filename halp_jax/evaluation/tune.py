"""The training behind the protocols of fine-tuning: one stream's encoder and a linear layer on it.

As the released loader has it, the last, incomplete batch of an epoch is trained on, its loss being the
mean over the clips it has. Batch statistics must not see padding, so there is none: that batch is a
program of its own size, on the largest number of devices that divides it (as is every batch). The
order of an epoch, its crops and the rate follow from seed and step alone: a run that is stopped after
any step goes on from its record (`evaluation.unfinished`) and ends, to the bit, where it would have.
"""

import functools
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from halp_jax.datasets import pipeline
from halp_jax.datasets.arrays import epoch_order
from halp_jax.errors import UserError
from halp_jax.evaluation import features as feats
from halp_jax.evaluation import linear, unfinished
from halp_jax.methods import moco
from halp_jax.progress import Progress
from halp_jax.skeletons import augment
from halp_jax.training import cluster
from halp_jax.training.loop import Stopped
from halp_jax.training.signals import Interrupted, StopRequest

_FINETUNE_KEY = 19  # folded into the seed
# What runs lack whose configs were written before these fields were there.
SETTINGS = {"save_minutes": 5.0, "keep_weights": True}


class Tuned(NamedTuple):
    """The end of a run: test logits after each of `linear.look_epochs`, and the last weights.

    `state` is ({"encoder": params, "probe": Probe}, batch_stats), None of a run whose record kept
    the logits alone.
    """

    logits: Float[np.ndarray, "looks queries classes"]
    state: Any


def count_devices(rows: int, available: int) -> int:
    """The largest number of devices, of those available, that a batch of `rows` divides over."""
    return next(n for n in range(min(rows, available), 0, -1) if rows % n == 0)


def read_epochs(
    dataset: Any,
    indices: Int[np.ndarray, "clips"],
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    start_step: int = 0,
    max_frames: int = 300,
) -> Iterator[pipeline.Batch]:
    """The batches from `start_step` to the last epoch's end, each epoch another order of the clips.

    The last batch of an epoch holds the clips that are left, fewer than `batch_size` perhaps.
    """
    steps = -(-len(indices) // batch_size)
    padding = steps * batch_size - len(indices)
    first, skipped = divmod(start_step, steps)
    orders = [
        np.pad(indices[epoch_order(len(indices), seed, epoch)], (0, padding), mode="edge")
        for epoch in range(first, epochs)
    ]
    clips = np.concatenate(orders)[skipped * batch_size :]
    batches = pipeline.eval_batches(dataset, clips, batch_size=batch_size, max_frames=max_frames)
    for step, batch in enumerate(batches, start_step):
        last = (step + 1) % steps == 0
        yield {n: leaf[: batch_size - padding] for n, leaf in batch.items()} if last else batch


def make_trainer(
    config: ml_collections.ConfigDict, dataset: Any, stream: str, devices: list[Any] | None = None
):
    """Compiles the training of one stream's encoder once -> train(variables, indices, seed, title).

    `variables` are (params, batch_stats) of that stream, without the stream axis; Tuned is returned.
    More arguments of `train`: the file `record`, from which a run goes on and in which it is saved
    when it is asked to stop, then raising Stopped; without one nothing is kept. `keep`: the record
    of a finished run keeps its weights. `devices`: all of this process by default.
    """
    s, views, layout = config.finetune, config.views, dataset.layout
    devices = devices or jax.local_devices()
    single = ml_collections.ConfigDict(config)
    with single.unlocked():
        single.streams = (stream,)
    encoder = moco.make_encoder(single, moco.AXIS)
    # The rate is an argument of the step: one program serves sets of every size.
    optimizer = optax.chain(optax.add_decayed_weights(s.weight_decay), optax.trace(s.momentum))
    crop = functools.partial(
        augment.random_crop, low=s.crop[0], high=s.crop[1],
        num_frames=views.num_frames, min_frames=views.min_frames,
    )  # fmt: skip

    def loss_fn(weights, batch_stats, x, labels):
        variables = {"params": weights["encoder"], "batch_stats": batch_stats}
        (_, feature), new = encoder.apply(variables, x, train=True, mutable=["batch_stats"])
        loss = linear.probe_loss(weights["probe"], feature, labels, jnp.ones(len(labels)))
        return loss, new["batch_stats"]

    def step(state, rate, key, frames, length, label):
        weights, batch_stats, opt_state = state
        clips = jax.vmap(crop)(moco.sample_keys(key, len(label)), frames, length)
        x = moco.stream_inputs(single, layout, clips)[0]
        gradient = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, batch_stats), grads = gradient(weights, batch_stats, x, label)
        grads = jax.lax.pmean(grads, moco.AXIS)
        updates, opt_state = optimizer.update(grads, opt_state, weights)
        weights = jax.tree.map(lambda w, u: w - rate * u, weights, updates)
        return (weights, batch_stats, opt_state), jax.lax.pmean(loss, moco.AXIS)

    everywhere, rows = PartitionSpec(), PartitionSpec(moco.AXIS)

    @functools.cache
    def compile_step(num_devices):
        mesh = Mesh(np.array(devices[:num_devices]), (moco.AXIS,))
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=(everywhere,) * 3 + (rows,) * 3, out_specs=everywhere,
            check_vma=False,
        )  # fmt: skip
        run = jax.jit(mapped, donate_argnums=(0,))

        def place_and_run(state, rate, key, batch):
            leaves = tuple(batch[name] for name in ("frames", "length", "label"))
            leaves = jax.device_put(leaves, NamedSharding(mesh, rows))
            # Nothing is copied where the batch before was on the same devices.
            state = jax.device_put(state, NamedSharding(mesh, everywhere))
            return run(state, rate, key, *leaves)

        return place_and_run

    embed = feats.make_embedding("trained", single, layout)
    extract = feats.make_extractor(
        embed, crop=s.test_crop, num_frames=views.num_frames, devices=devices
    )
    looks = linear.look_epochs(s)

    def test_logits(state):
        weights, stats = to_host(state[:2])
        variables = jax.tree.map(lambda x: x[None], (weights["encoder"], stats))
        test = feats.extract_split(config, dataset, "test", extract, variables)
        return np.asarray(linear.apply_probe(weights["probe"], jnp.asarray(test.values[0])))

    def begin(variables, key):
        params, batch_stats = variables
        probe = linear.init_probe(key, 2 * config.encoder.width, dataset.num_classes)
        weights = {"encoder": params, "probe": probe}
        return weights, batch_stats, optimizer.init(weights)

    def train(variables, indices, seed, title, record: Path | None = None, *, keep=True):
        batch_size = min(s.batch_size, len(indices))
        steps = -(-len(indices) // batch_size)
        total = s.epochs * steps
        key = jax.random.fold_in(jax.random.key(seed), _FINETUNE_KEY)
        key_probe, key_crop = jax.random.split(key)
        found = record and unfinished.load(record, jax.eval_shape(begin, variables, key_probe))
        complete = bool(found) and found.step == total and len(found.logits) == len(looks)
        if complete and (found.state is None or not keep):
            return Tuned(found.logits, None)
        # Through numpy: the state is donated, its leaves must be no one else's.
        state = found.state if found else jax.tree.map(np.array, begin(variables, key_probe))
        number, seen = (found.step, list(found.logits)) if found else (0, [])

        def save(state):
            if not cluster.is_first():
                return
            logits = np.stack(seen) if seen else np.zeros((0, 0, 0), np.float32)
            done = number == total and len(seen) == len(looks)
            kept = to_host(state) if keep or not done else None
            unfinished.save(record, unfinished.Record(number, logits, kept))

        def leave(state):
            save(state)
            return Stopped(stop.received or signal.SIGTERM, number, record.parent)

        batches = read_epochs(
            dataset, np.asarray(indices), batch_size=batch_size, seed=seed, epochs=s.epochs,
            start_step=number, max_frames=config.data.max_frames,
        )  # fmt: skip
        start = number // steps * len(indices) + number % steps * batch_size
        progress = Progress(s.epochs * len(indices), title, start=start, unit="clips")
        saved_at, seconds = time.monotonic(), 60 * s.get("save_minutes", SETTINGS["save_minutes"])
        with progress, StopRequest(enabled=record is not None) as stop:
            if found:
                progress.note(f"{title}: going on after step {number} of {total}")
            while True:
                if sum(epoch <= number // steps for epoch in looks) > len(seen):
                    try:
                        with stop.interruptible():
                            seen.append(test_logits(state))
                    except Interrupted:
                        raise leave(state) from None
                if number == total:
                    break
                batch, epoch = next(batches), number // steps
                rate = s.learning_rate * s.factor ** sum(epoch >= m for m in s.milestones)
                run = compile_step(count_devices(len(batch["label"]), len(devices)))
                crops = jax.random.fold_in(key_crop, number)
                state, loss = run(state, jnp.float32(rate), crops, batch)
                number += 1
                progress.update(len(batch["label"]))
                is_due = record and time.monotonic() - saved_at >= seconds
                if not (is_due or stop.received or number % steps == 0):
                    continue
                progress.figures["loss"] = float(loss)
                if not np.isfinite(loss):
                    raise UserError(
                        f"{title}: the loss is not finite in epoch {epoch + 1}; try a lower "
                        "--config.finetune.learning_rate"
                    )
                if stop.received:
                    raise leave(state)
                if is_due:
                    save(state)
                    saved_at = time.monotonic()
            batches.close()
            if record and not complete:
                save(state)
        return Tuned(np.stack(seen), to_host(state[:2]))

    return train


def to_host(tree: Any) -> Any:
    """Copies in numpy of arrays that may lie on several devices, and may be donated later."""

    def fetch(leaf):
        return np.array(leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf)

    return jax.tree.map(fetch, tree)


def add_settings(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with the fields of `finetune` that an older run does not have yet."""
    with config.unlocked():
        for name, value in SETTINGS.items():
            config.finetune[name] = config.finetune.get(name, value)
    return config
