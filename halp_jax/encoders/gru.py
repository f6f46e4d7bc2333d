"""The recurrence: one layer of gated recurrent units, with the equations and gates of torch.nn.GRU.

    r_t = sigmoid(W_ir x_t + b_ir + W_hr h_(t-1) + b_hr)
    z_t = sigmoid(W_iz x_t + b_iz + W_hz h_(t-1) + b_hz)
    n_t = tanh(W_in x_t + b_in + r_t * (W_hn h_(t-1) + b_hn))
    h_t = (1 - z_t) * n_t + z_t * h_(t-1),   h_0 = 0 or what is given

(Cho et al. 2014, with b_hn inside the reset product as in cuDNN.) The gates are stacked r, z, n.
`scan_gru` has a backward pass of its own; the plain form is benchmarks/_plain_gru.py.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from halp_jax.encoders.matmul import Precision, matmul


def cell(projected, recurrent, hidden):
    """One time step: [..., 3 width] and [..., width] -> the new state and what its gradient needs."""
    xr, xz, xn = jnp.split(projected, 3, axis=-1)
    hr, hz, hn = jnp.split(recurrent, 3, axis=-1)
    r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
    n = jnp.tanh(xn + r * hn)
    return (1.0 - z) * n + z * hidden, (r, z, n, hn)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def scan_gru(
    projected: Float[Array, "time batch gates"],
    w_hh: Float[Array, "width gates"],
    b_hh: Float[Array, " gates"],
    precision: Precision = "float32",
    start: Float[Array, "batch width"] | None = None,
) -> Float[Array, "time batch width"]:
    """The recurrence over all frames, of which `projected` is W_i x + b_i, from the state `start` or 0.

    The gradient of the recurrent weights is a sum over time of outer products. Automatic
    differentiation adds them up inside the scan, a read and a write of the whole matrix a frame;
    here the backward scan only collects the gate gradients, and one product after it does the rest.
    """
    return _forward(projected, w_hh, b_hh, precision, start)[0]


def _forward(projected, w_hh, b_hh, precision, start):
    def step(hidden, projected_t):
        recurrent = matmul(hidden, w_hh, precision) + b_hh
        hidden, gates = cell(projected_t, recurrent, hidden)
        return hidden, (hidden, gates)

    first = start
    if start is None:
        first = jnp.zeros((projected.shape[1], w_hh.shape[0]), projected.dtype)
    _, (hiddens, gates) = jax.lax.scan(step, first, projected)
    return hiddens, (hiddens, gates, w_hh, start)


def _backward(precision, residuals, d_hiddens):
    hiddens, gates, w_hh, start = residuals
    first = jnp.zeros_like(hiddens[:1]) if start is None else start[None]
    previous = jnp.concatenate([first, hiddens[:-1]])
    w_back = jax.lax.optimization_barrier(w_hh.T)  # once, and not in every time step

    def step(d_hidden, inputs):
        d_out, before, (r, z, n, hn) = inputs
        d_hidden = d_hidden + d_out
        d_n = d_hidden * (1.0 - z) * (1.0 - n * n)
        d_z = d_hidden * (before - n) * z * (1.0 - z)
        d_r = d_n * hn * r * (1.0 - r)
        d_recurrent = jnp.concatenate([d_r, d_z, d_n * r], axis=-1)
        return d_hidden * z + matmul(d_recurrent, w_back, precision), (d_recurrent, d_n)

    inputs = d_hiddens, previous, gates
    d_first, (d_recurrent, d_n) = jax.lax.scan(
        step, jnp.zeros_like(hiddens[0]), inputs, reverse=True
    )
    width = w_hh.shape[0]
    d_projected = jnp.concatenate([d_recurrent[..., : 2 * width], d_n], axis=-1)
    rows = previous.reshape(-1, width), d_recurrent.reshape(-1, 3 * width)
    d_w_hh = matmul(rows[0].T, rows[1], precision)
    d_start = None if start is None else d_first
    return d_projected, d_w_hh, jnp.sum(d_recurrent, axis=(0, 1)), d_start


scan_gru.defvjp(_forward, _backward)
