"""P&C, MS2L, ISC, AS-CAL, GL-Transformer, AimCLR and CrosSCLR as runs.

The same on several devices, resumed, evaluated; sizes, refusals.
"""

import io
import json
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _runs import one_compiled_step

from halp_jax import datasets, methods
from halp_jax.encoders import agcn, stgcn
from halp_jax.errors import UserError
from halp_jax.evaluation import classifier, features, finetune, finetune_run
from halp_jax.evaluation.knn import make_knn_evaluator
from halp_jax.methods import ascal_view, common, isc
from halp_jax.methods.base import AXIS, Spec
from halp_jax.skeletons.layout import KINECT20, NTU25
from halp_jax.training import checkpoint
from halp_jax.training.loop import train

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = (
    "predict:small", "ms2l:small", "isc:small+halp", "ascal:small+normalized+halp",
    "gltransformer:small",
)  # fmt: skip
RUNS = (*NAMES, "aimclr:small+halp", "crossclr:small+bigru+halp")


def load(name):
    name, variant = name.split(":")
    return runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"](variant)


def tiny(name):
    c = load(name)
    c.data.dir, c.data.max_frames, c.views.num_frames = "memory", 12, 8
    c.views.min_frames = 4
    c.encoder.width, c.encoder.num_layers, c.encoder.agcn.width = 8, 1, 4
    c.encoder.transformer.blocks = 1
    c.encoder.stgcn.width, c.encoder.stgcn.last_width = 2, 4
    if "moco" in c:  # one with a queue
        c.encoder.dim = c.encoder.lstm.width = 8
        c.moco.queue_size = c.halp.queue_entries = 8
        c.halp.num_prototypes = c.halp.num_positives = 4
        c.halp.update_every, c.halp.start_epoch = 1, 1
    if "aimclr" in c:
        c.aimclr.mine_epoch = 1
    if "crossclr" in c:
        c.crossclr.start_epoch = 1
    c.train.batch_size, c.train.epochs, c.train.log_every = 4, 4, 2
    c.train.epoch_steps = 0
    c.train.num_devices = 2
    c.checkpoint.every_epochs = c.knn.every_epochs = 2
    c.knn.batch_size = 4
    return c


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    """Two blocks of the AGCN and of the ST-GCN instead of ten, too."""
    jax.config.update("jax_disable_most_optimizations", True)
    blocks = property(lambda self: lambda: [(self.width, 1), (4 * self.width, 2)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agcn.AGCN, "list_blocks", blocks)
        patch.setattr(
            stgcn.STGCN, "list_blocks", lambda self: [(self.width, 1), (self.last_width, 2)]
        )
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    clips = [rng.normal(size=(5 + i, 1 + i % 2, 20, 3)).astype(np.float32) for i in range(12)]
    splits = {"xsub": {"train": range(8), "test": range(8, 12)}}
    return datasets.from_arrays(clips, np.arange(12) % 2, layout="kinect20x2", splits=splits)


def make_batch(layout, lengths=(4, 12, 9, 7)):
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(len(lengths), 12, layout.bodies, layout.num_joints, 3))
    frames *= (np.arange(12) < np.array(lengths)[:, None])[..., None, None, None]
    return {"frames": jnp.asarray(frames, jnp.float32), "length": jnp.array(lengths, jnp.int32)}


@pytest.mark.long
@pytest.mark.parametrize("name", [*NAMES, "ascal:small"])
def test_four_devices_are_one(name):
    """Gradients, too: they are what differs between a step's state and the last one's."""
    c, spec = tiny(name), Spec(KINECT20, 1)
    method = methods.make_method(c, spec)
    params, extra = jax.jit(method.init)(jax.random.key(0))
    batch = make_batch(KINECT20)

    def gradient(params, extra, batch):
        keys = jax.random.split(jax.random.key(1), 3)
        given = params, extra, method.views(keys[:2], batch), keys[2], jnp.int32(0)
        (loss, (extra, metrics)), grads = jax.value_and_grad(method.loss, has_aux=True)(*given)
        return jax.lax.pmean((loss, grads, metrics), AXIS), extra

    def on(devices):
        parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        mapped = jax.jit(jax.vmap(gradient, (None, None, 0), axis_name=AXIS, axis_size=devices))
        return jax.tree.map(lambda x: x[0], mapped(params, extra, parts))

    one, many = on(1), on(4)
    for (path, a), b in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=str(path))
    assert all(np.any(leaf) for leaf in jax.tree.leaves(one[0][1].get("heads", {})))


