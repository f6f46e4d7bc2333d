"""The released code's arrays as ours: torch names and layouts of one single-stream model."""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from configs import default
from halp_jax.core import hallucinate
from halp_jax.methods import torch_names
from halp_jax.methods.torch_names import read_tree

NUM_LAYERS = 3


def mark_long(names, but: str) -> list:
    """Names of recorded steps for a test, all but one among the long ones: each compiles anew."""
    return [n if n == but else pytest.param(n, marks=pytest.mark.long) for n in names]


def from_torch(arrays: dict[str, np.ndarray], prefix: str) -> tuple[dict, dict]:
    """(params, batch_stats) of an encoder, without the stream axis, from `prefix` + torch names."""
    places = torch_names.list_parameters(NUM_LAYERS), torch_names.STATISTICS
    return jax.tree.map(jnp.asarray, tuple(read_tree(arrays, prefix, each) for each in places))


def clips(arrays: np.ndarray) -> jnp.ndarray:
    """[batch, xyz, time, joints, bodies] -> [batch, time, bodies, joints, xyz]."""
    return jnp.asarray(arrays.transpose(0, 2, 4, 3, 1))


def config(mu: float = 0.0, streams: tuple[str, ...] = ("joint",)) -> ml_collections.ConfigDict:
    """The settings of the recorded model: width 32, queue 256, batch 8, ten positives."""
    c = default.get_config()
    c.streams = streams
    c.encoder.width = 32
    c.moco.queue_size = 256
    c.halp.mu, c.halp.start_epoch, c.halp.num_positives = mu, 0, 10
    c.train.batch_size = 8
    return c


def replayed_halp(draws, prototypes=None):
    """halp_loss with recorded draws in place of its own.

    `draws`: for each stream the arrays "selected_target" and "zero_one"; with more than one, the
    streams' `prototypes` [S, m, dim] tell which of them the (vmapped) call is about.
    """
    selected = jnp.stack([jnp.asarray(d["selected_target"]).reshape(8, 10) for d in draws])
    shares = jnp.stack([1.0 - jnp.asarray(d["zero_one"]).reshape(8, 10) for d in draws])

    def halp(key, z_q, z_k, p, *, temperature, **_):
        stream = 0
        if prototypes is not None:
            stream = jnp.argmin(jnp.sum(jnp.square(prototypes - p), axis=(1, 2)))
        s, c = z_k @ p.T, p @ p.T
        r = jax.vmap(lambda s: hallucinate.reach(s, s, c, "pairwise"))(s)
        z = jax.vmap(lambda r, s, i, u: hallucinate.place_positives(r, s, c, i, u, "pairwise"))(
            r, s, selected[stream], shares[stream]
        )
        points = hallucinate.materialize(z, z_k, p)
        toward = jnp.einsum("bd,bgd->bg", z_q, points)
        loss = -jnp.sum(toward * z.kept) / jnp.sum(z.kept) / temperature
        return loss, {"kept": jnp.mean(z.kept.astype(jnp.float32))}

    return halp


def recorded_draws(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name: arrays[f"{prefix}/{name}"] for name in ("selected_target", "zero_one")}


def relative_error(ours, theirs) -> float:
    """Largest difference over the largest magnitude of the reference."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-30))


def full_length(frames):
    """Lengths [batch] of clips of which every frame is valid."""
    return jnp.full(frames.shape[0], frames.shape[1], jnp.int32)
