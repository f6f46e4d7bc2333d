"""The seam between methods and the house: a recorded run, a method of the docs, runs of before."""

import dataclasses
import io
import json
import re
import types
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _runs import pack_clips, small_config
from _steps import create_state, make_train_step

from configs import default
from halp_jax import datasets, methods
from halp_jax.core.kmeans import spherical_kmeans
from halp_jax.core.queue import create_queue
from halp_jax.core.sphere import normalize
from halp_jax.errors import UserError
from halp_jax.evaluation import features
from halp_jax.evaluation.knn import make_knn_evaluator
from halp_jax.methods import halp, keys, optim, upgrade
from halp_jax.methods.base import AXIS, Method, Spec
from halp_jax.skeletons import synthetic
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import checkpoint, checks, parallel
from halp_jax.training.checkpoint_io import flatten
from halp_jax.training.loop import train

ROOT = Path(__file__).parents[1]


def recorded_config(name):
    """Tiny, with prototypes from the tenth step on."""
    c = default.get_config()
    c.data.max_frames = 12
    c.views.num_frames, c.views.min_frames = 6, 4
    c.encoder.width, c.encoder.num_layers, c.encoder.dim = 8, 2, 8
    c.moco.queue_size = 32
    c.halp.num_prototypes, c.halp.queue_entries, c.halp.num_positives = 4, 32, 8
    c.halp.mu, c.halp.start_epoch, c.halp.update_every = (2.0 if "halp" in name else 0.0), 0, 2
    c.streams = ("joint", "motion", "bone") if "cmd" in name else ("joint",)
    c.cmd.nu, c.cmd.topk = (1.0 if "cmd" in name else 0.0), 16
    c.optim.milestones, c.optim.learning_rate = (4,), 0.1
    c.train.batch_size = 8
    return c


@pytest.mark.parametrize("name", [pytest.param("baseline", marks=pytest.mark.long), "halp_cmd"])
def test_twenty_steps_are_those_of_the_recorded_run(golden, name):
    """Recorded with the code before there was a choice of methods, on two devices of a CPU.

    Held to 1e-6, but for the norm of the whole gradient: sums in another order move that by 1.1e-6.
    """
    recorded, config = golden(f"steps_{name}"), recorded_config(name)
    rng = np.random.default_rng(0)
    run = parallel.compile_step(make_train_step(config, 3), num_devices=2)
    state = parallel.replicate(create_state(config), 2)
    for number in range(20):
        batch = {"frames": rng.normal(size=(8, 12, 2, 25, 3)).astype(np.float32)}
        batch["length"] = rng.integers(5, 13, 8).astype(np.int32)
        state, metrics = run(state, batch)
        for figure, rtol in {"loss": 1e-6, "mu": 1e-6, "grad_norm": 2e-6}.items():
            wanted = recorded[f"metrics/{figure}"][number]
            np.testing.assert_allclose(metrics[figure], wanted, rtol=rtol, err_msg=figure)
    leaves = {upgrade.current_path(path): path for path in recorded if "metrics" not in path}
    found = flatten(state)
    assert leaves.keys() == found.keys()
    for path, old in leaves.items():
        leaf = np.asarray(found[path]).reshape(-1)
        some = np.linspace(0, leaf.size - 1, min(leaf.size, 32)).astype(int)
        scale = max(1.0, float(np.abs(leaf).max()))
        np.testing.assert_allclose(leaf[some], recorded[old], atol=1e-6 * scale, err_msg=path)


@pytest.fixture
def quick_compile():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def read_doc():
    """The two files that docs/adding_a_method.md shows."""
    text = (ROOT / "docs" / "adding_a_method.md").read_text()
    return re.findall(r"^`(\S+\.py)`:\n\n```python\n(.*?)```", text, re.MULTILINE | re.DOTALL)


