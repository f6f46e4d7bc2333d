"""Matrix products at a chosen precision; what is added up and what comes out is always float32.

    float32         the full product, which accelerators do not give unless asked
    tensorfloat32   10 bits of mantissa on NVIDIA's tensor cores (three bfloat16 passes on TPUs)
    bfloat16        both factors rounded to 7 bits of mantissa, forward and backward

On a CPU the first two are the same.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Precision = Literal["float32", "tensorfloat32", "bfloat16"]
PRECISIONS = get_args(Precision)


def product(
    x: Float[Array, "*batch inner"], w: Float[Array, "inner outer"], precision: Precision
) -> Float[Array, "*batch outer"]:
    """x @ w."""
    if precision == "bfloat16":
        return _rounded(x, w)
    return jnp.matmul(x, w, precision="highest" if precision == "float32" else "high")


def _multiply(subscripts, x, y):
    x, y = x.astype(jnp.bfloat16), y.astype(jnp.bfloat16)
    return jnp.einsum(subscripts, x, y, preferred_element_type=jnp.float32)


# Automatic gradients would multiply float32 cotangents with bfloat16 factors: slowly, in float32.
@jax.custom_vjp
def _rounded(x, w):
    return _multiply("...i,io->...o", x, w)


def _forward(x, w):
    return _rounded(x, w), (x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))


def _backward(factors, d_out):
    x, w = factors
    x, d_rows = x.reshape(-1, x.shape[-1]), d_out.reshape(-1, d_out.shape[-1])
    return _multiply("...o,io->...i", d_out, w), _multiply("ri,ro->io", x, d_rows)


_rounded.defvjp(_forward, _backward)
