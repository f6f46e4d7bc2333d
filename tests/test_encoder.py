"""The encoder against the authors' code, and its recurrence against a plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _released import clips, config, from_torch, relative_error
from _steps import encode

from benchmarks._plain_gru import scan_gru_reference
from halp_jax.encoders import bigru
from halp_jax.encoders.bigru import (
    BiGRU,
    flatten_clips,
    make_encoder,
    mean_frames,
    reverse_frames,
)
from halp_jax.encoders.gru import scan_gru
from halp_jax.encoders.matmul import matmul
from halp_jax.encoders.norm import BatchNorm, normalize_batch
from halp_jax.methods import common
from halp_jax.skeletons.augment import make_stream
from halp_jax.skeletons.layout import NTU25


@pytest.mark.parametrize("stream", ["joint", "motion", "bone"])
def test_streams_equal_the_released(golden, stream):
    clip = clips(golden("inputs")["im_q"])[0]
    ours = flatten_clips(make_stream(clip, stream, NTU25)[None])
    assert relative_error(ours, golden("encoder")[f"stream_{stream}"]) < 1e-6


@pytest.mark.parametrize("stream", ["joint", "motion", "bone"])
def test_features_equal_the_released(golden, stream):
    params, stats = from_torch(golden("single_state"), "encoder_q.")
    params, stats = jax.tree.map(lambda x: x[None], (params, stats))
    frames = clips(golden("inputs")["im_q"])
    ours = encode(config(streams=(stream,)), params, stats, frames)
    assert relative_error(ours[0], golden("encoder")[f"knn_{stream}"]) < 1e-5


def test_layers_and_head_equal_the_released(golden):
    params, stats = from_torch(golden("single_state"), "encoder_q.")
    variables = {"params": params, "batch_stats": stats}
    reference = golden("encoder")
    x = clips(golden("inputs")["im_q"])
    for depth in (1, 2, 3):
        (z, _), seen = BiGRU(32, depth).apply(variables, x, train=False, mutable=["intermediates"])
        frames = jnp.swapaxes(seen["intermediates"]["frames"][0], 0, 1)
        assert relative_error(frames, reference[f"layer{depth - 1}"]) < 1e-5
    assert relative_error(z, reference["fc_out_joint"]) < 1e-5


def test_number_of_parameters_is_the_published_one():
    x, encoder = jnp.zeros((1, 64, 2, 25, 3)), BiGRU()
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, train=False))["params"]
    without_head = {name: value for name, value in shapes.items() if name != "head"}
    count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(without_head))
    assert count == 44_998_956


def test_initialisation_has_the_released_ranges():
    x = jnp.zeros((1, 4, 2, 25, 3))
    params = BiGRU(width=64).init(jax.random.key(0), x, train=False)["params"]

    def spans(leaf, bound):
        largest = float(jnp.max(jnp.abs(leaf)))
        return 0.9 * bound < largest <= bound

    assert spans(params["layer0"]["w_ih"], (6 / (150 + 192)) ** 0.5)
    assert spans(params["layer1"]["w_hh"], (6 / (64 + 192)) ** 0.5)
    assert spans(params["layer2"]["b_ih"], 64**-0.5)
    assert spans(params["head"]["hidden"]["kernel"], 128**-0.5)
    assert spans(params["head"]["out"]["kernel"], (6 / (128 + 128)) ** 0.5)


def random_recurrence(time=7, batch=3, width=5):
    keys = jax.random.split(jax.random.key(1), 4)
    shapes = ((time, batch, 3 * width), (width, 3 * width), (3 * width,), (time, batch, width))
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def test_fast_recurrence_equals_the_plain_one_with_its_gradients():
    *inputs, weight = random_recurrence()

    def loss(scan):
        return lambda *x: jnp.sum(weight * scan(*x))

    np.testing.assert_allclose(scan_gru(*inputs), scan_gru_reference(*inputs), rtol=1e-6)
    ours = jax.grad(loss(scan_gru), (0, 1, 2))(*inputs)
    plain = jax.grad(loss(scan_gru_reference), (0, 1, 2))(*inputs)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


def test_a_recurrence_from_the_middle_is_the_rest_of_the_whole_with_its_gradients():
    projected, w_hh, b_hh, weight = random_recurrence()

    def loss(projected, w_hh, b_hh, cut):
        first = scan_gru(projected[:cut], w_hh, b_hh)
        rest = scan_gru(projected[cut:], w_hh, b_hh, "float32", first[-1])
        return jnp.sum(weight * jnp.concatenate([first, rest]))

    def whole(*inputs):
        return jnp.sum(weight * scan_gru(*inputs))

    inputs = projected, w_hh, b_hh
    np.testing.assert_allclose(loss(*inputs, 3), whole(*inputs), rtol=1e-5)
    wanted = jax.grad(whole, (0, 1, 2))(*inputs)
    for a, b in zip(jax.grad(loss, (0, 1, 2))(*inputs, 3), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("padding", ["none", "everywhere"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_streams_of_a_layer_may_share_a_scan(monkeypatch, direction, padding):
    """As they do on accelerators."""
    encoder = bigru.BiGRU(6, 2, direction, 5, "mean", padding=padding)
    clips = jax.random.normal(jax.random.key(0), (3, 7, 1, 4, 3))
    length = jnp.array([7, 4, 1])
    variables = encoder.init(jax.random.key(1), clips, length, train=False)

    def loss(params):
        given = variables | {"params": params}
        z, feature = encoder.apply(given, clips, length, train=False)
        return jnp.sum(z**2) + jnp.sum(feature**3), feature

    found = []
    for together in (False, True):
        monkeypatch.setattr(bigru, "streams_together", lambda together=together: together)
        found.append(jax.value_and_grad(loss, has_aux=True)(variables["params"]))
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


def test_frames_are_reversed_and_averaged_up_to_the_end_of_a_clip():
    x, length = jnp.arange(10.0).reshape(5, 2, 1), jnp.array([3, 5])
    found = reverse_frames(x, length)[..., 0]
    assert found.T.tolist() == [[4, 2, 0, 6, 8], [9, 7, 5, 3, 1]]
    np.testing.assert_array_equal(reverse_frames(x), x[::-1])
    np.testing.assert_allclose(mean_frames(x, length)[:, 0], [6 / 3.01, 25 / 5.01], rtol=1e-6)


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_without_padding_lengths_are_not_looked_at(direction, pooling):
    clips = jax.random.normal(jax.random.key(0), (2, 6, 2, 4, 3))
    lengths = jnp.array([2, 6])
    encoder = BiGRU(4, 1, direction, 3, pooling)
    variables = encoder.init(jax.random.key(1), clips, train=False)
    z, feature = encoder.apply(variables, clips, lengths, train=False)
    assert jnp.array_equal(feature, encoder.apply(variables, clips, train=False)[1])
    masked = BiGRU(4, 1, direction, 3, pooling, padding="everywhere")
    found = masked.apply(variables, clips, lengths, train=False)[1]
    alone = encoder.apply(variables, clips[:1, :2], train=False)[1]
    np.testing.assert_allclose(found[:1], alone, rtol=6e-3)  # mean: 2 frames are divided by 2.01
    np.testing.assert_allclose(found[1:], feature[1:], rtol=6e-3)


def test_bfloat16_rounds_factors_and_nothing_else():
    """Forward and backward products have bfloat16 factors and float32 sums; the rest is float32."""
    rng = np.random.default_rng(1)
    inputs = [jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((7, 4, 48), (16, 48), (48,))]
    target = jnp.asarray(rng.normal(size=(7, 4, 16)), jnp.float32)

    def loss(precision):
        return jax.value_and_grad(
            lambda *args: jnp.sum(scan_gru(*args, precision) * target), (0, 1, 2)
        )

    value, gradients = jax.jit(loss("float32"))(*inputs)
    rounded, ours = jax.jit(loss("bfloat16"))(*inputs)
    assert 0 < abs(float(rounded - value)) < 0.05 * abs(float(value))
    for gradient, wanted in zip(ours, gradients, strict=True):
        assert gradient.dtype == jnp.float32
        error = jnp.linalg.norm(gradient - wanted) / jnp.linalg.norm(wanted)
        assert 1e-5 < float(error) < 0.05
    program = str(jax.make_jaxpr(loss("bfloat16"))(*inputs))
    products = [line for line in program.splitlines() if "dot_general[" in line]
    assert len(products) == 3 and program.count("preferred_element_type=float32") == 3
    assert all(":f32[" in line for line in products)
    c = config()
    c.train.precision = "bfloat16"
    assert make_encoder(c).precision == "bfloat16"


def test_products_of_every_precision():
    rng = np.random.default_rng(2)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((3, 5, 8), (8, 4)))
    exact = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    for precision, error in (("float32", 1e-6), ("tensorfloat32", 1e-2), ("bfloat16", 3e-2)):

        @jax.jit
        def forward_and_back(x, w, precision=precision):
            value, pull = jax.vjp(lambda x, w: matmul(x, w, precision), x, w)
            return value, *pull(value)

        value, d_x, d_w = map(np.asarray, forward_and_back(x, w))
        np.testing.assert_allclose(value, exact, atol=error * 8)
        np.testing.assert_allclose(d_x, value @ np.asarray(w).T, atol=error * 20)
        np.testing.assert_allclose(d_w, np.einsum("abi,abo->io", x, value), atol=error * 60)


def test_bidirectional_reads_the_clip_both_ways():
    """Exchanging the two streams' weights and reversing time exchanges the halves of the feature."""
    encoder = BiGRU(width=4, num_layers=2, direction="bidirectional")
    x = jax.random.normal(jax.random.key(2), (3, 9, 1, 2, 3))
    variables = encoder.init(jax.random.key(3), x, train=False)
    params = variables["params"]
    swapped = dict(params)
    swapped["layer0"] = jax.tree.map(lambda w: w[::-1], params["layer0"])
    swapped["layer1"] = jax.tree.map(lambda w: w[::-1], params["layer1"])
    # The second layer reads [first, second]: its input rows change places too.
    w_ih = swapped["layer1"]["w_ih"]
    swapped["layer1"]["w_ih"] = jnp.concatenate([w_ih[:, 4:], w_ih[:, :4]], axis=1)
    _, feature = encoder.apply(variables, x, train=False)
    _, mirrored = encoder.apply({**variables, "params": swapped}, x[:, ::-1], train=False)
    np.testing.assert_allclose(feature[:, :4], mirrored[:, 4:], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(feature[:, 4:], mirrored[:, :4], rtol=1e-5, atol=1e-6)
    forward = BiGRU(width=4, num_layers=2).apply(variables, x, train=False)[1]
    assert relative_error(forward, feature) > 1e-2


def test_unknown_direction_is_refused():
    with pytest.raises(ValueError, match="unknown direction 'sideways'"):
        BiGRU(width=4, direction="sideways").init(
            jax.random.key(0), jnp.zeros((1, 2, 1, 2, 3)), train=False
        )


def test_batch_statistics_are_those_of_the_global_batch():
    x = 3.0 + jax.random.normal(jax.random.key(4), (8, 5, 6))
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), x, train=False)
    y, new = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = np.asarray(x).reshape(-1, 6)
    np.testing.assert_allclose(
        y.reshape(-1, 6), (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5), atol=1e-5
    )
    np.testing.assert_allclose(
        new["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5
    )
    spread = jax.vmap(
        lambda x: BatchNorm(axis_name="data").apply(
            variables, x, train=True, mutable=["batch_stats"]
        ),
        axis_name="data",
    )(x.reshape(4, 2, 5, 6))
    np.testing.assert_allclose(spread[0].reshape(y.shape), y, atol=1e-5)
    for leaf in jax.tree.leaves(jax.tree.map(lambda a, b: a - b[None], spread[1], new)):
        assert float(jnp.max(jnp.abs(leaf))) < 1e-5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("devices", [1, 2])
def test_batch_norms_own_gradient_is_the_automatic_one(masked, devices):
    """Samples that do not count are normalised, too, and what they pass back counts."""
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(1, 2, (4, 5, 3)), jnp.float32) for _ in range(2))
    there = jnp.asarray(rng.random((4, 5)) > 0.4) if masked else None
    params = {"scale": jnp.array([1.5, -0.7, 2.0]), "bias": jnp.array([0.1, 0.2, 0.3])}

    def loss(normalise):
        return lambda params, x, w, there: jnp.sum(w * normalise(params, x, there) ** 2)

    def ours(params, x, there):
        axis_name = "data" if devices > 1 else None
        y, _ = normalize_batch(x, params["scale"], params["bias"], there, 1e-5, axis_name)
        return y

    def plain(params, x, there):
        weight = jnp.ones(x.shape[:-1]) if there is None else there.astype(x.dtype)
        share = weight[..., None] / jnp.sum(weight)
        mean = jnp.sum(share * x, (0, 1))
        var = jnp.sum(share * (x - mean) ** 2, (0, 1))
        return (x - mean) / jnp.sqrt(var + 1e-5) * params["scale"] + params["bias"]

    wanted = jax.grad(loss(plain), (0, 1))(params, x, w, there)
    gradient = jax.grad(loss(ours), (0, 1))
    if devices > 1:
        shards = [None if a is None else a.reshape(2, 2, *a.shape[1:]) for a in (x, w, there)]
        mapped = jax.vmap(gradient, (None, 0, 0, 0 if masked else None), axis_name="data")
        of_params, of_x = mapped(params, *shards)
        found = jax.tree.map(lambda g: g.sum(0), of_params), of_x.reshape(x.shape)
    else:
        found = gradient(params, x, w, there)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_flops_are_those_that_xla_counts_where_nothing_loops():
    """One frame: the scan's body, which XLA counts once, is run once."""
    encoder = BiGRU(128, 3)
    ours, xlas = encoder.count_flops(1, 150), common.xla_flops(encoder, 1, 2, 25)
    assert ours == pytest.approx(xlas, rel=0.02)
    assert common.xla_flops(encoder, 64, 2, 25) < 0.7 * encoder.count_flops(64, 150)
