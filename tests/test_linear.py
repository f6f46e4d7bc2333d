"""The linear probe: against the released code's steps and a plain reimplementation in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _clips import FakeDataset, patch_pipeline, tiny_config

from configs import default
from halp_jax.errors import UserError
from halp_jax.evaluation import features, linear


def settings(**changes):
    chosen = default.get_config().linear
    chosen.update(changes)
    return chosen


def toy_features(crops=2, clips=29, dim=5, classes=3, seed=0):
    """Gaussian classes, some of them overlapping: accuracies strictly between chance and 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(clips) % classes
    centres = rng.normal(size=(classes, dim))
    values = centres[labels] + 0.9 * rng.normal(size=(crops, clips, dim))
    return np.float32(values), labels


def test_two_steps_of_the_released_code(golden):
    g, frozen = golden("downstream"), golden("encoder")["knn_joint"]
    target, valid = jnp.asarray(g["target"], jnp.int32), jnp.ones(len(frozen))
    optimizer = linear.make_optimizer(settings(), steps_per_epoch=1)  # lr 0.005, momentum 0.9
    probe = linear.Probe(jnp.asarray(g["fc_weight0"].T), jnp.asarray(g["fc_bias0"]))
    state = optimizer.init(probe)
    close = {"atol": 1e-5, "rtol": 1e-5}
    for step in range(2):
        logits = linear.apply_probe(probe, jnp.asarray(frozen))
        np.testing.assert_allclose(logits, g[f"logits{step}"], **close)
        loss, grads = jax.value_and_grad(linear.probe_loss)(
            probe, jnp.asarray(frozen), target, valid
        )
        np.testing.assert_allclose(loss, g[f"loss{step}"], **close)
        updates, state = optimizer.update(grads, state, probe)
        probe = optax.apply_updates(probe, updates)
        # The weights are of the order of 0.01 and move by 1e-4: a tight absolute bound.
        np.testing.assert_allclose(probe.weight.T, g[f"fc_weight{step + 1}"], atol=2e-8)
        np.testing.assert_allclose(probe.bias, g[f"fc_bias{step + 1}"], atol=2e-8)


def test_initial_weights_are_the_released_ones():
    probe = linear.init_probe(jax.random.key(0), 400, 60)
    assert abs(float(probe.weight.std()) / 0.01 - 1) < 0.02
    assert float(abs(probe.bias).max()) == 0


def numpy_probe(s, key, train, labels, num_classes):
    """SGD in float64, one loop a sentence of the protocol."""
    init_key, shuffle_key = jax.random.split(key)
    crops, count, dim = train.shape
    weight = np.float64(linear.init_probe(init_key, dim, num_classes).weight)
    bias, velocity = np.zeros(num_classes), 0
    for epoch in range(s.epochs):
        rate = s.learning_rate * s.factor ** sum(epoch >= m for m in s.milestones)
        order = jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), count)
        for start in range(0, count, s.batch_size):
            rows = np.asarray(order)[start : start + s.batch_size]
            x = train[epoch % crops, rows]
            logits = x @ weight + bias
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            p[np.arange(len(rows)), labels[rows]] -= 1
            gradient = np.vstack([x.T @ p, p.sum(0)]) / len(rows)
            gradient += s.weight_decay * np.vstack([weight, bias])
            velocity = s.momentum * velocity + gradient
            weight, bias = weight - rate * velocity[:-1], bias - rate * velocity[-1]
    return weight, bias


@pytest.mark.parametrize("batch_size", [8, 64])
def test_training_is_plain_sgd_with_the_last_short_batch(batch_size):
    train, labels = toy_features()
    s = settings(
        epochs=7, milestones=(3, 5), batch_size=batch_size, learning_rate=0.1, weight_decay=0.02
    )
    key = jax.random.key(3)
    int_labels = jnp.asarray(labels, jnp.int32)
    probe, logits = linear.train_probe(
        s, key, jnp.asarray(train), int_labels, jnp.asarray(train[0]), 3
    )
    weight, bias = numpy_probe(s, key, np.float64(train), labels, 3)
    np.testing.assert_allclose(probe.weight, weight, atol=2e-6)
    np.testing.assert_allclose(probe.bias, bias, atol=2e-6)
    np.testing.assert_allclose(logits[-1], train[0] @ weight + bias, atol=1e-5)
    assert linear.look_epochs(s) == [5, 7]  # every 5 epochs, and the last
    with s.unlocked():
        s.epochs = 5
    weight, bias = numpy_probe(s, key, np.float64(train), labels, 3)
    np.testing.assert_allclose(logits[0], train[0] @ weight + bias, atol=1e-5)


def test_top1_is_the_last_epoch_and_best_the_best_look():
    train, labels = toy_features(clips=60, seed=1)
    test, test_labels = toy_features(crops=1, clips=40, seed=1)
    s = settings(epochs=11, learning_rate=3.0, eval_every=1)  # restless: looks differ
    logits = linear.train_logits(s, 0, train, labels, test[0], num_classes=3)
    figures = linear.score(logits, test_labels, linear.look_epochs(s))
    history = dict(figures["history"])
    assert list(history) == list(range(1, 12))
    assert figures["top1"] == history[11]
    assert figures["best_top1"] == max(history.values()) > figures["top1"]
    assert figures["top5"] == 1.0  # three classes
    counts = figures["confusion"]
    np.testing.assert_array_equal(counts.sum(1), np.bincount(test_labels))
    np.testing.assert_allclose(figures["per_class"], np.diag(counts) / counts.sum(1))
    assert figures["top1"] == pytest.approx(np.trace(counts) / 40)


def test_standardize_undoes_scale_and_offset():
    train, labels = toy_features(clips=40)
    scaled = np.concatenate([300 * train - 5000, np.full_like(train[..., :1], 7)], axis=-1)
    plain, standardized = (
        linear.train_logits(
            settings(epochs=10, learning_rate=0.05, standardize=on),
            0, scaled, labels, scaled[0], num_classes=3,
        )[-1].argmax(1)
        for on in (False, True)
    )  # fmt: skip
    assert np.mean(standardized == labels) > 0.75 > np.mean(plain == labels)


def test_refuses_what_does_not_fit_in_memory():
    with pytest.raises(UserError, match=r"80 crops of 1000 clips take 0.3 GB .*num_crops"):
        features.check_memory((80, 1000, 1000), 10**8, "of the device")


def test_protocol_from_clips_to_figures(monkeypatch):
    patch_pipeline(monkeypatch)
    config, dataset = tiny_config(), FakeDataset()
    embed = features.make_embedding("raw", config, dataset.layout)
    encoder = features.Encoder(embed, (), ("joint",))
    figures = linear.evaluate(config, dataset, encoder)["joint"]
    assert figures["num_train"] == 14 and figures["num_test"] == 8
    assert figures["top1"] > 0.7
    config.linear.eval_every = 0
    with pytest.raises(UserError, match="eval_every"):
        linear.evaluate(config, dataset, encoder)
