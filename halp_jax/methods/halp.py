"""HaLP as a term that any contrastive method adds to its loss: mu L_HaLP, and its prototypes.

    pull = halp.make_term(config.halp, dim, temperature, steps_per_epoch)
    ...
    source = halp.Source(newest(queue, config.halp.queue_entries), queue_is_full)
    loss, prototypes, metrics = pull.loss(extra["prototypes"], z_q, z_k, source, key, step)

The host keeps the prototypes in its `extra`. They are clustered from points of its choice, as the
newest keys of a queue, once it says that these are ready. A host that keeps nothing has prototypes of
the batch's own anchors, made anew in each step and used at once:

    loss_halp, metrics = pull.fresh(z_q, z_k, there, key, step)
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float

from halp_jax.core import hallucinate, kmeans
from halp_jax.core.sphere import normalize
from halp_jax.methods import check
from halp_jax.methods.base import AXIS, sample_keys
from halp_jax.methods.optim import ramp

CHOICES = {
    "halp.solver": get_args(hallucinate.Solver),
    "halp.estimator": get_args(hallucinate.Estimator),
    "halp.draw": get_args(hallucinate.Draw),
    "halp.prototypes": ("kmeans", "points", "random"),
    "halp.kmeans_mean": kmeans.CHOICES["mean"],
}
FIXED = ("halp.num_prototypes",)  # a run cannot resume when it changes


def default_config() -> ml_collections.ConfigDict:
    """The section `halp` of a config."""
    halp = ml_collections.ConfigDict()  # hallucinated positives
    # HaLP's loss has no negatives: switched on before MoCo has learnt anything it pins the contrast
    # accuracy near chance and nothing is learnt. Give it a trained MoCo: start_epoch or init_from.
    halp.mu = 0.0  # weight of the HaLP loss; 0 is the MoCo baseline (released HaLP: 2, PKU-II: 1)
    halp.start_epoch = 200  # plain MoCo before this epoch
    halp.ramp_epochs = 0  # mu grows linearly from 0 over so many epochs (released: 0)
    # "pairwise" is the paper's; "geodesic" keeps every positive; "sphere" is the full objective
    halp.solver = "pairwise"
    # "sampled" is the paper's; "expected" integrates t and the prototype (solver geodesic or sphere)
    halp.estimator = "sampled"
    halp.draw = "released"  # t ~ U((1-lam) t*, t*); "slide": t ~ U(0, lam t*)
    halp.lam = 0.8  # lambda of either draw
    halp.num_positives = 100  # G, a sample
    halp.num_prototypes = 20  # M
    # What a walk leads to: centroids of k-means, or, to see what these are good for, as many "points"
    # drawn from those that it would cluster, or "random" directions.
    halp.prototypes = "kmeans"
    halp.update_every = 10  # steps between two k-means
    halp.queue_entries = 256  # newest keys that k-means clusters
    # "released" is geomstats' early-stopped mean; "frechet": the exact one; "chordal"
    halp.kmeans_mean = "released"
    halp.kmeans_warm_start = False  # start from the last prototypes instead of k-means++
    halp.kmeans_restarts = 1
    halp.kmeans_tol = 1e-3  # stop when centroids move less, mean geodesic distance (radians)
    halp.kmeans_max_iterations = 100
    return halp


class Source(NamedTuple):
    """What prototypes are made from."""

    points: Float[Array, "points dim"]  # unit vectors of the global batch or of a queue
    ready: Bool[Array, ""]  # whether they are worth clustering yet


class Term(NamedTuple):
    """HaLP in a host's loss."""

    init: Callable[[], Float[Array, "m dim"]]  # the prototypes before the first k-means: zeros
    # (prototypes, queries, anchors, source, key, step, which rows are no padding, or None) ->
    # (mu L_HaLP, new prototypes, metrics)
    loss: Callable[..., tuple[Any, Float[Array, "m dim"], dict[str, Any]]]
    # (queries, anchors, which rows are no padding, key, step) -> (mu L_HaLP, metrics)
    fresh: Callable[..., tuple[Any, dict[str, Any]]]


