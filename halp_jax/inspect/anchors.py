"""One anchor at a time: its prototype, the walk, t*, its positives, and the real clips they lie near.

    run = open_run("runs/halp")                  # training clips and prototypes on the sphere
    path = walk(run, clip=3)                     # sim(z(t), P_j), and the nearest real clip to z(t)
    drawn = plot_positives(run, 3, "pairwise")   # G positives: rank of P*, similarity given up

Anchors are what training calls keys: the clip's centre crop through the momentum encoder, in
evaluation mode. A clip is given by its place in `run.anchors`. "Nearest real clip" always means
another clip than the anchor itself, which a short walk would otherwise never leave. Of a run of graphs
a "clip" is a graph, taken as it is.
"""

import dataclasses
import itertools
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Bool, Float, Int

from halp_jax import datasets, methods
from halp_jax.core import hallucinate as halp
from halp_jax.core.kmeans import spherical_kmeans
from halp_jax.core.sphere import similarities, slerp_weights
from halp_jax.datasets import preview
from halp_jax.errors import UserError
from halp_jax.evaluation import features, graphs, load
from halp_jax.inspect.history import read_prototypes
from halp_jax.methods.base import Spec
from halp_jax.methods.halp import default_config
from halp_jax.training import checkpoint

_find_targets = jax.jit(halp.walk_targets, static_argnums=1)
_find_reach = jax.jit(halp.reach, static_argnums=3)
_hallucinate = jax.jit(halp.hallucinate, static_argnames=("num_positives", "solver", "draw", "lam"))
SOLVERS = ("pairwise", "geodesic", "sphere")


class Inspected(NamedTuple):
    """A trained run, one of its streams: what there is to look at, as numpy arrays."""

    config: ml_collections.ConfigDict
    dataset: Any
    step: int
    stream: str
    clips: Int[np.ndarray, " clips"]  # their numbers in the data set
    labels: Int[np.ndarray, " clips"]
    anchors: Float[np.ndarray, "clips dim"]  # z_k, unit vectors
    prototypes: Float[np.ndarray, "m dim"]
    origin: str  # of the prototypes: "the run", or how many were clustered from the clips

    @property
    def names(self) -> list[str]:
        """The class of each clip, in words."""
        return [self.dataset.class_names[label] for label in self.labels]

    @property
    def unit(self) -> str:
        """What it is of: "clip" or "graph"."""
        return self.dataset.unit[:-1]


class Walk(NamedTuple):
    """z(t) from one anchor to one target, at T values of t from 0 to 1."""

    clip: int
    solver: str
    nearest: int  # the prototype P*
    selected: int  # P_sel; for the solver `sphere` P* again, whose optimum z* is the target
    omega: float  # W, radians
    t_star: float
    drawn: tuple[float, float]  # range of t that positives are drawn from
    t: Float[np.ndarray, " times"]
    points: Float[np.ndarray, "times dim"]
    similarities: Float[np.ndarray, "times m"]  # sim(z(t), P_j)
    neighbour: Int[np.ndarray, " times"]  # nearest real clip, its place in run.anchors
    closeness: Float[np.ndarray, " times"]  # sim(z(t), that clip)

    @property
    def target(self) -> str:
        """Where it ends, in words."""
        return "the optimum z*" if self.solver == "sphere" else f"prototype {self.selected}"


class Drawn(NamedTuple):
    """G positives of one anchor, as training would draw them."""

    clip: int
    solver: str
    selected: Int[np.ndarray, " g"]
    t: Float[np.ndarray, " g"]
    t_star: Float[np.ndarray, " g"]  # of the walk that each was drawn on
    kept: Bool[np.ndarray, " g"]  # by the rank filter
    rank: Int[np.ndarray, " g"]  # of P* among all prototypes at the positive: 1 is nearest
    given_up: Float[np.ndarray, " g"]  # sim(z_k, P*) - sim(z, P*): the higher, the harder
    points: Float[np.ndarray, "g dim"]


