"""Fine-tuning: all weights and a new linear layer, on all labels, on a few, or on another data set.

Three protocols of the field, one training. Released settings (CMD's and HaLP's code): SGD, rate 0.01,
batch 64, 80 epochs, x0.1 at 50 and 70, random crops U(0.5, 1), centre crop 0.95 to test.

    finetune    every labelled clip of the split
    semi        1, 5, 10, 20 % of them, several draws each; mean and spread
    transfer    finetune on another data set than the encoder was pre-trained on

`--encoder=random` trains from scratch with the same settings: the row to beat. An epoch leaves out the
last, incomplete batch of its permutation (the released loader keeps it).
"""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from halp_jax.datasets import pipeline
from halp_jax.errors import UserError
from halp_jax.evaluation import features as feats
from halp_jax.evaluation import linear, table
from halp_jax.methods import moco
from halp_jax.progress import Progress
from halp_jax.skeletons import augment

DRAWS = ("plain", "balanced")
_FINETUNE_KEY = 19  # folded into the seed


def draw_subset(
    labels: Int[np.ndarray, "clips"], fraction: float, draw: str, seed: int
) -> Int[np.ndarray, "chosen"]:
    """Places of the clips that keep their labels, in rising order.

    "plain" draws round(fraction * clips) of them all (the released code); "balanced" draws
    round(fraction * n) of the n clips of each class, at least one (AimCLR's).
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(19,))))
    if draw == "plain":
        count = max(1, round(fraction * len(labels)))
        return np.sort(rng.permutation(len(labels))[:count])
    chosen = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(own)[: max(1, round(fraction * len(own)))])
    return np.sort(np.concatenate(chosen))


def make_trainer(config: ml_collections.ConfigDict, dataset: Any, stream: str):
    """Compiles the training of one stream's encoder once -> train(variables, indices, seed, title).

    `variables` are (params, batch_stats) of that stream, without the stream axis. Returned are the
    test logits [looks, queries, classes] after each of `linear.look_epochs`.
    """
    s, views, layout = config.finetune, config.views, dataset.layout
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
        mesh = Mesh(np.array(jax.local_devices()[:num_devices]), (moco.AXIS,))
        mapped = jax.shard_map(
            step, mesh=mesh, in_specs=(everywhere,) * 3 + (rows,) * 3, out_specs=everywhere,
            check_vma=False,
        )  # fmt: skip
        return mesh, jax.jit(mapped, donate_argnums=(0,))

    embed = feats.make_embedding("trained", single, layout)
    extract = feats.make_extractor(embed, crop=s.test_crop, num_frames=views.num_frames)
    looks = linear.look_epochs(s)

    def test_logits(state):
        weights, stats = jax.tree.map(lambda x: x.addressable_data(0), state[:2])
        variables = jax.tree.map(lambda x: x[None], (weights["encoder"], stats))
        test = feats.extract_split(config, dataset, "test", extract, variables)
        return np.asarray(linear.apply_probe(weights["probe"], jnp.asarray(test.values[0])))

    def train(variables, indices, seed, title):
        num_devices = min(len(jax.local_devices()), len(indices))
        batch_size = min(s.batch_size, len(indices)) // num_devices * num_devices
        steps_per_epoch = len(indices) // batch_size
        mesh, run = compile_step(num_devices)
        key_probe, key_crop = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), _FINETUNE_KEY)
        )
        params, batch_stats = variables
        probe = linear.init_probe(key_probe, 2 * config.encoder.width, dataset.num_classes)
        weights = {"encoder": params, "probe": probe}
        state = (weights, batch_stats, optimizer.init(weights))
        # Through numpy: the state is donated, its leaves must be no one else's.
        state = jax.device_put(jax.tree.map(np.array, state), NamedSharding(mesh, everywhere))
        batches = pipeline.train_batches(
            dataset, indices, batch_size=batch_size, seed=seed, max_frames=config.data.max_frames
        )
        seen = []
        with Progress(s.epochs * len(indices), title, unit="clips") as progress:
            for epoch in range(s.epochs):
                rate = s.learning_rate * s.factor ** sum(epoch >= m for m in s.milestones)
                for number in range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch):
                    batch = next(batches)
                    leaves = tuple(batch[name] for name in ("frames", "length", "label"))
                    leaves = jax.device_put(leaves, NamedSharding(mesh, rows))
                    key = jax.random.fold_in(key_crop, number)
                    state, loss = run(state, jnp.float32(rate), key, *leaves)
                if not np.isfinite(loss):
                    raise UserError(
                        f"{title}: the loss is not finite in epoch {epoch + 1}; try a lower "
                        "--config.finetune.learning_rate"
                    )
                if epoch + 1 in looks:
                    seen.append(test_logits(state))
                progress.figures["loss"] = float(loss)
                progress.update(len(indices))
        batches.close()
        return np.stack(seen)

    return train


def _make_looker(config, dataset, encoder: feats.Encoder, looks: Sequence[str]):
    """-> run(look, indices, seed, title): test logits; an ensemble adds its streams'."""
    if not encoder.variables:
        raise UserError("raw coordinates have no weights to fine-tune; use --encoder=random")
    for name in ("epochs", "batch_size", "eval_every"):
        if config.finetune[name] < 1:
            raise UserError(f"finetune.{name} is {config.finetune[name]}; it must be at least 1")
    for look in looks:
        if look in ("mean", "concat"):
            raise UserError(f"--stream={look} is of frozen features; fine-tune streams or ensemble")
    make = functools.cache(functools.partial(make_trainer, config, dataset))

    def run(look, indices, seed, title):
        if look == "ensemble":
            weights = config.linear.weights
            return sum(weights[s] * run(s, indices, seed, f"{title}, {s}") for s in config.streams)
        place = tuple(config.streams).index(look)
        own = jax.tree.map(lambda leaf: leaf[place], encoder.variables)
        return make(look)(own, indices, seed, title)

    return run


