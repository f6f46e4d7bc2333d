"""Do hallucinated positives keep their class? The paper argues that they do; this measures it.

A positive has no label, so it is given that of the nearest real clip other than its anchor. `keep_class`
says how often that is the anchor's own label, for each solver, draw and lambda, and into which classes
the others fall. Three figures beside it say what the share is worth:

    at_anchor   the same with the anchor in the positive's place: what no walk at all would reach
    floor       the same after the positives were exchanged at random among the anchors
    blind       walks of the same angle in a direction that knows no prototype (uniform on the sphere)
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from halp_jax.core import hallucinate as halp
from halp_jax.core.sphere import normalize, similarities, slerp_weights
from halp_jax.evaluation import knn
from halp_jax.inspect.anchors import SOLVERS, Inspected


class KeepClass(NamedTuple):
    """One setting. All shares are of the kept positives."""

    solver: str
    draw: str
    lam: float
    kept: float  # share of all positives
    share: float  # whose nearest real clip has the anchor's label
    at_anchor: float
    floor: float
    blind: float
    degrees: float  # mean angle walked
    closeness: float  # mean similarity to the nearest real clip
    # [class of the anchor, of the nearest], rows sum to 1
    matrix: Float[np.ndarray, "classes classes"]


def keep_class(
    run: Inspected,
    solvers: Sequence[str] = SOLVERS,
    draws: Sequence[str] = ("released", "slide"),
    lams: Sequence[float] = (0.2, 0.5, 0.8, 1.0),
    *,
    num_positives: int = 50,
) -> list[KeepClass]:
    """One `KeepClass` for each solver, draw and lambda, with `num_positives` for each anchor."""
    return [
        _measure(run, solver, draw, lam, halp.sample_range(draw, lam), num_positives)
        for solver in solvers
        for draw in draws
        for lam in lams
    ]


def keep_along(
    run: Inspected,
    solver: str,
    shares: Sequence[float] = tuple(np.linspace(0, 1, 11)),
    *,
    num_positives: int = 20,
) -> list[KeepClass]:
    """The same for positives at exactly t = share * t*, one after the other; `lam` holds the share."""
    return [_measure(run, solver, "exact", float(s), (s, s), num_positives) for s in shares]


def _measure(run, solver, draw, lam, shares, num_positives) -> KeepClass:
    low, high = (jnp.float32(share) for share in shares)
    landed = _land(
        jax.random.key(0), jnp.asarray(run.anchors), jnp.asarray(run.prototypes), low, high,
        solver=solver, num_positives=num_positives,
    )  # fmt: skip
    neighbour, closeness, kept, angle, blind = map(np.asarray, landed)
    own = np.broadcast_to(run.labels[:, None], kept.shape)[kept]
    counts = np.zeros((run.dataset.num_classes,) * 2)
    np.add.at(counts, (own, run.labels[neighbour][kept]), 1)
    two = np.asarray(knn.nearest(run.anchors, run.anchors, 2)[0])  # itself, and the nearest other
    other = np.where(two[:, 0] == np.arange(len(two)), two[:, 1], two[:, 0])
    total = max(counts.sum(), 1.0)
    rows = counts.sum(1)
    return KeepClass(
        solver, draw, lam, float(kept.mean()),
        share=float(np.trace(counts) / total),
        at_anchor=float((run.labels[other] == run.labels).mean()),
        floor=float(rows @ counts.sum(0) / total**2),
        blind=float((run.labels[blind][kept] == own).mean()) if kept.any() else 0.0,
        degrees=float(np.degrees(angle[kept].mean())) if kept.any() else 0.0,
        closeness=float(closeness[kept].mean()) if kept.any() else 0.0,
        matrix=counts / np.maximum(rows, 1)[:, None],
    )  # fmt: skip


@functools.partial(jax.jit, static_argnames=("solver", "num_positives"))
def _land(
    key: Key[Array, ""],
    anchors: Float[Array, "clips dim"],
    prototypes: Float[Array, "m dim"],
    low: Float[Array, ""],
    high: Float[Array, ""],
    *,
    solver: str,
    num_positives: int,
) -> tuple[Array, ...]:
    """Positives at t = U(low, high) t* of every anchor -> the nearest other clip of each, its similarity,
    whether the positive is kept, the angle walked (radians), the nearest of a blind walk; [clips, g] each.

    As in training no positive is written down: its similarity to a real clip x is a (x.z_k) + b (x.target).
    """
    targets = halp.walk_targets(prototypes, solver)
    s, to_target = similarities(anchors, prototypes), similarities(anchors, targets)
    c = similarities(targets, prototypes)

    def one(x):
        place, s, v = x
        which, where, aside = jax.random.split(jax.random.fold_in(key, place), 3)
        r = halp.reach(s, v, c, solver)
        selected = jax.random.categorical(which, jnp.log(r.chance), shape=(num_positives,))
        share = low + (high - low) * jax.random.uniform(where, (num_positives,))
        z = halp.place_positives(r, s, c, selected, share, solver)
        anchor = anchors[place]
        to_anchor = similarities(anchors, anchor[None])[:, 0].at[place].set(-4.0)
        similar = z.a[:, None] * to_anchor + z.b[:, None] * to_target.T[selected]
        similar = similar.at[:, place].set(-4.0)
        angle = z.t * r.omega[selected]
        u = jax.random.normal(aside, (num_positives, anchor.shape[0]))
        u = normalize(u - (u @ anchor)[:, None] * anchor)  # a right angle away from the anchor
        a, b = slerp_weights(angle / (jnp.pi / 2), jnp.full_like(angle, jnp.pi / 2))
        astray = a[:, None] * to_anchor + b[:, None] * similarities(u, anchors)
        astray = astray.at[:, place].set(-4.0)
        return similar.argmax(1), similar.max(1), z.kept, angle, astray.argmax(1)

    return jax.lax.map(one, (jnp.arange(len(anchors)), s, to_target))