@pytest.mark.long
@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_was_stopped_goes_on_bitwise_and_is_evaluated(name, dataset, tmp_path):
    c = tiny(name)
    if "isc" in c:  # an AGCN beside the BiGRU is compiled above
        c.isc.graph = "lstm"
    with one_compiled_step():
        for folder, stops in (("whole", (4,)), ("parts", (2, 4))):
            for c.train.epochs in stops:
                run = {"dataset": dataset, "stream": io.StringIO()}
                evaluators = [make_knn_evaluator(c, dataset)] if c.train.epochs == 4 else []
                train(c, tmp_path / folder, evaluators=evaluators, **run)
    whole, parts = (checkpoint.restore_state(tmp_path / f)[0] for f in ("whole", "parts"))
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    for leaf, other in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(other).tobytes()
    text = (tmp_path / "whole" / "metrics.jsonl").read_text()
    last = json.loads(text.splitlines()[-1])
    assert last["step"] == 8 and np.isfinite(last["loss"]) and "knn_top1" in last
    assert last.get("mu", 1.0) == 1.0
    empty = jax.tree.map(np.zeros_like, whole)
    warm, _ = checkpoint.warm_start(empty, tmp_path / "whole", methods.find_method(c).ENCODER)
    assert warm.step == 0
    embed = features.make_embedding("trained", c, dataset.layout)
    clips = jnp.asarray(make_batch(dataset.layout)["frames"])[:, :8]
    found = embed(features.get_variables(warm), clips)
    assert found.ndim == 2 and np.all(np.isfinite(found)) and len(np.unique(found[:, -1])) == 4


def test_frames_behind_the_end_change_no_feature():
    """As evaluation sees a clip, prepared and padded, and as it is without the padding."""
    c = tiny("predict:small")
    encoder = common.make_encoder(c, NTU25)
    frames = make_batch(NTU25)["frames"][:1]  # four frames and eight of zeros
    variables = encoder.init(jax.random.key(0), frames, train=False)
    padded = encoder.apply(variables, frames, jnp.array([4]), train=False)[1]
    alone = encoder.apply(variables, frames[:, :4], jnp.array([4]), train=False)[1]
    np.testing.assert_allclose(padded, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["predict:small", "ascal:small", "gltransformer:small"])
def test_its_encoder_can_be_fine_tuned(name):
    """Traced, not compiled."""
    c, spec = tiny(name), Spec(NTU25, 1, num_classes=3)
    encoder = jax.eval_shape(methods.make_method(c, spec).init, jax.random.key(0))[0]
    c.method = "supervised"
    methods.find_method(c).check_config(c)
    state = jax.eval_shape(lambda: methods.create_state(c, spec))
    encoder.pop("heads", None)
    assert jax.tree.map(jnp.shape, state.params["encoder"]) == jax.tree.map(jnp.shape, encoder)
    batch = make_batch(NTU25) | {"label": jnp.arange(4) % 3}
    step = jax.vmap(methods.make_train_step(c, spec), (None, 0), axis_name=AXIS, axis_size=1)
    after, _ = jax.eval_shape(step, state, jax.tree.map(lambda x: x[None], batch))
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_features_of_isc_are_those_of_the_side_that_is_asked_for():
    """Traced, not compiled; both are side by side."""
    c, sizes = tiny("isc:small"), {}
    c.encoder.agcn.width = 8
    for c.isc.feature in ("sequence", "graph", "both"):
        method = methods.make_method(c, Spec(NTU25, 1))
        params, extra = jax.eval_shape(method.init, jax.random.key(0))
        sizes[c.isc.feature] = jax.eval_shape(
            method.encode, params, extra, make_batch(NTU25)
        ).shape[-1]
    assert sizes == {"sequence": 16, "graph": 32, "both": 48}


