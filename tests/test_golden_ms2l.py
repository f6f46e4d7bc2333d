"""MS2L against vectors of its released code: views, features, losses, gradients, the state after a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from _released import relative_error
from _restored import (
    GATES,
    compare,
    list_bigru,
    make_layout,
    make_place,
    read_tree,
    run_step,
    write_tree,
)

from configs import ms2l as configs
from halp_jax.core.contrast import nt_xent
from halp_jax.core.restore import squared_error
from halp_jax.core.sphere import normalize
from halp_jax.encoders import bigru
from halp_jax.encoders.bigru import flatten_clips
from halp_jax.encoders.decoder import FrameDecoder
from halp_jax.methods import ms2l, optim
from halp_jax.skeletons.augment import hide_end, permute_segments

LAYOUT = make_layout(10)
ENCODER = list_bigru("encoder/", 2)
LAYERS = {
    "0.weight": ("hidden", "kernel"), "0.bias": ("hidden", "bias"), "1.weight": ("norm", "scale"),
    "1.bias": ("norm", "bias"), "3.weight": ("out", "kernel"), "3.bias": ("out", "bias"),
}  # fmt: skip
DECODER = {f"decoder.{t}_l{i}": f"{o}{i}" for t, o in GATES.items() for i in range(2)}
DECODER |= {"reconstruction.weight": "w_out", "reconstruction.bias": "b_out"}
HEADS = [make_place(f"decoder/{t}", ("heads", "decoder", o)) for t, o in DECODER.items()]
HEADS += [
    make_place(f"{head}/classifier.{t}", ("heads", head, *o))
    for head in ("contrast", "jigsaw")
    for t, o in LAYERS.items()
]
PLACES = [*ENCODER, *HEADS]


def make_config():
    c = configs.get_config()
    c.encoder.width, c.ms2l.dim = 8, 8
    return c


@pytest.fixture(scope="module")
def recorded(golden):
    """The vectors, and the batch they are of; its numbers stay in their order."""
    g = golden("systems/ms2l")
    frames = {name: jnp.asarray(g[name].reshape(6, 24, 1, 10, 3)) for name in VIEWS}
    length, order = (jnp.asarray(g[name], jnp.int32) for name in ("frames", "jigsaw_label"))
    return g, [{"frames": frames[name], "length": length, "order": order} for name in VIEWS]


VIEWS = ("x", "masked", "jigsaw")


@pytest.fixture(scope="module")
def step(recorded):
    g, views = recorded
    params = read_tree(g, "before/", PLACES)
    return run_step(make_config(), LAYOUT, params, {"batch_stats": {}}, tuple(views))


def test_the_clip_with_its_end_hidden_and_the_permuted_one(recorded):
    g, (clip, hidden, permuted) = recorded
    assert np.array_equal(g["permutations"], ms2l.ORDERS)
    given = clip["frames"], clip["length"]
    found = jax.vmap(lambda *clip: hide_end(*clip, 0.3))(*given)
    assert np.array_equal(found, hidden["frames"])
    found = jax.vmap(permute_segments)(*given, jnp.array(ms2l.ORDERS)[clip["order"]])
    assert np.array_equal(found, permuted["frames"])


def test_a_clip_shorter_than_its_segments_stays_as_it_is():
    frames = jnp.arange(1.0, 5.0).reshape(4, 1, 1, 1) * jnp.ones(3)
    for length in (0, 2):
        found = permute_segments(frames, jnp.int32(length), jnp.array([2, 1, 0]))
        assert np.array_equal(found, frames)


def test_features_and_the_decoded_clip(recorded):
    g, (clip, hidden, _) = recorded
    params = read_tree(g, "before/", PLACES)
    encoder = bigru.make_encoder(make_config())
    given = clip["frames"], clip["length"]
    (_, feature), kept = encoder.apply(
        {"params": params}, *given, train=True, mutable=["intermediates"]
    )
    frames = jnp.swapaxes(kept["intermediates"]["frames"][0], 0, 1)
    assert relative_error(frames, g["feature_frames"]) < 1e-6
    assert relative_error(feature, g["feature"]) < 1e-6
    _, kept = encoder.apply(
        {"params": params}, hidden["frames"], hidden["length"], train=True,
        mutable=["intermediates"],
    )  # fmt: skip
    decoder = {"params": params["heads"]["decoder"]}
    decoded = FrameDecoder(30).apply(decoder, kept["intermediates"]["frames"][0])
    assert relative_error(decoded, g["decoded"]) < 1e-6
    loss = squared_error(decoded, flatten_clips(clip["frames"]), clip["length"])
    assert relative_error(loss, g["loss_motion"]) < 1e-6


def test_nt_xent_of_given_vectors(golden):
    g = golden("systems/ms2l")
    points = normalize(jnp.concatenate([g["ntxent/a"], g["ntxent/b"]]))
    rows = jnp.arange(10)
    loss, closest = nt_xent(points, points, rows, jnp.roll(rows, 5), 0.9)
    assert relative_error(loss, g["ntxent/loss"]) < 1e-6
    assert closest == g["ntxent/accuracy"]


NO_GRADIENT = "classifier.0.bias"  # batch norm takes it away again: what is left is rounding


def test_losses_and_clipped_gradients(golden, step):
    g = golden("systems/ms2l")
    _, metrics, grads = step
    for name in ("loss_motion", "loss_jigsaw", "loss_contrast"):
        assert relative_error(metrics[name], g[name]) < 1e-6, name
    encoder = {name: leaf for name, leaf in grads.items() if name != "heads"}
    for name, part in {"encoder": encoder, **grads["heads"]}.items():
        norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(part)))
        assert relative_error(norm, g[f"grad_norm/{name}"]) < 1e-5, name
    clipped, _ = jax.jit(optim.clip_modules(10.0).update)(grads, optax.EmptyState())
    clipped = write_tree(clipped, PLACES)
    compare(clipped, g, "clipped_grad/", 1e-4, [NO_GRADIENT])
    for head in ("contrast", "jigsaw"):
        for arrays in (clipped, {name: g[f"clipped_grad/{name}"] for name in clipped}):
            assert np.abs(arrays[f"{head}/{NO_GRADIENT}"]).max() < 1e-6


def test_the_encoder_after_the_optimiser(golden, step):
    g = golden("systems/ms2l")
    after = write_tree(step[0].params, ENCODER)
    compare(after, g, "after/", 1e-5)
