"""ST-GCN and attention drop against the released code's arrays, and what the encoder promises besides."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _aimclr import QUICKLY
from _released import clips, relative_error

from halp_jax.encoders import stgcn, temporal
from halp_jax.encoders.attention_drop import drop_by_attention, find_attention, find_kept
from halp_jax.methods import torch_stgcn
from halp_jax.skeletons.layout import KINECT20, NTU25

SMALL = {"width": 4, "last_width": 32, "dim": 16, "dropout": 0.0}


def read_encoder(arrays, prefix):
    found = {
        "params": torch_stgcn.read_tree(arrays, prefix, torch_stgcn.list_parameters()),
        "batch_stats": torch_stgcn.read_tree(arrays, prefix, torch_stgcn.list_statistics()),
    }
    return jax.tree.map(jnp.asarray, found)


def run(encoder, variables, x, train, **options):
    """(what the encoder returns, what it collects besides)."""

    @jax.jit
    def apply(variables, x):
        return encoder.apply(
            variables, x, train=train, mutable=["intermediates", "batch_stats"], **options
        )

    return apply.lower(variables, x).compile(QUICKLY)(variables, x)


def ours(maps):
    """[rows, channels, time, joints] -> [joints, rows, time, channels]."""
    return jnp.asarray(maps.transpose(3, 0, 2, 1))


def theirs(maps):
    return np.asarray(maps).transpose(1, 3, 2, 0)


@pytest.mark.parametrize(
    ("name", "layout"), [("ntu-rgb+d", NTU25), ("nw-ucla", KINECT20)], ids=["ntu25", "kinect20"]
)
def test_the_graph_is_the_released_one(golden, name, layout):
    ours = stgcn.make_adjacency(layout.parents)
    np.testing.assert_allclose(ours, golden("aimclr/graph")[f"{name}/spatial"], atol=1e-7)


def test_parts_of_the_graph_by_true_distance():
    released, true = (stgcn.make_adjacency(NTU25.parents, g) for g in stgcn.GRAPHS)
    assert [int((part > 0).sum()) for part in released] == [25, 40, 8]
    assert [int((part > 0).sum()) for part in true] == [25, 24, 24]
    np.testing.assert_allclose(released.sum(0), true.sum(0))
    np.testing.assert_allclose(true.sum((0, 1)), 1, rtol=1e-6)


@pytest.mark.parametrize(("mode", "remat"), [("eval", False), ("train", False), ("train", True)])
def test_every_block_is_the_released_one(golden, mode, remat):
    reference = golden("aimclr/encoder")
    variables = read_encoder(golden("aimclr/state"), "encoder_q.")
    encoder = stgcn.STGCN(NTU25.parents, **SMALL, remat=remat)
    x = clips(reference["x"])
    (z, feature), seen = run(encoder, variables, x, mode == "train")
    for i, block in enumerate(seen["intermediates"]["maps"]):
        assert relative_error(theirs(block), reference[f"{mode}/block{i}"]) < 5e-6, i
    assert relative_error(feature, reference[f"{mode}/features"]) < 5e-6
    assert relative_error(z, reference[f"{mode}/out"]) < 5e-6
    if mode == "train":
        after = torch_stgcn.write_tree(seen["batch_stats"], "", torch_stgcn.list_statistics())
        for name, value in after.items():
            assert relative_error(value, reference[f"train/after/{name}"]) < 5e-6, name


def test_blocks_computed_again_give_the_same_gradient_from_half_the_memory():
    x = jax.random.normal(jax.random.key(0), (4, 24, 2, 25, 3))
    keys, found, memory = jax.random.split(jax.random.key(1), 4), [], []
    for remat in (False, True):
        encoder = stgcn.STGCN(NTU25.parents, 4, 32, 16, remat=remat, dropout=0.5)
        variables = encoder.init(jax.random.key(2), x, train=False)

        def loss(params, encoder=encoder, rest=variables["batch_stats"]):
            (z, _), after = encoder.apply(
                {"params": params, "batch_stats": rest}, x, train=True, keys=keys,
                mutable=["batch_stats"],
            )  # fmt: skip
            return jnp.sum(z * jnp.arange(16.0)), after

        step = jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"]).compile(QUICKLY)
        memory.append(step.memory_analysis().temp_size_in_bytes)
        found.append(step(variables["params"]))
    plain, again = (jnp.concatenate([x.ravel() for x in jax.tree.leaves(f)]) for f in found)
    assert jnp.linalg.norm(again - plain) < 1e-6 * jnp.linalg.norm(plain)
    assert memory[1] < memory[0] / 2


def test_dropout_is_the_released_one(golden, monkeypatch):
    reference = golden("aimclr/encoder")
    variables = read_encoder(golden("aimclr/state"), "encoder_q.")
    masks = iter(range(1, 10))

    def recorded(keys, shape, rate):
        i = next(masks)
        wanted = reference[f"dropout/mask_shape{i}"]
        bits = np.unpackbits(reference[f"dropout/mask_bits{i}"])[: wanted.prod()].reshape(wanted)
        kept = bits.astype(bool).transpose(0, 3, 2, 1)  # [rows, joints, time, channels]
        return jnp.asarray(kept.reshape(len(keys), -1, *kept.shape[1:]))

    monkeypatch.setattr(stgcn, "draw_kept", recorded)
    encoder = stgcn.STGCN(NTU25.parents, **SMALL | {"dropout": 0.5})
    keys = jax.random.split(jax.random.key(0), 2)
    (z, feature), _ = run(encoder, variables, clips(reference["x"]), True, keys=keys)
    assert relative_error(feature, reference["dropout/features"]) < 5e-6
    assert relative_error(z, reference["dropout/out"]) < 5e-6


def test_dropout_has_its_rate_and_a_clip_its_own_draws():
    keys = jax.random.split(jax.random.key(0), 4)
    kept = np.asarray(stgcn.draw_kept(keys, (2, 25, 13, 7), 0.3))
    assert kept.shape == (4, 2, 25, 13, 7)
    np.testing.assert_allclose(kept.mean((1, 2, 3, 4)), 0.7, atol=0.03)
    assert np.array_equal(kept[2:], stgcn.draw_kept(keys[2:], (2, 25, 13, 7), 0.3))
    x = jnp.ones((25, 8, 13, 7))
    np.testing.assert_allclose(stgcn.drop_out(x, keys, 0.3).mean(), 1, atol=0.02)
    x = jnp.ones((25, 128, 13, 7))
    for rate in (0.99, 0.999):  # to 1/256, and never all of it
        dropped = stgcn.drop_out(x, jax.random.split(jax.random.key(1), 64), rate)
        assert 0 < (dropped != 0).mean() < 0.02
        np.testing.assert_allclose(dropped.mean(), 1, atol=0.1)


def fill_full_width(reference):
    """The arrays that the README of the vectors describes by their names."""
    arrays = {}
    shapes = jax.eval_shape(
        lambda: stgcn.STGCN(NTU25.parents).init(
            jax.random.key(0), jnp.zeros((1, 50, 2, 25, 3)), train=False
        )
    )
    filled = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    wanted = torch_stgcn.write_tree(filled["params"], "", torch_stgcn.list_parameters())
    wanted |= torch_stgcn.write_tree(filled["batch_stats"], "", torch_stgcn.list_statistics())
    for name, array in wanted.items():
        seed = (zlib.crc32(name.encode()) + int(reference["seed"])) % 2**32
        n = np.random.RandomState(seed).standard_normal(array.shape)
        if name.startswith("edge_importance"):
            n = 1 + 0.1 * n
        elif name.endswith("running_var"):
            n = np.exp(0.2 * n)
        elif name.endswith("running_mean") or name.endswith("bias"):
            n = 0.1 * n
        elif n.ndim >= 2:
            n = n * np.sqrt(2 / np.prod(array.shape[1:]))
        else:
            n = 1 + 0.1 * n
        arrays[name] = n.astype(np.float32)
    return arrays, filled["params"]


def test_full_width(golden):
    reference = golden("aimclr/full_width")
    arrays, params = fill_full_width(reference)
    assert sorted(arrays) == sorted(reference["names"])
    sums = dict(zip(reference["names"], reference["sums"], strict=True))
    assert all(
        np.isclose(a.astype(np.float64).sum(), sums[n], atol=1e-3) for n, a in arrays.items()
    )
    count = {name: sum(map(np.size, jax.tree.leaves(tree))) for name, tree in params.items()}
    assert count.pop("head") == 98_688
    assert sum(count.values()) == 821_380 and int(reference["parameters"]) == 821_380 + 98_688

    encoder, x = stgcn.STGCN(NTU25.parents, dropout=0.0), clips(reference["x"])
    variables = read_encoder(arrays, "")
    for mode in ("eval", "train"):
        (z, feature, dropped), seen = run(
            encoder, variables, x, mode == "train", drop=drop_by_attention
        )
        for i, block in enumerate(seen["intermediates"]["maps"]):
            block, name = theirs(block), f"{mode}/block{i}"
            assert relative_error(block.mean((2, 3)), reference[f"{name}/mean_tv"]) < 1e-5
            assert relative_error(block.std((2, 3)), reference[f"{name}/std_tv"]) < 1e-5
            assert relative_error(block[:, :8, :3, :5], reference[f"{name}/corner"]) < 1e-5
        assert relative_error(z, reference[f"{mode}/out"]) < 1e-5
        if mode == "eval":
            assert relative_error(feature, reference["eval/features"]) < 1e-5
    assert relative_error(dropped, reference["train/out_drop"]) < 1e-5
    joints, points = find_kept(seen["intermediates"]["maps"][-1], 0.7)
    np.testing.assert_allclose(
        [joints.mean(), points.mean()], reference["train/eadm_kept"], atol=2e-5
    )
    assert encoder.count_flops(50, 150) == pytest.approx(1.225e9, rel=2e-3)


@pytest.mark.parametrize("case", ["features", "sparse", "keep09", "dead_channels"])
def test_attention_drop_is_the_released_one(golden, case):
    g = {k.split("/")[1]: v for k, v in golden("aimclr/eadm").items() if k.startswith(f"{case}/")}
    x, threshold = ours(g["x"]), float(g["keep_prob"])
    attention = theirs(find_attention(x))
    assert relative_error(attention[: len(g["attention"])], g["attention"]) < 1e-6
    joints, points = find_kept(x, threshold)
    assert np.array_equal(joints[:, :, 0, 0].T, g["spatial_mask"])
    assert np.array_equal(theirs(points), g["temporal_mask"])
    assert relative_error(theirs(drop_by_attention(x, threshold)), g["out"]) < 1e-6
    if "weight" in g:
        gradient = jax.grad(lambda x: jnp.sum(ours(g["weight"]) * drop_by_attention(x, threshold)))(
            x
        )
        assert relative_error(theirs(gradient), g["grad_x"]) < 1e-5


def test_settings_of_the_attention_drop(golden):
    x = ours(golden("aimclr/eadm")["sparse/x"])
    everything = drop_by_attention(x, 1.1)  # the release of December 2021
    np.testing.assert_allclose(everything, x, rtol=1e-6)
    _, frames = find_kept(x, 0.65, points=False)
    assert frames.shape == (1, x.shape[1], x.shape[2], 1)
    own = drop_by_attention(x, scale="clip")  # a row is the same whatever stands beside it
    np.testing.assert_allclose(own[:, :2], drop_by_attention(x[:, :2], scale="clip"), rtol=1e-6)
    spread = jax.vmap(lambda x: drop_by_attention(x, axis_name="data"), 1, 1, axis_name="data")(
        x.reshape(25, 2, 2, *x.shape[2:])
    )
    np.testing.assert_allclose(spread.reshape(x.shape), drop_by_attention(x), rtol=1e-6)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("time", [7, 14, temporal.FEW])  # as one banded matrix, but for the last
def test_convolution_over_time_and_its_gradients_are_sums_over_a_window(time, stride):
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 3, time, 4), (9, 4, 5)))

    def convolve(x, w):
        return temporal.convolve_time(x, w, stride, "float32")

    def add_up(x, w):
        padded = jnp.pad(x, ((0, 0), (0, 0), (4, 4), (0, 0)))
        return sum(padded[:, :, i : i + time : stride] @ w[i] for i in range(9))

    y, pull_back = jax.vjp(convolve, x, w)
    wanted, pull_back_wanted = jax.vjp(add_up, x, w)
    assert relative_error(y, wanted) < 1e-5
    for ours, theirs in zip(pull_back(y), pull_back_wanted(y), strict=True):
        assert relative_error(ours, theirs) < 1e-5
    streams = jax.vmap(convolve)(jnp.stack([x, -x]), jnp.stack([w, w]))  # their own weights each
    assert relative_error(streams, jnp.stack([wanted, -wanted])) < 1e-5


def test_computing_once_changes_nothing():
    x = jnp.array([[jnp.nan, 1.0, -jnp.inf], [-2.0, 0.0, 3.0]])
    for row in (x, x[:, ::-1]):  # either side of the condition
        np.testing.assert_array_equal(jax.jit(temporal.compute_once)(row), row)
        np.testing.assert_array_equal(jax.jit(jax.vmap(temporal.compute_once))(row), row)
    gradient = jax.grad(lambda x: jnp.sum(temporal.compute_once(x) ** 3))(x[1])
    np.testing.assert_array_equal(gradient, 3 * x[1] ** 2)


@pytest.mark.parametrize(("start_std", "graph", "time"), [(0.02, 0.02, 0.02), (0.0, 0.129, 0.0745)])
def test_first_weights_are_released_or_follow_their_number_of_inputs(start_std, graph, time):
    """He: sqrt(2 / inputs), of 3 parts and of 9 taps of 40 channels."""
    block = stgcn.Block(40, start_std=start_std)
    x, adjacency = jnp.zeros((25, 2, 9, 40)), jnp.asarray(stgcn.make_adjacency(NTU25.parents))
    params = block.init(jax.random.key(0), x, adjacency, None, False)["params"]
    found = np.std(params["w_graph"]), np.std(params["w_time"])
    np.testing.assert_allclose(found, (graph, time), rtol=0.05)
