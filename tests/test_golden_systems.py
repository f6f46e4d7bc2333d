"""ISC and AS-CAL against the authors' code: encoders, views, one step each; and published sizes."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _released import clips, relative_error
from _restored import compare, run_step
from _systems import AGCN, GRU, LSTM, STATISTICS, read, write

from configs import ascal as ascal_configs
from configs import isc as isc_configs
from halp_jax.core.contrast import contrast_logits
from halp_jax.core.queue import MemoryQueue
from halp_jax.core.sphere import normalize
from halp_jax.encoders import agcn, bigru, lstm
from halp_jax.methods import ascal_view, keys
from halp_jax.skeletons import extreme
from halp_jax.skeletons.augment import transform
from halp_jax.skeletons.layout import NTU25


def test_the_graph_is_the_released_one(golden):
    wanted = golden("systems/isc")["adjacency"]
    np.testing.assert_allclose(agcn.make_adjacency(NTU25.parents), wanted, atol=1e-7)


def test_features_of_the_agcn_are_the_released_ones(golden):
    g = golden("systems/isc")
    params, stats = (read(g, "before/encoder_r/", places) for places in (AGCN, STATISTICS))
    encoder = agcn.AGCN(NTU25.parents, 8, 16)
    apply = jax.jit(lambda v, x: encoder.apply(v, x, train=False, mutable=["intermediates"]))
    (z, feature), seen = apply({"params": params, "batch_stats": stats}, clips(g["view1"]))
    block = np.asarray(seen["intermediates"]["maps"][0])[:2].transpose(0, 3, 2, 1)
    assert relative_error(block, g["eval/graph_block1"]) < 1e-5
    assert relative_error(feature, g["eval/graph_feature"]) < 1e-5
    assert relative_error(z, g["eval/graph_embedding"]) < 1e-5
    written = write(params, "before/encoder_r/", AGCN)
    assert all(np.array_equal(array, g[name]) for name, array in written.items())


def test_features_of_the_gru_without_input_norm_are_the_released_ones(golden):
    g = golden("systems/isc")
    encoder = bigru.BiGRU(16, 3, dim=16, input_norm=False)
    variables = {"params": read(g, "before/encoder_q/", GRU)}
    z, feature = encoder.apply(variables, clips(g["view1"]), train=False)
    assert relative_error(feature, g["eval/seq_feature"]) < 1e-5
    assert relative_error(z, g["eval/seq_embedding"]) < 1e-5


@pytest.mark.parametrize(
    ("which", "view", "wanted"), [("encoder", "view1", "q"), ("momentum_encoder", "view2", "k")]
)
def test_features_of_the_lstm_are_the_released_ones(golden, which, view, wanted):
    g = golden("systems/ascal")
    variables = {"params": read(g, f"before/{which}/", LSTM)}
    z, feature = lstm.LSTM(16, head=False).apply(variables, clips(g[view]), train=False)
    assert relative_error(z, g[wanted]) < 1e-5
    assert np.array_equal(z, feature)


@pytest.mark.parametrize(
    ("encoder", "count"),
    [
        (bigru.BiGRU(input_norm=False), 44_998_656), (agcn.AGCN(NTU25.parents), 3_454_090),
        (lstm.LSTM(head=False), 417_792),
    ],
)  # fmt: skip
def test_number_of_parameters_is_the_published_one(encoder, count):
    x = jnp.zeros((1, 64, 2, 25, 3))
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, train=False))["params"]
    kept = {name: tree for name, tree in shapes.items() if name != "head"}
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(kept)) == count


def make_batch(view):
    frames = clips(view)
    return {"frames": frames, "length": jnp.full(len(frames), frames.shape[1], jnp.int32)}


def make_memory(keys_of_queue, head=0):
    queue = MemoryQueue(jnp.asarray(keys_of_queue), jnp.int32(head), jnp.int32(head))
    return {"queue": queue, "prototypes": jnp.zeros((20, queue.keys.shape[1]))}


def first_stream(tree):
    return jax.tree.map(lambda x: x[0], tree)


SHEAR = ((None, 0, 3), (1, None, 4), (2, 5, None))  # which of the six numbers is where


def shear_matrix(six):
    return jnp.array([[1.0 if i is None else six[i] for i in row] for row in SHEAR], jnp.float32)


def test_each_part_of_the_views_of_ascal_is_the_released_one(golden):
    g = golden("systems/ascal")
    clip = clips(g["aug/clip"][None])[0]
    joints, frames = (
        jnp.isin(jnp.arange(size), g[f"aug/cutout_{name}"])
        for name, size in (("joints", 25), ("frames", len(clip)))
    )
    six = np.concatenate([g["aug/shear_s1"], g["aug/shear_s2"]])
    found = {
        f"rotate_axis{axis}_deg{angle}": extreme.rotate(clip, jnp.eye(3)[axis] * angle)
        for axis, angle in enumerate((17.0, 5.5, 29.0))
    } | {
        "shear": transform(clip, shear_matrix(six).T),
        "cutout": extreme.cut_out(clip, joints, frames),
        "subtract_joint1": extreme.minus_joint(clip, 1),
        "axis_mask_1": extreme.zero_axis(clip, 1),
        "blur": extreme.blur(clip, jnp.float32(g["aug/blur_sigma"])),
    }  # fmt: skip
    for name, view in found.items():
        assert relative_error(view, clips(g[f"aug/{name}"][None])[0]) < 1e-5, name


def test_the_view_of_ascal_with_its_recorded_draws(golden, monkeypatch):
    """The parts of the released config, in its order, of its first frames."""
    g = golden("systems/ascal")
    config = ascal_configs.get_config("ntu60_xview")
    config.views.num_frames = 40
    chance, *six = g["aug/pipeline_draws"]
    monkeypatch.setattr(extreme, "random_shear", lambda key, size: shear_matrix(six))
    clip = ascal_view.take_frames(config, clips(g["aug/clip"][None])[0], jnp.int32(60))
    key = jax.random.key(0)
    with monkeypatch.context() as draws:
        draws.setattr(jax.random, "uniform", lambda key: jnp.float32(chance))
        found = extreme.compose(key, clip, config.ascal_view)
    assert relative_error(found, clips(g["aug/pipeline"][None])[0]) < 1e-5


@functools.cache
def step_of_ascal(golden):
    """The released key encoder moves after the step, ours before the next: it is set back once."""
    g = golden("systems/ascal")
    c = ascal_configs.get_config("ntu60_xview")
    c.encoder.dim = c.encoder.lstm.width = 16
    c.moco.queue_size, c.ascal.idle_epochs = 64, 0
    params, moved = (read(g, f"before/{name}/", LSTM) for name in ("encoder", "momentum_encoder"))
    m = c.moco.momentum
    key_params = jax.tree.map(lambda k, q: (k - (1 - m) * q) / m, moved, params)
    extra = {"batch_stats": {}, "key_batch_stats": {}, "key_params": key_params}
    extra |= make_memory(g["before/queue"])
    views = (make_batch(g["view1"]), make_batch(g["view2"]))
    return c, g, *run_step(c, NTU25, params, extra, views)


def test_the_step_of_ascal_is_the_released_one(golden):
    c, g, state, metrics, grads = step_of_ascal(golden)
    logits = contrast_logits(*(jnp.asarray(g[n]) for n in ("q", "k", "before/queue")), 0.06)
    assert relative_error(logits, g["logits"]) < 1e-5
    assert relative_error(metrics["loss"], g["loss"]) < 1e-5
    params, extra = first_stream((state.params, state.extra))
    compare(write(first_stream(grads), "", LSTM), g, "grad/encoder/", 1e-4)
    compare(write(params, "", LSTM), g, "after/encoder/", 1e-5)
    followed = keys.momentum_update(extra["key_params"], params, c.moco.momentum)
    compare(write(followed, "", LSTM), g, "after/momentum_encoder/", 1e-5)
    assert relative_error(extra["queue"].keys, g["after/queue"]) < 1e-5
    assert extra["queue"].head == g["after/queue_index"]


QUEUES = {"sequence": "Queue_S1", "graph": "Queue_S2"}
PLACES = {"sequence": GRU, "graph": AGCN}


# Biases in front of a batch norm, and those of sources, the same in all that a softmax is over.
NO_GRADIENT = re.compile(r"(down\.0|conv_[ad]\.\d|tcn1\.conv|residual\.conv)\.bias$")


@functools.cache
def step_of_isc(golden):
    g = golden("systems/isc")
    c = isc_configs.get_config("ntu60_xsub")
    c.encoder.width, c.encoder.agcn.width, c.encoder.dim = 16, 8, 16
    c.moco.queue_size = 64
    params, key_params = (
        {side: read(g, f"before/encoder_{name}/", PLACES[side]) for side, name in names}
        for names in (zip(PLACES, "qr", strict=True), zip(PLACES, "kl", strict=True))
    )
    stats, key_stats = (
        {"sequence": {}, "graph": read(g, f"before/encoder_{name}/", STATISTICS)} for name in "rl"
    )
    extra = {"batch_stats": stats, "key_batch_stats": key_stats, "key_params": key_params}
    extra["memory"] = {
        side: make_memory(g[f"before/{name}"].T, g[f"before/queue_ptr{name[5:]}"][0])
        for side, name in QUEUES.items()
    }
    views = (make_batch(g["view1"]), make_batch(g["view2"]))
    return g, *run_step(c, NTU25, params, extra, views)


def test_logits_of_the_sequence_in_isc_are_the_released_ones(golden):
    """Its query beside the graph's key, which is the one that enters the graph's queue."""
    g = golden("systems/isc")
    variables = {"params": read(g, "before/encoder_q/", GRU)}
    encoder = bigru.BiGRU(16, 3, dim=16, input_norm=False)
    z, _ = encoder.apply(variables, clips(g["view1"]), train=True)
    start = int(g["before/queue_ptr_S2"][0])
    positive, negatives = (jnp.asarray(g[f"{when}/Queue_S2"].T) for when in ("forward", "before"))
    positive = positive[start : start + len(z)]
    logits = contrast_logits(normalize(z), positive, negatives, 0.07)
    assert relative_error(logits, g["logits_seq"]) < 1e-5


@pytest.mark.long
def test_losses_and_gradients_of_isc_are_the_released_ones(golden):
    g, _, metrics, grads = step_of_isc(golden)
    assert relative_error(metrics["loss_cl_sequence"], g["loss_seq"]) < 1e-5
    assert relative_error(metrics["loss_cl_graph"], g["loss_graph"]) < 1e-5
    assert relative_error(metrics["loss"], g["loss_seq"] + g["loss_graph"]) < 1e-5
    for (side, places), name in zip(PLACES.items(), "qr", strict=True):
        found = write(first_stream(grads)[side], "", places)
        whole = max(np.max(np.abs(grad)) for grad in found.values())
        gone = tuple(n for n in found if NO_GRADIENT.search(n) and side == "graph")
        compare(found, g, f"grad/encoder_{name}/", 1e-4, gone)
        assert all(np.max(np.abs(found[n])) < 1e-5 * whole for n in gone)


@pytest.mark.long
def test_the_state_after_a_step_of_isc_is_the_released_one(golden):
    g, state, *_ = step_of_isc(golden)
    params, extra = first_stream((state.params, state.extra))
    for number, (side, places) in enumerate(PLACES.items()):
        after = write(params[side], "", places)
        compare(after, g, f"after/encoder_{'qr'[number]}/", 1e-5)
        followed = write(extra["key_params"][side], "", places)
        start = f"forward/encoder_{'kl'[number]}/"
        kept = {name: array for name, array in followed.items() if start + name in g}
        compare(kept, g, start, 1e-6)
        queue, name = extra["memory"][side]["queue"], QUEUES[side]
        assert relative_error(queue.keys.T, g[f"forward/{name}"]) < 1e-5
        assert queue.head == g[f"forward/queue_ptr{name[5:]}"][0]
    stats = write(extra["key_batch_stats"]["graph"], "", STATISTICS)
    compare(stats, g, "forward/encoder_l/", 1e-5)
