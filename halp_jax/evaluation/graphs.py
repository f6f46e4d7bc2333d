"""What an encoder of graphs is worth: svm, knn and linear, in ten folds of all graphs with a label.

Features are of the graphs as they are, the encoder frozen. The folds are drawn from config.seed;
`svm.draws` such draws are averaged.
"""

import os
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int

from halp_jax import methods
from halp_jax.datasets.graph_batches import make_batches
from halp_jax.datasets.graphs import GraphDataset, GraphLayout
from halp_jax.errors import UserError
from halp_jax.evaluation import knn, linear, load, result_files, svm
from halp_jax.methods import check, graph_views
from halp_jax.methods.base import Method, Spec

PROTOCOLS = ("svm", "knn", "linear")


def evaluate(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    protocol: str,
    dataset: GraphDataset,
    encoder: str,
    step: int | None,
) -> dict[str, Any]:
    """The result of one protocol, as `protocols.run` writes it.

    Raises:
        UserError: a protocol that is not of graphs, or an encoder of other features a node.
    """
    begin = time.perf_counter()
    if protocol not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise UserError(f"--protocol={protocol} is not for graphs; use one of {known}")
    if protocol == "knn" and len(config.knn.k) > 1:
        raise UserError(f"knn.k={tuple(config.knn.k)}: of graphs give one at a time")
    check.at_least(config, 1, "svm.draws")
    check.at_least(config, 0, "knn.temperature")
    linear.check_config(config)
    config, variables, step = load.load_encoder(encoder, config, dataset.layout, workdir, step=step)
    split = dataset.splits.get(config.data.split) or dataset.indices(config.data.split, "train")
    chosen = np.sort(np.concatenate([*split.values()]))
    labelled = chosen[dataset.labels[chosen] >= 0]
    if not len(labelled):
        raise UserError(f"{dataset.path} has no graphs with a label, so there is nothing to tell")
    knn.check_k(config.knn.k, len(labelled))
    method = methods.make_method(config, Spec(dataset.layout))
    encode = make_encode(method, dataset.layout)
    values = extract(config, dataset, labelled, encode, variables)
    labels = dataset.labels[labelled]
    predictions = predict(config, protocol, values, labels, dataset.num_classes)
    # top1 is the mean over folds, then over draws; the rest counts all graphs of all draws.
    pairs = zip(predictions, draw_seeds(config), strict=False)
    draws = [fold_accuracy(found, labels, seed) for found, seed in pairs]
    mean = float(np.mean(draws))
    every, tiled = np.concatenate(predictions), np.tile(labels, len(draws))
    metrics = result_files.summarize(every, tiled, dataset.num_classes)
    metrics |= {"top1": mean, "best_top1": mean, "top1_draws": draws}
    described = config.to_dict()
    described["knn"]["k"] = config.knn.k[0]  # a result is of one
    return {
        "protocol": protocol, "encoder": encoder, "stream": config.streams[0],
        "split": config.data.split, "part": "test", "unlabelled": len(chosen) - len(labelled),
        **result_files.name_classes(metrics, dataset.class_names),
        "num_test": len(labels), "step": step, "seed": config.seed, "joined": [],
        "seconds": round(time.perf_counter() - begin, 3), "config": described,
    }  # fmt: skip


def make_encode(
    method: Method, layout: GraphLayout, *, points: bool = False
) -> Callable[[Any, Any], Array]:
    """Compiles (variables, batch) -> features; without variables the sums of nodes' own features.

    Args:
        points: on the sphere, instead of features.
    """
    infer = method.embed if points else method.encode

    def encode(variables, batch):
        if variables:
            params, batch_stats = variables
            return infer(params, {"batch_stats": batch_stats}, batch)[0]
        g = graph_views.whole(jax.tree.map(lambda leaf: leaf[0], batch), layout, "none")
        return jax.ops.segment_sum(g.x * g.nodes[:, None], g.graph_of_node, len(g.graphs))

    return jax.jit(encode)


def extract(
    config: ml_collections.ConfigDict,
    dataset: GraphDataset,
    numbers: Int[np.ndarray, " graphs"],
    encode: Callable[[Any, Any], Array],
    variables: Any,
) -> Float[np.ndarray, "graphs features"]:
    """Features of these graphs, by `make_encode`."""
    batches = make_batches(dataset, numbers, min(config.train.batch_size, len(numbers)))
    found = [np.asarray(encode(variables, b))[b["graph_mask"][0]] for b in batches]
    return np.concatenate(found)


def predict(
    config: ml_collections.ConfigDict,
    protocol: str,
    values: Float[np.ndarray, "graphs features"],
    labels: Int[np.ndarray, " graphs"],
    num_classes: int,
) -> list[Int[np.ndarray, " graphs"]]:
    """What each graph is taken for when it is in the fold that is tested; one array a fold draw."""
    seeds = draw_seeds(config, protocol)
    if protocol == "svm":
        return svm.cross_validate(values, labels, seeds)
    found = []
    for seed in seeds:
        predictions = np.zeros_like(labels)
        for train, test in svm.make_folds(labels, seed):
            if protocol == "knn":
                k = min(config.knn.k[0], len(train))
                near, cosine = knn.nearest(values[train], values[test], k)
                near = jnp.asarray(labels[train][np.asarray(near)])
                votes = knn.vote(near, cosine, num_classes, config.knn.temperature)
                predictions[test] = knn.rank(votes)[:, 0]
            else:
                logits, _ = linear.train_logits(
                    config.linear, config.seed, values[None, train], labels[train], values[test],
                    num_classes=num_classes,
                )  # fmt: skip
                predictions[test] = np.argmax(logits[-1], axis=1)
        found.append(predictions)
    return found


def draw_seeds(config: ml_collections.ConfigDict, protocol: str = "svm") -> list[int]:
    """Seeds of the fold draws: others for each seed of a run. A probe takes long, so one is enough."""
    seeds = [config.seed * config.svm.draws + i for i in range(config.svm.draws)]
    return seeds[:1] if protocol == "linear" else seeds


def fold_accuracy(
    predictions: Int[np.ndarray, " graphs"], labels: Int[np.ndarray, " graphs"], seed: int
) -> float:
    """The mean over the folds of one draw of the share that is right in each."""
    folds = svm.make_folds(labels, seed)
    return float(np.mean([np.mean(predictions[test] == labels[test]) for _, test in folds]))
