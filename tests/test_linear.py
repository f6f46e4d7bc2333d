"""The linear probe: against the released code's steps and a plain reimplementation in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _clips import FakeDataset, patch_pipeline, tiny_config

from configs import default
from halp_jax.errors import UserError
from halp_jax.evaluation import classifier, features, knn, linear


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
    """Torch's formulas in float64, one loop a sentence of the protocol."""
    init_key, shuffle_key = jax.random.split(key)
    crops, count, dim = train.shape
    weight = np.float64(linear.init_probe(init_key, dim, num_classes).weight)
    bias, velocity, square, steps = np.zeros(num_classes), 0, 0, 0
    for epoch in range(s.epochs):
        rate = s.learning_rate * s.factor ** sum(epoch >= m for m in s.milestones)
        order = jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), count)
        for start in range(0, count if s.keep_rest else count - s.batch_size + 1, s.batch_size):
            rows = np.asarray(order)[start : start + s.batch_size]
            x = train[epoch % crops, rows]
            logits = x @ weight + bias
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            p[np.arange(len(rows)), labels[rows]] -= 1
            gradient = np.vstack([x.T @ p, p.sum(0)]) / len(rows)
            gradient += s.weight_decay * np.vstack([weight, bias])
            steps += 1
            if s.optimizer == "adam":
                velocity = 0.9 * velocity + 0.1 * gradient
                square = 0.999 * square + 0.001 * gradient**2
                spread = np.sqrt(square / (1 - 0.999**steps)) + 1e-8
                move = velocity / (1 - 0.9**steps) / spread
            else:
                move = velocity = s.momentum * velocity + gradient
                if s.optimizer == "nesterov":
                    move = gradient + s.momentum * velocity
            weight, bias = weight - rate * move[:-1], bias - rate * move[-1]
    return weight, bias


def test_settings_of_the_crops_arrive(monkeypatch):
    patch_pipeline(monkeypatch)
    config = tiny_config(
        linear__test_crop=0.5, linear__crop=(0.6, 0.7), knn__crop=0.9, seed=5,
        knn__k=(1, 5), knn__temperature=0.1,
    )  # fmt: skip
    dataset, made, voted = FakeDataset(), [], []
    make, vote = features.make_extractor, knn.vote

    def note(embed, **options):
        made.append((options["crop"], options.get("num_crops", 1), options.get("seed", 0)))
        return make(embed, **options)

    monkeypatch.setattr(features, "make_extractor", note)
    monkeypatch.setattr(knn, "vote", lambda *args: voted.append(args[3]) or vote(*args))
    embed = features.make_embedding("raw", config, dataset.layout)
    encoder = features.Encoder(embed, (), ("joint",))
    found = linear.evaluate(config, dataset, encoder)["joint"]
    assert made == [((0.6, 0.7), config.linear.num_crops, 5), (0.5, 1, 0)]
    assert found["classifier"].crop == 0.5
    neighbours = knn.evaluate(config, dataset, encoder)["joint"]
    assert made[2:] == [(0.9, 1, 0)] and voted == [0.1, 0.1]
    assert [each["k"] for each in neighbours] == [1, 5]


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam"])
def test_optimizers_are_torchs_and_the_short_batch_is_left_out_where_it_is_asked(optimizer):
    train, labels = toy_features()
    s = settings(
        optimizer=optimizer,
        epochs=4,
        milestones=(3,),
        batch_size=8,
        learning_rate=0.1,
        keep_rest=False,
    )
    key, given = jax.random.key(3), jnp.asarray(labels, jnp.int32)
    _, (probe, _, _) = linear.train_probe(
        s, key, jnp.asarray(train), given, jnp.asarray(train[0]), 3
    )
    weight, bias = numpy_probe(s, key, np.float64(train), labels, 3)
    close = 1e-5 if optimizer == "adam" else 2e-6  # it divides by what may be small
    np.testing.assert_allclose(probe.weight, weight, atol=close)
    np.testing.assert_allclose(probe.bias, bias, atol=close)


@pytest.mark.parametrize("batch_size", [8, 64])
def test_training_is_plain_sgd_with_the_last_short_batch(batch_size):
    train, labels = toy_features()
    s = settings(
        epochs=7, milestones=(3, 5), batch_size=batch_size, learning_rate=0.1, weight_decay=0.02
    )
    key = jax.random.key(3)
    int_labels = jnp.asarray(labels, jnp.int32)
    logits, (probe, mean, scale) = linear.train_probe(
        s, key, jnp.asarray(train), int_labels, jnp.asarray(train[0]), 3
    )
    weight, bias = numpy_probe(s, key, np.float64(train), labels, 3)
    assert not mean.any() and np.all(scale == 1)
    np.testing.assert_allclose(probe.weight, weight, atol=2e-6)
    np.testing.assert_allclose(probe.bias, bias, atol=2e-6)
    np.testing.assert_allclose(logits[-1], train[0] @ weight + bias, atol=1e-5)
    assert linear.eval_epochs(s) == [5, 7]  # every 5 epochs, and the last
    with s.unlocked():
        s.epochs = 5
    weight, bias = numpy_probe(s, key, np.float64(train), labels, 3)
    np.testing.assert_allclose(logits[0], train[0] @ weight + bias, atol=1e-5)


