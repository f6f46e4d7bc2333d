"""The training of fine-tuning: its last batch on any devices, and runs that are stopped and go on."""

import functools
import json
import logging
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _clips import FakeDataset, make_state, patch_pipeline, tiny_config

from halp_jax import datasets, evaluate
from halp_jax.datasets import pipeline
from halp_jax.evaluation import linear, tune, unfinished
from halp_jax.methods import moco
from halp_jax.skeletons import augment
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import checkpoint
from halp_jax.training.loop import Stopped


def small_config(**changes):
    settings = {"epochs": 3, "milestones": (2,), "eval_every": 2, "batch_size": 8}
    settings |= {"learning_rate": 0.1, "weight_decay": 0.01}
    return tiny_config(**{f"finetune__{name}": value for name, value in settings.items()} | changes)


CONFIG, DATASET = small_config(), FakeDataset()
CLIPS = DATASET.indices("xsub", "train")  # 14: a batch of 8 and one of 6


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    patch_pipeline(monkeypatch)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def variables():
    state = make_state(CONFIG, NTU25)
    return jax.tree.map(lambda leaf: leaf[0], (state.params, state.batch_stats))


@functools.cache
def trainer(num_devices=4):
    return tune.make_trainer(CONFIG, DATASET, "joint", jax.devices()[:num_devices])


@functools.cache
def unbroken():
    return trainer()(variables(), CLIPS, 5, "unbroken")


def plain_loop(config, seed):
    """The same on one device, without a mesh: one loop a sentence of the protocol."""
    s, encoder = config.finetune, moco.make_encoder(config)
    key_probe, key_crop = jax.random.split(jax.random.fold_in(jax.random.key(seed), 19))
    params, batch_stats = variables()
    probe = linear.init_probe(key_probe, 2 * config.encoder.width, DATASET.num_classes)
    weights = {"encoder": params, "probe": probe}
    velocity = jax.tree.map(jnp.zeros_like, weights)

    @jax.jit
    def step(weights, batch_stats, velocity, rate, key, rows):
        def loss_fn(weights):
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(len(rows)))
            crop = functools.partial(
                augment.random_crop, low=0.5, high=1.0, num_frames=6, min_frames=4
            )
            clips = jax.vmap(crop)(keys, frames[rows], lengths[rows])
            x = moco.stream_inputs(config, NTU25, clips)[0]
            given = {"params": weights["encoder"], "batch_stats": batch_stats}
            (_, feature), new = encoder.apply(given, x, train=True, mutable=["batch_stats"])
            logits = feature @ weights["probe"].weight + weights["probe"].bias
            own = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[rows][:, None], 1)
            return -own.mean(), new["batch_stats"]

        grads, batch_stats = jax.grad(loss_fn, has_aux=True)(weights)
        grads = jax.tree.map(lambda g, w: g + s.weight_decay * w, grads, weights)
        velocity = jax.tree.map(lambda v, g: s.momentum * v + g, velocity, grads)
        return jax.tree.map(lambda w, v: w - rate * v, weights, velocity), batch_stats, velocity

    frames, lengths = jnp.asarray(DATASET.frames), jnp.asarray(DATASET.lengths)
    labels, number = jnp.asarray(DATASET.labels), 0
    for epoch in range(s.epochs):
        order = CLIPS[tune.epoch_order(len(CLIPS), seed, epoch)]
        rate = s.learning_rate * (s.factor if epoch >= 2 else 1)
        for start in range(0, len(order), s.batch_size):
            key, rows = jax.random.fold_in(key_crop, number), order[start : start + s.batch_size]
            state = step(weights, batch_stats, velocity, rate, key, jnp.asarray(rows))
            weights, batch_stats, velocity = state
            number += 1
    return weights, batch_stats


