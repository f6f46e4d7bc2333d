"""HaLP: hallucinated latent positives (Shah et al., CVPR 2023).

z_k is the anchor (a key), P the M prototypes, P* the prototype nearest to z_k, P_sel another one.
The objective is a positive as far from P* as it can be that still ranks P* first,

    z* = argmin_{z in S^(D-1)} sim(z, P*)   s.t.   sim(z, P*) >= sim(z, P_j) for all j.

Three solvers say where a walk from the anchor leads and how far, t* in [0, 1], it may go:

    pairwise   toward P_sel, until P_sel ties with P*      (the paper; needs the rank filter)
    geodesic   toward P_sel, until any prototype ties      (every positive keeps its rank)
    sphere     toward the z* of the full objective, all the way

A positive is z(t) = a(t) z_k + b(t) P_sel. So each similarity asked for is a combination of entries of
three small tables, S = Z_k P^T, C = P P^T and Q = Z_q P^T, and no positive is ever written down.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from halp_jax.core import sphere
from halp_jax.core.farthest_point import farthest_feasible

Solver = Literal["pairwise", "geodesic", "sphere"]
Estimator = Literal["sampled", "expected"]
Draw = Literal["released", "slide"]
TIE = 1e-6  # similarities so close are equal: at t* itself the order is float32's rounding


class Reach(NamedTuple):
    """How far one anchor may walk toward each of the M targets."""

    nearest: Int[Array, "*batch"]  # the index of P*
    omega: Float[Array, "*batch targets"]  # W, the angle to the target (radians)
    t_star: Float[Array, "*batch targets"]  # share of that angle up to which P* ranks first
    chance: Float[Array, "*batch targets"]  # probability that the target is drawn as P_sel


class Positives(NamedTuple):
    """G positives z(t) = a z_k + b target[selected] of one anchor, as coefficients."""

    selected: Int[Array, "*batch positives"]
    t: Float[Array, "*batch positives"]
    a: Float[Array, "*batch positives"]
    b: Float[Array, "*batch positives"]
    kept: Bool[Array, "*batch positives"]  # passed the rank filter


def walk_targets(prototypes: Float[Array, "m dim"], solver: Solver) -> Float[Array, "m dim"]:
    """What the walk leads to: the prototypes, or for `sphere` the optimum z* of each prototype."""
    return farthest_feasible(prototypes) if solver == "sphere" else prototypes


def reach(
    s: Float[Array, " m"],
    to_target: Float[Array, " m"],
    c: Float[Array, "m m"],
    solver: Solver,
    present: Int[Array, ""] | int | None = None,
) -> Reach:
    """Closed-form t* of one anchor toward every target.

    Args:
      s: sim(z_k, P_j), [m].
      to_target: sim(z_k, target_i), [m]; equals s unless the solver is `sphere`.
      c: sim(target_i, P_j), [m, m].
      solver: see the module.
      present: how many prototypes there are, if fewer than m; see `hide_absent`.
    """
    m = s.shape[0]
    present = m if present is None else present
    nearest = jnp.argmax(s)
    is_nearest = jnp.arange(m) == nearest
    omega = sphere.angle(to_target)
    if solver == "sphere":  # {z : P* ranks first} is a convex cone: it holds the whole geodesic
        return Reach(nearest, omega, jnp.ones(m), is_nearest.astype(s.dtype))
    d = s[nearest] - s  # z_k.(P* - P_j) >= 0
    n = c - c[:, nearest, None]  # P_sel.(P_j - P*), a row for each P_sel
    if solver == "pairwise":
        tie = sphere.tie_angle(omega, d, jnp.diagonal(n))
    elif solver == "geodesic":
        tie = jnp.min(sphere.tie_angle(omega[:, None], d[None, :], n), axis=1)
    else:
        raise ValueError(f"unknown solver {solver!r}: pairwise, geodesic or sphere")
    t_star = jnp.where(tie >= omega, 1.0, tie / jnp.where(omega > 0, omega, 1.0))
    others = ~is_nearest & (jnp.arange(m) < present)
    return Reach(nearest, omega, t_star, others / jnp.maximum(present - 1, 1))


def hide_absent(
    table: Float[Array, "*rows m"], present: Int[Array, ""] | int
) -> Float[Array, "*rows m"]:
    """Similarities to m prototypes of which only the first `present` exist: the others rank last."""
    return jnp.where(jnp.arange(table.shape[-1]) < present, table, -2.0)


def sample_range(draw: Draw, lam: float) -> tuple[float, float]:
    """The range of t / t*: the slides draw t ~ U(0, lam t*), the released code U((1-lam) t*, t*)."""
    if draw == "slide":
        return 0.0, lam
    if draw == "released":
        return 1.0 - lam, 1.0
    raise ValueError(f"unknown draw {draw!r}: released or slide")


def place_positives(
    r: Reach,
    s: Float[Array, " m"],
    c: Float[Array, "m m"],
    selected: Int[Array, " g"],
    share: Float[Array, " g"],
    solver: Solver,
) -> Positives:
    """The positives of one anchor at t = share * t* toward the selected targets, rank-filtered."""
    t = share * r.t_star[selected]
    a, b = sphere.slerp_weights(t, r.omega[selected])
    if solver == "pairwise":  # keep z(t) when its nearest prototype is still P*
        similarity = a[:, None] * s + b[:, None] * c[selected]
        kept = similarity[:, r.nearest] >= jnp.max(similarity, axis=1) - TIE
    else:
        kept = jnp.ones(t.shape, bool)
    kept = kept & (jnp.sum(r.chance) > 0)  # else there is no other prototype to walk to
    return Positives(selected, t, a, b, kept)


def hallucinate(
    key: Key[Array, ""],
    s: Float[Array, " m"],
    to_target: Float[Array, " m"],
    c: Float[Array, "m m"],
    *,
    num_positives: int,
    solver: Solver = "pairwise",
    draw: Draw = "released",
    lam: float = 0.8,
    present: Int[Array, ""] | int | None = None,
) -> tuple[Reach, Positives]:
    """Draws `num_positives` positives of one anchor; arguments as in `reach`. vmap it over a batch."""
    r = reach(s, to_target, c, solver, present)
    which, where = jax.random.uniform(key, (2, num_positives))
    if solver == "sphere":
        selected = jnp.full(num_positives, r.nearest)
    else:  # uniform over the other M - 1, with replacement: skip the nearest
        others = jnp.maximum((s.shape[0] if present is None else present) - 1, 1)
        other = jnp.minimum((which * others).astype(jnp.int32), others - 1)
        selected = jnp.minimum(other + (other >= r.nearest), s.shape[0] - 1)
    low, high = sample_range(draw, lam)
    share = low + (high - low) * where
    return r, place_positives(r, s, c, selected, share, solver)


def halp_loss(
    key: Key[Array, "*batch"],
    queries: Float[Array, "batch dim"],
    anchors: Float[Array, "batch dim"],
    prototypes: Float[Array, "m dim"],
    *,
    temperature: float,
    num_positives: int = 100,
    solver: Solver = "pairwise",
    estimator: Estimator = "sampled",
    draw: Draw = "released",
    lam: float = 0.8,
    axis_name: str | None = None,
    there: Bool[Array, " batch"] | None = None,
    present: Int[Array, ""] | int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """L_HaLP = -(1 / G_filtered) sum_i z_q.z_i^H / tau over all kept positives of the batch.

    Args:
      key: one key, or one for each sample of the batch (so that the draws of a sample do not depend
        on how the batch is split over devices).
      queries, anchors: unit vectors z_q and z_k, [batch, dim].
      prototypes: unit vectors P, [m, dim].
      temperature: tau.
      num_positives: G, a sample.
      estimator: `sampled` draws G positives (the paper). `expected` integrates t and P_sel exactly:
        the loss is linear in the positive, so drawing adds nothing but variance. It needs a solver
        that keeps every positive.
      axis_name: mapped axis over which the batch is spread; the count G_filtered is then global,
        and the mean of the losses over the axis is the loss of the global batch.
      there: samples that are no padding, where some are.
      present: how many of the prototypes there are, where not all: the first ones.

    Returns:
      The loss (0 where nothing is kept; no gradient but to the queries) and metrics worth watching:
      `kept` (share of positives), `t_star` (mean), `not_argmin` (share of walks whose end is more
      similar to P* than the anchor is: t* is then the edge of the feasible set, not the minimum)
      and `prototypes_used` (prototypes that are nearest to some anchor of the global batch).
    """

    def over_devices(value):
        return value if axis_name is None else jax.lax.pmean(value, axis_name)

    anchors, prototypes = jax.lax.stop_gradient((anchors, prototypes))
    targets = walk_targets(prototypes, solver)
    s = sphere.similarities(anchors, prototypes)
    to_target = sphere.similarities(anchors, targets)
    c = sphere.similarities(targets, prototypes)
    query_to_target = sphere.similarities(queries, targets)
    query_to_anchor = jnp.sum(queries * anchors, axis=-1)
    if present is not None:
        s, c = hide_absent(s, present), hide_absent(c, present)

    if estimator == "expected":
        if solver == "pairwise":
            raise ValueError("estimator 'expected' needs solver 'geodesic' or 'sphere'")
        r = jax.vmap(lambda s, v: reach(s, v, c, solver, present))(s, to_target)
        low, high = sample_range(draw, lam)
        a, b = sphere.mean_slerp_weights(low * r.t_star, high * r.t_star, r.omega)
        toward = jnp.sum(r.chance * (a * query_to_anchor[:, None] + b * query_to_target), axis=-1)
        kept = jnp.broadcast_to(jnp.sum(r.chance, axis=-1) > 0, toward.shape)
    elif estimator == "sampled":
        one_key = jax.random.key_data(key).ndim == 1  # a raw PRNGKey has a dimension, too
        keys = jax.random.split(key, len(s)) if one_key else key

        def one(key, s, v):
            return hallucinate(
                key, s, v, c, num_positives=num_positives, solver=solver, draw=draw, lam=lam,
                present=present,
            )  # fmt: skip

        r, z = jax.vmap(one)(keys, s, to_target)
        toward = z.a * query_to_anchor[:, None]
        toward += z.b * jnp.take_along_axis(query_to_target, z.selected, axis=1)
        kept = z.kept
    else:
        raise ValueError(f"unknown estimator {estimator!r}: sampled or expected")

    weight = jnp.ones(len(s), s.dtype)  # of a sample, 1 on average
    if there is not None:
        share = over_devices(jnp.mean(there.astype(s.dtype)))
        weight = there / jnp.where(share > 0, share, 1.0)
    weights = jnp.reshape(weight, (-1,) + (1,) * (kept.ndim - 1))
    share_kept = over_devices(jnp.mean(kept * weights))
    kept_toward = jnp.mean(jnp.where(kept, toward, 0.0) * weights)
    mean_toward = kept_toward / jnp.where(share_kept > 0, share_kept, 1)

    a, b = sphere.slerp_weights(r.t_star, r.omega)
    at_anchor = jnp.max(s, axis=-1, keepdims=True)
    at_t_star = a * at_anchor + b * jnp.take(c, r.nearest, axis=1).T
    used = jnp.zeros(s.shape[1]).at[r.nearest].max(weight > 0)
    used = used if axis_name is None else jax.lax.pmax(used, axis_name)
    metrics = {
        "kept": share_kept,
        "t_star": jnp.mean(weight * jnp.sum(r.chance * r.t_star, axis=-1)),
        "not_argmin": jnp.mean(weight * jnp.sum(r.chance * (at_t_star > at_anchor), axis=-1)),
        "prototypes_used": jnp.sum(used),
    }
    return -mean_toward / temperature, jax.lax.stop_gradient(metrics)


def materialize(
    z: Positives, anchors: Float[Array, "batch dim"], targets: Float[Array, "m dim"]
) -> Float[Array, "batch positives dim"]:
    """The positives themselves, for inspection and tests; training never needs them."""
    return z.a[..., None] * anchors[:, None] + z.b[..., None] * targets[z.selected]
