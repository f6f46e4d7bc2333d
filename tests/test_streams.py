"""Several streams: one step of three is three of one; looks at them alone, together, and joined."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _clips import FakeDataset, make_state, patch_pipeline, tiny_config
from _runs import small_config
from _steps import create_state, make_train_step

from halp_jax import datasets, evaluate
from halp_jax.core import distill
from halp_jax.errors import UserError
from halp_jax.evaluation import features, linear, streams
from halp_jax.methods.base import AXIS
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import checkpoint

ALL = ("joint", "motion", "bone")


@pytest.fixture
def quick_compile():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def similarities(rng, *shape):
    return jnp.asarray(rng.uniform(-1, 1, shape), jnp.float32)


def test_neighbour_kl_is_that_over_the_gathered_neighbours():
    rng = np.random.default_rng(0)
    teacher, student = similarities(rng, 5, 40), similarities(rng, 5, 40)
    settings = {"teacher_temperature": 0.05, "student_temperature": 0.1}

    def gathered(student):
        values, index = jax.lax.top_k(teacher, 7)
        log_p = jax.nn.log_softmax(values / 0.05)
        log_q = jax.nn.log_softmax(jnp.take_along_axis(student, index, 1) / 0.1)
        return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=1))

    def ours(student):
        return distill.neighbour_kl(teacher, student, topk=7, **settings)

    value, gradient = jax.jit(jax.value_and_grad(ours))(student)
    expected, wanted = jax.jit(jax.value_and_grad(gathered))(student)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-4, atol=1e-6)
    far = np.asarray(teacher) < np.sort(teacher, axis=1)[:, -7:-6]
    assert np.all(np.asarray(gradient)[far] == 0) and far.sum() == 5 * 33
    same = functools.partial(
        distill.neighbour_kl, topk=40, teacher_temperature=0.1, student_temperature=0.1
    )
    np.testing.assert_allclose(jax.jit(same)(teacher, teacher), 0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 3, 65, 200, 300])
def test_neighbours_are_those_of_top_k(k):
    """Among ties, zeros of either sign and numbers of every size."""
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(5, 300)) * 10.0 ** rng.integers(-30, 30, (5, 300)))
    x[1] = np.round(x[1] / np.abs(x[1]).max(), 1)
    x[2, ::2], x[2, 1::2] = 0.0, -0.0
    x[3] = 7.0
    least = jax.lax.top_k(jnp.asarray(x), k)[0][:, -1:]
    np.testing.assert_array_equal(distill.find_kth(jnp.asarray(x), k), least)
    found = distill.find_neighbours(jnp.asarray(x), k)
    np.testing.assert_array_equal(found, x >= np.asarray(least))


def test_extreme_similarities_stay_finite():
    """A teacher that is sure, a student that is sure of another, temperatures near nothing."""
    teacher = jnp.array([[1.0, -1.0, -1.0, 0.0]])
    student = jnp.array([[-1.0, 1.0, -1.0, 0.0]])
    for topk in (1, 4):
        kl = functools.partial(
            distill.neighbour_kl, topk=topk, teacher_temperature=1e-3, student_temperature=1e-3
        )
        loss, gradient = jax.jit(jax.value_and_grad(kl, argnums=1))(teacher, student)
        assert jnp.isfinite(loss) and jnp.all(jnp.isfinite(gradient))
    assert float(loss) == pytest.approx(2000, rel=1e-3)


def test_one_stream_has_nothing_to_distill_and_teachers_get_no_gradient():
    rng = np.random.default_rng(1)
    z = jnp.asarray(rng.normal(size=(3, 4, 6)), jnp.float32)
    z /= jnp.linalg.norm(z, axis=-1, keepdims=True)
    queue = jnp.asarray(rng.normal(size=(3, 16, 6)), jnp.float32)
    cmd_loss = jax.jit(functools.partial(distill.cmd_loss, topk=4))
    loss, terms = cmd_loss(z[:1], z[:1], queue[:1])
    assert loss == 0 and terms.shape == (1, 1)
    gradients = jax.jit(jax.grad(lambda *args: cmd_loss(*args)[0], (0, 1, 2)))(z, z[:, ::-1], queue)
    assert np.abs(gradients[0]).max() > 0.1
    assert np.abs(gradients[1]).max() == np.abs(gradients[2]).max() == 0
    # Terms say who teaches whom: of a pair alone the same two come out.
    _, terms = cmd_loss(z, z[:, ::-1], queue)
    _, pair = cmd_loss(z[1:], z[1:, ::-1], queue[1:])
    np.testing.assert_allclose(terms[1:, 1:], pair, rtol=1e-5)
    assert np.all(np.diag(terms) == 0) and np.count_nonzero(terms) == 6


@pytest.mark.long
def test_three_streams_without_distillation_are_three_runs_of_one(quick_compile):
    """Seed for seed, HaLP and its prototypes included, as long as nothing joins the streams."""
    batch = {
        "frames": np.random.default_rng(0).normal(size=(8, 12, 2, 25, 3)).astype(np.float32),
        "length": np.arange(5, 13, dtype=np.int32),
    }

    def train(names):
        config = small_config()
        config.streams, config.halp.start_epoch, config.moco.queue_size = names, 0, 16
        config.halp.queue_entries = 16
        step = jax.jit(jax.vmap(make_train_step(config, 3), (None, 0), axis_name=AXIS))
        state, history = create_state(config), []
        shares = jax.tree.map(lambda x: x[None], batch)
        for _ in range(6):  # the queue is full after 5
            state, metrics = jax.tree.map(lambda x: x[0], step(state, shares))
            history.append(metrics)
        return state, history

    together, metrics = train(ALL)
    assert float(metrics[-1]["mu"]) > 0 and float(metrics[-1]["loss_halp_bone"]) != 0
    for i, name in ((0, "joint"), (2, "bone")):
        alone, own = train((name,))
        ours = jax.tree.map(lambda x, i=i: x[i] if x.ndim else x, together)
        theirs = jax.tree.map(lambda x: x[0] if x.ndim else x, alone)
        for path, leaf in jax.tree.leaves_with_path(theirs):
            found = dict(jax.tree.leaves_with_path(ours))[path]
            name_of = jax.tree_util.keystr(path)
            np.testing.assert_allclose(found, leaf, rtol=1e-3, atol=2e-4, err_msg=name_of)
        for step_together, step_own in zip(metrics, own, strict=True):
            for figure in ("loss_cl", "contrast_accuracy", "loss_halp", "kept", "t_star"):
                np.testing.assert_allclose(
                    step_together[f"{figure}_{name}"], step_own[figure], rtol=1e-3, atol=1e-4
                )


def test_looks_are_parsed_and_bring_the_streams_they_need():
    assert streams.parse_fusions("", ALL) == ("joint",)
    assert streams.parse_fusions("bone, mean,bone", ALL) == ("bone", "mean")
    assert streams.find_needed(("bone",), ALL) == ("bone",)
    assert streams.find_needed(("bone", "joint"), ALL) == ("joint", "bone")
    assert streams.find_needed(("bone", "mean"), ALL) == ALL
    with pytest.raises(
        UserError, match="no stream 'bone'; use one of joint, mean, concat, together, ensemble"
    ):
        streams.parse_fusions("bone", ("joint",))


def test_select():
    values = np.arange(12.0).reshape(2, 6)
    np.testing.assert_array_equal(streams.select(values, "motion", ALL), values[:, 2:4])
    mean = (values[:, :2] + values[:, 2:4] + values[:, 4:]) / 3
    np.testing.assert_allclose(streams.select(values, "mean", ALL), mean)
    np.testing.assert_array_equal(streams.select(values, "concat", ALL), values)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A run of three streams, and one of each of them alone with the same encoders."""
    patch_pipeline(monkeypatch)
    monkeypatch.setattr(datasets, "open_dataset", lambda path: FakeDataset())
    for names in (ALL, *((name,) for name in ALL)):
        path, config = tmp_path / "_".join(names), tiny_config(streams=names)
        checkpoint.save_config(path, config)
        with checkpoint.open_manager(path, config) as manager:
            checkpoint.save(manager, 7, make_state(config, NTU25, 7), {"layout": "ntu25"})
    return tmp_path


