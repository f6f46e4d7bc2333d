"""Fine-tuning on all labels, on a few, and on another data set, with a data set in memory."""

import json

import jax
import numpy as np
import pytest
from _clips import FakeDataset, make_state, patch_pipeline, tiny_config

from halp_jax import datasets, evaluate
from halp_jax.datasets import pipeline
from halp_jax.errors import UserError
from halp_jax.evaluation import features, finetune, finetune_run, linear
from halp_jax.methods.probe import init_probe
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import checkpoint


def small_config(**changes):
    settings = {"epochs": 6, "milestones": (5,), "eval_every": 3, "batch_size": 7}
    settings["learning_rate"] = 0.1
    defaults = {f"finetune__{name}": value for name, value in settings.items()}
    return tiny_config(**defaults | changes)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    patch_pipeline(monkeypatch)
    original, made = finetune_run.make_trainer, {}

    def make_trainer(config, dataset, stream):  # compiles once for all of a test
        name = (config.to_json(), stream)
        if name not in made:
            made[name] = original(config, dataset, stream)
        return made[name]

    monkeypatch.setattr(finetune_run, "make_trainer", make_trainer)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make_encoder(config, dataset):
    state = make_state(config, dataset.layout)
    return features.Encoder(None, features.get_variables(state), tuple(config.streams))


@pytest.mark.parametrize("draw", finetune.DRAWS)
def test_a_subset_is_a_function_of_the_seed_and_as_large_as_asked(draw):
    labels = np.repeat(np.arange(4), [100, 50, 20, 3])
    chosen = finetune.sample_subset(labels, 0.1, draw, 5)
    np.testing.assert_array_equal(chosen, finetune.sample_subset(labels, 0.1, draw, 5))
    assert not np.array_equal(chosen, finetune.sample_subset(labels, 0.1, draw, 6))
    assert np.all(np.diff(chosen) > 0) and chosen.max() < len(labels)
    if draw == "balanced":  # at least one of each
        np.testing.assert_array_equal(np.bincount(labels[chosen]), [10, 5, 2, 1])
    else:
        assert len(chosen) == 17
    assert len(finetune.sample_subset(labels, 1.0, draw, 0)) == len(labels)