def test_top1_is_the_last_epoch_and_best_the_best_look():
    train, labels = toy_features(clips=60, seed=1)
    test, test_labels = toy_features(crops=1, clips=40, seed=1)
    s = settings(epochs=11, learning_rate=3.0, eval_every=1)  # restless: fusions differ
    logits, _ = linear.train_logits(s, 0, train, labels, test[0], num_classes=3)
    figures = linear.score(logits, test_labels, linear.eval_epochs(s))
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
    (plain, _), (standardized, trained) = (
        linear.train_logits(
            settings(epochs=10, learning_rate=0.05, standardize=on),
            0, scaled, labels, scaled[0], num_classes=3,
        )
        for on in (False, True)
    )  # fmt: skip
    right = [np.mean(logits[-1].argmax(1) == labels) for logits in (plain, standardized)]
    assert right[1] > 0.75 > right[0]
    # What is kept gives the same scores again: classifier.py says how.
    part = classifier.Part("joint", 1.0, *trained)
    kept = classifier.Classifier((part,), ("a", "b", "c"), 0.95, 64, ("joint",))
    scores = classifier.classify(kept, scaled[0], ("joint",))
    np.testing.assert_allclose(scores, jax.nn.softmax(standardized[-1]), atol=1e-5)


def test_a_classifier_comes_back_from_its_file(tmp_path):
    rng = np.random.default_rng(0)
    probes = [linear.Probe(*map(np.float32, (rng.normal(size=(4, 2)), rng.normal(size=2))))] * 2
    shares = zip(("joint", "bone"), (0.6, 0.4), probes, strict=True)
    trees = ({"gru": {"w": np.ones((2, 3), np.float32)}}, {"norm": {"mean": np.zeros((2, 3))}})
    whole = classifier.Classifier(
        tuple(classifier.plain_part(*part) for part in shares), ("a", "b"), 0.95, 64,
        ("joint", "bone"), trees, "finetune", "view", 7, "00ff",
    )  # fmt: skip
    path = tmp_path / "eval" / "x.npz"
    classifier.save(path, whole)
    found = classifier.load(path, "make it")
    assert found._replace(parts=(), variables=None) == whole._replace(parts=(), variables=None)
    assert jax.tree.structure(found) == jax.tree.structure(whole)
    ours, theirs = (jax.tree.leaves((one.parts, one.variables)) for one in (found, whole))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)
    features = np.float32(rng.normal(size=(3, 8)))
    logits = 0.6 * (features[:, :4] @ probes[0].weight + probes[0].bias)
    logits += 0.4 * (features[:, 4:] @ probes[1].weight + probes[1].bias)
    scores = classifier.classify(found, features, ("joint", "bone"))
    np.testing.assert_allclose(scores, jax.nn.softmax(logits), atol=1e-6)
    lines = classifier.format_best(
        np.array([0.1, 0.2, 0.3, 0.4]), ["a", "b", "c", "d"]
    ).splitlines()
    assert lines == ["   40.0 %  d", "   30.0 %  c", "   20.0 %  b"]
    for name, content in {"cut": path.read_bytes()[:500], "empty": b"", "text": b"no file"}.items():
        (damaged := tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=f"{name} cannot be read .*: make it"):
            classifier.load(damaged, "make it")
    classifier.save(path, None)
    with pytest.raises(UserError, match="there is no .*x.npz: make it"):
        classifier.load(path, "make it")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("linear.learning_rate", float("nan"), "0 or more"),
        ("linear.learning_rate", -1.0, "0 or more"),
        ("linear.optimizer", "adamw", "use one of sgd, nesterov, adam"),
        ("linear.learning_rate", float("inf"), "finite"),
        ("linear.momentum", 2.0, r"\[0, 1\]"),
        ("linear.crop", (2, 3), "high <= 1"),
        ("linear.test_crop", 7.0, r"\(0, 1\]"),
        ("linear.milestones", ("a",), "rising"),
        ("finetune.factor", float("nan"), "0 or more"),
        ("finetune.batch_size", 0, "at least 1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(field, value, said):
    config, section = default.get_config(), field.split(".")[0]
    linear.check_config(config, section)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f"config.{field}=.*{said}"):
        linear.check_config(config, section)


def test_a_probe_that_diverges_is_an_error_and_no_result():
    values, labels = toy_features()
    wild = settings(learning_rate=1e30, epochs=4, batch_size=8)
    with pytest.raises(UserError, match="not finite: give a lower --config.linear.learning_rate"):
        linear.train_logits(wild, 0, 1e10 * values, labels, values[0], num_classes=3)


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
