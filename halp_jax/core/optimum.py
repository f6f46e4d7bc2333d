"""The full objective of HaLP without the relaxation: solver "sphere".

For a prototype p among prototypes p_j, the point that is as far from p as it can be and still
ranks it first:

    z* = argmin_{|z| = 1} z.p   subject to   (p - p_j).z >= 0 for all j,

that is the far end of p's Voronoi cell, a convex cone cut with the sphere. Two cases:

  The cone reaches z.p < 0. Then z* is the normalised projection r of -p on the cone. By Moreau,
  r = A'x - p with x = argmin_{x >= 0} |A'x - p|^2, rows of A the unit normals of the cone, and
  z*.p = -|r|. Convex: solved by accelerated projected gradient, to the optimum.
  r = 0: the cone lies in z.p >= 0 (the usual case where there are more prototypes than
  dimensions). There z.p is quasi-concave, so z* is an extreme ray of the cone. Rays are found by
  walking from p along great circles, from tie to tie, until no freedom is left; the best of many
  walks is returned: in 2 and 3 dimensions all rays are seen, further up it is a heuristic.

Independent of the anchor. For inspection, and to measure what the relaxations give up.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from halp_jax.core.sphere import normalize

NUM_WALKS = 512
MAX_ITER = 3000
TINY = 1e-6  # prototypes closer than this are one
SHORT = 1e-4  # a shorter projection is no longer told from zero
SLACK = 5e-6  # how far below 0 a constraint may be, in float32


class Farthest(NamedTuple):
    points: Float[Array, "prototypes dim"]
    projected: Bool[Array, " prototypes"]  # True: global optimum, z.p < 0; False: best ray found


@jax.jit
def farthest_feasible(prototypes: Float[Array, "prototypes dim"]) -> Float[Array, "prototypes dim"]:
    """For each prototype [prototypes, dim] the farthest point that it is still nearest to."""
    return solve_farthest(prototypes).points


@jax.jit
def solve_farthest(prototypes: Float[Array, "prototypes dim"]) -> Farthest:
    """`farthest_feasible`, with the case each prototype fell in."""
    prototypes = normalize(prototypes)
    differences = prototypes[:, None] - prototypes[None]
    apart = jnp.linalg.norm(differences, axis=-1, keepdims=True) > TINY
    normals = jnp.where(apart, normalize(differences), 0.0)
    project = jax.vmap(_project)
    short = project(normals, -prototypes)
    # A second projection, now of a unit vector, makes the point feasible to rounding.
    far = normalize(project(normals, normalize(short)))
    slack = jnp.min(jnp.einsum("mjd,md->mj", normals, far, precision="highest"), axis=1)
    projected = (jnp.linalg.norm(short, axis=1) > SHORT) & (slack > -SLACK)
    projected &= jnp.sum(far * prototypes, axis=1) < -SHORT

    def walk(_):
        return jax.lax.map(lambda args: _find_ray(*args), (normals, prototypes))

    rays = jax.lax.cond(jnp.all(projected), lambda _: far, walk, None)
    return Farthest(jnp.where(projected[:, None], far, rays), projected)


def _project(normals, target):
    """Projection of target on {z : normals z >= 0}: target + normals' x, x >= 0."""
    gram = jnp.matmul(normals, normals.T, precision="highest")
    slack = jnp.matmul(normals, target, precision="highest")
    rate = 1 / jnp.maximum(jnp.max(jnp.sum(jnp.abs(gram), axis=1)), TINY)

    def descend(carry):
        x, ahead, speed, _, iteration = carry
        gradient = jnp.matmul(gram, ahead, precision="highest") + slack
        new = jnp.maximum(ahead - rate * gradient, 0)
        uphill = jnp.dot(ahead - new, new - x) > 0
        speed = jnp.where(uphill, 1.0, speed)
        faster = (1 + jnp.sqrt(1 + 4 * speed**2)) / 2
        change = jnp.max(jnp.abs(new - ahead)) / rate
        return new, new + (speed - 1) / faster * (new - x), faster, change, iteration + 1

    zero = jnp.zeros_like(slack)
    carry = (zero, zero, jnp.array(1.0), jnp.array(jnp.inf), jnp.array(0))
    x = jax.lax.while_loop(lambda c: (c[3] > 1e-7) & (c[4] < MAX_ITER), descend, carry)[0]
    return target + jnp.matmul(x, normals, precision="highest")


def _find_ray(normals, prototype):
    """The best end of NUM_WALKS walks; the prototype itself where there is no end."""
    num, dim = normals.shape
    moves = min(num - 1, dim - 1)
    noise = jax.random.normal(jax.random.key(0), (NUM_WALKS, moves, dim))
    pull = jnp.linspace(0, 2, NUM_WALKS)[:, None, None] * dim**0.5
    ends = jax.vmap(_walk, (None, None, 0))(normals, prototype, noise - pull * prototype)
    ends = jnp.concatenate([prototype[None], ends])
    feasible = jnp.min(jnp.matmul(ends, normals.T, precision="highest"), axis=1) > -SLACK
    return ends[jnp.argmin(jnp.where(feasible, ends @ prototype, jnp.inf))]


def _walk(normals, start, directions):
    """Along each of the directions to the next tie, which is kept from there on."""

    def off(ties, vectors):
        for _ in range(2):  # twice is enough
            vectors = vectors - vectors @ ties.T @ ties
        return vectors

    def move(carry, args):
        z, ties = carry
        index, direction = args
        direction = off(ties, direction)
        direction = normalize(direction - (direction @ z) * z)
        loose = off(ties, normals)
        free = jnp.linalg.norm(loose, axis=1) > 1e-3
        tie = jnp.arctan2(jnp.maximum(normals @ z, 0), -(normals @ direction))
        tie = jnp.where(free, tie, jnp.inf)
        first = jnp.argmin(tie)
        moved = normalize(jnp.cos(tie[first]) * z + jnp.sin(tie[first]) * direction)
        z = jnp.where(free[first], moved, z)
        ties = ties.at[index].set(jnp.where(free[first], normalize(loose[first]), 0))
        return (normalize(off(ties, z)), ties), None

    moves = directions.shape[0]
    ties = jnp.zeros((max(moves, 1), start.shape[0]))
    return jax.lax.scan(move, (start, ties), (jnp.arange(moves), directions))[0][0]
