"""Geometry of the unit sphere S^(D-1): points, angles, geodesics.

Everything about two points x, y and a third is said by their inner products, so most functions take
those (scalars) instead of the points; that is what lets HaLP work on small tables.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

# Below this sine two points are taken to coincide. float32 resolves cos W to 6e-8, so sin W is known to
# about 3e-4 near the poles; a tenth of that only ever catches exact cases.
_TINY = 3e-5
# Above this angle two points are taken to be antipodal: what float32's rounding of cos W does to |z(t)|
# grows as 1 / sin^2 W, to 1e-5 here, to 5e-4 at a tenth of this distance from pi.
_OPPOSITE = jnp.pi - 0.1


def normalize(x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
    """Projects points [..., dim] on the sphere; the zero vector stays zero, with a zero gradient."""
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    safe = jnp.where(square > 0, square, 1.0)
    return jnp.where(square > 0, x / jnp.sqrt(safe), 0.0)


def matmul(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """a @ b in full float32; accelerators round to bfloat16 or TF32 by default, too coarse for ties."""
    return jnp.matmul(a, b, precision="highest")


def similarities(x: Float[Array, "n dim"], y: Float[Array, "m dim"]) -> Float[Array, "n m"]:
    """sim of every x with every y."""
    return matmul(x, y.T)


def angle(cosine: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """The angle W in [0, pi] between two points of which the inner product is given (radians)."""
    return jnp.arccos(jnp.clip(cosine, -1.0, 1.0))


def slerp_weights(
    t: Float[Array, "*batch"], omega: Float[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Weights (a, b) of the geodesic z(t) = a x + b y, t in [0, 1], W the angle between x and y.

    a = sin((1-t) W) / sin W and b = sin(t W) / sin W: the paper's manifold mixup (z(t) is a unit vector).
    At W = 0 this is the limit 1-t, t. At W = pi there is no one geodesic: the walk stays at x.
    """
    return mean_slerp_weights(t, t, omega)


def mean_slerp_weights(
    t0: Float[Array, "*batch"], t1: Float[Array, "*batch"], omega: Float[Array, "*batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """The mean of `slerp_weights` for t uniform on [t0, t1], in closed form.

    The integral of a sine over an interval is its value at the middle times sinc of half the angle
    passed, so the mean positive is the midpoint of the arc, shortened: no quotient of differences,
    and nothing to guard at t0 = t1.
    """
    t, opposite = (t0 + t1) / 2, omega > _OPPOSITE
    sine = jnp.sin(omega)
    same = sine < _TINY
    shortening = jnp.sinc((t1 - t0) * omega / (2 * jnp.pi))  # sinc(x) = sin(pi x) / (pi x)
    safe = jnp.where(same | opposite, 1.0, sine)
    a = shortening * jnp.where(same, 1.0 - t, jnp.sin((1.0 - t) * omega) / safe)
    b = shortening * jnp.where(same, t, jnp.sin(t * omega) / safe)
    return jnp.where(opposite, 1.0, a), jnp.where(opposite, 0.0, b)


def tie_angle(
    omega: Float[Array, "..."], d: Float[Array, "..."], n: Float[Array, "..."]
) -> Float[Array, "..."]:
    """How far to walk from z_k to P_sel until P* and a rival P_j are equally similar (radians).

    d = z_k.(P* - P_j) >= 0, n = P_sel.(P_j - P*). Along the geodesic the lead of P* over P_j is
    proportional to sin W cos(theta) d - sin(theta) (cos W d + n), which is zero at
    theta = arctan2(sin W d, n + cos W d) in [0, pi]. For P_j = P_sel this is the paper's t* W with
    kappa = n / d, without its division and on the right branch of the arctangent.
    A rival that never passes P* (d = 0 and n <= 0: P* itself, or its duplicate) ties at pi.
    """
    theta = jnp.arctan2(jnp.sin(omega) * d, n + jnp.cos(omega) * d)
    never = (d <= 0) & (n <= 0)
    return jnp.where(never, jnp.pi, jnp.maximum(theta, 0.0))
