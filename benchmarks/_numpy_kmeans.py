"""Riemannian k-means on the sphere as the released code calls it, in plain numpy: the CPU's peer.

The method of geomstats 2.5: a k-means++ start by distance, the nearest centroid by angle, for each
cluster a gradient descent to its Frechet mean from the cluster's first point, a random point for an
empty cluster, and a stop when the centroids moved by less than `tol` on average.
"""

import numpy as np

DESCENT_STOP = 1e-4  # squared length of the descent direction, per dimension
MAX_DESCENT = 100


def riemannian_kmeans(
    points: np.ndarray,
    num_clusters: int,
    rng: np.random.Generator,
    *,
    start: np.ndarray | None = None,
    tol: float = 1e-3,
    max_iter: int = 100,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Unit points [num, dim] -> (centroids [clusters, dim], labels [num], iterations)."""
    centroids = choose_start(points, num_clusters, rng) if start is None else np.array(start)
    for iteration in range(1, max_iter + 1):  # noqa: B007 (returned)
        labels = np.argmin(distances(points, centroids), axis=1)
        old, centroids = centroids, np.empty_like(centroids)
        for cluster in range(num_clusters):
            members = points[labels == cluster]
            random = points[rng.integers(len(points))]
            centroids[cluster] = frechet_mean(members) if len(members) else random
        if np.mean(angle(np.sum(centroids * old, axis=1))) < tol:
            break
    return centroids, np.argmin(distances(points, centroids), axis=1), iteration


def choose_start(points: np.ndarray, num_clusters: int, rng: np.random.Generator) -> np.ndarray:
    chosen = [points[rng.integers(len(points))]]
    for _ in range(num_clusters - 1):
        closest = np.min(distances(points, np.array(chosen)), axis=1).astype(np.float64)
        chosen.append(points[rng.choice(len(points), p=closest / closest.sum())])
    return np.array(chosen)


def frechet_mean(points: np.ndarray) -> np.ndarray:
    """Descent along the mean of the logarithms; the step is halved when that grows."""
    mean, step, smallest = points[0], 1.0, np.linalg.norm(points)
    for iteration in range(MAX_DESCENT):
        cosine = np.clip(points @ mean, -1.0, 1.0)
        omega = np.arccos(cosine)
        scale = np.where(omega < 1e-6, 1.0, omega / np.maximum(np.sin(omega), 1e-12))
        tangent = np.mean(scale[:, None] * (points - cosine[:, None] * mean), axis=0)
        length = np.linalg.norm(tangent)
        if iteration and length**2 <= DESCENT_STOP * points.shape[1]:
            break
        if length > 0:
            travel = step * length
            mean = np.cos(travel) * mean + np.sin(travel) / length * tangent
            mean = mean / np.linalg.norm(mean)
        step = step / 2 if length > smallest else step
        smallest = min(smallest, length)
    return mean


def distances(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return angle(points @ centroids.T)


def angle(cosine: np.ndarray) -> np.ndarray:
    return np.arccos(np.clip(cosine, -1.0, 1.0))