def test_the_method_of_the_docs_learns_resumes_and_is_evaluated(
    tmp_path, monkeypatch, quick_compile
):
    (_, method), (config_path, config_source) = read_doc()
    assert len((method + config_source).splitlines()) < 80
    simclr = types.ModuleType("simclr")
    exec(method, vars(simclr))
    monkeypatch.setitem(methods.METHODS, "simclr", simclr)
    given = {"__file__": str(ROOT / config_path)}
    exec(config_source, given)
    config = given["get_config"]()
    assert not {"moco", "halp", "cmd"} & set(config) and config.simclr.temperature == 0.1

    clips = [synthetic.make_clip(0, number)[:48] for number in range(40)]  # the demo's
    splits = {"xsub": {"train": range(30), "test": range(30, 40)}}
    dataset = datasets.from_arrays(clips, np.arange(40) % 10, layout="ntu25", splits=splits)
    config.data.dir, config.data.max_frames = "memory", 48
    config.views.num_frames = config.views.min_frames = 12
    config.encoder.width, config.encoder.num_layers, config.encoder.dim = 16, 1, 16
    config.streams, config.optim.learning_rate = ("joint", "bone"), 0.3
    config.train.batch_size, config.train.num_devices, config.train.log_every = 30, 2, 20
    config.checkpoint.every_epochs = config.knn.every_epochs = 30
    evaluators = [make_knn_evaluator(config, dataset)]
    run = {"dataset": dataset, "evaluators": evaluators, "stream": io.StringIO()}
    config.train.epochs = 30
    train(config, tmp_path / "run", **run)
    config.train.epochs = 60
    state = train(config, tmp_path / "run", **run)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    learnt = [line for line in lines if "loss" in line]
    assert learnt[-1]["loss"] < 0.8 * learnt[0]["loss"]
    assert learnt[-1]["contrast_accuracy_bone"] > 0.15 and learnt[-1]["contrast_accuracy"] > 0.2
    assert "knn_top1" in lines[-1] and "mu" not in lines[-1]
    restored, step = checkpoint.restore_state(tmp_path / "run")
    assert step == 60 and flatten(restored).keys() == flatten(state).keys()
    config = checkpoint.load_config(tmp_path / "run")
    embed = features.make_embedding("trained", config, NTU25, ("bone",), points=True)
    found = embed(features.get_variables(restored), jnp.zeros((2, 6, 2, 25, 3)))
    assert found.shape == (2, 32 + 16)
    np.testing.assert_allclose(np.linalg.norm(found[:, 32:], axis=1), 1, rtol=1e-5)


def test_a_method_without_a_sphere_says_so_and_an_unknown_one_is_refused():
    config = small_config()
    config.method = "supervised"
    with pytest.raises(UserError, match="method supervised has no embeddings on a sphere"):
        features.make_embedding("trained", config, NTU25, points=True)
    config.method = "barlow"
    with pytest.raises(UserError, match="config.method='barlow': use one of moco, supervised"):
        methods.find_method(config)
    with pytest.raises(UserError, match="config.method='barlow': use one of moco, supervised"):
        default.get_config("barlow")


@flax.struct.dataclass
class OldState:
    """The state before there was a choice of methods."""

    step: jax.Array
    params: dict
    key_params: dict
    batch_stats: dict
    key_batch_stats: dict
    opt_state: tuple
    queue: tuple
    prototypes: jax.Array


def test_a_run_of_before_is_read(tmp_path):
    config = small_config()
    state = create_state(config)
    state = state.replace(step=state.step + 3)
    old = OldState(step=state.step, params=state.params, opt_state=state.opt_state, **state.extra)
    for field in (
        "method",
        "checkpoint.every_minutes",
        "finetune.save_minutes",
        "linear.optimizer",
    ):
        section, _, name = field.rpartition(".")
        holder = config[section] if section else config
        with config.unlocked():
            del holder[name]
    with config.unlocked():
        config.train.recurrence = "pallas"  # a choice that is gone
    checkpoint.save_config(tmp_path, config)
    assert "method" not in json.loads((tmp_path / "config.json").read_text())
    with checkpoint.open_manager(tmp_path, small_config()) as manager:
        checkpoint.save(manager, 3, old, {"layout": "ntu25"})
    restored, step = checkpoint.restore_state(tmp_path)
    assert step == 3
    for path, leaf in flatten(state).items():
        np.testing.assert_array_equal(flatten(restored)[path], leaf, err_msg=path)
    loaded = checkpoint.load_config(tmp_path)
    assert loaded.method == "moco" and "recurrence" not in loaded.train
    assert (loaded.checkpoint.every_minutes, loaded.finetune.save_minutes) == (0.0, 5.0)
    assert loaded.linear.optimizer == "sgd"
    warm, _ = checkpoint.warm_start(
        create_state(small_config()), tmp_path, methods.find_method(loaded).ENCODER
    )
    assert int(warm.step) == 0
    path = "extra/key_params/layer0/w_ih"
    np.testing.assert_array_equal(flatten(warm)[path], flatten(state)[path])


