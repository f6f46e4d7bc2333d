"""The training of fine-tuning: its last batch on any devices, and runs that are stopped and resume."""

import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _clips import FakeDataset, make_state, patch_pipeline, tiny_config
from _runs import one_compiled_step

from halp_jax import datasets, evaluate
from halp_jax.datasets import pipeline
from halp_jax.datasets.order import epoch_order
from halp_jax.encoders.bigru import make_encoder
from halp_jax.evaluation import finetune, finetune_run
from halp_jax.methods.probe import init_probe
from halp_jax.skeletons import augment
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import checkpoint, checkpoint_io
from halp_jax.training.loop import Stopped


def small_config(**changes):
    settings = {"epochs": 3, "milestones": (2,), "eval_every": 2, "batch_size": 8}
    settings |= {"learning_rate": 0.1, "weight_decay": 0.01}
    return tiny_config(**{f"finetune__{name}": value for name, value in settings.items()} | changes)


CONFIG, DATASET = small_config(), FakeDataset()
CLIPS = DATASET.indices("xsub", "train")  # 14: a batch of 8 and one of 6


@pytest.fixture(scope="module", autouse=True)
def compile_once():
    """All runs of this file have the same step: compiled once for each number of devices."""
    with one_compiled_step():
        yield


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    patch_pipeline(monkeypatch)
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def variables():
    state = make_state(CONFIG, NTU25)
    return jax.tree.map(lambda leaf: leaf[0], (state.params, state.extra["batch_stats"]))


@functools.cache
def trainer():
    return finetune_run.make_trainer(CONFIG, DATASET, "joint")


@functools.cache
def unbroken():
    return trainer()(variables(), CLIPS, 5, "unbroken")


def plain_loop(config, seed):
    """The same on one device, without a mesh: one loop a sentence of the protocol."""
    s, encoder = config.finetune, make_encoder(config)
    root = jax.random.key(seed)
    key_probe = jax.random.split(jax.random.fold_in(root, 0))[1]  # 0: of the joint stream
    params, batch_stats = variables()
    probe = init_probe(key_probe, encoder.num_features, DATASET.num_classes)
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
            given = {"params": weights["encoder"], "batch_stats": batch_stats}
            (_, feature), new = encoder.apply(given, clips, train=True, mutable=["batch_stats"])
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
        order = CLIPS[epoch_order(len(CLIPS), seed, epoch)]
        rate = s.learning_rate * (s.factor if epoch >= 2 else 1)
        for start in range(0, len(order), s.batch_size):
            key = jax.random.split(jax.random.fold_in(root, number), 3)[0]
            rows = order[start : start + s.batch_size]
            state = step(weights, batch_stats, velocity, rate, key, jnp.asarray(rows))
            weights, batch_stats, velocity = state
            number += 1
    return weights, batch_stats


