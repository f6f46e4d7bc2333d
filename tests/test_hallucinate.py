"""HaLP's positives: the authors' numbers, the paper's properties, and the edges."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _released import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from halp_jax.core import hallucinate as hal
from halp_jax.core import sphere

SOLVERS = ("pairwise", "geodesic", "sphere")

# Compiled whole: eagerly each of its many small operations would be compiled by itself.
SETTINGS = ("temperature", "num_positives", "solver", "estimator", "draw", "lam", "axis_name")
halp_loss = jax.jit(hal.halp_loss, static_argnames=SETTINGS)
walk_targets = jax.jit(hal.walk_targets, static_argnames="solver")


def points(seed, *shape):
    x = np.random.default_rng(seed).normal(size=shape)
    return jnp.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True), jnp.float32)


def clustered(seed, batch, m, dim):
    """Prototypes crowded around one direction, as those of a young encoder, and anchors among them."""
    centre = points(seed, dim)
    near = np.random.default_rng(seed + 1).normal(size=(m + batch, dim))
    near = np.asarray(centre) + 0.6 * near / dim**0.5
    near = jnp.asarray(near / np.linalg.norm(near, axis=-1, keepdims=True), jnp.float32)
    return near[m:], near[:m]


@functools.partial(jax.jit, static_argnames="solver")
def reach_all(z_k, prototypes, solver):
    targets = hal.walk_targets(prototypes, solver)
    c = targets @ prototypes.T
    return jax.vmap(lambda s, v: hal.reach(s, v, c, solver))(z_k @ prototypes.T, z_k @ targets.T)


@jax.jit
def walk(z_k, prototypes, r, share):
    """z(share * t*) toward every prototype: [batch, m, dim]."""
    a, b = sphere.slerp_weights(share * r.t_star, r.omega)
    return a[..., None] * z_k[:, None] + b[..., None] * prototypes


def replay(golden, case):
    g = {k.split("/")[1]: v for k, v in golden("generator").items() if k.startswith(case + "/")}
    z_k, p = jnp.asarray(g["anchor"]), jnp.asarray(g["prototypes"])
    r = reach_all(z_k, p, "pairwise")
    selected = jnp.asarray(g["selected_target"]).reshape(z_k.shape[0], -1)
    t_star = jnp.take_along_axis(r.t_star, selected, axis=1)
    share = jnp.asarray(g["t_to_use"]).reshape(selected.shape) / t_star
    s, c = z_k @ p.T, p @ p.T
    place = jax.vmap(lambda *x: hal.place_positives(x[0], x[1], c, x[2], x[3], "pairwise"))
    z = jax.jit(place)(r, s, selected, share)
    return g, r, z, t_star, hal.materialize(z, z_k, p)


@pytest.mark.parametrize("case", [f"case{i}" for i in range(5)])
def test_generator_equals_the_released(golden, case):
    g, r, z, t_star, positives = replay(golden, case)
    omega = jnp.take_along_axis(r.omega, z.selected, axis=1)
    assert relative_error(omega.ravel(), g["omega"]) < 1e-5
    assert relative_error(t_star.ravel(), g["max_t"]) < 1e-5
    assert relative_error(z.a.ravel(), g["alpha"].ravel()) < 1e-5
    assert relative_error(z.b.ravel(), g["beta"].ravel()) < 1e-5
    assert relative_error(positives, g["generated_normed"]) < 1e-5
    np.testing.assert_array_equal(r.nearest, g["indsm1"].reshape(positives.shape[:2])[:, 0])
    if case != "case3":  # lambda 0: every positive sits on the tie, its rank is rounding
        np.testing.assert_array_equal(z.kept, g["mask"])


def test_released_draw_replayed(golden):
    """t = (1 - u) t*, u ~ U(0, lambda): the recorded u give the recorded t."""
    g = {k[6:]: v for k, v in golden("generator").items() if k.startswith("case0/")}
    low, high = hal.sample_range("released", float(g["lambda_pos"]))
    assert (low, high) == pytest.approx((0.2, 1.0))
    share = 1.0 - g["zero_one"]
    assert low <= share.min() and share.max() <= high
    np.testing.assert_allclose(share * g["max_t"], g["t_to_use"], rtol=1e-5)


def test_deviation_arctan2_where_the_released_arctan_walks_backwards(golden):
    """Case 5: kappa + cos W < 0. The released t* is negative; the tie lies at a positive t."""
    g = {k[6:]: v for k, v in golden("generator").items() if k.startswith("case5/")}
    z_k, p = jnp.asarray(g["anchor"]), jnp.asarray(g["prototypes"])
    r = reach_all(z_k, p, "pairwise")
    selected = jnp.asarray(g["selected_target"]).reshape(z_k.shape[0], -1)
    t_star = jnp.take_along_axis(r.t_star, selected, axis=1)
    assert np.all(g["max_t"] < 0)
    assert float(t_star.min()) > 0 and float(t_star.max()) <= 1
    # The two arctangents differ by pi in the angle t* W.
    theirs = g["max_t"].reshape(selected.shape)
    omega = jnp.take_along_axis(r.omega, selected, axis=1)
    np.testing.assert_allclose((t_star - theirs) * omega, np.pi, rtol=1e-5)


# Few sizes, so that few programs are compiled; the numbers are new in each example.
sizes = st.tuples(st.integers(0, 10_000), st.sampled_from((2, 3, 24)), st.sampled_from((2, 5, 12)))


@settings(deadline=None, derandomize=True, max_examples=30)
@given(sizes)
def test_pairwise_t_star_is_a_tie_and_positives_are_on_the_sphere(size):
    seed, dim, m = size
    z_k, p = points(seed, 4, dim), points(seed + 1, m, dim)
    r = reach_all(z_k, p, "pairwise")
    z = walk(z_k, p, r, 1.0)
    z, p, r = np.asarray(z), np.asarray(p), jax.tree.map(np.asarray, r)
    to_nearest = np.einsum("bmd,bd->bm", z, p[r.nearest])
    to_selected = np.einsum("bmd,md->bm", z, p)
    # Opposite the anchor there is no one geodesic, and the walk stays at the anchor.
    usual = r.omega < np.pi - 0.1
    np.testing.assert_allclose(np.linalg.norm(z, axis=-1), 1.0, atol=1e-4)
    np.testing.assert_allclose(to_nearest[usual], to_selected[usual], atol=2e-5)
    assert np.all((r.t_star >= 0) & (r.t_star <= 1))
    np.testing.assert_allclose(np.sum(r.chance, axis=1), 1.0, atol=1e-5)
    assert not np.any(np.take_along_axis(r.chance, r.nearest[:, None], axis=1))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(sizes, st.floats(0.0, 1.0), st.booleans())
def test_geodesic_keeps_the_rank_of_every_positive(size, share, crowded):
    seed, dim, m = size
    z_k, p = clustered(seed, 4, m, dim) if crowded else (points(seed, 4, dim), points(seed, m, dim))
    r = reach_all(z_k, p, "geodesic")
    pairwise = reach_all(z_k, p, "pairwise")
    z = walk(z_k, p, r, share)
    z, p, r, pairwise = jax.tree.map(np.asarray, (z, p, r, pairwise))
    similarity = np.einsum("bmd,jd->bmj", z, p)
    lead = np.take_along_axis(similarity, r.nearest[:, None, None], axis=2)
    assert np.all((lead - similarity > -1e-5) | (r.chance == 0)[..., None])
    # One constraint more can only shorten the walk.
    assert np.all((r.t_star <= pairwise.t_star + 1e-5) | (r.chance == 0))


def test_geodesic_stops_at_the_first_tie():
    """Just past t* the rank is lost, unless the walk ends at the target."""
    z_k, p = clustered(3, 64, 12, 16)
    r = reach_all(z_k, p, "geodesic")
    a, b = sphere.slerp_weights(jnp.minimum(r.t_star + 1e-3, 1.0), r.omega)
    similarity = a[..., None] * (z_k @ p.T)[:, None] + b[..., None] * (p @ p.T)[None]
    lost = jnp.argmax(similarity, axis=-1) != r.nearest[:, None]
    assert bool(jnp.all(lost[(r.chance > 0) & (r.t_star < 0.999)]))
    assert float(jnp.mean(r.t_star < 0.999)) > 0.5


def test_pairwise_loses_positives_that_geodesic_keeps():
    z_k, p = clustered(5, 256, 20, 128)
    keys = jax.random.split(jax.random.key(0), 256)
    kept = {}
    for solver in ("pairwise", "geodesic"):
        _, figures = halp_loss(
            keys, z_k, z_k, p, temperature=0.07, solver=solver, draw="slide", lam=1.0
        )
        kept[solver] = float(figures["kept"])
    assert kept["geodesic"] == 1.0
    assert 0.3 < kept["pairwise"] < 0.999


def test_sphere_goes_farthest_from_the_prototype():
    """The full objective is never above what its relaxations reach, and is feasible."""
    z_k, p = points(0, 6, 24), points(1, 5, 24)
    targets = walk_targets(p, solver="sphere")
    nearest = jnp.argmax(z_k @ p.T, axis=1)
    best = jnp.sum(targets * p, axis=1)[nearest]
    for solver in ("pairwise", "geodesic"):
        r = reach_all(z_k, p, solver)
        a, b = sphere.slerp_weights(r.t_star, r.omega)
        reached = a * jnp.max(z_k @ p.T, axis=1, keepdims=True) + b * (p @ p.T)[nearest]
        if solver == "geodesic":
            assert bool(jnp.all(best[:, None] <= reached + 1e-4))
    lead = jnp.sum(targets * p, axis=1, keepdims=True) - targets @ p.T
    assert float(lead.min()) > -1e-4
    # The walk to it keeps P* first all the way.
    for t in (0.25, 0.5, 1.0):
        r = reach_all(z_k, p, "sphere")
        omega = jnp.take_along_axis(r.omega, nearest[:, None], axis=1)[:, 0]
        a, b = sphere.slerp_weights(jnp.full(6, t), omega)
        z = a[:, None] * z_k + b[:, None] * targets[nearest]
        sims = z @ p.T
        assert bool(jnp.all(sims[jnp.arange(6), nearest] >= jnp.max(sims, axis=1) - 1e-4))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("draw", ["released", "slide"])
def test_table_form_equals_the_materialised_form(solver, draw):
    z_q, z_k, p = points(0, 6, 24), points(1, 6, 24), points(2, 5, 24)
    keys = jax.random.split(jax.random.key(3), 6)
    targets = walk_targets(p, solver=solver)
    c = targets @ p.T

    def one(key, s, v):
        return hal.hallucinate(key, s, v, c, num_positives=40, solver=solver, draw=draw)

    r, z = jax.jit(jax.vmap(one))(keys, z_k @ p.T, z_k @ targets.T)
    positives = hal.materialize(z, z_k, targets)
    np.testing.assert_allclose(jnp.linalg.norm(positives, axis=-1), 1.0, atol=1e-5)
    ranks_first = jnp.argmax(positives @ p.T, axis=-1) == jnp.argmax(z_k @ p.T, axis=1)[:, None]
    np.testing.assert_array_equal(z.kept, ranks_first)
    expected = -jnp.sum(jnp.einsum("bd,bgd->bg", z_q, positives) * z.kept) / jnp.sum(z.kept) / 0.07
    loss, figures = halp_loss(
        keys, z_q, z_k, p, temperature=0.07, num_positives=40, solver=solver, draw=draw
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(figures["kept"], jnp.mean(z.kept), rtol=1e-6)
    if solver != "sphere":
        assert bool(jnp.all(z.selected != r.nearest[:, None]))
        drawn = jnp.unique(z.selected)
        assert drawn.shape[0] == 5  # every other prototype is drawn by someone


@pytest.mark.parametrize("draw", ["released", "slide"])
@pytest.mark.parametrize("solver", ["geodesic", "sphere"])
def test_expected_is_the_mean_of_many_sampled(solver, draw):
    z_q, z_k, p = points(0, 8, 16), points(1, 8, 16), points(2, 6, 16)
    keys = jax.random.split(jax.random.key(4), 8)
    given = dict(temperature=1.0, solver=solver, draw=draw)
    expected, _ = halp_loss(keys, z_q, z_k, p, estimator="expected", **given)
    sampled = [
        halp_loss(jax.random.split(k, 8), z_q, z_k, p, num_positives=20_000, **given)[0]
        for k in jax.random.split(jax.random.key(5), 2)
    ]
    error = np.std([float(x) for x in sampled]) + 1e-3
    np.testing.assert_allclose(expected, np.mean(sampled), atol=4 * error)


def test_expected_weights_equal_quadrature():
    t0, t1, omega = 0.1, 0.7, 1.3
    middle = (np.arange(4000) + 0.5) / 4000 * (t1 - t0) + t0
    a, b = sphere.mean_slerp_weights(jnp.array(t0), jnp.array(t1), jnp.array(omega))
    assert float(a) == pytest.approx(
        np.mean(np.sin((1 - middle) * omega)) / np.sin(omega), rel=1e-6
    )
    assert float(b) == pytest.approx(np.mean(np.sin(middle * omega)) / np.sin(omega), rel=1e-6)


@pytest.mark.parametrize("gap", [0.0, 1e-6, 1e-4, 1e-3, 1e-2, 0.03, 0.0999, 0.1001, 0.11, 0.5])
def test_walks_toward_the_opposite_side_stay_on_the_sphere(gap):
    """Of points pi - gap apart, of which float32 holds the cosine; near pi the walk stays at x."""
    x, y = np.array([1.0, 0.0]), np.array([-np.cos(gap), np.sin(gap)])
    t = (jnp.arange(200) + 0.5) / 200
    omega = jnp.full(200, sphere.angle(jnp.float32(x @ y)))
    a, b = (np.asarray(w, np.float64) for w in sphere.slerp_weights(t, omega))
    np.testing.assert_allclose(np.hypot(*(a * x[:, None] + b * y[:, None])), 1, atol=1e-5)
    mean = sphere.mean_slerp_weights(jnp.zeros(()), jnp.ones(()), omega[0])
    np.testing.assert_allclose(mean, (a.mean(), b.mean()), rtol=1e-4)


def test_expected_is_the_sampled_loss_where_all_prototypes_are_opposite():
    x = jnp.eye(1, 4)
    given = dict(temperature=1.0, solver="sphere", num_positives=50)
    both = [
        float(halp_loss(jax.random.key(0), x, x, -jnp.tile(x, (3, 1)), estimator=e, **given)[0])
        for e in ("sampled", "expected")
    ]
    assert both[0] == pytest.approx(both[1], rel=1e-6)


def test_positives_on_the_tie_itself_keep_their_rank():
    """lambda 0: all are at t*, and the filter takes those that only their own target ties."""
    z_k, p = points(0, 64, 16), points(1, 2, 16)
    given = dict(temperature=1.0, solver="pairwise", num_positives=20, draw="released")
    assert float(halp_loss(jax.random.key(0), z_k, z_k, p, lam=0.0, **given)[1]["kept"]) == 1.0


def test_only_the_query_learns():
    z_q, z_k, p = points(0, 4, 8), points(1, 4, 8), points(2, 5, 8)

    def loss(z_q, z_k, p):
        return halp_loss(jax.random.key(0), z_q, z_k, p, temperature=0.1)[0]

    to_q, to_k, to_p = jax.grad(loss, (0, 1, 2))(z_q, z_k, p)
    assert float(jnp.min(jnp.linalg.norm(to_q, axis=1))) > 0.1
    assert float(jnp.max(jnp.abs(to_k))) == float(jnp.max(jnp.abs(to_p))) == 0


def test_mean_over_devices_is_the_loss_of_the_global_batch():
    """Kept counts differ between the devices; the mean over them is still global."""
    z_k, p = clustered(7, 16, 10, 8)
    z_q, keys = points(1, 16, 8), jax.random.split(jax.random.key(6), 16)
    given = dict(temperature=0.07, num_positives=7, draw="slide", lam=1.0)

    def spread(z_q):
        return jax.vmap(
            lambda k, q, z: halp_loss(k, q, z, p, axis_name="data", **given),
            axis_name="data",
        )(keys.reshape(4, 4), z_q.reshape(4, 4, 8), z_k.reshape(4, 4, 8))

    whole, figures = halp_loss(keys, z_q, z_k, p, **given)
    parts, _ = jax.jit(spread)(z_q)
    assert 0 < float(figures["kept"]) < 1 and float(jnp.std(parts)) > 0
    np.testing.assert_allclose(jnp.mean(parts), whole, rtol=1e-5)


def test_a_raw_key_is_one_key(monkeypatch):
    """As PRNGKey makes them: an array of two numbers, here for a batch of two."""
    z, p, (loss, one) = points(0, 2, 8), points(1, 5, 8), (hal.halp_loss, hal.hallucinate)
    # As users have them, without the types that the tests check.
    monkeypatch.setattr(hal, "hallucinate", inspect.unwrap(one))
    found = inspect.unwrap(loss)(jax.random.PRNGKey(3), z, z, p, temperature=0.07)
    jax.tree.map(
        np.testing.assert_array_equal, found, loss(jax.random.key(3), z, z, p, temperature=0.07)
    )


@functools.cache
def loss_and_gradient(solver, estimator):
    def loss(z_q, z_k, p):
        return hal.halp_loss(
            jax.random.key(0), z_q, z_k, p,
            temperature=0.07, num_positives=9, solver=solver, estimator=estimator,
        )[0]  # fmt: skip

    return jax.jit(lambda z_k, p: jax.value_and_grad(loss)(z_k, z_k, p))


@pytest.mark.parametrize("solver", SOLVERS)
def test_nothing_is_nan_at_the_edges(solver):
    e = jnp.eye(4)
    at_e0 = jnp.tile(e[:1], (5, 1))
    cases = {  # of one shape, but for the last: few programs to compile
        "W = 0": (at_e0, jnp.stack([e[0], e[0], e[1]])),
        "W = pi": (at_e0, jnp.stack([e[0], -e[0], e[1]])),
        "duplicates": (points(0, 5, 4), jnp.tile(points(1, 1, 4), (3, 1))),
        "zeros": (points(0, 5, 4), jnp.zeros((3, 4))),
        "one prototype": (points(0, 5, 4), points(1, 1, 4)),
    }
    for name, (z_k, p) in cases.items():
        for estimator in ("sampled",) if solver == "pairwise" else ("sampled", "expected"):
            loss, grad = loss_and_gradient(solver, estimator)(z_k, p)
            assert np.isfinite(loss), (name, estimator)
            assert bool(jnp.all(jnp.isfinite(grad))), (name, estimator)


@pytest.mark.parametrize("solver", ["pairwise", "geodesic"])
def test_nothing_kept_gives_zero(solver):
    """With one prototype there is nothing to walk to: no positive, loss 0."""
    z, p = points(0, 5, 4), points(1, 1, 4)
    loss, figures = halp_loss(jax.random.key(0), z, z, p, temperature=0.07, solver=solver)
    assert float(loss) == 0.0 and float(figures["kept"]) == 0.0


@pytest.mark.parametrize("solver", ["pairwise", "geodesic"])
def test_one_prototype_beside_padding_is_one_prototype(solver):
    z, p = points(0, 5, 4), jnp.concatenate([points(1, 1, 4), jnp.zeros((3, 4))])
    options = {"temperature": 0.07, "solver": solver, "present": 1}
    loss, figures = halp_loss(jax.random.key(0), z, z, p, **options)
    assert float(loss) == 0.0 and float(figures["kept"]) == 0.0


def test_no_array_of_batch_by_positives_by_dim():
    """The compiled loss holds nothing as large as the positives themselves."""
    z_q, z_k, p = points(0, 64, 128), points(1, 64, 128), points(2, 20, 128)
    keys = jax.random.split(jax.random.key(0), 64)
    program = jax.make_jaxpr(jax.grad(lambda q: halp_loss(keys, q, z_k, p, temperature=0.07)[0]))(
        z_q
    )
    largest = 0

    def visit(jaxpr):
        nonlocal largest
        for eqn in jaxpr.eqns:
            for var in eqn.outvars:
                largest = max(largest, int(np.prod(getattr(var.aval, "shape", ()))))
            for value in eqn.params.values():
                inner = getattr(value, "jaxpr", None)
                if inner is not None:
                    visit(getattr(inner, "jaxpr", inner))

    visit(program.jaxpr)
    assert 64 * 100 < largest <= 64 * 100 * 20 < 64 * 100 * 128


def test_unknown_choices_are_refused():
    z, p = points(0, 2, 4), points(1, 3, 4)
    s, c = sphere.similarities(z, p)[0], sphere.similarities(p, p)
    # As users have them, without the types that the tests check.
    loss, reach, sample_range = map(inspect.unwrap, (hal.halp_loss, hal.reach, hal.sample_range))
    with pytest.raises(ValueError, match="needs solver"):
        loss(jax.random.key(0), z, z, p, temperature=0.1, estimator="expected")
    with pytest.raises(ValueError, match="unknown estimator 'guess'"):
        loss(jax.random.key(0), z, z, p, temperature=0.1, estimator="guess")
    with pytest.raises(ValueError, match="unknown solver 'magic'"):
        reach(s, s, c, "magic")
    with pytest.raises(ValueError, match="unknown draw 'lots'"):
        sample_range("lots", 0.8)