def evaluate(
    config: ml_collections.ConfigDict,
    dataset: Any,
    encoder: feats.Encoder,
    looks: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """finetune and transfer: look -> the figures of `linear.score` and clip counts."""
    looks = looks or encoder.streams[:1]
    run = _make_looker(config, dataset, encoder, looks)
    indices = dataset.indices(config.data.split, "train")
    labels = dataset.labels[dataset.indices(config.data.split, "test")]
    counts = {"num_train": len(indices), "num_test": len(labels)}
    epochs = linear.look_epochs(config.finetune)
    return {
        look: linear.score(run(look, indices, config.seed, "finetune"), labels, epochs) | counts
        for look in looks
    }


def evaluate_semi(
    config: ml_collections.ConfigDict,
    dataset: Any,
    encoder: feats.Encoder,
    looks: Sequence[str] = (),
    *,
    store: Path | None = None,
    identity: str = "",
) -> dict[str, list[dict[str, Any]]]:
    """semi: look -> for each fraction of the labels the figures, mean over `semi.runs` draws.

    Besides those of one run: `fraction`, `top1_sd` (None for one draw), `top1_runs`. A draw that is
    done is kept in the folder `store` under `identity` (what encoder this is) and the config, so that
    the command, started again, goes on with the next.
    """
    looks, semi = looks or encoder.streams[:1], config.semi
    if semi.draw not in DRAWS or semi.runs < 1 or not all(0 < f <= 1 for f in semi.fractions):
        raise UserError(
            f"semi: draw={semi.draw} must be {' or '.join(DRAWS)}, runs={semi.runs} at least 1, "
            f"fractions={tuple(semi.fractions)} in (0, 1]"
        )
    run = _make_looker(config, dataset, encoder, looks)
    split = config.data.split
    indices, test = dataset.indices(split, "train"), dataset.indices(split, "test")
    labels, epochs = dataset.labels[test], linear.look_epochs(config.finetune)
    digest = hashlib.sha256(f"{identity} {config.to_json()}".encode()).hexdigest()[:16]

    def one_draw(look, fraction, number):
        path = store and store / f"semi_{fraction:g}_{look}_{number}_{digest}.npy"
        seed = config.seed + number
        chosen = indices[draw_subset(dataset.labels[indices], fraction, semi.draw, seed)]
        if path and path.exists():
            return np.load(path, allow_pickle=False), len(chosen)
        title = f"{100 * fraction:g} % of the labels, draw {number + 1} of {semi.runs}, {look}"
        logits = run(look, chosen, seed, title)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_suffix(f".{os.getpid()}.tmp")
            with open(unfinished, "wb") as file:
                np.save(file, logits)
            os.replace(unfinished, path)
        return logits, len(chosen)

    def figures(look, fraction):
        draws = [one_draw(look, fraction, number) for number in range(semi.runs)]
        scores = [linear.score(logits, labels, epochs) for logits, _ in draws]
        top1 = [score["top1"] for score in scores]
        mean = {
            name: float(np.mean([score[name] for score in scores]))
            for name in ("top1", "top5", "best_top1")
        }
        confusion = sum(score["confusion"] for score in scores)
        return mean | {
            "fraction": fraction, "top1_runs": top1,
            "top1_sd": float(np.std(top1, ddof=1)) if len(top1) > 1 else None,
            "per_class": table.class_accuracies(confusion), "confusion": confusion,
            "num_train": draws[0][1], "num_test": len(labels),
        }  # fmt: skip

    return {look: [figures(look, fraction) for fraction in semi.fractions] for look in looks}
