"""The full objective against NNLS and SLSQP of scipy, and all extreme rays in 2 and 3-D."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls

from halp_jax.core.farthest_point import farthest_feasible, solve_farthest


def make_prototypes(seed: int, num: int, dim: int, spread: float | None = None) -> np.ndarray:
    """Anywhere, or with noise of size `spread` around one direction."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(num, dim))
    if spread is not None:
        points = spread * points + rng.normal(size=dim)
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def solve_exactly(prototypes: np.ndarray, index: int) -> float:
    """min z.p: by NNLS where it is negative, else by trying all sets of dim - 1 ties."""
    p = prototypes[index]
    normals = np.delete(p - prototypes, index, axis=0)
    residual = nnls(normals.T, p, maxiter=10000)[1]
    if residual > 1e-6:
        return -residual
    best = np.inf
    for ties in itertools.combinations(normals, len(p) - 1):
        z = np.linalg.svd(np.array(ties))[2][-1]
        best = min(
            [best, *(sign * z @ p for sign in (-1, 1) if np.min(sign * normals @ z) > -1e-9)]
        )
    return best


def check_feasible(prototypes: np.ndarray, points: np.ndarray) -> None:
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, atol=1e-5)
    lead = np.sum(prototypes * points, axis=1)[:, None] - points @ prototypes.T
    assert lead.min() > -1e-5


def solve(prototypes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    points, projected = solve_farthest(prototypes)
    return np.asarray(points, np.float64), np.asarray(projected)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.integers(0, 10**6), st.sampled_from([(12, 2), (12, 3)]), st.sampled_from([None, 0.5, 0.05])
)
def test_low_dimensions_against_all_extreme_rays(seed, size, spread):
    prototypes = make_prototypes(seed, *size, spread)
    points, projected = solve(prototypes)
    exact = np.array([solve_exactly(prototypes.astype(np.float64), m) for m in range(size[0])])
    check_feasible(prototypes, points)
    np.testing.assert_allclose(np.sum(points * prototypes, axis=1), exact, atol=1e-3)
    clear = np.abs(exact) > 1e-2
    np.testing.assert_array_equal(projected[clear], exact[clear] < 0)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(2, 2), (5, 8), (20, 128)]),
    st.sampled_from([None, 0.5, 0.05]),
)
def test_high_dimensions_against_nnls(seed, size, spread):
    prototypes = make_prototypes(seed, *size, spread)
    points, projected = solve(prototypes)
    exact = np.array([solve_exactly(prototypes.astype(np.float64), m) for m in range(size[0])])
    check_feasible(prototypes, points)
    assert np.all(projected)
    np.testing.assert_allclose(np.sum(points * prototypes, axis=1), exact, atol=1e-4)


def test_between_no_worse_than_slsqp_from_many_starts():
    prototypes = make_prototypes(11, 16, 6)
    points, projected = solve(prototypes)
    check_feasible(prototypes, points)
    assert not np.all(projected)  # otherwise this tests nothing
    rng = np.random.default_rng(0)
    for m in np.flatnonzero(~projected)[:3]:
        p = prototypes[m].astype(np.float64)
        normals = np.delete(p - prototypes, m, axis=0)
        for _ in range(15):
            found = minimize(
                lambda z, p=p: z @ p,
                p + 0.5 * rng.normal(size=p.size),
                jac=lambda z, p=p: p,
                method="SLSQP",
                constraints=[
                    {
                        "type": "ineq",
                        "fun": lambda z, a=normals: a @ z,
                        "jac": lambda z, a=normals: a,
                    },
                    {"type": "eq", "fun": lambda z: z @ z - 1, "jac": lambda z: 2 * z},
                ],
            )
            if found.success and np.min(normals @ found.x) > -1e-7:
                assert points[m] @ p < found.fun + 1e-3


def test_farther_than_any_feasible_sample():
    prototypes = make_prototypes(0, 12, 3)
    points, _ = solve(prototypes)
    z = np.random.default_rng(1).normal(size=(400_000, 3))
    similarity = z / np.linalg.norm(z, axis=1, keepdims=True) @ prototypes.T
    nearest = np.argmax(similarity, axis=1)
    for m in range(12):
        sampled = similarity[nearest == m, m].min()
        assert sampled - 0.05 < points[m] @ prototypes[m] < sampled + 1e-5


def test_turns_with_the_prototypes():
    prototypes = make_prototypes(4, 5, 8, 0.5)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0].astype(np.float32)
    points, projected = solve(prototypes)
    assert np.all(projected)  # the solution is unique there
    np.testing.assert_allclose(solve(prototypes @ rotation)[0], points @ rotation, atol=2e-3)


E0, E1 = np.eye(4, dtype=np.float32)[:2]


@pytest.mark.parametrize(
    "prototypes, objective",
    [
        ([E0], [-1]),  # alone: the opposite point
        ([E0, E0, E0, E0], [-1] * 4),  # duplicates do not constrain
        ([E0, E0, E1, E1], [-(0.5**0.5)] * 4),
        ([E0, E0, -E0, -E0], [0] * 4),  # half spheres
        ([E0, -E0, E1, -E1], [0] * 4),  # the cone holds whole lines
    ],
    ids=["one", "same", "pair", "antipodal", "lines"],
)
def test_corners(prototypes, objective):
    prototypes = np.array(prototypes)
    points, projected = solve(prototypes)
    check_feasible(prototypes, points)
    np.testing.assert_allclose(np.sum(points * prototypes, axis=1), objective, atol=1e-5)
    np.testing.assert_array_equal(projected, np.array(objective) < 0)


@pytest.mark.parametrize("size", [(12, 3), (20, 128)])
def test_nearly_equal_prototypes_stay_finite_and_feasible(size):
    prototypes = make_prototypes(1, *size, spread=1e-3)
    prototypes[5:8] = prototypes[5]
    prototypes[8] = np.nextafter(prototypes[5], 1)
    points, _ = solve(prototypes)
    check_feasible(prototypes, points)


def test_zero_prototypes_are_finite():
    assert np.all(np.isfinite(solve(np.zeros((4, 4), np.float32))[0]))


def test_under_vmap_as_alone():
    stack = np.stack([make_prototypes(seed, 12, 3) for seed in range(3)])
    each = np.stack([solve(prototypes)[0] for prototypes in stack])
    np.testing.assert_allclose(jax.vmap(farthest_feasible)(stack), each, atol=1e-4)


def test_double_precision_switched_on_for_all_of_jax_changes_nothing():
    prototypes = make_prototypes(0, 6, 4)
    points = np.asarray(farthest_feasible(prototypes))
    with jax.enable_x64(True):
        found = farthest_feasible(prototypes.astype(np.float64))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, points, atol=1e-5)
