"""The released code's arrays as ours: torch names and layouts of one single-stream model."""

import jax.numpy as jnp
import ml_collections
import numpy as np

from configs import default

NUM_LAYERS = 3


def from_torch(arrays: dict[str, np.ndarray], prefix: str) -> tuple[dict, dict]:
    """(params, batch_stats) of an encoder, without the stream axis, from `prefix` + torch names."""
    params = {}
    for i in range(NUM_LAYERS):

        def both(name, i=i):
            pair = [arrays[f"{prefix}encoder.gru.{name}_l{i}{end}"] for end in ("", "_reverse")]
            return jnp.stack([jnp.asarray(a.T) for a in pair])

        params[f"layer{i}"] = {
            "w_ih": both("weight_ih"),
            "w_hh": both("weight_hh"),
            "b_ih": both("bias_ih"),
            "b_hh": both("bias_hh"),
        }
    dense = {}
    for ours, theirs in (("hidden", "fc.0"), ("out", "fc.2")):
        dense[ours] = {
            "kernel": jnp.asarray(arrays[f"{prefix}{theirs}.weight"].T),
            "bias": jnp.asarray(arrays[f"{prefix}{theirs}.bias"]),
        }
    params["head"] = dense
    norm = f"{prefix}input_norm."
    params["input_norm"] = {
        "scale": jnp.asarray(arrays[norm + "weight"]),
        "bias": jnp.asarray(arrays[norm + "bias"]),
    }
    stats = {}
    if norm + "running_mean" in arrays:
        stats["input_norm"] = {
            "mean": jnp.asarray(arrays[norm + "running_mean"]),
            "var": jnp.asarray(arrays[norm + "running_var"]),
        }
    return params, stats


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


def relative_error(ours, theirs) -> float:
    """Largest difference over the largest magnitude of the reference."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-30))
