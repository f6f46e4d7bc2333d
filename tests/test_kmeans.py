"""Spherical k-means: against recorded geomstats runs, numpy, scikit-learn, and by properties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from halp_jax.core.kmeans import (
    _choose,
    compute_inertia,
    init_state,
    lloyd_step,
    spherical_kmeans,
)
from halp_jax.errors import UserError

KEY = jax.random.key(0)
seeds = st.integers(0, 2**31 - 1)
few = functools.partial(settings, deadline=None, derandomize=True)


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def make_points(seed: int, num: int = 60, dim: int = 8, spread: float = 1.0) -> np.ndarray:
    """Noise of size `spread` around 5 directions."""
    rng = np.random.default_rng(seed)
    centres = unit(rng.normal(size=(5, dim)))
    return unit(centres[rng.integers(5, size=num)] + spread * rng.normal(size=(num, dim)))


def run(points, num_clusters=5, key=KEY, **settings):
    return jax.tree.map(np.asarray, spherical_kmeans(key, points, num_clusters, **settings))


# Golden ------------------------------------------------------------------------------------------

CASES = ["clustered/given", "clustered/kmeans++", "uniform/given", "uniform/kmeans++", ""]


def load_case(golden, case):
    if not case:
        arrays = golden("proto_update")
        return (
            arrays["queue_features"],
            arrays["init_centroids"],
            arrays["centroids"],
            arrays["labels"],
            arrays["inertia"],
        )
    arrays = golden("kmeans")
    names = ("init_centroids", "centroids", "labels", "inertia_geomstats")
    return (arrays[case.split("/")[0] + "/X"], *(arrays[f"{case}/{name}"] for name in names))


@pytest.mark.parametrize("case", CASES)
def test_released_run_is_reproduced(golden, case):
    points, start, centroids, labels, inertia = load_case(golden, case)
    ours = run(points, 20, centroids=start, mean="released", empty="random")
    np.testing.assert_array_equal(ours.labels, labels)
    np.testing.assert_allclose(ours.centroids, centroids, atol=1e-6)
    np.testing.assert_allclose(ours.inertia, inertia, rtol=1e-5)


def test_released_mean_is_reproduced(golden):
    arrays = golden("kmeans")
    points = arrays["frechet/fold"]
    start = points.mean(0, keepdims=True)
    ours = run(points, 1, centroids=start, mean="released", max_iter=1)
    np.testing.assert_allclose(ours.centroids[0], arrays["frechet/mean"], atol=1e-6)


@pytest.mark.parametrize("case", ["clustered/given", "uniform/given"])
def test_frechet_is_the_mean_that_the_released_one_stops_short_of(golden, case):
    points, _, centroids, labels, _ = load_case(golden, case)
    ours = run(points, 20, centroids=centroids, max_iter=1)
    cosine = np.sum(points * ours.centroids[labels], axis=1)
    theirs = np.sum(points * centroids[labels], axis=1)
    assert np.sum(np.arccos(cosine.clip(-1, 1)) ** 2) < np.sum(np.arccos(theirs.clip(-1, 1)) ** 2)
    for cluster in np.unique(labels):  # the mean log of the members is zero at their mean
        mean = ours.centroids[cluster].astype(np.float64)
        members = points[labels == cluster]
        w = np.arccos(np.clip(members @ mean, -1, 1))[:, None]
        logs = np.where(w < 1e-3, 1, w / np.sin(np.maximum(w, 1e-3))) * (members - np.cos(w) * mean)
        assert np.linalg.norm(logs.mean(0)) < 3e-4


# Against others ----------------------------------------------------------------------------------


def textbook_lloyd(points, centroids, iterations=100):
    for _ in range(iterations):
        labels = np.argmax(points @ centroids.T, axis=1)
        sums = np.array([points[labels == k].sum(0) for k in range(len(centroids))])
        filled = np.linalg.norm(sums, axis=1) > 0
        centroids = np.where(
            filled[:, None],
            sums / np.linalg.norm(np.where(filled[:, None], sums, 1), axis=1, keepdims=True),
            centroids,
        )
    return np.sum(1 - np.max(points @ centroids.T, axis=1))


@few(max_examples=20)
@given(seeds)
def test_chordal_is_no_worse_than_the_textbook(seed):
    points = make_points(seed)
    start = points[:5]
    ours = run(points, centroids=start, mean="chordal")
    assert ours.inertia <= textbook_lloyd(points.astype(np.float64), start) * (1 + 1e-4)


def test_separate_clusters_are_found_as_by_scikit_learn():
    points = make_points(3, spread=0.05)
    theirs = KMeans(5, n_init=5, random_state=0).fit(points)
    ours = run(points, restarts=6)
    assert adjusted_rand_score(theirs.labels_, ours.labels) == 1
    np.testing.assert_allclose(
        ours.centroids[ours.labels], unit(theirs.cluster_centers_)[theirs.labels_], atol=2e-3
    )


# Properties --------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames=("mean", "empty"))
def trace_objective(points, centroids, mean, empty):
    def step(state, _):
        state = lloyd_step(state, KEY, points, mean, empty)
        return state, compute_inertia(points, state.similarity, mean)

    state = init_state(points, centroids)
    first = compute_inertia(points, state.similarity, mean)
    return jnp.append(first, jax.lax.scan(step, state, length=12)[1])


@few(max_examples=25)
@given(
    seeds,
    st.sampled_from([2, 16]),
    st.sampled_from([("frechet", "farthest"), ("chordal", "random")]),
    st.booleans(),
)
def test_objective_never_rises(seed, dim, rules, duplicates):
    mean, empty = rules
    points = np.pad(make_points(seed, num=40, dim=dim), [(0, 0), (0, 16 - dim)])
    if duplicates:  # and zero vectors, and a start with empty clusters
        points[10:30] = points[10]
        points[30:33] = 0
    history = np.asarray(trace_objective(points, points[7:13], mean, empty))
    assert np.all(np.diff(history) <= 1e-4), history


@few(max_examples=20)
@given(
    seeds,
    st.sampled_from([("frechet", "kmeans++"), ("released", "random"), ("chordal", "kmeans++")]),
)
def test_centroids_are_unit_and_labels_nearest(seed, rules):
    mean, init = rules
    points = 3 * make_points(seed)  # not unit on purpose
    result = run(points, key=jax.random.key(seed), mean=mean, init=init)
    np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=1), 1, atol=1e-5)
    similarity = unit(points) @ result.centroids.T
    chosen = np.take_along_axis(similarity, result.labels[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(chosen, similarity.max(axis=1), atol=1e-6)
    cost = 1 - chosen if mean == "chordal" else np.arccos(chosen.clip(-1, 1)) ** 2
    np.testing.assert_allclose(result.inertia, cost.sum(), rtol=1e-3)


@few(max_examples=15)
@given(seeds, st.sampled_from(["frechet", "chordal"]))
def test_order_and_orientation_do_not_matter(seed, mean):
    rng = np.random.default_rng(seed)
    points = make_points(seed, spread=0.3)
    start = points[:5]
    result = run(points, centroids=start, mean=mean)

    order = rng.permutation(len(points))
    permuted = run(points[order], centroids=start, mean=mean)
    np.testing.assert_array_equal(permuted.labels, result.labels[order])
    np.testing.assert_allclose(permuted.centroids, result.centroids, atol=1e-4)

    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0].astype(np.float32)
    rotated = run(points @ rotation, centroids=start @ rotation, mean=mean)
    np.testing.assert_array_equal(rotated.labels, result.labels)
    np.testing.assert_allclose(rotated.centroids, result.centroids @ rotation, atol=1e-4)


@few(max_examples=15)
@given(seeds)
def test_restarts_are_never_worse_than_one(seed):
    points, key = make_points(seed), jax.random.key(seed)
    one = run(points, key=key)
    best = run(points, key=key, restarts=6)
    assert best.inertia <= one.inertia * (1 + 1e-5)
    warm = run(points, key=jax.random.fold_in(key, 9), restarts=6, centroids=best.centroids)
    assert warm.inertia <= best.inertia * (1 + 1e-5)


@pytest.mark.parametrize("mean", ["frechet", "chordal"])
def test_warm_start_at_a_fixpoint_stays(mean):
    points = make_points(1)
    first = run(points, mean=mean)
    again = run(points, mean=mean, centroids=first.centroids)
    assert again.iterations == 1
    np.testing.assert_array_equal(again.labels, first.labels)
    np.testing.assert_allclose(again.centroids, first.centroids, atol=1e-3)


def test_plus_plus_draws_by_distance_or_its_square():
    angles = np.array([0, 0.5, 2.0])
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    keys = jax.random.split(KEY, 6000)
    for weight, expected in (("distance", 2 / 2.5), ("squared", 4 / 4.25)):
        draws = np.asarray(
            jax.vmap(
                lambda key, weight=weight: _choose(key, jnp.asarray(points), 2, "kmeans++", weight)
            )(keys)
        )
        second = draws[np.all(draws[:, 0] == points[0], axis=1), 1]
        assert abs(len(second) / len(keys) - 1 / 3) < 0.03  # the first uniformly
        assert abs(np.mean(np.all(second == points[2], axis=1)) - expected) < 0.03


# Corners -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("empty", ["farthest", "random"])
def test_empty_cluster_is_refilled(empty):
    points = make_points(2, spread=0.05)
    start = np.concatenate([np.tile(points[:1], (4, 1)), -points[:1]])  # 4 alike, 1 opposite
    result = run(points, centroids=start, empty=empty)
    assert len(np.unique(result.labels)) == 5


def test_farthest_point_takes_the_empty_cluster():
    points = unit(np.array([[1, 0], [1, 0.1], [1, -0.1], [-1, 0.3]]))
    start = unit(np.array([[1, 0], [1, 0]]))
    result = run(points, 2, centroids=start, mean="chordal", max_iter=1)
    np.testing.assert_allclose(result.centroids[1], points[3], atol=1e-6)


@pytest.mark.parametrize(
    "num_clusters, mean, init, empty",
    [
        (4, "frechet", "kmeans++", "farthest"),
        (4, "released", "random", "random"),
        (4, "chordal", "kmeans++", "random"),
        (1, "frechet", "kmeans++", "farthest"),
    ],
)
def test_degenerate_points_give_finite_unit_centroids(num_clusters, mean, init, empty):
    points = np.stack(
        [
            np.ones((6, 3)),  # one distinct point
            np.zeros((6, 3)),  # no direction at all
            np.eye(3)[[0, 0, 1, 1, 2, 2]] * [[1], [2], [1], [1], [0], [0]],  # two, and zeros
            np.eye(3)[[0] * 6] * [[1], [-1], [1], [-1], [1], [-1]],  # antipodal: no mean
        ]
    ).astype(np.float32)
    result = jax.vmap(
        lambda x: spherical_kmeans(
            KEY, x, num_clusters, mean=mean, init=init, empty=empty, max_iter=10
        )
    )(points)
    assert all(np.all(np.isfinite(leaf)) for leaf in result)
    np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=-1), 1, atol=1e-5)


def test_fewer_points_than_clusters():
    result = run(np.eye(2, dtype=np.float32), 4, init="random")
    np.testing.assert_allclose(result.inertia, 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(result.centroids, axis=1), 1, atol=1e-5)


def test_zero_vectors_have_no_weight():
    points = make_points(4, spread=0.2)
    padded = np.concatenate([np.zeros((7, 8), np.float32), points])
    alone = run(points, centroids=points[:5], mean="chordal")
    among = run(padded, centroids=points[:5], mean="chordal")
    np.testing.assert_allclose(among.centroids, alone.centroids, atol=1e-5)
    np.testing.assert_allclose(among.inertia, alone.inertia, rtol=1e-5)


def test_zero_warm_start_recovers():
    points = make_points(5, spread=0.05)
    result = run(points, centroids=np.zeros((5, 8), np.float32))
    assert len(np.unique(result.labels)) == 5


def test_works_under_vmap_and_in_cond_of_a_jitted_step():
    points = np.stack([make_points(seed) for seed in (1, 2, 3)])
    keys = jax.random.split(KEY, 3)

    @jax.jit
    def update(step, prototypes):
        def refresh():
            return jax.vmap(lambda key, x: spherical_kmeans(key, x, 5).centroids)(keys, points)

        return jax.lax.cond(step % 10 == 0, refresh, lambda: prototypes)

    kept = jnp.ones((3, 5, 8))
    np.testing.assert_array_equal(update(3, kept), kept)
    each = np.stack([run(x, key=key).centroids for key, x in zip(keys, points, strict=True)])
    np.testing.assert_allclose(update(10, kept), each, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"mean": "median"},
        {"init": "k-means"},
        {"weight": "cubed"},
        {"empty": "drop"},
        {"restarts": 0},
        {"centroids": np.ones((4, 8), np.float32)},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(UserError, match="spherical_kmeans"):
        spherical_kmeans(KEY, make_points(0), 5, **settings)


def test_double_precision_switched_on_for_all_of_jax_changes_nothing():
    points = make_points(3)
    given = run(points, centroids=points[:5])
    with jax.enable_x64(True):
        for dtype in (np.float32, np.float64):
            found = run(points.astype(dtype), centroids=points[:5])
            np.testing.assert_array_equal(found.labels, given.labels)
            np.testing.assert_allclose(found.centroids, given.centroids, atol=1e-6)
            assert found.centroids.dtype == np.float32
