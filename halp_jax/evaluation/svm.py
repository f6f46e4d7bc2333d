"""Support vector machines on graph features: GraphCL's protocol (evaluate_embedding.py).

Ten stratified folds; in each C is chosen from 1e-3 ... 1e3 by five folds of the training part; RBF kernel,
gamma "scale" (1 / (features * variance) of what is fitted), no scaling. What scikit-learn's
GridSearchCV(SVC()) does, fold for fold, but a kernel is made once for all C.

The draw of the folds alone moves a result by about a point, so several may be averaged.
"""

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from halp_jax.datasets.read_pool import count_cores
from halp_jax.errors import UserError
from halp_jax.progress import Progress

FOLDS, INNER_FOLDS = 10, 5
GRID = (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
MANY = 1000  # graphs, from which on it takes minutes
Fold = tuple[np.ndarray, np.ndarray]  # (training rows, test rows)


def make_folds(labels: Int[np.ndarray, " graphs"], seed: int, folds: int = FOLDS) -> list[Fold]:
    """Stratified folds, shuffled.

    Raises:
        UserError: scikit-learn is not there, or a class has fewer graphs than there are folds.
    """
    with _sklearn() as sklearn:
        split = sklearn.model_selection.StratifiedKFold(folds, shuffle=True, random_state=seed)
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) < 2:
        raise UserError("all graphs are of one class, so there is nothing to tell")
    least = int(counts.min())
    if least < folds:
        raise UserError(
            f"a class has only {least} graphs; {folds} folds need {folds} of each class or more"
        )
    return list(split.split(np.zeros(len(labels)), labels))


def squared_distances(values: Float[np.ndarray, "graphs dim"]) -> np.ndarray:
    """|x|^2 + |y|^2 - 2 x.y in double precision, as libsvm has it."""
    x = values.astype(np.float64)
    square = np.sum(x * x, axis=1)
    return square[:, None] + square - 2 * x @ x.T


def predict_fold(
    values: Float[np.ndarray, "graphs dim"],
    distances: Float[np.ndarray, "graphs graphs"],
    labels: Int[np.ndarray, " graphs"],
    fold: Fold,
) -> tuple[np.ndarray, float, list[float]]:
    """One fold -> (predicted classes of its test rows, C, mean inner accuracy of each of GRID)."""
    train, test = fold
    with _sklearn() as sklearn:
        split = sklearn.model_selection.StratifiedKFold(INNER_FOLDS)
        inner = [(train[a], train[b]) for a, b in split.split(np.zeros(len(train)), labels[train])]

    def kernels(fitted, asked):
        variance = values[fitted].astype(np.float64).var()
        gamma = 1.0 / (values.shape[1] * variance) if variance else 1.0
        return tuple(np.exp(-gamma * distances[np.ix_(rows, fitted)]) for rows in (fitted, asked))

    def fit(kernel, c, rows):
        with _sklearn() as sklearn:
            return sklearn.svm.SVC(C=c, kernel="precomputed").fit(kernel, labels[rows])

    scores = np.zeros((len(GRID), INNER_FOLDS))
    for i, (fitted, asked) in enumerate(inner):
        kernel, others = kernels(fitted, asked)
        for j, c in enumerate(GRID):
            right = fit(kernel, c, fitted).predict(others) == labels[asked]
            scores[j, i] = np.mean(right)
    means = np.average(scores, axis=1)
    best = GRID[int(np.argmax(means))]
    kernel, others = kernels(train, test)
    return fit(kernel, best, train).predict(others), best, means.tolist()


def cross_validate(
    values: Float[np.ndarray, "graphs dim"],
    labels: Int[np.ndarray, " graphs"],
    seeds: Sequence[int],
) -> list[Int[np.ndarray, " graphs"]]:
    """What each graph is taken for when its fold is tested; one array for each draw of folds.

    The folds of all draws are done side by side, on the cores that there are.
    """
    distances = squared_distances(values)
    jobs = [(i, fold) for i, seed in enumerate(seeds) for fold in make_folds(labels, seed)]
    found = [np.zeros(len(labels), labels.dtype) for _ in seeds]

    def work(job):
        i, fold = job
        found[i][fold[1]] = predict_fold(values, distances, labels, fold)[0]

    with (
        ThreadPoolExecutor(count_cores()) as pool,
        Progress(len(jobs), "svm", unit="folds") as progress,
    ):
        if len(labels) > MANY:
            fits = len(jobs) * (len(GRID) * INNER_FOLDS + 1)
            progress.note(f"svm: {fits} fits of up to {len(labels)} graphs, which takes minutes")
        for _ in pool.map(work, jobs):
            progress.update()
    return found


@contextlib.contextmanager
def _sklearn() -> Iterator[Any]:
    """scikit-learn, told that its inputs are sound: checking them takes as long as a small fit."""
    try:
        import sklearn
        import sklearn.model_selection
        import sklearn.svm
    except ImportError:
        raise UserError("folds need scikit-learn: pip install scikit-learn") from None
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        yield sklearn