def test_a_config_without_the_newer_settings_of_encoders_is_read():
    old = default.get_config()
    with old.unlocked():
        for name in upgrade.ENCODERS:
            del old.encoder[name]
    assert upgrade.upgrade_config(old).to_dict() == default.get_config().to_dict()


def test_a_config_without_a_kind_of_views_has_that_of_before():
    old = default.get_config("aimclr")
    with old.unlocked():
        del old.normal_view.kind
    assert upgrade.upgrade_config(old).normal_view.kind == "skeletonclr"


@pytest.mark.long
def test_supervised_learning_from_scratch_is_a_run_like_any(tmp_path, quick_compile):
    from configs import supervised

    config = supervised.get_config()
    assert not {"moco", "halp", "cmd"} & set(config)
    dataset = datasets.open_dataset(pack_clips(tmp_path / "clips.npz"))
    config.data.dir, config.data.max_frames = str(dataset.path), 10
    config.views.num_frames = config.views.min_frames = 6
    config.encoder.width, config.encoder.num_layers, config.encoder.dim = 8, 1, 8
    config.train.batch_size, config.train.num_devices = 8, 2  # 14 clips: a batch of 8, one of 6
    config.train.epochs, config.train.log_every, config.knn.every_epochs = 20, 1, 20
    config.optim.learning_rate = 0.1
    evaluators = [make_knn_evaluator(config, dataset)]
    stream = io.StringIO()
    train(config, tmp_path / "run", dataset=dataset, evaluators=evaluators, stream=stream)
    assert "train 280/280 clips" in stream.getvalue()
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 40 and lines[-1]["epoch"] == 20 and "knn_top1" in lines[-1]
    assert lines[-1]["loss"] < 0.8 * lines[1]["loss"]
    state, _ = checkpoint.restore_state(tmp_path / "run")
    assert state.params["probe"].weight.shape == (1, 16, 3)
    labels = np.where(np.arange(20) % 2, dataset.labels, -1)  # what has none is left out
    half = dataclasses.replace(dataset, labels=labels)
    chosen = checks.find_clips(config, half)
    assert len(chosen) == 7 and (labels[chosen] >= 0).all()
    with pytest.raises(UserError, match="no training clips with a label, which config.method='sup"):
        checks.find_clips(config, dataclasses.replace(dataset, labels=0 * labels - 1))


