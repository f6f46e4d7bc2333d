"""Spherical k-means in one jitted function: the prototypes of HaLP are its centroids.

The released code runs geomstats 2.5's RiemannianKMeans on the CPU. This is the same algorithm on
the device: k-means++ start, nearest centroid by angle, a mean on the sphere, and a stop when the
centroids moved by less than `tol` on average. Works under jit, vmap, inside lax.cond, and in
jax.shard_map with check_vma=False.

Means (`mean=`), all of them unit vectors m of a cluster {x}:
  released  geomstats' descent to the Frechet mean as the authors called it: from the first point
            of the cluster until |mean log_m(x)|^2 <= 1e-4 * dim. At 128 dimensions that is 1 to 4
            steps, and 0.05 to 0.2 rad short of the mean; it depends on the points' order.
  frechet   the mean that descent was after: argmin_m sum angle(x, m)^2.
  chordal   x summed and normalised: argmin_m sum (1 - cos), the textbook spherical k-means.
`inertia` is the matching objective: sum angle^2 for the first two, sum (1 - cos) for chordal.
With frechet and chordal it never rises from one iteration to the next.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from halp_jax.core.sphere import angle, matmul, normalize, similarities
from halp_jax.errors import UserError

CHOICES = {
    "init": ("kmeans++", "random"),
    "weight": ("distance", "squared"),
    "mean": ("frechet", "released", "chordal"),
    "empty": ("farthest", "random"),
}
RELEASED_STOP = 1e-4  # squared length of the descent direction, per dimension (geomstats' default)
FRECHET_STOP = 1e-8  # squared length, whatever the dimension: 1e-4 rad, a tenth of `tol`
MEAN_MAX_ITER = 100
Points = Float[Array, "num dim"]
Centroids = Float[Array, "clusters dim"]


class KMeansResult(NamedTuple):
    centroids: Centroids  # unit vectors
    labels: Int[Array, " num"]  # nearest centroid of each point
    inertia: Float[Array, ""]
    iterations: Int[Array, ""]


class KMeansState(NamedTuple):
    centroids: Centroids
    labels: Int[Array, " num"]
    similarity: Float[Array, " num"]  # cosine to the nearest centroid
    shift: Float[Array, ""]  # by how much the last iteration moved the centroids, mean angle, rad
    iteration: Int[Array, ""]


@functools.partial(
    jax.jit, static_argnames=("num_clusters", *CHOICES, "restarts", "tol", "max_iter")
)
def spherical_kmeans(
    key: Key[Array, ""],
    points: Points,
    num_clusters: int,
    *,
    centroids: Centroids | None = None,
    init: str = "kmeans++",
    weight: str = "distance",
    mean: str = "frechet",
    empty: str = "farthest",
    restarts: int = 1,
    tol: float = 1e-3,
    max_iter: int = 100,
) -> KMeansResult:
    """Clusters points [num, dim] (normalised here) around `num_clusters` unit centroids.

    A zero vector among the points has no direction: it gets a label, but no weight.

    Args:
      centroids: where to start (warm start); with `restarts` > 1 the first restart starts there.
      init, weight: "random" points, or "kmeans++" with probability proportional to the angle to the
        nearest centroid so far ("distance", released) or to its square ("squared", textbook).
      mean: see the module.
      empty: a cluster without points moves to the point "farthest" from its centroid, which lowers
        the objective most and needs no random number, or to a "random" one (released).
      restarts: runs side by side; the one with the lowest inertia is returned.
      tol: mean angle (radians) that the centroids moved by, below which it stops.
    """
    for (name, known), value in zip(CHOICES.items(), (init, weight, mean, empty), strict=True):
        if value not in known:
            raise UserError(f"spherical_kmeans: {name}={value!r}; choose from {known}")
    if min(num_clusters, restarts, points.shape[0]) < 1:
        raise UserError("spherical_kmeans: it takes at least one cluster, restart and point")
    shape = (num_clusters, points.shape[1])
    if centroids is not None and centroids.shape != shape:
        raise UserError(f"spherical_kmeans: centroids are {centroids.shape}, must be {shape}")
    points = normalize(points.astype(jnp.float32))

    def run(key: Key[Array, ""], start: Centroids) -> KMeansResult:
        state = jax.lax.while_loop(
            lambda state: (state.iteration < max_iter) & (state.shift >= tol),
            lambda state: lloyd_step(state, key, points, mean, empty),
            init_state(points, start),
        )
        inertia = compute_inertia(points, state.similarity, mean)
        return KMeansResult(state.centroids, state.labels, inertia, state.iteration)

    choose = functools.partial(_choose, points=points, num=num_clusters, init=init, weight=weight)
    if restarts == 1:
        return run(key, choose(key) if centroids is None else centroids)
    # The first restart is the run without restarts; the others' numbers are not the iterations'.
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(-jnp.arange(restarts))
    keys = keys.at[0].set(key)
    starts = jax.vmap(choose)(keys)
    results = jax.vmap(run)(keys, starts if centroids is None else starts.at[0].set(centroids))
    return jax.tree.map(lambda leaf: leaf[jnp.argmin(results.inertia)], results)


def init_state(points: Points, centroids: Centroids) -> KMeansState:
    """The state before the first iteration; a zero centroid, without direction, becomes e_0."""
    centroids = normalize(centroids.astype(points.dtype))
    given = jnp.any(centroids, axis=1, keepdims=True)
    centroids = jnp.where(given, centroids, jnp.eye(1, points.shape[1], dtype=points.dtype))
    return KMeansState(centroids, *_assign(points, centroids), jnp.float32(jnp.inf), jnp.int32(0))


def lloyd_step(
    state: KMeansState, key: Key[Array, ""], points: Points, mean: str, empty: str
) -> KMeansState:
    """One iteration on unit points: means, a new place for the empty clusters, then labels."""
    old, valid = state.centroids, jnp.any(points, axis=1)
    members = jax.nn.one_hot(state.labels, old.shape[0], dtype=points.dtype) * valid[:, None]
    is_empty = ~jnp.any(members, axis=0) & jnp.any(valid)
    if mean == "chordal":
        sums = matmul(members.T, points)
        centroids = jnp.where(jnp.any(sums, axis=1, keepdims=True), normalize(sums), old)
    else:
        centroids = _descend_to_frechet_mean(points, members, old, released=mean == "released")

    # Candidates best first, from the start again where there are fewer than empty clusters.
    cost = (
        state.similarity
        if empty == "farthest"
        else jax.random.uniform(jax.random.fold_in(key, state.iteration + 1), valid.shape)
    )
    order = jnp.argsort(jnp.where(valid, cost, jnp.inf))
    rank = (jnp.cumsum(is_empty) - 1) % jnp.maximum(jnp.sum(valid), 1)
    centroids = jnp.where(is_empty[:, None], points[order[rank]], centroids)
    shift = jnp.mean(_angle_of_chord(centroids - old))
    return KMeansState(centroids, *_assign(points, centroids), shift, state.iteration + 1)


def compute_inertia(points: Points, similarity: Array, mean: str) -> Float[Array, ""]:
    """The objective that goes with `mean`, from each point's cosine to its centroid [num]."""
    cost = 1 - similarity if mean == "chordal" else angle(similarity) ** 2
    return jnp.sum(jnp.where(jnp.any(points, axis=1), cost, 0.0))


