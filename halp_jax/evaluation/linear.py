"""Linear probe: one fully connected layer trained on frozen features (HaLP's main protocol).

As the released code: weights ~ N(0, 0.01), bias 0, SGD with momentum, cross entropy, a new random
crop of every clip each epoch, and the last, incomplete batch of an epoch is used (drop_last=False),
its loss being the mean over the clips it has. Unlike the released code, which reports the best of
its evaluations on the test set, `top1` is of the last epoch; `best_top1` is the best evaluation.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from halp_jax.errors import UserError
from halp_jax.evaluation import features as feats
from halp_jax.evaluation import result_files, streams
from halp_jax.evaluation.classifier import Classifier, Part
from halp_jax.methods import check
from halp_jax.methods.prepare import make_prepare
from halp_jax.methods.probe import Probe, apply_probe, init_probe, probe_loss

OPTIMIZERS = ("sgd", "nesterov", "adam")
_PROBE_KEY = 18  # folded into the seed: initial weights and shuffling


def check_config(config: ml_collections.ConfigDict, section: str = "linear") -> None:
    """Raises UserError for numbers that cannot work: of the probe, or of `finetune`, which has the same."""
    fields = [f"{section}.{name}" for name in ("epochs", "batch_size", "eval_every")]
    check.at_least(config, 1, *fields)
    fields = [f"{section}.{name}" for name in ("learning_rate", "weight_decay", "factor")]
    check.at_least(config, 0, *fields)
    check.shares(config, f"{section}.momentum")
    if "crop" in config[section]:  # of clips
        check.share_above_zero(config, f"{section}.test_crop")
        check.crop(config, f"{section}.crop")
    check.rising(config, f"{section}.milestones")
    if section == "linear":
        check.at_least(config, 1, "linear.num_crops")
        check.at_least(config, 0, "linear.start_std")
        check.choices(config, {"linear.optimizer": OPTIMIZERS})


def check_finite(logits: Float[np.ndarray | Array, "..."], section: str) -> None:
    """Raises UserError where training of `linear` or `finetune` has gone astray."""
    if not np.all(np.isfinite(logits)):
        raise UserError(
            f"the loss is not finite: give a lower --config.{section}.learning_rate, and look for clips "
            "with huge coordinates"
        )


def make_optimizer(
    settings: ml_collections.ConfigDict, steps_per_epoch: int
) -> optax.GradientTransformation:
    """As torch.optim's, the rate times `factor` from each of the epochs `milestones` on."""
    boundaries = {epoch * steps_per_epoch: settings.factor for epoch in settings.milestones}
    rate = optax.piecewise_constant_schedule(settings.learning_rate, boundaries)
    if settings.optimizer == "adam":
        update = optax.adam(rate)
    else:
        update = optax.sgd(rate, settings.momentum, nesterov=settings.optimizer == "nesterov")
    return optax.chain(optax.add_decayed_weights(settings.weight_decay), update)


def train_probe(
    settings: ml_collections.ConfigDict,
    key: Key[Array, ""],
    train: Float[Array, "crops clips features"],
    train_labels: Int[Array, " clips"],
    test: Float[Array, "queries features"],
    num_classes: int,
) -> tuple[Float[Array, "evals queries classes"], tuple[Probe, Array, Array]]:
    """The whole training as one program on the device; epoch e sees crop e % crops.

    Returns the test logits of every evaluation, after the epochs of `eval_epochs`, and (the last epoch's
    probe, mean, scale): it applies to (features - mean) / scale, 0 and 1 without `standardize`.
    """
    num_crops, count, dim = train.shape
    batch_size, epochs = min(settings.batch_size, count), settings.epochs
    steps = -(-count // batch_size) if settings.keep_rest else count // batch_size
    optimizer = make_optimizer(settings, steps)
    init_key, shuffle_key = jax.random.split(key)
    epochs_seen = eval_epochs(settings)

    def run(train, train_labels, test):
        mean, scale = jnp.zeros(dim), jnp.ones(dim)
        if settings.standardize:
            mean, deviation = jnp.mean(train, (0, 1)), jnp.std(train, (0, 1))
            scale = jnp.where(deviation > 0, deviation, 1.0)  # a constant feature stays, at zero
        test = (test - mean) / scale

        def epoch_step(carry_and_seen, epoch):
            carry, seen = carry_and_seen
            # The same order whatever the device: a permutation drawn from the epoch alone.
            order = jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), count)
            padding = max(steps * batch_size - count, 0)
            order = jnp.pad(order, (0, padding))[: steps * batch_size].reshape(steps, batch_size)
            valid = (jnp.arange(steps * batch_size) < count).astype(jnp.float32)

            def step(carry, rows):
                probe, state = carry
                index, valid = rows
                batch = (train[epoch % num_crops, index] - mean) / scale
                grads = jax.grad(probe_loss)(probe, batch, train_labels[index], valid)
                updates, state = optimizer.update(grads, state, probe)
                return (optax.apply_updates(probe, updates), state), None

            carry, _ = jax.lax.scan(step, carry, (order, valid.reshape(order.shape)))
            place = jnp.searchsorted(jnp.array(epochs_seen), epoch + 1)
            seen = jax.lax.cond(
                jnp.array(epochs_seen)[place] == epoch + 1,
                lambda: seen.at[place].set(apply_probe(carry[0], test)),
                lambda: seen,
            )
            return (carry, seen), None

        probe = init_probe(init_key, dim, num_classes, settings.start_std)
        seen = jnp.zeros((len(epochs_seen), len(test), num_classes))
        carry = ((probe, optimizer.init(probe)), seen)
        ((probe, _), seen), _ = jax.lax.scan(epoch_step, carry, jnp.arange(epochs))
        return seen, (probe, mean, scale)

    return jax.jit(run)(train, train_labels, test)