def open_run(
    workdir: str | os.PathLike[str],
    *,
    stream: str = "",
    step: int | None = None,
    part: str = "train",
    max_clips: int | None = None,
    data: str | os.PathLike[str] = "",
    split: str = "",
) -> Inspected:
    """Loads a run and embeds its clips, once.

    Args:
        stream: of a run of several; the first by default.
        step: which checkpoint; the newest by default.
        part: "train" or "test" of the run's split.
        max_clips: at most so many, evenly spaced.
        data: where the data set lies now, if not where it was in training.
        split: of its splits, if not that of the run.

    Prototypes are those of the checkpoint. A run that has none (MoCo alone, HaLP not yet on, GraphCL) gets
    as many as its config asks for, clustered from the clips themselves; `origin` says so.
    """
    config = checkpoint.load_config(workdir)
    config.data.dir, config.data.split = str(data) or config.data.dir, split or config.data.split
    if not config.data.dir:
        raise UserError(f"{workdir} names no data set: give --data=DIR")
    stream = stream or config.streams[0]
    if stream not in config.streams:
        raise UserError(f"{workdir} has no stream {stream!r}; use {', '.join(config.streams)}")
    dataset = datasets.open_dataset(config.data.dir)
    state, step = checkpoint.restore_state(workdir, step)
    load.check_data(dataset, workdir, step)
    numbers = dataset.labelled(config.data.split, part)
    if not len(numbers):  # nobody knows a class: then all clips are of one
        numbers = dataset.indices(config.data.split, part)
        labels = np.zeros_like(dataset.labels)
        dataset = dataclasses.replace(dataset, class_names=("no label",), labels=labels)
    if max_clips is not None and max_clips < len(numbers):
        numbers = numbers[np.linspace(0, len(numbers) - 1, max_clips).round().astype(int)]
    if len(numbers) < 2:
        raise UserError(
            f"{dataset.path} has {len(numbers)} {part} {dataset.unit}; it takes 2 or more"
        )
    variables = features.get_variables(state)
    if "key_params" in state.extra:  # anchors come from the encoder of keys, if there is one
        variables = state.extra["key_params"], state.extra["key_batch_stats"]
    side = methods.find_method(config).find_side(config)[0]
    run = Inspected(
        config, dataset, step, stream, numbers, dataset.labels[numbers],
        embed(config, stream, dataset, numbers, variables),
        read_prototypes(state, tuple(config.streams).index(stream), side), "the run",
    )  # fmt: skip
    if run.prototypes.any():
        return run
    return cluster_prototypes(run, min(read_halp(config).num_prototypes, len(run.anchors)))


def embed(
    config: ml_collections.ConfigDict,
    stream: str,
    dataset: Any,
    numbers: Int[np.ndarray, " n"],
    variables: Any,
) -> Float[np.ndarray, "n dim"]:
    """Unit vectors of these clips or graphs. `variables`: (params, batch_stats) of all streams."""
    if dataset.unit == "graphs":
        method = methods.make_method(config, Spec(dataset.layout))
        encode = graphs.make_encode(method, dataset.layout, points=True)
        return graphs.extract(config, dataset, numbers, encode, variables)
    network = features.make_embedding("trained", config, dataset.layout, (stream,), points=True)
    extract = features.make_centre_extractor(config, dataset.layout, network)
    found = features.extract_clips(config, dataset, extract, variables, numbers)
    return found.values[0, :, -config.encoder.dim :]


