"""The full objective of HaLP without its relaxation: the solver "sphere".

For a prototype p among the prototypes p_j, the point that is as far from p as it can be and still
ranks it first:

    z* = argmin_{|z| = 1} z.p   subject to   (p - p_j).z >= 0 for all j,

the far end of p's Voronoi cell, which is a convex cone cut with the sphere. Two cases:

  The cone reaches z.p < 0: then z* is the normalised projection r of -p on it. By Moreau
  r = A'x - p, x = argmin_{x >= 0} |A'x - p|^2, with the cone's unit normals as rows of A, and
  z*.p = -|r|. Convex, solved to the global optimum by accelerated projected gradient.

  r = 0, the cone lies in z.p >= 0 (the usual case with more prototypes than dimensions): there
  z.p is quasi-concave, so z* is an extreme ray of the cone. Rays are found by walks along great
  circles, from tie to tie, until no freedom is left. The best of many walks is returned: exact in
  2 and 3 dimensions, where they meet every ray, a good heuristic above.

z* does not depend on the anchor. It is there to look at, and to measure what the relaxations cost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from halp_jax.core.sphere import matmul, normalize

MAX_ITER = 3000  # of a projection; some 100 are usual
ROUNDS, WALKS = 4, 128
COINCIDE = 1e-6  # prototypes closer than this are one
SHORT = 1e-4  # float32 does not tell a shorter projection from zero
SLACK = 5e-6  # how far below zero a constraint may come out in float32

Prototypes = Float[Array, "prototypes dim"]


class Farthest(NamedTuple):
    points: Prototypes
    projected: Bool[Array, " prototypes"]  # True: first case; False: second


@jax.jit
def farthest_feasible(prototypes: Prototypes) -> Prototypes:
    """For each prototype [prototypes, dim] the farthest point of which it is still the nearest."""
    return solve_farthest(prototypes).points


@jax.jit
def solve_farthest(prototypes: Prototypes) -> Farthest:
    """`farthest_feasible`, and which case each prototype fell in."""
    prototypes = normalize(prototypes.astype(jnp.float32))
    differences = prototypes[:, None] - prototypes[None]
    apart = jnp.linalg.norm(differences, axis=-1, keepdims=True) > COINCIDE
    normals = jnp.where(apart, normalize(differences), 0.0)  # a zero row constrains nothing

    def descend(z, _):
        projection = jax.vmap(_project)(normals, z - prototypes)
        return normalize(projection), jnp.linalg.norm(projection, axis=1)

    # Projects -p, and then once more: z* is also where a projected gradient step leads back to
    # itself, and from a unit vector that step has not the rounding error of a short projection.
    far, length = jax.lax.scan(descend, jnp.zeros_like(prototypes), length=2)
    feasible = jax.vmap(_is_feasible)(normals, far[:, None])[:, 0]
    descended = jnp.sum(far * prototypes, axis=1) < -SHORT
    projected = (length[0] > SHORT) & feasible & descended
    # The others one by one: that bounds the memory, and under vmap a loop over none costs nothing,
    # where a cond would run.
    others = jnp.argsort(projected)

    def replace(i, far):
        return far.at[others[i]].set(_find_ray(normals[others[i]], prototypes[others[i]]))

    return Farthest(jax.lax.fori_loop(0, jnp.sum(~projected), replace, far), projected)


def _is_feasible(normals: Array, points: Array) -> Array:
    return jnp.min(matmul(points, normals.T), axis=1) > -SLACK


def _project(normals: Float[Array, "planes dim"], target: Float[Array, " dim"]) -> Array:
    """Projection of target on {z : normals z >= 0}: target + normals' x with the best x >= 0."""
    gram, offset = matmul(normals, normals.T), matmul(normals, target)
    rate = 1 / jnp.maximum(jnp.max(jnp.sum(jnp.abs(gram), axis=1)), 1.0)

    def descend(carry):
        x, ahead, speed, _, iteration = carry
        new = jnp.maximum(ahead - rate * (matmul(gram, ahead) + offset), 0)
        residual = jnp.max(jnp.abs(new - ahead)) / rate
        speed = jnp.where(matmul(ahead - new, new - x) > 0, 1.0, speed)  # overshot: lose momentum
        faster = (1 + jnp.sqrt(1 + 4 * speed**2)) / 2
        return new, new + (speed - 1) / faster * (new - x), faster, residual, iteration + 1

    zero = jnp.zeros_like(offset)
    carry = (zero, zero, jnp.float32(1), jnp.float32(jnp.inf), jnp.int32(0))
    x = jax.lax.while_loop(lambda c: (c[3] > 1e-7) & (c[4] < MAX_ITER), descend, carry)[0]
    return target + matmul(x, normals)


def _find_ray(normals: Float[Array, "planes dim"], prototype: Float[Array, " dim"]) -> Array:
    """The best end of the walks. Later rounds start between the best so far and the prototype."""
    planes, dim = normals.shape
    moves = min(planes - 1, dim - 1)
    away = jnp.linspace(0, dim**0.5, WALKS, dtype=jnp.float32)[:, None, None] * prototype
    towards_best = jnp.linspace(0.05, 1, WALKS, dtype=jnp.float32)[:, None] * prototype

    def search(best, key):
        directions = jax.random.normal(key, (WALKS, moves, dim), jnp.float32) - away
        starts = normalize(best + towards_best)
        ends = jax.vmap(_walk, (None, 0, 0))(normals, starts, directions)
        ends = jnp.concatenate([best[None], ends])
        cost = jnp.where(_is_feasible(normals, ends), matmul(ends, prototype), jnp.inf)
        return ends[jnp.argmin(cost)], None

    return jax.lax.scan(search, prototype, jax.random.split(jax.random.key(0), ROUNDS))[0]


def _walk(normals: Array, start: Array, directions: Array) -> Array:
    """Goes from start in each direction [moves, dim] to the next tie, and keeps to it from then."""

    def free_of(ties, vectors):
        for _ in range(2):  # once more, against rounding
            vectors = vectors - matmul(matmul(vectors, ties.T), ties)
        return vectors

    def move(carry, args):
        z, ties = carry
        index, direction = args
        direction = free_of(ties, direction)
        direction = normalize(direction - matmul(direction, z) * z)
        rest = free_of(ties, normals)
        independent = jnp.linalg.norm(rest, axis=1) > 1e-3
        tie = jnp.arctan2(jnp.maximum(matmul(normals, z), 0), -matmul(normals, direction))
        tie = jnp.where(independent, tie, jnp.inf)
        first = jnp.argmin(tie)
        arrived = normalize(jnp.cos(tie[first]) * z + jnp.sin(tie[first]) * direction)
        z = jnp.where(independent[first], arrived, z)
        ties = ties.at[index].set(jnp.where(independent[first], normalize(rest[first]), 0))
        return (normalize(free_of(ties, z)), ties), None

    moves, dim = directions.shape
    ties = jnp.zeros((max(moves, 1), dim), jnp.float32)  # orthonormal rows, filled one by one
    return jax.lax.scan(move, (start, ties), (jnp.arange(moves), directions))[0][0]