def read(path, name):
    return json.loads((path / "eval" / f"{name}.json").read_text())


def test_every_look_of_one_run_and_of_joined_runs(runs, capsys):
    fusions = "--stream=joint,motion,bone,mean,concat,ensemble"
    assert evaluate.main([f"--workdir={runs / '_'.join(ALL)}", "--protocol=linear", fusions]) == 0
    assert "pre-trained, ensemble, linear" in capsys.readouterr().out
    joined = [f"--workdir={runs / 'joint'}", f"--join={runs / 'motion'}", f"--join={runs / 'bone'}"]
    assert evaluate.main([*joined, "--protocol=linear", fusions]) == 0
    for fusion in ("", "_motion", "_bone", "_mean", "_concat", "_ensemble"):
        one, three = (read(runs / name, f"linear{fusion}") for name in ("_".join(ALL), "joint"))
        assert one["top1"] == three["top1"] and one["history"] == three["history"], fusion
        assert one["joined"] == [] and len(three["joined"]) == 2
    assert one["config"]["streams"] == three["config"]["streams"] == list(ALL)
    knn = ["--protocol=knn", "--stream=concat"]
    assert evaluate.main([f"--workdir={runs / 'motion'}", "--protocol=knn"]) == 0
    assert evaluate.main([*joined, *knn]) == 0
    assert read(runs / "motion", "knn")["stream"] == "motion"
    names = sorted(path.name for path in (runs / "joint" / "eval").glob("*.json"))
    fusions = ("", "_bone", "_concat", "_ensemble", "_mean", "_motion")
    assert names == ["knn_concat.json", *(f"linear{fusion}.json" for fusion in fusions)]


def test_joined_runs_must_fit_together(runs, capsys):
    twice = [f"--workdir={runs / 'joint'}", f"--join={runs / 'joint'}", "--protocol=knn"]
    assert evaluate.main(twice) == 1
    assert "joint, joint: each may be there only once" in capsys.readouterr().err
    other = tiny_config(streams=("bone",), encoder__pooling="mean")
    with pytest.raises(UserError, match="run of bone is of another method or encoder"):
        streams.join([(tiny_config(), {}), (other, {})])


def test_an_ensemble_adds_weighted_scores(monkeypatch):
    patch_pipeline(monkeypatch)
    config, dataset = tiny_config(streams=ALL), FakeDataset()
    seen = {}
    original = linear.train_logits

    def train_logits(settings, seed, train, *rest, **named):
        found = original(settings, seed, train, *rest, **named)
        seen[len(seen)] = found[0]
        return found

    monkeypatch.setattr(linear, "train_logits", train_logits)
    score = []
    monkeypatch.setattr(linear, "score", lambda logits, *_: score.append(logits) or {})
    embed = features.make_embedding("raw", config, dataset.layout, ALL)
    linear.evaluate(config, dataset, features.Encoder(embed, (), ALL), ("motion", "ensemble"))
    assert len(seen) == 3  # motion's probe was not trained twice
    motion, joint, bone = seen.values()
    np.testing.assert_array_equal(score[0], motion)
    np.testing.assert_allclose(score[1], 0.6 * joint + 0.4 * motion + 0.6 * bone, rtol=1e-6)
