"""GraphCL against the released code: every view with its draws, encoder, steps, Adam, trajectory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _graphs import (
    SHARED,
    cast,
    config,
    dataset_of,
    from_torch,
    make_update,
    recorded_view,
    shard_of,
    start,
    to_list,
    whole,
)

from halp_jax import methods
from halp_jax.core import hallucinate
from halp_jax.core.sphere import normalize
from halp_jax.datasets import graph_batches, graphs, tu
from halp_jax.encoders import gin
from halp_jax.encoders.gin import make_encoder
from halp_jax.methods import base, graph_views, graphcl, halp

TRAJECTORY = SHARED / "golden_graphcl" / "trajectory_mutag.npz"
MUTAG_VIEWS = SHARED / "golden_graphcl" / "augment_mutag.npz"


def error(ours, theirs):
    """Against the largest entry."""
    theirs = np.asarray(theirs)
    return float(np.max(np.abs(np.asarray(ours) - theirs)) / max(np.max(np.abs(theirs)), 1e-30))


def tree_error(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    return max(jax.tree.leaves(jax.tree.map(error, ours, theirs)))


def batch(arrays, prefix="input/", **options):
    names = ("x", "edges", "graph_of_node")
    dataset = dataset_of(*(arrays[prefix + name] for name in names))
    return dataset.layout, shard_of(dataset, **options)


# --- views ------------------------------------------------------------------------------------------


def replay_view(arrays, name):
    """The view of one recorded draw -> (nodes that stay, their edges, their x)."""
    i = name.split("/")[0]
    x, edges = arrays[f"{i}/x"], arrays[f"{i}/edges"]
    dataset = dataset_of(x, edges, np.zeros(len(x), int))
    g = jax.tree.map(jnp.asarray, whole(shard_of(dataset), dataset.layout))
    draw = {k.split("draw/")[1]: v for k, v in arrays.items() if k.startswith(f"{name}/draw/")}
    nodes, kept, loops, features = np.asarray(g.nodes).copy(), None, g.loops, g.x
    if "dropped" in draw:
        nodes[draw["dropped"]] = False
    if "start" in draw:
        nodes[:] = False
        nodes[[int(draw["start"]), *draw["picks"]]] = True
    if "masked" in draw:
        features = features.at[draw["masked"]].set(draw["values"].astype(np.float32))
    if "kept_edges" in draw:
        left = edges[:, draw["kept_edges"]]
        pairs = {tuple(pair) for pair in left.T}
        own = zip(np.asarray(g.senders), np.asarray(g.receivers), strict=True)
        kept = jnp.array([pair in pairs for pair in own])
        loops = jnp.array([(n, n) in pairs for n in range(len(nodes))])
    view = graph_views.keep(g, features, jnp.asarray(nodes), kept, loops, "released")
    stay = np.flatnonzero(view.nodes)
    there = view.nodes[g.senders] & view.nodes[g.receivers] & (True if kept is None else kept)
    there &= g.senders != g.receivers
    pairs = np.stack([g.senders, g.receivers])[:, np.asarray(there)]
    assert not np.any(view.loops)
    return stay, pairs, np.asarray(view.x)[stay]


@pytest.mark.parametrize("file", ["synthetic", pytest.param("mutag", marks=pytest.mark.long)])
def test_every_view_is_that_of_its_draws(golden, file):
    if file == "mutag" and not MUTAG_VIEWS.exists():
        pytest.skip("../shared/golden_graphcl is not here")
    arrays = golden(
        "graphcl/augment_synthetic" if file == "synthetic" else MUTAG_VIEWS.with_suffix("")
    )
    names = [k.removesuffix("/loop/kept_nodes") for k in arrays if k.endswith("/loop/kept_nodes")]
    assert len(names) == 6 * (4 * 2 + 3 * 3)
    for name in names:
        nodes, edges, x = replay_view(arrays, name)
        kept = arrays[f"{name}/loop/kept_nodes"]
        np.testing.assert_array_equal(nodes, np.sort(kept), err_msg=name)
        theirs = kept[arrays[f"{name}/loop/edges"]]
        assert {tuple(e) for e in edges.T} == {tuple(e) for e in theirs.reshape(2, -1).T}, name
        np.testing.assert_allclose(x, arrays[f"{name}/loop/x"][np.argsort(kept)], rtol=1e-6)


def plot_views(arrays, kinds, subgraph="released", seed=0, as_list=False, **options):
    layout, shard = batch(arrays, "", **options)
    shard = {n: jnp.asarray(leaf) for n, leaf in (to_list(shard) if as_list else shard).items()}
    g = graph_views.whole(shard, layout, "released")

    def draw(key):
        def one(_):
            return graph_views.augment(key, shard, g, kinds, subgraph, "released")

        return jax.vmap(one, axis_name=base.AXIS)(jnp.arange(1))

    return shard, g, jax.tree.map(lambda leaf: leaf[0], jax.jit(draw)(jax.random.key(seed)))


@pytest.mark.parametrize("subgraph", graph_views.SUBGRAPHS)
@pytest.mark.parametrize("kind", graph_views.KINDS)
def test_drawn_views_are_what_their_names_say(golden, kind, subgraph):
    if subgraph == "textbook" and kind != "subgraph":
        pytest.skip("the same")
    shard, g, view = plot_views(golden("graphcl/encoder"), (kind,), subgraph)
    edges = np.stack([g.senders, g.receivers], 1)
    for i, size in enumerate(np.asarray(shard["num_nodes"])):
        own = np.flatnonzero((np.asarray(g.graph_of_node) == i) & np.asarray(g.nodes))
        stay = np.flatnonzero(np.asarray(view.nodes) & np.isin(np.arange(len(view.nodes)), own))
        mine = edges[np.isin(edges[:, 0], own) & np.asarray(shard["edge_mask"])]
        if kind == "drop_nodes":
            # the last node has no loop, and goes where its neighbours do
            assert size - size // 10 - 1 <= len(stay) <= size - size // 10
        elif kind == "subgraph":
            neighbours = [set(mine[mine[:, 0] == n, 1]) for n in stay]
            assert 1 <= len(stay) <= size // 5 + 1
            if subgraph == "released":  # all but the start are its neighbours
                best = max(neighbours, key=lambda near: len(near & set(stay)))
                assert len(best & set(stay)) == len(stay) - 1
                degrees = [len(near) for near in neighbours]
                assert len(stay) - 1 in [min(size // 5, degree) for degree in degrees]
            else:
                assert len(stay) == size // 5 + 1  # these graphs are connected
        elif kind == "mask_nodes":
            changed = np.any(np.asarray(view.x) != np.asarray(g.x), axis=1)[own]
            assert changed.sum() == size // 10
            assert len(stay) >= size - 1
        else:
            there = np.asarray(view.edges)[
                np.isin(edges[:, 0], own) & np.asarray(shard["edge_mask"])
            ]
            total = len(mine) + int(np.asarray(g.loops)[own].sum())
            assert 0 <= len(mine) - there.sum() <= total // 10
            assert len(mine) - there.sum() > 0


@pytest.mark.parametrize("kinds", [pytest.param("random2", marks=pytest.mark.long), "random4"])
def test_padding_and_the_way_of_adding_up_change_no_draw(golden, kinds):
    kinds = graph_views.AUGMENTATIONS[kinds]
    arrays = golden("graphcl/encoder")
    _, g, view = plot_views(arrays, kinds, seed=3)
    count = len(g.nodes) - 1
    for options in ({"padding": 2.0}, {"as_list": True}, {"size": 16}):
        _, _, other = plot_views(arrays, kinds, seed=3, **options)
        np.testing.assert_array_equal(view.nodes[:count], other.nodes[:count])
        np.testing.assert_array_equal(view.x[:count], other.x[:count])
        if view.edges is not None:
            np.testing.assert_array_equal(view.edges, other.edges[: len(view.edges)])


# --- encoder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["table", "list", "padded"])
def test_encoder_layer_by_layer(golden, way):
    arrays = golden("graphcl/encoder")
    layout, shard = batch(arrays, "", padding=2.0 if way == "padded" else 1.0)
    g = whole(to_list(shard) if way == "list" else shard, layout)
    params, stats = from_torch(golden("graphcl/state"))
    encoder = make_encoder(config())
    nodes = len(arrays["x"])
    for mode in ("eval", "train"):
        ((z, features), new) = jax.jit(
            lambda g, train=mode == "train": encoder.apply(
                {"params": params, "batch_stats": stats}, g, train=train,
                mutable=["batch_stats", "intermediates"], capture_intermediates=True,
            )
        )(g)  # fmt: skip
        seen = new["intermediates"]
        assert error(features, arrays[f"{mode}/embedding"]) < 1e-4
        assert error(z, arrays[f"{mode}/projection"]) < 1e-4
        for i in range(3):
            mlp = seen[f"layer{i}_out"]["__call__"][0][:nodes]
            norm = seen[f"layer{i}_norm"]["__call__"][0][:nodes]
            assert error(mlp, arrays[f"{mode}/layer{i}/mlp"]) < 1e-4
            assert error(norm, arrays[f"{mode}/layer{i}/norm"]) < 1e-4
    _, wanted = from_torch(
        {k: v for k, v in arrays.items()} | {k: v for k, v in golden("graphcl/state").items()}
        | {k.removeprefix("after_train_forward/"): v for k, v in arrays.items() if "after" in k}
    )  # fmt: skip
    assert tree_error(new["batch_stats"], wanted) < 1e-5


@pytest.mark.parametrize("columns", [1, 2])
def test_a_product_with_ones_and_zeros_is_a_lookup(golden, columns):
    layout, shard = batch(golden("graphcl/encoder"), "")
    first, count = shard["labels"], sum(layout.labels)
    both = shard | {"labels": jnp.concatenate([first, count - 1 - first], axis=1)[:, :columns]}
    g = whole(both, graphs.GraphLayout((count,) * columns))
    assert g.ones is not None and g.x.shape[1] == columns * count
    layer = gin.SumDense(min(3, count - 1))
    params = layer.init(jax.random.key(0), g, g.x)

    def gradient(g):
        return jax.grad(lambda p: jnp.sum(jnp.sin(layer.apply(p, g, g.x))))(params)

    bare = g._replace(ones=None)
    assert error(layer.apply(params, g, g.x), layer.apply(params, bare, g.x)) < 1e-6
    assert tree_error(gradient(g), gradient(bare)) < 1e-5


# --- steps ------------------------------------------------------------------------------------------


def views_of(arrays, step, layout, shard, dtype=np.float32):
    g = cast(whole(shard, layout), dtype)
    aug = {k: arrays[f"{step}/aug/{k}"] for k in ("kept_nodes", "edges")}
    x = arrays.get(f"{step}/aug/x")
    return g, recorded_view(
        g, aug["kept_nodes"], aug["edges"], None if x is None else x.astype(dtype)
    )


def gradients(arrays, step):
    return from_torch({k: v for k, v in arrays.items() if "/grad/" in k}, f"{step}/grad/")[0]


@pytest.mark.parametrize("padding", [1.0, 2.0])
def test_a_step_in_single_precision(golden, padding):
    arrays = golden("graphcl/step")
    layout, shard = batch(arrays, padding=padding)
    method, optimizer, state = start(config(), layout, golden("graphcl/state"))
    state, metrics = make_update(method, optimizer)(state, views_of(arrays, "step0", layout, shard))
    assert abs(float(metrics["loss"]) - arrays["step0/loss"]) < 1e-4
    adam = state.opt_state[0]
    for ours, name in ((adam.mu, "adam_m"), (adam.nu, "adam_v")):
        theirs, _ = from_torch(arrays, f"step0/{name}/")
        assert tree_error(ours, theirs) < 1e-4
    ours = jax.tree.map(lambda m: m / 0.1, adam.mu)  # of the first step: (1 - beta1) g
    assert tree_error(ours, gradients(arrays, "step0")) < 1e-4


@pytest.mark.parametrize("way, rows", [("table", 1e-9), ("table", 1.0), ("list", 1.0)])
def test_two_steps_in_double_precision(golden, way, rows, monkeypatch):
    monkeypatch.setattr(graphcl, "VIEW_ROWS", rows)  # no view fits into one row, each into all
    inputs, arrays = golden("graphcl/step"), golden("graphcl/step_float64")
    with jax.enable_x64(True):
        layout, shard = batch(inputs)
        shard = to_list(shard) if way == "list" else shard
        method, optimizer, state = start(
            config(), layout, golden("graphcl/state"), dtype=np.float64
        )
        update = make_update(method, optimizer)
        for step in ("step0", "step1"):
            recorded = inputs | {k: v for k, v in arrays.items() if "/aug/" in k}
            state, metrics = update(state, views_of(recorded, step, layout, shard, np.float64))
            assert abs(float(metrics["loss"]) - arrays[f"{step}/loss"]) < 1e-10
            params, stats = from_torch(arrays, f"{step}/after/")
            assert tree_error(state.params, params) < 1e-7
            assert tree_error(state.extra["batch_stats"], stats) < 1e-7


def replay_halp(arrays, prototypes):
    """`halp_loss` of the recorded draws and prototypes."""
    selected, u = (jnp.asarray(arrays[f"step0/halp/{name}"]) for name in ("selected", "u"))

    def halp_loss(keys, queries, anchors, _, *, temperature, lam, **options):
        s, c = anchors @ prototypes.T, prototypes @ prototypes.T
        r = jax.vmap(lambda s: hallucinate.reach(s, s, c, "pairwise"))(s)
        place = jax.vmap(lambda *of: hallucinate.place_positives(*of[:2], c, *of[2:], "pairwise"))
        z = place(r, s, selected, 1 - lam + lam * u)
        toward = z.a * jnp.sum(queries * anchors, 1)[:, None]
        toward += z.b * jnp.take_along_axis(queries @ prototypes.T, z.selected, 1)
        total = jnp.sum(jnp.where(z.kept, toward, 0)) / jnp.sum(z.kept)
        return -total / temperature, {"t": jnp.sum(z.t), "kept": jnp.mean(z.kept)}

    return halp_loss


@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [("step_halp", np.float32, 1e-4), ("step_halp_float64", np.float64, 1e-10)],
)
def test_a_step_with_halp(golden, name, dtype, tolerance):
    inputs, arrays = golden("graphcl/step_halp"), golden(f"graphcl/{name}")
    with jax.enable_x64(dtype == np.float64):
        layout, shard = batch(inputs)
        halp_loss = replay_halp(arrays, jnp.asarray(inputs["prototypes"], dtype))
        method, optimizer, state = start(
            config("own+halp"), layout, golden("graphcl/state"), dtype=dtype, halp_loss=halp_loss
        )
        views = views_of(inputs, "step0", layout, shard, dtype)
        state, metrics = make_update(method, optimizer)(state, views)
        metrics = jax.tree.map(np.asarray, metrics)
        gradient = jax.tree.map(lambda m: m / 0.1, state.opt_state[0].mu)  # of the first step
        assert tree_error(gradient, gradients(arrays, "step0")) < tolerance
    assert abs(float(metrics["loss_halp"]) - arrays["step0/halp/loss"]) < tolerance
    assert abs(float(metrics["loss"]) - arrays["step0/loss_total"]) < tolerance
    assert error(metrics["t"], np.sum(arrays["step0/halp/t"])) < tolerance
    assert error(metrics["kept"], np.mean(arrays["step0/halp/kept"])) < 1e-6


def test_six_steps_of_mutag():
    if not TRAJECTORY.exists():
        pytest.skip("../shared/golden_graphcl is not here")
    arrays = dict(np.load(TRAJECTORY))
    dataset = tu.read(SHARED / "data" / "tu_MUTAG.zip")
    with jax.enable_x64(True):
        batches = graph_batches.make_batches(dataset, arrays["order"], 128)
        method, optimizer, state = start(
            config(), dataset.layout, arrays, "state/", dtype=np.float64
        )
        update = make_update(method, optimizer)
        for step in range(6):
            shard = {n: leaf[0] for n, leaf in batches[step % 2].items()}
            views = views_of(arrays, f"step{step}", dataset.layout, shard, np.float64)
            state, metrics = update(state, views)
            assert abs(float(metrics["loss"]) - arrays["losses_float64"][step]) < 1e-8, step
        encode = jax.jit(method.encode)
        found = [encode(state.params, state.extra, b)[0][b["graph_mask"][0]] for b in batches]
        assert error(np.concatenate(found), arrays["embedding_after_float64"]) < 1e-6


# --- HaLP -------------------------------------------------------------------------------------------


def pull(c, queries, anchors, there):
    """(loss, metrics) of HaLP with prototypes of these anchors."""
    term = halp.make_term(c, queries.shape[1], 0.2, 1)
    one = jax.vmap(
        lambda _: term.fresh(queries, anchors, there, jax.random.key(1), jnp.int32(0)),
        axis_name=base.AXIS,
    )
    return jax.tree.map(lambda leaf: leaf[0], jax.jit(one)(jnp.arange(1)))


@pytest.mark.parametrize("seed", range(5))
def test_points_for_prototypes_are_drawn_from_what_is_no_padding(seed):
    c = config("own+halp").halp
    c.prototypes, c.num_prototypes = "points", 20
    term = halp.make_term(c, 16, 0.2, 1, halp_loss=lambda *args, **_: (0.0, {"drawn": args[3]}))
    anchors = normalize(jax.random.normal(jax.random.key(0), (128, 16)))
    drawn = jax.vmap(
        lambda _: term.fresh(anchors, anchors, jnp.arange(128) < 24, jax.random.key(seed), 0),
        axis_name=base.AXIS,
    )(jnp.arange(1))[1]["drawn"][0]
    of = np.argmax(drawn @ anchors.T, axis=1)  # which anchor each prototype is
    np.testing.assert_allclose(drawn, anchors[of], atol=1e-6)
    assert len(set(of.tolist())) == 20 and of.max() < 24


def test_halp_of_fewer_anchors_than_prototypes_does_not_see_padding():
    """Each anchor is a prototype then."""
    c = config("own+halp").halp
    rows = normalize(jax.random.normal(jax.random.key(0), (2, 5, 16)))
    plain = pull(c, *rows, jnp.ones(5, bool))
    rows = jnp.pad(rows, ((0, 0), (0, 40), (0, 0)), constant_values=0.3)
    padded = pull(c, *rows, jnp.arange(45) < 5)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert plain[1]["prototypes_used"] == 5 and 0.5 < plain[1]["kept"] <= 1


def test_the_control_pulls_to_the_anchor_alone():
    c = config("own+halp", halp_lam=0.0, halp_draw="slide").halp
    queries, anchors = normalize(jax.random.normal(jax.random.key(0), (2, 30, 16)))
    there = jnp.arange(30) < 25
    loss, metrics = pull(c, queries, anchors, there)
    wanted = -0.5 * float(jnp.mean(jnp.sum(queries * anchors, 1)[:25])) / 0.2
    assert abs(float(loss) - wanted) < 1e-5 and abs(float(metrics["kept"]) - 1) < 1e-4
    assert 10 < metrics["prototypes_used"] <= 20


@pytest.mark.long
def test_a_bank_of_anchors_and_every_other_setting(golden):
    """Prototypes come a step after the bank is full; absent graphs are no part of it."""
    c = config("own+halp", graphcl_augmentation="random4", graphcl_prototypes="bank")
    c.graphcl.subgraph, c.graphcl.loops = "textbook", "all"
    c.train.batch_size, c.halp.queue_entries, c.halp.num_prototypes = 12, 24, 4
    arrays = golden("graphcl/encoder")
    dataset = dataset_of(arrays["x"], arrays["edges"], arrays["graph_of_node"])
    [shards] = graph_batches.make_batches(dataset, np.arange(len(dataset)), 12)
    spec = base.Spec(dataset.layout)
    graphcl.check_config(c, spec)
    state = methods.create_state(c, spec)
    step = jax.vmap(methods.make_train_step(c, spec), (None, 0), axis_name=base.AXIS, axis_size=1)
    step, losses = jax.jit(step), []
    for _ in range(4):
        state, metrics = step(state, jax.tree.map(lambda leaf: leaf[None], shards))
        state = jax.tree.map(lambda leaf: leaf[0], state)
        losses.append(metrics)
    assert [float(m["mu"][0]) for m in losses] == [0.0, 0.0, 0.0, 0.5]
    assert np.isfinite([float(m["loss"][0]) for m in losses]).all()
    bank = state.extra["bank"]
    assert int(bank.pushed) == 4 * 8  # of 12 rows
    np.testing.assert_allclose(np.linalg.norm(bank.keys, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(state.extra["prototypes"], axis=1), 1, rtol=1e-5)