def make_term(
    h: ml_collections.ConfigDict,
    dim: int,
    temperature: float,
    steps_per_epoch: int,
    *,
    axes: Sequence[str] = (),
    halp_loss: Callable = hallucinate.halp_loss,
) -> Term:
    """The term as config.halp sets it.

    Args:
        dim, temperature: of the host's embeddings and its contrastive loss.
        axes: mapped axes of the host, of its streams for instance, whose steps renew prototypes at once.
        halp_loss: a parameter so that a test can replay recorded draws.
    """
    mu_at = ramp(h.mu, h.start_epoch, h.ramp_epochs, steps_per_epoch)
    positives = functools.partial(
        halp_loss, temperature=temperature, num_positives=h.num_positives, solver=h.solver,
        estimator=h.estimator, draw=h.draw, lam=h.lam, axis_name=AXIS,
    )  # fmt: skip

    def anywhere(condition):
        """One answer for all streams: a condition that differs would run both of its branches."""
        return jax.lax.pmax(condition, tuple(axes)) if axes else condition

    def init():
        return jnp.zeros((h.num_prototypes, dim), jnp.float32)

    def loss(prototypes, queries, anchors, source, key, step, there=None):
        if not h.mu:
            return 0.0, prototypes, {"mu": jnp.zeros(())}
        # HaLP waits for prototypes, and those for points that are ready.
        given = anywhere(jnp.any(prototypes != 0))
        keys = sample_keys(key, len(queries))
        pull, metrics = positives(keys, queries, anchors, prototypes, there=there)
        due = ((step + 1) % h.update_every == 0) | ~given
        renewed = jax.lax.cond(
            anywhere(source.ready) & due & (mu_at(step + 1) > 0),
            lambda: cluster(key, jax.lax.stop_gradient(source.points), prototypes),
            lambda: prototypes,
        )
        mu = mu_at(step) * given
        return mu * pull, renewed, {"mu": mu, "loss_halp": pull, **metrics}

    def fresh(queries, anchors, there, key, step):
        if not h.mu:
            return 0.0, {"mu": jnp.zeros(())}
        anchors = jax.lax.stop_gradient(anchors) * there[:, None]
        points, filled = (jax.lax.all_gather(x, AXIS, tiled=True) for x in (anchors, there))
        count, m = jnp.sum(filled), min(h.num_prototypes, len(points))
        own = points[jnp.argsort(~filled, stable=True)[:m]]
        # Of fewer anchors than prototypes each is one.
        prototypes = jnp.where(count > m, cluster(key, points, None, m).astype(own.dtype), own)
        keys = sample_keys(key, len(queries))
        pull, metrics = positives(
            keys, queries, anchors, prototypes, there=there, present=jnp.minimum(count, m)
        )
        mu = mu_at(step)
        return mu * pull, {"mu": mu, "loss_halp": pull, **metrics}

    def cluster(key, points, last, num=h.num_prototypes):
        """Prototypes of the points; the same on every device, for all draw alike."""

        def run(start):
            return kmeans.spherical_kmeans(
                key, points, num, centroids=start, mean=h.kmeans_mean, restarts=h.kmeans_restarts,
                tol=h.kmeans_tol, max_iter=h.kmeans_max_iterations,
            ).centroids  # fmt: skip

        shape = num, dim
        if h.prototypes == "points":
            p = jnp.any(points != 0, axis=1) if last is None else None  # no padding
            return jax.random.choice(key, points, shape[:1], replace=False, p=p)
        if h.prototypes == "random":
            return normalize(jax.random.normal(key, shape, jnp.float32))
        if last is None or not h.kmeans_warm_start:
            return run(None)
        return jax.lax.cond(anywhere(jnp.any(last != 0)), lambda: run(last), lambda: run(None))

    return Term(init, loss, fresh)