def _descend_to_frechet_mean(
    points: Points, members: Float[Array, "num clusters"], old: Centroids, released: bool
) -> Centroids:
    """Moves all clusters' means along g = mean log_m(x) until |g| is small.

    released: start at the first point, step 1, halved when |g| grows, at least one step.
    Otherwise: start at the old centroid. The Hessian of half the mean squared angle w is at most 1,
    so every step below 2 g lowers it; 1 / mean(w cot w) is Newton's step across the directions of
    the points, and is taken as far as that bound allows.
    """
    counts = jnp.maximum(jnp.sum(members, axis=0), 1)
    stop = RELEASED_STOP * points.shape[1] if released else FRECHET_STOP
    first, filled = points[jnp.argmax(members, axis=0)], jnp.any(members, axis=0)[:, None]

    def move(carry):
        mean, step, smallest, _, iteration = carry
        cosine = jnp.clip(jnp.sum(similarities(points, mean) * members, axis=1), -1, 1)
        w = jnp.arccos(cosine)
        # log_m(x) = (w / sin w) (x - cos w m), averaged over the members
        scale = jnp.where(w < 1e-3, 1.0, w / jnp.maximum(jnp.sin(w), 1e-6))
        radial = matmul(scale * cosine, members) / counts
        ahead = matmul(members.T, scale[:, None] * points) / counts[:, None]
        tangent = ahead - radial[:, None] * mean
        length = jnp.linalg.norm(tangent, axis=1)
        active = (length**2 > stop) | (released & (iteration == 0))
        if not released:
            step = jnp.clip(1 / jnp.maximum(radial, 0.1), 1, 1.5)
        travel = (step * length)[:, None]  # and jnp.sinc(x) = sin(pi x) / (pi x)
        moved = jnp.cos(travel) * mean + jnp.sinc(travel / jnp.pi) * step[:, None] * tangent
        mean = jnp.where(active[:, None], normalize(moved), mean)
        step = jnp.where(length > smallest, step / 2, step)
        return mean, step, jnp.minimum(smallest, length), jnp.any(active), iteration + 1

    carry = (
        jnp.where(filled & released, first, old),
        jnp.ones_like(counts),
        jnp.sqrt(counts),
        jnp.array(True),
        jnp.array(0),
    )
    return jax.lax.while_loop(lambda c: c[3] & (c[4] < MEAN_MAX_ITER), move, carry)[0]


def _choose(key: Array, points: Points, num: int, init: str, weight: str) -> Centroids:
    """The starting centroids: some of the points, as long as there are enough each only once."""
    valid = jnp.any(points, axis=1)
    if init == "random":
        order = jnp.argsort(jax.random.uniform(key, valid.shape) + ~valid)
        return points[order[jnp.arange(num) % jnp.maximum(jnp.sum(valid), 1)]]

    def draw(closest, uniform):
        mass = jnp.cumsum(jnp.where(valid, closest**2 if weight == "squared" else closest, 0.0))
        chosen = points[jnp.argmax(mass > uniform * mass[-1])]
        return jnp.minimum(closest, _angle_of_chord(points - chosen)), chosen

    return jax.lax.scan(draw, jnp.full(valid.shape, jnp.pi), jax.random.uniform(key, (num,)))[1]


def _assign(points: Points, centroids: Centroids) -> tuple[Array, Array]:
    similarity = similarities(points, centroids)
    return jnp.argmax(similarity, axis=1), jnp.max(similarity, axis=1)


def _angle_of_chord(difference: Float[Array, "n dim"]) -> Float[Array, " n"]:
    """Angle between unit vectors from their difference; near 0 the arccos is not exact, this is."""
    return 2 * jnp.arcsin(jnp.minimum(jnp.linalg.norm(difference, axis=1) / 2, 1))