def eval_epochs(settings: ml_collections.ConfigDict) -> list[int]:
    """Epochs after which the test set is looked at: every `eval_every` and the last one."""
    every = range(settings.eval_every, settings.epochs + 1, settings.eval_every)
    return sorted({*every, settings.epochs})


def train_logits(
    settings: ml_collections.ConfigDict,
    seed: int,
    train: Float[np.ndarray, "crops clips features"],
    train_labels: Int[np.ndarray, " clips"],
    test: Float[np.ndarray, "queries features"],
    *,
    num_classes: int,
) -> tuple[Float[np.ndarray, "evals queries classes"], tuple[Probe, Array, Array]]:
    """Trains a probe -> what `train_probe` returns.

    Raises UserError when the features do not fit in the device's memory.
    """
    memory = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in memory:
        feats.check_memory(train.shape, memory["bytes_limit"], "of the device")
    logits, trained = train_probe(
        settings,
        jax.random.fold_in(jax.random.key(seed), _PROBE_KEY),
        jnp.asarray(train),
        jnp.asarray(train_labels, jnp.int32),
        jnp.asarray(test),
        num_classes,
    )
    check_finite(logits, "linear")
    return np.asarray(logits), trained


def score(
    logits: Float[np.ndarray, "evals queries classes"],
    labels: Int[np.ndarray, " queries"],
    epochs: Sequence[int],
) -> dict[str, Any]:
    """Test logits after each of `epochs` -> the metrics of `result_files.summarize`, best_top1, history.

    top1 is of the last evaluation. top5: the right label is among the 5 largest logits. history: [epochs
    done, top1] of every evaluation.
    """
    right = np.mean(np.argmax(logits, axis=-1) == labels, axis=1)
    history = [[epoch, float(top1)] for epoch, top1 in zip(epochs, right, strict=True)]
    largest = np.argsort(-logits[-1], axis=1, kind="stable")[:, :5]
    top5 = np.mean(np.any(largest == labels[:, None], axis=1))
    metrics = result_files.summarize(largest[:, 0], labels, logits.shape[-1], top5=float(top5))
    return metrics | {"best_top1": max(top1 for _, top1 in history), "history": history}


def evaluate(
    config: ml_collections.ConfigDict,
    dataset: Any,
    encoder: feats.Encoder,
    fusions: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """The linear protocol: fusion -> the metrics of `score`, clip counts and "classifier".

    `fusions`: streams of the encoder, "mean", "concat", "together", or "ensemble", the sum of the scores of one
    probe a stream with `linear.weights`; the encoder's first stream if empty.
    """
    settings = config.linear
    check_config(config)
    views = config.views
    crops = feats.make_extractor(
        encoder.embed, crop=tuple(settings.crop),
        num_crops=min(settings.num_crops, settings.epochs),  # a crop beyond the epochs is never seen
        num_frames=views.num_frames, min_frames=views.min_frames, seed=config.seed,
        prepare=make_prepare(config, dataset.layout),
    )  # fmt: skip
    centre = feats.make_centre_extractor(config, dataset.layout, encoder.embed, settings.test_crop)
    split = functools.partial(feats.extract_split, config, dataset, progress=True)
    train = split("train", crops, encoder.variables)
    test = split("test", centre, encoder.variables)

    @functools.cache  # an ensemble shares its probes with the looks at single streams
    def train_on(fusion):
        return train_logits(
            settings, config.seed,
            streams.select(train.values, fusion, encoder.streams), train.labels,
            streams.select(test.values[0], fusion, encoder.streams), num_classes=dataset.num_classes,
        )  # fmt: skip

    counts = {"num_train": len(train.labels), "num_test": len(test.labels)}
    results = {}
    for fusion in fusions or encoder.streams[:1]:
        shares = {fusion: 1.0}
        if fusion == "ensemble":
            shares = {name: settings.weights[name] for name in encoder.streams}
        logits = sum(share * train_on(name)[0] for name, share in shares.items())
        found = Classifier(
            tuple(Part(name, share, *train_on(name)[1]) for name, share in shares.items()),
            tuple(dataset.class_names), settings.test_crop, views.num_frames, tuple(config.streams),
        )  # fmt: skip
        metrics = score(logits, test.labels, eval_epochs(settings))
        results[fusion] = metrics | counts | {"classifier": found}
    return results