def test_the_last_short_batch_is_that_of_a_plain_loop_on_any_devices():
    wanted = plain_loop(CONFIG, 5)
    assert tune.count_devices(6, 4) == 3 and tune.count_devices(8, 3) == 2
    assert tune.count_devices(7, 4) == 1 and tune.count_devices(3, 4) == 3
    for num_devices in (1, 4):
        end = trainer(num_devices)(variables(), CLIPS, 5, "x") if num_devices < 4 else unbroken()
        for ours, theirs in zip(jax.tree.leaves(end.state), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("start", [0, 3, 6])
def test_every_clip_comes_once_an_epoch_and_a_later_start_is_the_same_sequence(start):
    def read(start_step):
        options = {"batch_size": 5, "seed": 3, "epochs": 3, "max_frames": 12}
        return list(tune.read_epochs(DATASET, CLIPS, start_step=start_step, **options))

    batches = read(0)
    assert [len(batch["index"]) for batch in batches] == 3 * [5, 5, 4]
    orders = np.concatenate([batch["index"] for batch in batches]).reshape(3, 14)
    np.testing.assert_array_equal(np.sort(orders), np.tile(CLIPS, (3, 1)))
    assert not np.array_equal(orders[0], orders[1])
    for ours, theirs in zip(read(start), batches[start:], strict=True):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


def stop_at(monkeypatch, batch_number, act):
    """`act` happens when that batch of a run is read, or (-1) when the test clips are."""
    original = pipeline.eval_batches

    def eval_batches(dataset, indices, **rest):
        training = rest["batch_size"] == 8 and indices[0] not in dataset.indices("xsub", "test")
        batches = enumerate(original(dataset, indices, **rest))
        for number, batch in batches:
            if number == batch_number if training else batch_number == -1:
                act()
            yield batch

    monkeypatch.setattr(pipeline, "eval_batches", eval_batches)


def assert_same(end, other):
    np.testing.assert_array_equal(end.logits, other.logits)
    for ours, theirs in zip(jax.tree.leaves(end.state), jax.tree.leaves(other.state), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("where, step", [(2, 3), (5, 6), (-1, 4)])
def test_a_run_that_is_asked_to_stop_goes_on_to_the_bit(tmp_path, monkeypatch, where, step):
    record = tmp_path / "new" / "run.npz"
    with monkeypatch.context() as patch:
        stop_at(patch, where, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped, match=f"SIGTERM: saved step {step} in {record.parent}") as stop:
            trainer()(variables(), CLIPS, 5, "run", record)
    assert stop.value.exit_code == 143
    assert_same(trainer()(variables(), CLIPS, 5, "run", record), unbroken())
    # A finished run is not done again, and without `keep` holds no weights.
    stop_at(monkeypatch, 0, lambda: pytest.fail("trained again"))
    assert_same(trainer()(variables(), CLIPS, 5, "run", record), unbroken())
    assert trainer()(variables(), CLIPS, 5, "run", record, keep=False).state is None


def test_a_run_that_is_killed_goes_on_from_the_last_save(tmp_path, monkeypatch, caplog):
    record = tmp_path / "run.npz"
    monkeypatch.setitem(CONFIG.finetune, "save_minutes", 0.0)
    train = trainer()

    def kill():
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        stop_at(patch, 3, kill)
        with pytest.raises(RuntimeError, match="killed"):
            train(variables(), CLIPS, 5, "run", record)
    with np.load(record, allow_pickle=False) as arrays:
        assert arrays["step"] == 3 and arrays["logits"].size == 0
    whole = record.read_bytes()
    assert_same(train(variables(), CLIPS, 5, "run", record, keep=False)._replace(
        state=unbroken().state), unbroken())  # fmt: skip
    middle = len(whole) // 2
    damaged = {
        "cut": whole[:middle], "empty": b"",
        "changed": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
    }  # fmt: skip
    template = jax.eval_shape(lambda: {"weights": jnp.zeros(3)})
    for name, data in damaged.items():
        (path := tmp_path / f"{name}.npz").write_bytes(data)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "halp_jax"):
            assert unfinished.load(path, template) is None
        assert f"{path} is damaged" in caplog.text and "begins anew" in caplog.text
    record.write_bytes(damaged["changed"])
    assert_same(trainer()(variables(), CLIPS, 5, "run", record), unbroken())


def test_records_are_of_what_the_result_depends_on(tmp_path):
    def folder(config=CONFIG, variables=None, dataset=DATASET, looks=("joint",)):
        variables = variables or {"w": np.zeros(3)}
        return unfinished.find_folder(tmp_path, "semi", config, dataset, variables, looks)

    assert folder().parent == tmp_path / "eval" / "unfinished"
    assert folder(small_config(finetune__save_minutes=1.0, semi__runs=2, knn__k=3)) == folder()
    others = [
        folder(small_config(finetune__epochs=4)), folder(small_config(seed=1)),
        folder(small_config(semi__draw="balanced")), folder(variables={"w": np.ones(3)}),
        folder(dataset=FakeDataset(num_clips=23)), folder(looks=("bone",)),
    ]  # fmt: skip
    assert len({folder(), *others}) == 7
    template = {"a": np.zeros(3, np.float32)}
    unfinished.save(folder() / "x.npz", unfinished.Record(1, np.zeros((0, 0, 0)), template))
    assert unfinished.load(folder() / "x.npz", {"a": np.zeros(4, np.float32)}) is None
    unfinished.remove_folder(folder())
    assert not (tmp_path / "eval" / "unfinished").exists()


def test_the_command_goes_on_after_ctrl_c(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "open_dataset", lambda path: FakeDataset())
    monkeypatch.setattr(tune, "make_trainer", lambda *_: trainer())
    results = {}
    for name in ("unbroken", "stopped"):
        workdir = tmp_path / name
        checkpoint.save_config(workdir, CONFIG)
        with checkpoint.open_manager(workdir, CONFIG) as manager:
            checkpoint.save(manager, 7, make_state(CONFIG, NTU25), {"layout": "ntu25"})
        command = [f"--workdir={workdir}", "--protocol=finetune"]
        if name == "stopped":
            with monkeypatch.context() as patch:
                stop_at(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
                assert evaluate.main(command) == 130
            last = capsys.readouterr().err.splitlines()[-1]
            assert "SIGINT: saved step 4 in" in last and "the same command goes on" in last
            assert (workdir / "eval" / "unfinished").is_dir()
        assert evaluate.main(command) == 0
        assert sorted(path.name for path in (workdir / "eval").iterdir()) == [
            "finetune.json", "finetune.npz",
        ]  # fmt: skip
        result = json.loads((workdir / "eval" / "finetune.json").read_text())
        with np.load(workdir / "eval" / "finetune.npz") as arrays:
            results[name] = (result["history"], result["confusion"], dict(arrays))
    assert results["unbroken"][:2] == results["stopped"][:2]
    for name, array in results["unbroken"][2].items():
        np.testing.assert_array_equal(array, results["stopped"][2][name])
    assert "going on after step 4 of 6" in capsys.readouterr().err
    # What is not fine-tuning ends in a line, too.
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "eval_batches", lambda *_, **__: os.kill(os.getpid(), 15))
        assert evaluate.main([command[0], "--protocol=knn"]) == 143
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "evaluate: stopped; the same command begins again"