def read_halp(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The run's settings of HaLP, the default ones where its method has none."""
    return config.get("halp", default_config())


def cluster_prototypes(run: Inspected, count: int) -> Inspected:
    """The run with `count` other prototypes: k-means over all its embedded clips."""
    if not 1 <= count <= len(run.anchors):
        raise UserError(f"{count} prototypes of {len(run.anchors)} {run.unit}s; give 1 to as many")
    result = spherical_kmeans(jax.random.key(0), jnp.asarray(run.anchors), count)
    return run._replace(
        prototypes=np.asarray(result.centroids), origin=f"{count} clustered from the {run.unit}s"
    )


def choose_clips(run: Inspected, count: int) -> list[int]:
    """`count` clips to look at: of as many classes as there are, each clip near its class' middle."""
    order = []
    for label in np.unique(run.labels):
        (members,) = np.nonzero(run.labels == label)
        middle = run.anchors[members].mean(0)
        order.append(members[np.argsort(-run.anchors[members] @ middle, kind="stable")].tolist())
    rounds = itertools.zip_longest(*order)  # one of each class that has so many
    return [clip for each in rounds for clip in each if clip is not None][:count]


def walk(
    run: Inspected,
    clip: int,
    selected: int | None = None,
    solver: str | None = None,
    *,
    lam: float | None = None,
    count: int = 101,
) -> Walk:
    """The walk of one clip toward prototype `selected`, by default the one it may go farthest to.

    Solver and lambda are the run's where they are not given.
    """
    solver, reach, targets, _ = _begin(run, clip, solver)
    h = read_halp(run.config)
    low, high = halp.sample_range(h.draw, h.lam if lam is None else lam)
    nearest, m = int(reach.nearest), len(run.prototypes)
    far = np.where(reach.chance > 0, np.asarray(reach.t_star * reach.omega), -1.0)
    if solver == "sphere" and selected not in (None, nearest):
        raise UserError(
            "solver sphere walks toward the anchor's own prototype: leave the other out"
        )
    if selected is None:
        selected = int(far.argmax())
    if not 0 <= selected < m:
        raise UserError(f"there is no prototype {selected}; give 0 to {m - 1}")
    if selected == nearest and solver != "sphere":
        raise UserError(f"prototype {selected} is the anchor's own; walk toward another of {m}")
    t = np.linspace(0, 1, count).astype(np.float32)
    a, b = slerp_weights(jnp.asarray(t), jnp.broadcast_to(reach.omega[selected], t.shape))
    points = np.asarray(a[:, None] * run.anchors[clip] + b[:, None] * targets[selected])
    neighbour, closeness = find_neighbours(run, points, clip)
    t_star = float(reach.t_star[selected])
    return Walk(
        clip, solver, nearest, selected, float(reach.omega[selected]), t_star,
        (low * t_star, high * t_star), t, points, points @ run.prototypes.T, neighbour, closeness,
    )  # fmt: skip


def plot_positives(
    run: Inspected,
    clip: int,
    solver: str | None = None,
    *,
    count: int = 100,
) -> Drawn:
    """`count` positives of one clip; drawn alike for `pairwise` and `geodesic`."""
    solver, reach, targets, tables = _begin(run, clip, solver)
    h = read_halp(run.config)
    _, z = _hallucinate(
        jax.random.key(0), *tables, num_positives=count, solver=solver, draw=h.draw, lam=h.lam
    )
    own = jax.tree.map(lambda x: x[None], z)
    points = np.asarray(halp.materialize(own, jnp.asarray(run.anchors[[clip]]), targets))[0]
    similar, home = points @ run.prototypes.T, int(reach.nearest)
    # A tie within float32 is no lost rank: at t* two prototypes are meant to be equally near.
    rank = 1 + (similar > similar[:, home, None] + 1e-5).sum(1)
    given_up = run.anchors[clip] @ run.prototypes[home] - similar[:, home]
    selected, t, kept = map(np.asarray, (z.selected, z.t, z.kept))
    t_star = np.asarray(reach.t_star)[selected]
    return Drawn(clip, solver, selected, t, t_star, kept, rank, given_up, points)


def find_neighbours(
    run: Inspected, points: Float[np.ndarray, "n dim"], clip: int
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """(place, similarity) of the real clip nearest to each point, the clip itself left out."""
    similar = points @ run.anchors.T
    similar[:, clip] = -np.inf
    return similar.argmax(1), similar.max(1)


def read_clips(run: Inspected, clips: Sequence[int]) -> list[np.ndarray]:
    """Their frames [time, bodies, joints, 3], as the data set holds them, up to data.max_frames."""
    if run.unit == "graph":
        raise UserError("graphs have no frames or poses: draw them with graph_plots.plot_graphs")
    different = sorted(set(clips))
    frames = preview.read_clips(run.dataset, run.clips[different])
    return [frames[different.index(clip)][: run.config.data.max_frames] for clip in clips]


def _begin(run: Inspected, clip: int, solver: str | None):
    """(solver, reach of one anchor, targets, the three tables that `hallucinate` takes)."""
    solver = solver or read_halp(run.config).solver
    if solver not in SOLVERS:
        raise UserError(f"no solver {solver!r}; give one of {', '.join(SOLVERS)}")
    if not 0 <= clip < len(run.anchors):
        raise UserError(f"there is no {run.unit} {clip}; give 0 to {len(run.anchors) - 1}")
    prototypes = jnp.asarray(run.prototypes)
    targets = _find_targets(prototypes, solver)
    anchor = jnp.asarray(run.anchors[clip])[None]
    s, v = similarities(anchor, prototypes)[0], similarities(anchor, targets)[0]
    c = similarities(targets, prototypes)
    return solver, _find_reach(s, v, c, solver), targets, (s, v, c)
