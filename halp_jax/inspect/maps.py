"""All clips at once: a map of the embeddings, and the confusion matrix of an evaluation."""

import json
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from halp_jax.errors import UserError, import_optional
from halp_jax.inspect import page
from halp_jax.inspect.anchors import Inspected
from halp_jax.inspect.plots import plot_matrix


def embed_2d(
    points: Float[np.ndarray, "n dim"], method: str = "pca"
) -> tuple[Float[np.ndarray, "n 2"], str]:
    """(places, what they are in words), by "pca" or "tsne" (scikit-learn's, by cosine)."""
    if method == "pca":
        centred = points - points.mean(0)
        _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
        share = float((sizes[:2] ** 2).sum() / max((sizes**2).sum(), 1e-30))
        return centred @ directions[:2].T, f"two principal components, {share:.0%} of the spread"
    if method != "tsne":
        raise UserError(f"no map {method!r}; use pca or tsne")
    manifold = import_optional(
        "sklearn.manifold", "scikit-learn", "the map 'tsne'", ", or use 'pca'"
    )
    near = min(30.0, (len(points) - 1) / 3)
    mapper = manifold.TSNE(perplexity=near, metric="cosine", init="random", random_state=0)
    words = f"t-SNE, perplexity {near:g}: distances between groups mean nothing"
    return np.asarray(mapper.fit_transform(points), np.float32), words


def plot_map(run: Inspected, method: str = "pca") -> Figure:
    """The clips of a run, a colour and marker for each class."""
    places, words = embed_2d(run.anchors, method)
    styles = page.style_classes(run.labels)
    columns = -(-len(styles) // 26)  # of the legend
    figure = page.make_figure(6.3 + 1.7 * columns, 5.2)
    axes = figure.add_subplot()
    for label, (colour, marker) in styles.items():
        own = places[run.labels == label]
        name = page.shorten(run.dataset.class_names[label], 28)
        axes.plot(*own.T, marker, ls="none", ms=4.5, mew=0, alpha=0.75, color=colour, label=name)
    axes.set(xticks=[], yticks=[], xlabel=words)
    stream = f" {run.stream} stream," if run.unit == "clip" else ""
    axes.set_title(f"{len(places)} {run.unit}s,{stream} step {run.step}", fontsize=10)
    figure.legend(loc="outside right center", fontsize=7.5, frameon=False, ncols=columns)
    return figure


def plot_confusion(result: str | os.PathLike[str]) -> Figure:
    """The confusion matrix of a `workdir/eval/*.json`."""
    path = Path(result)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names, counts = found["confusion"]["class_names"], np.array(found["confusion"]["counts"])
        title = f"{found['protocol']}, {found['split']}: {100 * found['top1']:.1f} % right"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} holds no confusion matrix ({type(error).__name__}): give the .json file of an"
            " evaluation, in WORKDIR/eval"
        ) from error
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return plot_matrix(shares, names, rows="class", columns="taken for", title=title)
