"""Spherical k-means: ours against geomstats' method in plain numpy, scikit-learn and faiss.

    python benchmarks/kmeans.py --cores=1

The two sizes: 256 x 128 in 20 clusters, which is what HaLP asks for every tenth step, and 16384 x 128
in 100, the whole queue. Everyone draws a k-means++ start of its own (faiss: random points), so time
stands beside what came out: the mean angle to the centroid in degrees (lower is better).
"""

import itertools

import _timing
import jax
import jax.numpy as jnp
import numpy as np
from _numpy_kmeans import angle, riemannian_kmeans

from halp_jax.core.kmeans import spherical_kmeans

QUICK = {"sizes": "256x128x20", "repeats": 2, "cores": 1}


def make_points(num: int, dim: int, clusters: int) -> np.ndarray:
    """Unit vectors around as many directions as there are clusters, like the keys of an encoder."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(clusters, dim))
    points = centres[rng.integers(clusters, size=num)] + 0.7 * rng.normal(size=(num, dim))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def make_ours(points: np.ndarray, clusters: int, **options):
    on_device = jnp.asarray(points)
    keys = itertools.cycle(list(jax.random.split(jax.random.key(0), 64)))

    def run():
        result = spherical_kmeans(next(keys), on_device, clusters, **options)
        return result.centroids, result.iterations

    return run


def make_numpy(points: np.ndarray, clusters: int):
    rng = np.random.default_rng(0)

    def run():
        centroids, _, iterations = riemannian_kmeans(points, clusters, rng)
        return centroids, iterations

    return run


def make_sklearn(points: np.ndarray, clusters: int, cluster):
    seen = itertools.count()

    def run():
        found = cluster.KMeans(clusters, n_init=1, max_iter=100, random_state=next(seen))
        found.fit(points)
        return found.cluster_centers_, found.n_iter_

    return run


def make_faiss(points: np.ndarray, clusters: int, iterations: int, faiss):
    seen = itertools.count()

    def run():
        found = faiss.Kmeans(
            points.shape[1], clusters, niter=iterations, spherical=True, seed=next(seen),
            min_points_per_centroid=1, max_points_per_centroid=len(points),
        )  # fmt: skip
        found.train(points)
        return found.centroids, iterations

    return run


def main() -> None:
    parser = _timing.make_parser(__doc__)
    parser.add_argument(
        "--sizes", default="256x128x20,16384x128x100", help="points x dim x clusters"
    )
    parser.add_argument("--members", default="", help="only those whose name holds this")
    args = _timing.parse(parser, QUICK)
    machine, rates = _timing.start("spherical k-means", args)
    cluster, faiss = _timing.try_import("sklearn.cluster"), _timing.try_import("faiss")
    if faiss:
        faiss.omp_set_num_threads(machine["cores"])
    for name, found in (("scikit-learn", cluster), ("faiss", faiss)):
        if not found:
            _timing.note_missing(name)
    rows = []
    for size in args.sizes.split(","):
        num, dim, clusters = map(int, size.split("x"))
        points = make_points(num, dim, clusters)
        members = {
            f"ours {mean}": make_ours(points, clusters, mean=mean)
            for mean in ("released", "frechet", "chordal")
        }
        members["geomstats in numpy"] = make_numpy(points, clusters)
        if cluster:
            members["scikit-learn"] = make_sklearn(points, clusters, cluster)
        if faiss:
            members["faiss"] = make_faiss(points, clusters, 25, faiss)
        members = {name: run for name, run in members.items() if args.members in name}
        found = {name: [run() for _ in range(3)] for name, run in members.items()}
        times = _timing.time_in_turn(members, repeats=args.repeats, min_seconds=0.02)
        first = next(iter(times.values()))
        for name, timing in times.items():
            iterations = float(np.mean([int(i) for _, i in found[name]]))
            # A pass over points and centroids an iteration, and one product of the two.
            flops, num_bytes = 2.0 * num * dim * clusters, 4.0 * dim * (num + clusters)
            floor = (iterations + 1) * _timing.floor_seconds(flops, num_bytes, rates)
            rows.append({
                "member": f"{size} {name}", "ms": 1e3 * timing.wall, "cpu_ms": 1e3 * timing.cpu,
                "over_first": timing.wall / first.wall, "iterations": iterations,
                "floor_ms": 1e3 * floor,
                "angle": float(np.mean([mean_angle(points, c) for c, _ in found[name]])),
            })  # fmt: skip
    _timing.print_table(rows)
    print("\nfloor_ms: of assignments alone, as many as there were iterations, and one")
    _timing.print_json("kmeans", machine=machine, repeats=args.repeats, rows=rows)


def mean_angle(points: np.ndarray, centroids: np.ndarray) -> float:
    """Degrees from a point to its nearest centroid."""
    centroids = np.asarray(centroids)
    centroids = centroids / np.linalg.norm(centroids, axis=1, keepdims=True)
    return float(np.degrees(np.mean(angle(np.max(points @ centroids.T, axis=1)))))


if __name__ == "__main__":
    main()