@pytest.mark.parametrize("kind", ["points", "random"])
def test_walks_may_lead_to_points_or_to_random_directions_instead(kind):
    config = halp.default_config()
    config.mu, config.start_epoch, config.num_prototypes, config.prototypes = 1.0, 0, 4, kind
    term = halp.make_term(config, 8, 0.1, 1)
    points = normalize(jax.random.normal(jax.random.key(0), (16, 8)))
    source = halp.Source(points, jnp.array(True))

    def step(queries, keys):
        return term.loss(term.init(), queries, keys, source, jax.random.key(1), jnp.int32(0))[1]

    found = jax.vmap(step, axis_name=AXIS)(points[None, :2], points[None, 2:4])[0]
    np.testing.assert_allclose(jnp.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
    closest = jnp.max(found @ points.T, axis=1)
    assert bool(jnp.all(closest > 0.9999)) == (kind == "points")
    assert len({int(i) for i in jnp.argmax(found @ points.T, axis=1)}) == 4 or kind == "random"


def test_schedules():
    rise = optim.ramp(2.0, 3, 4, 5)
    assert [float(rise(s)) for s in (14, 15, 24, 34, 99)] == pytest.approx([0, 0.1, 1, 2, 2])
    config = default.get_config()
    config.optim.update(learning_rate=0.8, factor=0.5, milestones=(3,), warmup_epochs=2)
    rate = optim.make_rate(config, 5)
    rates = [float(rate(s)) for s in (0, 4, 9, 14, 15)]
    assert rates == pytest.approx([0.08, 0.4, 0.8, 0.8, 0.4])
    rate = optim.make_rate(config, 5, every=20)
    assert [float(rate(s)) for s in (3, 19, 20, 39, 40)] == pytest.approx(
        [0.32, 0.8, 0.4, 0.4, 0.2]
    )


def test_what_a_step_draws_is_of_the_seed_of_the_run(monkeypatch):
    toy = Method(
        lambda key: (jnp.ones(()), {}), lambda keys, batch: jax.random.uniform(keys[0]),
        lambda params, extra, views, key, step: (0.0 * params, (extra, {"drawn": views})), None,
    )  # fmt: skip
    module = types.SimpleNamespace(
        make=lambda *_: toy, make_optimizer=lambda *_: (optax.sgd(0.1), {})
    )
    monkeypatch.setattr(methods, "find_method", lambda config: module)
    program = methods.make_program(default.get_config(), Spec(NTU25))
    step = jax.vmap(program.step, ((None, None), 0), axis_name=AXIS, axis_size=1)
    drawn = []
    for seed in (0, 1, 1):
        carried = program.create(seed), jnp.uint32(seed)
        drawn.append(float(step(carried, {"x": jnp.zeros(1)})[1]["drawn"][0]))
    assert drawn[0] != drawn[1] == drawn[2]


def test_alignment_and_uniformity_are_of_the_global_batch():
    q, k = normalize(jax.random.normal(jax.random.key(0), (2, 6, 8)))
    on_two = jax.vmap(lambda q, own: keys.spread(q, own, k), axis_name=AXIS)
    found = on_two(q.reshape(2, 3, 8), k.reshape(2, 3, 8))
    squares = np.sum((np.asarray(k)[:, None] - np.asarray(k)) ** 2, -1)
    wanted = np.log(np.exp(-2 * squares[~np.eye(6, dtype=bool)]).mean())
    np.testing.assert_allclose(found["uniformity"], wanted, rtol=1e-5)
    wanted = np.sum((q - k) ** 2, -1).mean()
    np.testing.assert_allclose(found["alignment"].mean(), wanted, rtol=1e-5)


def test_of_several_queries_halp_pulls_the_mean():
    config = default.get_config()
    config.halp.update(
        mu=1.0,
        start_epoch=0,
        solver="geodesic",
        estimator="expected",
        num_prototypes=4,
        queue_entries=8,
    )
    config.moco.queue_size = 8
    z = normalize(jax.random.normal(jax.random.key(0), (3, 1, 4, 16)))
    kept = {
        "queue": create_queue(jax.random.key(2), 8, 16),
        "prototypes": normalize(jax.random.normal(jax.random.key(1), (4, 16))),
    }
    term = halp.make_term(config.halp, 16, 0.07, 1)

    @jax.jit
    def pull(*queries):
        def one(q, k, *more):
            return keys.push_and_pull(
                term, config, kept, q, k, jax.random.key(3), jnp.int32(0), *more
            )[0]

        return jax.vmap(one, axis_name=AXIS)(queries[0], z[2], *queries[1:])[0]

    alone = (pull(z[0]) + pull(z[1])) / 2
    np.testing.assert_allclose(pull(z[0], z[1]), alone, rtol=1e-5)


def test_k_means_may_start_from_the_last_prototypes():
    config = halp.default_config()
    config.update(
        mu=1.0, start_epoch=0, num_prototypes=4, kmeans_warm_start=True, kmeans_max_iterations=1
    )
    term = halp.make_term(config, 8, 0.1, 1)
    points, last = (
        normalize(jax.random.normal(jax.random.key(n), (count, 8)))
        for n, count in ((0, 16), (5, 4))
    )
    source, key = halp.Source(points, jnp.array(True)), jax.random.key(1)

    @jax.jit
    def renew(queries, anchors, start):
        def one(q, k):
            return term.loss(start, q, k, source, key, jnp.int32(9))[1]

        return jax.vmap(one, axis_name=AXIS)(queries, anchors)[0]

    for start, centroids in ((last, last), (jnp.zeros((4, 8)), None)):
        wanted = spherical_kmeans(key, points, 4, centroids=centroids, mean="released", max_iter=1)
        found = renew(points[None, :2], points[None, 2:4], start)
        np.testing.assert_allclose(found, wanted.centroids, atol=1e-6)