@pytest.mark.long
def test_the_last_short_batch_is_that_of_a_plain_loop():
    """On four devices the batch of 8, on three of them that of 6."""
    weights, batch_stats = plain_loop(CONFIG, 5)
    ours, stats = unbroken().state
    theirs = {"encoder": weights["encoder"], "probe": weights["probe"]}
    pairs = zip(jax.tree.leaves((ours, stats)), jax.tree.leaves((theirs, batch_stats)), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("start", [0, 3, 6])
def test_every_clip_comes_once_an_epoch_and_a_later_start_is_the_same_sequence(start):
    def read(start_step):
        options = {"batch_size": 5, "seed": 3, "epochs": 3, "max_frames": 12}
        return list(pipeline.whole_epochs(DATASET, CLIPS, start_step=start_step, **options))

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


@pytest.mark.parametrize("where", [4, -1])
def test_a_run_that_is_asked_to_stop_resumes_to_the_bit(tmp_path, monkeypatch, where):
    folder = tmp_path / "new"
    with monkeypatch.context() as patch:
        stop_at(patch, where, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped, match=f"SIGTERM: saved step . in {folder}") as stop:
            trainer()(variables(), CLIPS, 5, "run", folder)
    assert stop.value.exit_code == 143
    [step] = checkpoint_io.list_steps(folder / "checkpoints")
    assert step == 4 if where == -1 else 0 < step < 6
    assert_same(trainer()(variables(), CLIPS, 5, "run", folder), unbroken())
    # A finished run is not done again.
    stop_at(monkeypatch, 0, lambda: pytest.fail("trained again"))
    assert_same(trainer()(variables(), CLIPS, 5, "run", folder), unbroken())
    assert trainer()(variables(), CLIPS, 5, "run", folder, keep=False).state is None


def test_a_run_that_is_killed_resumes_from_the_last_save_and_need_not_keep_weights(
    tmp_path, monkeypatch
):
    monkeypatch.setitem(CONFIG.finetune, "save_minutes", 1e-9)  # after every step

    def kill():
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        stop_at(patch, 5, kill)
        with pytest.raises(RuntimeError, match="killed"):
            trainer()(variables(), CLIPS, 5, "run", tmp_path)
    [step] = checkpoint_io.list_steps(tmp_path / "checkpoints")
    assert 0 < step < 6
    train = trainer()
    np.testing.assert_array_equal(
        train(variables(), CLIPS, 5, "run", tmp_path, keep=False).logits, unbroken().logits
    )
    assert not (tmp_path / "checkpoints").exists()


def test_records_are_of_what_the_result_depends_on(tmp_path):
    def folder(config=CONFIG, variables=None, dataset=DATASET, fusions=("joint",)):
        variables = variables or {"w": np.zeros(3)}
        return finetune.find_folder(tmp_path, "semi", config, dataset, variables, fusions)

    assert folder().parent == tmp_path / "eval" / "unfinished"
    assert folder(small_config(finetune__save_minutes=1.0, semi__runs=2, knn__k=(3,))) == folder()
    others = [
        folder(small_config(finetune__epochs=4)), folder(small_config(seed=1)),
        folder(small_config(semi__draw="balanced")), folder(variables={"w": np.ones(3)}),
        folder(dataset=FakeDataset(num_clips=23)), folder(fusions=("bone",)),
    ]  # fmt: skip
    assert len({folder(), *others}) == 7
    (folder() / "x").mkdir(parents=True)
    finetune.remove_folder(folder())
    assert not (tmp_path / "eval" / "unfinished").exists()


def test_the_command_goes_on_after_ctrl_c(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "open_dataset", lambda path: FakeDataset())
    monkeypatch.setattr(finetune_run, "make_trainer", lambda *_: trainer())
    results = {}
    for name in ("unbroken", "stopped"):
        workdir = tmp_path / name
        checkpoint.save_config(workdir, CONFIG)
        with checkpoint.open_manager(workdir, CONFIG) as manager:
            checkpoint.save(manager, 7, make_state(CONFIG, NTU25, 7), {"layout": "ntu25"})
        command = [f"--workdir={workdir}", "--protocol=finetune"]
        if name == "stopped":
            with monkeypatch.context() as patch:
                stop_at(patch, 4, lambda: os.kill(os.getpid(), signal.SIGINT))
                assert evaluate.main(command) == 130
            last = capsys.readouterr().err.splitlines()[-1]
            assert "SIGINT: saved step" in last and "the same command resumes" in last
            assert (workdir / "eval" / "unfinished").is_dir()
        assert evaluate.main(command) == 0
        assert sorted(path.name for path in (workdir / "eval").iterdir()) == [
            "finetune.json", "finetune.npz", "history.jsonl",
        ]  # fmt: skip
        result = json.loads((workdir / "eval" / "finetune.json").read_text())
        with np.load(workdir / "eval" / "finetune.npz") as arrays:
            results[name] = (result["history"], result["confusion"], dict(arrays))
    assert results["unbroken"][:2] == results["stopped"][:2]
    for name, array in results["unbroken"][2].items():
        np.testing.assert_array_equal(array, results["stopped"][2][name])
    capsys.readouterr()
    # What is not fine-tuning ends in a line, too.
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "eval_batches", lambda *_, **__: os.kill(os.getpid(), 15))
        assert evaluate.main([command[0], "--protocol=knn"]) == 143
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("evaluate: stopped; the same command begins again")
