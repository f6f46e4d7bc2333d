"""A linear layer on features: what the linear probe trains alone and fine-tuning with the encoder."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key


class Probe(NamedTuple):
    """logits = features @ weight + bias."""

    weight: Float[Array, "features classes"]
    bias: Float[Array, " classes"]


def init_probe(
    key: Key[Array, ""], num_features: int, num_classes: int, std: float = 0.01
) -> Probe:
    """Weights ~ N(0, std^2), bias 0."""
    weight = std * jax.random.normal(key, (num_features, num_classes))
    return Probe(weight, jnp.zeros(num_classes))


def apply_probe(
    probe: Probe, features: Float[Array, "batch features"]
) -> Float[Array, "batch classes"]:
    """Logits, in the full float32 product on every device."""
    return jnp.matmul(features, probe.weight, precision="highest") + probe.bias


def probe_loss(
    probe: Probe,
    features: Float[Array, "batch features"],
    labels: Int[Array, " batch"],
    valid: Float[Array, " batch"],
) -> Float[Array, ""]:
    """Softmax cross entropy, mean over the rows of which `valid` is 1."""
    losses = optax.softmax_cross_entropy_with_integer_labels(apply_probe(probe, features), labels)
    return jnp.sum(losses * valid) / jnp.sum(valid)