def test_weights_and_statistics_learn_and_the_encoder_given_stays(monkeypatch):
    config, dataset = small_config(), FakeDataset()
    encoder = make_encoder(config, dataset)
    before = jax.tree.map(np.array, encoder.variables)
    chance = linear.score
    logits = []
    monkeypatch.setattr(linear, "score", lambda *a: logits.append(a[0]) or chance(*a))
    found = finetune.evaluate(config, dataset, encoder)["joint"]
    assert [epoch for epoch, _ in found["history"]] == [3, 6]
    assert found["top1"] > 0.7 and (found["num_train"], found["num_test"]) == (14, 8)
    assert logits[0].shape == (2, 8, 3) and np.abs(logits[0][1] - logits[0][0]).max() > 1e-3
    for ours, theirs in zip(
        jax.tree.leaves(encoder.variables), jax.tree.leaves(before), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    # The same again, to the bit; another seed, another classifier.
    again = finetune_run.make_trainer(config, dataset, "joint")
    own = jax.tree.map(lambda leaf: leaf[0], encoder.variables)
    indices = dataset.indices("xsub", "train")
    np.testing.assert_array_equal(again(own, indices, config.seed, "again").logits, logits[0])
    assert np.abs(again(own, indices, 1, "other").logits - logits[0]).max() > 1e-3
    frozen = small_config(finetune__learning_rate=0.0)
    still = finetune_run.make_trainer(frozen, dataset, "joint")(own, indices, 0, "still")
    assert np.abs(still.logits[-1]).max() < 0.1 * np.abs(logits[0][-1]).max()


def test_an_ensemble_adds_the_streams_and_frozen_looks_are_refused(monkeypatch):
    config, dataset = small_config(streams=("joint", "bone"), finetune__epochs=1), FakeDataset()
    encoder = make_encoder(config, dataset)
    ends = {}

    def make_trainer(config, dataset, stream):
        def train(variables, indices, seed, title, folder, *, keep):
            number = len(ends) + 1
            logits = np.random.default_rng(number).normal(size=(1, 8, 3)).astype(np.float32)
            probe = init_probe(jax.random.key(number), 16, 3)
            ends[stream] = finetune_run.FinetuneResult(
                logits, ({"encoder": variables[0], "probe": probe}, {})
            )
            return ends[stream]

        return train

    monkeypatch.setattr(finetune_run, "make_trainer", make_trainer)
    shown = []
    original = linear.score
    monkeypatch.setattr(linear, "score", lambda *a: shown.append(a[0]) or original(*a))
    layers = finetune.evaluate(config, dataset, encoder, ("ensemble",))["ensemble"]["classifier"]
    joint, bone = ends["joint"], ends["bone"]
    np.testing.assert_allclose(shown[0], 0.6 * joint.logits + 0.6 * bone.logits, rtol=1e-5)
    assert (
        layers.streams == ("joint", "bone") and [part.share for part in layers.parts] == [0.6] * 2
    )
    np.testing.assert_array_equal(layers.parts[1].probe.weight, bone.state[0]["probe"].weight)
    given = jax.tree.leaves(encoder.variables[0])
    for ours, theirs in zip(jax.tree.leaves(layers.variables[0]), given, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert finetune.evaluate(config, dataset, encoder)["joint"]["classifier"] is not None
    config.finetune.keep_weights = False
    assert finetune.evaluate(config, dataset, encoder)["joint"]["classifier"] is None
    for fusion, message in (("mean", "frozen features"), ("concat", "frozen features")):
        with pytest.raises(UserError, match=message):
            finetune.evaluate(config, dataset, encoder, (fusion,))
    with pytest.raises(UserError, match="no weights"):
        finetune.evaluate(config, dataset, encoder._replace(variables=()))
    with pytest.raises(UserError, match="finetune.epochs=0: it must be at least 1"):
        finetune.evaluate(small_config(finetune__epochs=0), dataset, encoder)


@pytest.mark.long
def test_semi_goes_on_after_the_draws_that_are_done(tmp_path, monkeypatch):
    config, dataset = small_config(finetune__epochs=1), FakeDataset()
    config.semi.fractions, config.semi.runs, config.semi.draw = (0.3, 1.0), 2, "balanced"
    encoder, calls = make_encoder(config, dataset), []
    original = pipeline.whole_epochs

    def whole_epochs(dataset, indices, **rest):
        if len(calls) == 3 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        calls.append((len(indices), rest["seed"]))
        return original(dataset, indices, **rest)

    monkeypatch.setattr(pipeline, "whole_epochs", whole_epochs)
    interrupted = [True]
    whole = finetune.evaluate_semi(config, dataset, encoder)["joint"]
    calls.clear()
    interrupted.clear()
    with pytest.raises(KeyboardInterrupt):
        finetune.evaluate_semi(config, dataset, encoder, store=tmp_path)
    assert calls == [(5, 0), (5, 1), (14, 0)]
    assert len(list(tmp_path.iterdir())) == 4  # the last one has just begun
    kept = [path for path in tmp_path.glob("*/*") if path.name[:7] == "logits_"]
    assert len(kept) == 3 and not list(tmp_path.glob("*/checkpoints/*"))  # no weights
    few, all_ = finetune.evaluate_semi(config, dataset, encoder, store=tmp_path)["joint"]
    assert calls == [(5, 0), (5, 1), (14, 0), (14, 1)]  # nothing twice
    assert json.dumps([few, all_], default=np.ndarray.tolist) == json.dumps(
        whole, default=np.ndarray.tolist
    )
    assert (few["fraction"], few["num_train"], all_["num_train"]) == (0.3, 5, 14)
    assert few["top1"] == np.mean(few["top1_runs"]) and len(few["top1_runs"]) == 2
    assert few["top1_sd"] == pytest.approx(np.std(few["top1_runs"], ddof=1))
    assert few["confusion"].sum() == 16
    config.semi.draw = "all"
    with pytest.raises(UserError, match="draw=all must be plain or balanced"):
        finetune.evaluate_semi(config, dataset, encoder)


def test_the_three_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "open_dataset", lambda path: FakeDataset())
    config = small_config(finetune__epochs=1)
    config.semi.fractions, config.semi.runs = (0.5,), 2
    checkpoint.save_config(tmp_path, config)
    with checkpoint.open_manager(tmp_path, config) as manager:
        checkpoint.save(manager, 7, make_state(config, NTU25, 7), {"layout": "ntu25"})

    def run(*options):
        return evaluate.main([f"--workdir={tmp_path}", *options])

    assert run("--protocol=transfer") == 1
    assert "pre-trained on fake itself" in capsys.readouterr().err
    assert run("--protocol=transfer", "--config.data.dir=other") == 0
    assert run("--protocol=semi") == 0
    assert "pre-trained, semi 50 %" in capsys.readouterr().out
    names = sorted(path.name for path in (tmp_path / "eval").glob("*.json"))
    assert names == ["semi_0.5.json", "transfer.json"]
    result = json.loads((tmp_path / "eval" / "semi_0.5.json").read_text())
    assert result["fraction"] == 0.5 and len(result["top1_runs"]) == 2


def test_scores_that_are_not_finite_are_no_result():
    linear.check_finite(np.zeros((1, 2)), "finetune")
    with pytest.raises(UserError, match="loss is not finite: give a lower --config.finetune.learn"):
        linear.check_finite(np.array([[0.0, np.nan]]), "finetune")