@pytest.mark.parametrize("side", ["sequence", "graph"])
def test_one_encoder_of_a_pair_is_fine_tuned(side, dataset, tmp_path):
    c = tiny("isc:small")
    c.isc.graph, c.isc.feature, c.finetune.epochs, c.finetune.eval_every = "lstm", side, 1, 1
    c.finetune.batch_size, c.finetune.milestones = 4, ()
    state = methods.create_state(c, Spec(dataset.layout, 1))
    given = jax.tree.map(lambda leaf: np.asarray(leaf)[0], features.get_variables(state))
    end = finetune_run.make_trainer(c, dataset, "joint")(given, np.arange(8), 0, "finetune")
    weights, stats = end.state
    assert end.logits.shape == (1, 4, 2)
    for found, before in ((weights["encoder"], given[0]), (stats, given[1])):
        assert jax.tree.structure(found) == jax.tree.structure(before)
    for name in ("sequence", "graph"):  # the other one stays as it was
        pairs = zip(*map(jax.tree.leaves, (weights["encoder"][name], given[0][name])), strict=True)
        assert any(np.any(a != b) for a, b in pairs) == (name == side)
    tuned = {"joint": (1.0, end)}
    classifier.save(tmp_path / "own.npz", finetune.make_classifier(c, dataset, tuned))
    scorer = classifier.make_scorer(
        classifier.load(tmp_path / "own.npz", "again"), c, dataset.layout, None
    )
    np.testing.assert_allclose(scorer(dataset)[8:].argmax(1), end.logits[-1].argmax(1))
    with pytest.MonkeyPatch.context() as patch:  # a method that does not say which
        patch.delattr(isc, "find_side")
        with pytest.raises(UserError, match="isc keeps graph, sequence"):
            finetune_run.make_trainer(c, dataset, "joint")(given, np.arange(8), 0, "finetune")
    c.isc.feature = "both"
    with pytest.raises(UserError, match="one of them"):
        finetune_run.make_trainer(c, dataset, "joint")


def count(tree):
    return sum(np.prod(leaf.shape, dtype=int) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("name", "encoder", "heads"),
    [
        ("predict:full", 44_537_856, 13_209_675), ("ms2l:full", 2_437_200, 8_997_708),
        # Released: 2400 more, a token that nothing reads.
        ("gltransformer:full", 198_883_200, 15_486_450),
    ],
)  # fmt: skip
def test_full_sizes_are_the_released_ones(name, encoder, heads):
    c = load(name)
    method = methods.make_method(c, Spec(NTU25, 1))
    params, _ = jax.eval_shape(method.init, jax.random.key(0))
    assert count({k: v for k, v in params.items() if k != "heads"}) == encoder
    assert count(params["heads"]) == heads
    assert methods.find_method(c).step_flops(c, Spec(NTU25, 1)) > 0


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("predict", "predict.decoder", "fixed", "use one of fixed_states, fixed_weights, plain"),
        ("predict", "predict.form", "jax", "use one of tensorflow, pytorch"),
        ("predict", "encoder.name", "stgcn", "use one of bigru"),
        ("predict", "encoder.padding", "all", "use one of none, pooling, everywhere"),
        ("predict", "streams", ("joint", "bone"), "give"),
        ("ms2l", "encoder.name", "stgcn", "use one of bigru"),
        ("ms2l", "ms2l.hidden", 1.5, "must lie in"),
        ("ms2l", "ms2l.temperature", 0.0, "must be above 0"),
        ("ms2l", "ms2l.dim", 0, "must be at least 1"),
        ("predict", "whole_view.prepare", "max", "use one of"),
        ("predict", "adam.clip", -1.0, "must be 0 or more"),
        ("ascal", "halp.mu", 1.0, "raw embeddings lie on no sphere"),
        ("ascal", "encoder.dim", 4, "without a head it is encoder.lstm.width=8"),
        ("ascal", "ascal_view.parts", ("shake",), "use some of minus_joint"),
        ("ascal", "ascal_view.cut_joints", (9, 3), "give .least, most."),
        ("isc", "isc.graph", "gcn", "use one of bigru"),
        ("isc", "isc.feature", "all", "use one of sequence, graph, both"),
        ("isc", "encoder.agcn.width", 6, "make it a multiple of 4"),
        ("gltransformer", "encoder.transformer.heads", 3, "must divide encoder.transformer.wid"),
        ("gltransformer", "encoder.transformer.drop_path", 1.0, "must lie in"),
        ("gltransformer", "encoder.name", "bigru", "use one of transformer"),
        ("gltransformer", "gltransformer.intervals", (5, 1), "in rising order"),
        ("gltransformer", "gltransformer.step", 0.0, "must be above 0"),
        ("gltransformer", "relative_view.up", "x", "use one of y, z"),
        ("gltransformer", "streams", ("bone",), "give"),
        ("aimclr", "normal_view.prepare", "full", "use one of released, none"),
        ("aimclr", "encoder.stgcn.dropout", 1.0, "must lie in"),
        ("aimclr", "encoder.name", "gcn", "use one of bigru, stgcn"),
        ("aimclr", "extreme_view.blur_probability", 1.5, "must lie in"),
        ("aimclr", "aimclr.halp_on", "key", "use one of query, all"),
        ("aimclr", "aimclr.mine_epoch", -1, "must be 0 or more"),
        ("aimclr", "aimclr.neighbours", 10**6, "must not exceed moco.queue_size="),
        ("gltransformer", "gltransformer.intervals", (), "give one or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(name, field, value, message):
    c = tiny(f"{name}:small")
    c.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=f"config.{field}=.*{message}"):
        methods.find_method(c).check_config(c)