def check_config(config: ml_collections.ConfigDict, num_points: int, field: str) -> None:
    """Raises UserError for a section that cannot work where config.`field` is `num_points`.

    As many points there are for prototypes to come from.
    """
    check.at_least(config, 0, "halp.mu")
    check.at_least(config, 1, "halp.num_prototypes", "halp.queue_entries")  # shapes of the state
    halp = config.halp
    if not halp.mu:
        return
    check.choices(config, CHOICES)
    check.at_least(
        config, 1, "halp.num_positives", "halp.update_every", "halp.kmeans_restarts",
        "halp.kmeans_max_iterations",
    )  # fmt: skip
    check.at_least(config, 0, "halp.start_epoch", "halp.ramp_epochs", "halp.kmeans_tol")
    check.shares(config, "halp.lam")
    if halp.estimator == "expected" and halp.solver == "pairwise":
        check.refuse(config, "halp.estimator", "it needs --config.halp.solver=geodesic or sphere")
    if halp.num_prototypes < 2:
        advice = "it must be at least 2: one to leave, one to go to"
        check.refuse(config, "halp.num_prototypes", advice)
    if halp.num_prototypes > halp.queue_entries:
        check.refuse(
            config, "halp.num_prototypes",
            f"it must not exceed halp.queue_entries={halp.queue_entries}, the keys they come from",
        )  # fmt: skip
    if halp.queue_entries > num_points:
        check.refuse(config, "halp.queue_entries", f"it must not exceed {field}={num_points}")


def check_off(config: ml_collections.ConfigDict, advice: str) -> None:
    """Raises UserError where HaLP is on."""
    if config.halp.mu:
        check.refuse(config, "halp.mu", advice)


def warn_at_start(config: ml_collections.ConfigDict) -> str | None:
    """What to say of a run at its first step, or None."""
    if config.halp.mu > 0 and config.halp.start_epoch == 0 and not config.init_from:
        return (
            f"HaLP is on from the start (halp.mu={config.halp.mu:g}, halp.start_epoch=0) without a "
            "trained MoCo: expect no learning. Set --config.halp.start_epoch, or --config.init_from"
        )
    if config.halp.mu > 0 and config.halp.start_epoch >= config.train.epochs:
        return (
            f"HaLP never comes on: the run ends at train.epochs={config.train.epochs}, before "
            f"halp.start_epoch={config.halp.start_epoch}. Set --config.halp.start_epoch"
        )
    return None


# HaLP switched on before MoCo has learnt anything is what loss curves hide. On a weak encoder it
# pulls all queries together, the contrast accuracy falls to a few per cent and stays there, and
# nothing is learnt any more, while the loss falls.
ACCURACY, WEIGHT = "contrast_accuracy", "mu"
WINDOW = 10  # lines of metrics.jsonl that are averaged
FALL = 0.7  # clearly below what it was
WEAK = 0.05  # a MoCo that has learnt something is far above


def find_collapse(records: Sequence[dict[str, Any]]) -> str | None:
    """What is wrong with the current stretch of mu > 0, in one line, or None.

    Args:
        records: the lines of metrics.jsonl so far, in order.
    """
    lines = [line for line in records if line.get(ACCURACY) is not None and WEIGHT in line]
    start = len(lines)
    while start and lines[start - 1][WEIGHT]:
        start -= 1
    before, during = lines[max(0, start - WINDOW) : start], lines[start:]
    if len(during) < WINDOW or not before:
        return None
    was, now = _average(before), _average(during[-WINDOW:])
    advice = (
        "try a later --config.halp.start_epoch, a smaller --config.halp.mu, "
        "or --config.halp.ramp_epochs=20"
    )
    step = during[0]["step"]
    if now < FALL * was:
        return (
            f"contrast accuracy fell from {was:.1%} before HaLP came on (step {step}) "
            f"to {now:.1%}: {advice}"
        )
    if now < WEAK:
        return (
            f"contrast accuracy is {now:.1%} with HaLP on (since step {step}, {was:.1%} before): "
            f"MoCo has not learnt enough yet; {advice}"
        )
    return None


def _average(lines: Sequence[dict[str, Any]]) -> float:
    return sum(line[ACCURACY] for line in lines) / len(lines)
