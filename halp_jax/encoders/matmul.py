"""Matrix products at a chosen precision; what is added up and what comes out is always float32.

(The convolution of temporal.py is no such product: in bfloat16 its sums are of bfloat16, too.)

    float32         the full product, which accelerators do not give unless asked
    tensorfloat32   10 bits of mantissa on NVIDIA's tensor cores (three bfloat16 passes on TPUs)
    bfloat16        both factors rounded to 7 bits of mantissa, forward and backward

On a CPU the first two are the same.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
PRECISIONS = get_args(Precision)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def matmul(
    x: Float[Array, "*batch inner"], w: Float[Array, "inner outer"], precision: Precision
) -> Float[Array, "*batch outer"]:
    """x @ w, and so are both of its gradients."""
    rows = _multiply(x.reshape(-1, x.shape[-1]), w, precision)
    return rows.reshape(*x.shape[:-1], w.shape[-1])


def _forward(x, w, precision):
    kept = (x, w)
    if precision == "bfloat16":
        kept = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return matmul(x, w, precision), kept


# Automatic gradients of the bfloat16 form would multiply in float32, slowly.
def _backward(precision, factors, d_out):
    x, w = factors
    d_rows = d_out.reshape(-1, d_out.shape[-1])
    d_w = _multiply(x.reshape(-1, x.shape[-1]).T, d_rows, precision)
    return _multiply(d_rows, w.T, precision).reshape(x.shape), d_w


matmul.defvjp(_forward, _backward)


def _multiply(x, w, precision):
    if precision == "bfloat16":
        x, w = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
        return jnp.matmul(x, w, preferred_element_type=jnp.float32)
    return jnp.matmul(x, w, precision=_NAMES[precision])


_NAMES = {"float32": "highest", "tensorfloat32": "high"}  # as jax calls them
