"""GL-Transformer against vectors of its released code: targets, views, features, losses, gradients; its step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _released import clips, relative_error
from _restored import (
    compare,
    is_step_of_adam,
    make_layout,
    make_place,
    read_tree,
    run_step,
    write_tree,
)

from configs import gltransformer as configs
from halp_jax.core import displace
from halp_jax.encoders import transformer
from halp_jax.skeletons import turned
from halp_jax.skeletons.layout import NTU25

ROOT, INTERVALS = 20, (1, 5)
LAYOUT = dataclasses.replace(make_layout(22, 2), parents=(ROOT,) * 22)


def list_linear(theirs, *ours, row=None):
    return [
        make_place(f"{theirs}.weight", (*ours, "kernel"), row),
        make_place(f"{theirs}.bias", (*ours, "bias"), row),
    ]


def list_norm(theirs, *ours):
    return [
        make_place(f"{theirs}.weight", (*ours, "scale")),
        make_place(f"{theirs}.bias", (*ours, "bias")),
    ]


def list_block(number):
    theirs, ours = f"transformer.encoder_blocks.{number}.", f"block{number}"
    return [
        make_place(f"{theirs}positional_emb", (ours, "place")),
        *list_norm(f"{theirs}norm1_sp", ours, "spatial_norm"),
        *list_norm(f"{theirs}norm1_tm", ours, "temporal_norm"),
        *list_norm(f"{theirs}norm2", ours, "mlp_norm"),
        *list_linear(f"{theirs}attention_sp.qkv", ours, "spatial", "qkv"),
        *list_linear(f"{theirs}attention_sp.proj", ours, "spatial", "out"),
        *list_linear(f"{theirs}attention_tm.qkv", ours, "temporal", "qkv"),
        *list_linear(f"{theirs}attention_tm.proj", ours, "temporal", "out"),
        *list_linear(f"{theirs}feedforward.fc1", ours, "wide"),
        *list_linear(f"{theirs}feedforward.fc2", ours, "narrow"),
    ]


HEADS = [
    place
    for theirs, ours in (("dir", "direction"), ("mag", "length"))
    for i in range(len(INTERVALS))
    for place in list_linear(f"{theirs}_pred_list.{i}.linear.0", "heads", ours, row=i)
]
PLACES = [
    *list_linear("transformer.emb", "joint"),
    *list_linear("transformer.emb_global", "root"),
    *list_block(0), *list_block(1),
    *list_norm("transformer.norm", "norm"),
    *list_linear("transformer.mlp.0", "mlp0"), *list_norm("transformer.mlp.2", "mlp_norm0"),
    *list_linear("transformer.mlp.3", "mlp1"), *list_norm("transformer.mlp.5", "mlp_norm1"),
    *HEADS,
]  # fmt: skip


def make_config():
    c = configs.get_config()
    c.views.num_frames, c.gltransformer.intervals = 24, INTERVALS
    c.encoder.transformer.update(width=2, heads=2, blocks=2, dropout=0.0, drop_path=0.0)
    return c


@pytest.fixture(scope="module")
def recorded(golden):
    """The vectors, the weights and the batch they are of; the recorded clips hold 99.9 after the end."""
    g = golden("systems/glt")
    there = jnp.arange(24) < jnp.asarray(g["lengths"])[:, None]
    frames = jnp.where(there[..., None, None, None], clips(g["position"]), 0.0)
    batch = {"frames": frames, "length": jnp.asarray(g["lengths"], jnp.int32)}
    return g, read_tree(g, "before/", PLACES), batch, np.asarray(there)


@pytest.fixture(scope="module")
def step(recorded):
    g, params, batch, _ = recorded
    return run_step(make_config(), LAYOUT, params, {"batch_stats": {}}, (batch,))


def test_targets(recorded):
    g, _, batch, there = recorded
    found = jax.vmap(lambda clip: displace.classify(clip, INTERVALS))(batch["frames"])
    for classes, name in zip(found, ("target_direction", "target_magnitude"), strict=True):
        flat = np.asarray(classes).reshape(4, 24, -1)
        assert np.array_equal(flat[there], g[name][there])


def test_views_with_their_recorded_draws(recorded):
    g = recorded[0]
    clip = clips(g["view/clip"][None])[0]
    padded = jnp.pad(clip, ((0, 12), (0, 0), (0, 0), (0, 0)))
    for number, sign in enumerate((-1.0, 1.0)):  # the first number drawn decides it
        _, share, ratio = g[f"view/stretch{number}_draws"]
        wanted = clips(g[f"view/stretch{number}"][None])[0]
        found = turned.stretch(padded, len(clip), 1.0 + sign * share * ratio)
        assert relative_error(found[: len(wanted)], wanted) < 1e-6
        assert not np.any(found[len(wanted) :])
    (a, b, c), (d, e, f) = g["view/shear_draws"].reshape(2, 3)
    matrix = jnp.array([[1, a, d], [b, 1, e], [c, f, 1]], jnp.float32).T
    found = turned.shear_joints(clip, matrix, ROOT)
    assert relative_error(found, clips(g["view/shear"][None])[0]) < 1e-6


def test_features(recorded):
    """Of valid frames, whatever stands behind the end: 99.9, where our clips have 0."""
    g, params, batch, there = recorded
    encoder = transformer.make_encoder(make_config(), nodes=44, root=ROOT)
    (_, feature), kept = encoder.apply(
        {"params": params}, clips(g["position"]), batch["length"], train=False,
        mutable=["intermediates"],
    )  # fmt: skip
    frames = np.asarray(kept["intermediates"]["frames"][0])
    assert relative_error(frames[there], g["transformer"][there]) < 1e-5
    assert relative_error(feature, g["pooled_feature"]) < 1e-5


def recorded_rows(array):
    """Of a large gradient every eighth row is kept."""
    return array[::8] if array.size > 5000 else array


@pytest.mark.long
def test_losses_and_gradients(recorded, step):
    g = recorded[0]
    _, metrics, grads = step
    names = {"direction": "dir", "direction_way": "dir_g", "length": "mag", "length_way": "mag_g"}
    for ours, theirs in names.items():
        assert relative_error(metrics[f"loss_{ours}"], g[f"loss_{theirs}"]) < 1e-6, ours
    assert relative_error(metrics["loss"], g["loss"]) < 1e-6
    grads = write_tree(grads, PLACES)
    for place in HEADS[::2]:
        norm = np.sqrt(np.sum(np.square(grads.pop(place.name))))
        assert relative_error(norm, g[f"grad_norm/{place.name}"]) < 1e-5, place.name
    compare({name: recorded_rows(grad) for name, grad in grads.items()}, g, "grad/", 1e-4)


@pytest.mark.long
def test_the_state_after_the_step_is_that_of_adamw(recorded, step):
    """No state of the released code is recorded; from its gradients, the step that torch documents."""
    g, rate, decay = recorded[0], 5e-5, 0.1
    after = write_tree(step[0].params, PLACES)
    for place in PLACES:
        if (name := f"grad/{place.name}") in g:
            before = g[f"before/{place.name}"].astype(np.float32) * (1.0 - rate * decay)
            kept = recorded_rows(before), recorded_rows(after[place.name])
            assert is_step_of_adam(g[name], *kept, rate, nudge=1e-7), place.name


def test_dropout_draws_for_each_clip_and_call_and_keeps_the_mean():
    keys, x = jax.random.split(jax.random.key(0), 2), jnp.ones((2, 4, 500))
    thin = transformer.make_thin(keys)
    first, second, paths = thin(x, 0.2), thin(x, 0.2), thin(x, 0.5, 4, 1)
    assert set(np.unique(first)) == {0.0, 1.25} and np.isclose(first.mean(), 1.0, atol=0.05)
    assert np.any(first != second) and np.any(first[0] != first[1])
    assert np.all(paths == paths[..., :1]) and np.any(paths != paths[:, :1])
    alone = transformer.make_thin(keys[1:])(x[1:], 0.2)
    assert np.array_equal(alone[0], first[1])  # on a device of its own
    assert transformer.make_thin(None)(x, 0.2) is x and thin(x, 0.0) is x


def test_a_clip_is_relative_to_the_root_and_turned():
    """Against plain loops over bodies and frames."""
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(9, 2, 25, 3)).astype(np.float32)
    raw[7:], raw[:, 1] = 0.0, 0.0
    raw[2:6, 1] = rng.normal(size=(4, 25, 3))
    found = np.asarray(turned.prepare_relative(jnp.asarray(raw), NTU25, 12))
    right, left = NTU25.shoulders
    for body in range(2):
        clip = raw[:7, body].astype(np.float64)
        joints = clip - clip[:, NTU25.root, None]
        joints[:, NTU25.root] = clip[:, NTU25.root] - clip[0, NTU25.root]
        line = joints[:, right] - joints[:, left]
        side = -1.0 if line[:, 2].sum() >= 0 else 1.0
        for t, (x, _, z) in enumerate(line):
            angle = side * np.arccos(x / (np.hypot(x, z) + turned._TINY))
            turn = [
                [np.cos(angle), 0, -np.sin(angle)],
                [0, 1, 0],
                [np.sin(angle), 0, np.cos(angle)],
            ]
            np.testing.assert_allclose(found[t, body], joints[t] @ np.transpose(turn), atol=1e-4)
    assert not np.any(found[7:])