def test_extreme_views_are_made_of_one_kind_of_normal_views():
    c = tiny("aimclr:small")
    c.normal_view.kind, c.normal_view.prepare = "moco", "none"
    with pytest.raises(UserError, match="config.normal_view.kind='moco': extreme views are made"):
        methods.find_method(c).check_config(c)
    c.aimclr.extreme_views = False
    methods.find_method(c).check_config(c)


def test_more_bodies_than_clips_have_are_refused():
    c = tiny("ms2l:small")
    c.encoder.bodies = 2
    methods.find_method(c).check_config(c, Spec(NTU25))
    with pytest.raises(UserError, match="config.encoder.bodies=2: kinect20 has 1"):
        methods.find_method(c).check_config(c, Spec(KINECT20))


def test_ascal_sees_the_same_frames_in_training_and_evaluation():
    """A clip whose first person is gone for a while ends where it ends."""
    c = tiny("ascal:small")
    c.ascal_view.parts = ()
    clip = jax.random.normal(jax.random.key(0), (40, 2, 25, 3)).at[3:19, 0].set(0.0)
    batch = {
        "frames": jnp.pad(clip, ((0, 8), (0, 0), (0, 0), (0, 0)))[None],
        "length": jnp.array([40]),
    }
    view = jax.vmap(
        lambda b: ascal_view.make_view(c)(jax.random.key(0), b), axis_name=AXIS
    )(jax.tree.map(lambda x: x[None], batch))["frames"][0, 0]  # fmt: skip
    np.testing.assert_array_equal(view, ascal_view.make_prepare(c, NTU25)(batch["frames"][0]))


@pytest.mark.parametrize("name", ["bigru", "lstm", "stgcn", "agcn"])
def test_without_a_head_an_embedding_is_the_feature(name):
    c = tiny("isc:small")
    c.encoder.name, c.encoder.dim = name, 0
    encoder = common.make_encoder(c, NTU25)
    clip = jax.ShapeDtypeStruct((2, 16, 2, 25, 3), "float32")
    variables = jax.eval_shape(lambda x: encoder.init(jax.random.key(0), x, train=False), clip)
    assert "head" not in variables["params"]
    z, feature = jax.eval_shape(lambda v, x: encoder.apply(v, x, train=False), variables, clip)
    assert z.shape == feature.shape == (2, encoder.num_features)


@pytest.mark.parametrize("name", (*RUNS, "aimclr:small+skeletonclr", "small:halp", "small:moco"))
def test_every_small_run_sees_as_many_clips_under_one_probe(name):
    config = load(name)
    steps = config.train.epochs * config.train.epoch_steps
    assert steps * config.train.batch_size == 230_400
    probe = config.linear
    assert (probe.learning_rate, probe.batch_size, probe.epochs) == (0.05, 64, 60)
    assert (probe.milestones, probe.start_std) == ((40, 50), 0.01)
    assert probe.standardize and probe.keep_rest


def test_predict_takes_the_steps_of_its_notebook_whatever_the_set():
    train = load("predict:full").train
    assert train.epochs * train.epoch_steps == 15_000


def test_ascal_learns_nothing_in_its_idle_epoch_and_all_after_it():
    config = load("ascal:small")
    config.optim.weight_decay = 0.1
    optimizer, _ = methods.find_method(config).make_optimizer(config, steps_per_epoch=3)
    params = {"w": jnp.ones(2)}
    state, seen = optimizer.init(params), []
    for _ in range(5):
        updates, state = optimizer.update({"w": jnp.ones(2)}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(float(params["w"][0]))
    rate = config.optim.learning_rate
    assert seen[:3] == [1.0] * 3  # nor has momentum gathered: the first step after is a plain one
    np.testing.assert_allclose(seen[3], 1 - rate * 1.1, rtol=1e-6)
    assert seen[4] < seen[3] - rate * 1.1
