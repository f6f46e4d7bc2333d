"""Figures worth watching that are no part of the loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def spread(z_q: Float[Array, "batch dim"], z_k: Float[Array, "batch dim"]) -> dict[str, Array]:
    """Alignment and uniformity (Wang & Isola 2020) of the local batch."""
    alignment = jnp.mean(jnp.sum(jnp.square(z_q - z_k), axis=-1))
    pairs = 2.0 - 2.0 * z_k @ z_k.T
    others = ~jnp.eye(z_k.shape[0], dtype=bool)
    mean = jnp.sum(jnp.exp(-2.0 * pairs) * others) / jnp.maximum(jnp.sum(others), 1)
    return jax.lax.stop_gradient(
        {"alignment": alignment, "uniformity": jnp.log(jnp.maximum(mean, 1e-30))}
    )


def name_figures(streams: tuple[str, ...], figures: dict[str, Array]) -> dict[str, Array]:
    """The mean over streams of each figure [S], and with several streams each one's own too."""
    named = {name: jnp.mean(value) for name, value in figures.items()}
    if len(streams) > 1:
        for name, value in figures.items():
            named |= {f"{name}_{stream}": value[i] for i, stream in enumerate(streams)}
    return named


def name_pairs(name: str, streams: tuple[str, ...], terms: Array) -> dict[str, Array]:
    """The terms [teacher, student] between two streams as {name}_{teacher}_{student}."""
    return {
        f"{name}_{a}_{b}": terms[i, j]
        for i, a in enumerate(streams)
        for j, b in enumerate(streams)
        if i != j
    }
