"""The peers of the benchmarks compute what we compute: same weights and views, same losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _aimclr import compare
from _released import config, from_torch, relative_error
from _steps import change, create_state, run_update, views_of

from benchmarks._numpy_kmeans import riemannian_kmeans
from halp_jax.core import hallucinate
from halp_jax.core.sphere import similarities
from halp_jax.encoders import stgcn
from halp_jax.skeletons.layout import NTU25

STREAMS = {"baseline": ("joint",), "cmd": ("joint", "motion", "bone")}


@pytest.fixture(scope="module")
def torch():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)  # tests share the cores, and torch's threads wait for one another
    return torch


@pytest.fixture(scope="module")
def peers(torch):
    from benchmarks import _torch_peers

    return _torch_peers


def make_config(method):
    c = config(streams=STREAMS[method])
    c.cmd.nu, c.cmd.topk = float(method == "cmd"), 32
    c.views.num_frames = 12
    # Plain gradient descent at a rate of one: the difference of the parameters is the gradient.
    c.optim.learning_rate, c.optim.momentum, c.optim.weight_decay = 1.0, 0.0, 0.0
    return c


def make_views(c):
    rng = np.random.default_rng(0)
    shape = (len(c.streams), c.train.batch_size, c.views.num_frames, 150)
    return [rng.normal(size=shape).astype(np.float32) for _ in range(2)]


def our_step(c, state, x_q, x_k):
    """-> losses and gradients [streams, ...] of our update."""
    after, metrics = run_update(c, state, views_of(x_q, x_k))
    return metrics, jax.tree.map(lambda a, b: a - b, state.params, after.params)


def torch_names(encoder):
    """The peer's arrays under the names of the released code."""
    arrays = {}
    for name, value in encoder.items():
        first, *rest = name.split(".")
        if first == "layers":  # layers.0.1.weight_ih_l0: layer 0, second stream
            layer, stream, kind = rest
            name = f"encoder.gru.{kind[:-1]}{layer}{'_reverse' if stream == '1' else ''}"
        elif first == "head":
            name = ".".join(["fc", *rest])
        elif first == "gru":
            name = f"encoder.{name}"
        arrays[name] = value
    return arrays


def make_peer(torch, peers, recurrence, c, state):
    """A peer with our state's weights: our arrays are put where `from_torch` would find them."""
    peer = peers.Peer(
        recurrence,
        streams=len(c.streams),
        width=c.encoder.width,
        queue_size=c.moco.queue_size,
    )
    with torch.no_grad():
        for modules, params in ((peer.query, state.params), (peer.key, state.extra["key_params"])):
            for i, encoder in enumerate(modules):
                ours = jax.tree.map(lambda x, i=i: np.asarray(x[i]), params)
                for name, target in torch_names(dict(encoder.named_parameters())).items():
                    target.copy_(torch.from_numpy(pick(ours, name).copy()))
        peer.queue.copy_(torch.from_numpy(np.array(state.extra["queue"].keys)))
    return peer


def pick(params, name):
    """One array of ours in torch's layout, by its released name."""
    parts = name.split(".")
    if parts[0] == "input_norm":
        return params["input_norm"]["scale" if parts[1] == "weight" else "bias"]
    if parts[0] == "fc":
        dense = params["head"]["hidden" if parts[1] == "0" else "out"]
        return dense["kernel"].T if parts[2] == "weight" else dense["bias"]
    kind, matrix, place, *reverse = parts[-1].split("_")
    array = params[f"layer{place[1:]}"][f"{kind[0]}_{matrix}"][len(reverse)]
    return array.T


@pytest.mark.parametrize("method", STREAMS)
@pytest.mark.parametrize("recurrence", ["loop", "sequence"])
def test_loss_and_gradients_of_a_step(torch, peers, recurrence, method):
    c = make_config(method)
    state = create_state(c)
    # The key encoder must not be the query's: then the order of a step would not show.
    key_params = jax.tree.map(lambda x: 0.9 * x, state.extra["key_params"])
    state = change(state, key_params=key_params)
    x_q, x_k = make_views(c)
    metrics, ours = our_step(c, state, x_q, x_k)

    peer = make_peer(torch, peers, recurrence, c, state)
    settings = peers.Settings(nu=c.cmd.nu, topk=c.cmd.topk)
    views = (torch.from_numpy(x) for x in (x_q, x_k))
    loss, terms, _ = peers.compute_loss(peer, *views, settings)
    loss.backward()

    streams = len(c.streams)
    assert relative_error(streams * metrics["loss_cl"], terms["loss_cl"].item()) < 1e-4
    assert relative_error(metrics["loss"], loss.item()) < 1e-4
    if method == "cmd":
        assert relative_error(metrics["loss_cmd"], terms["loss_cmd"].item()) < 1e-4
    for i, encoder in enumerate(peer.query):
        gradients = {n: p.grad.numpy() for n, p in encoder.named_parameters()}
        theirs, _ = from_torch(torch_names(gradients), "")
        mine = jax.tree.map(lambda x, i=i: x[i], ours)
        assert len(jax.tree.leaves(theirs)) == len(jax.tree.leaves(mine)) == 18
        errors = jax.tree.map(relative_error, mine, theirs)
        assert max(jax.tree.leaves(errors)) < 1e-4, errors


@pytest.mark.parametrize(("name", "neighbours"), [("step_aimclr", 0), ("step_nnm", 1)])
def test_the_aimclr_peer_is_the_released_step(torch, golden, name, neighbours):
    from benchmarks import _torch_stgcn

    state, inputs, reference = (golden(f"aimclr/{n}") for n in ("state", "inputs", name))
    shares = torch.from_numpy(stgcn.make_adjacency(NTU25.parents))
    encoder = _torch_stgcn.STGCN(shares, 4, 32, 16, dropout=0.0)
    peer = _torch_stgcn.Peer(encoder, torch.from_numpy(state["queue"].T.copy()))
    for which, module in (("encoder_q.", peer.query), ("encoder_k.", peer.key)):
        arrays = {k.removeprefix(which): v for k, v in state.items() if k.startswith(which)}
        module.load_state_dict({k: torch.from_numpy(v) for k, v in arrays.items()}, strict=False)
        assert set(dict(module.named_parameters())) <= set(arrays)
    views = (torch.from_numpy(inputs[n]) for n in ("im_q_extreme", "im_q", "im_k"))
    losses, keys = peer.compute_loss(*views, neighbours)
    names = ("loss_contrast", "loss_d3m_extreme", "loss_d3m_extreme_drop")
    for ours, name in zip(losses, names, strict=True):
        assert relative_error(ours.item(), reference[name]) < 1e-4, name
    assert relative_error(keys.numpy(), reference["k"]) < 1e-4
    (losses.contrast + (losses.extreme + losses.dropped) / 2).backward()
    gradients = {f"encoder_q.{n}": p.grad.numpy() for n, p in encoder.named_parameters()}
    compare(gradients, reference, "grad/", 1e-3)


def test_the_graphcl_peer_is_the_released_step(torch, golden):
    from benchmarks import _torch_gin

    arrays = golden("graphcl/step")

    def own(name):
        for theirs, mine in (("encoder.convs", "mlps"), (".nn.", "."), ("encoder.bns", "norms")):
            name = name.replace(theirs, mine)
        return name.replace("proj_head", "head")

    def batch(prefix):
        x, edges, owner = (
            torch.from_numpy(arrays[prefix + n]) for n in ("x", "edges", "graph_of_node")
        )
        return _torch_gin.Batch(x, edges, owner, 8)

    encoder = _torch_gin.GIN(7)
    state = {own(n): torch.from_numpy(v) for n, v in golden("graphcl/state").items()}
    encoder.load_state_dict({n: v for n, v in state.items() if not n.endswith("eps")})
    loss = _torch_gin.nt_xent(encoder(batch("input/")), encoder(batch("step0/aug/")))
    loss.backward()
    assert abs(loss.item() - arrays["step0/loss"]) < 1e-4
    gradients = {n: p.grad.numpy() for n, p in encoder.named_parameters()}
    wanted = {own(n.removeprefix("step0/grad/")): v for n, v in arrays.items() if "0/grad/" in n}
    assert gradients.keys() == wanted.keys()
    assert max(relative_error(gradients[n], wanted[n]) for n in wanted) < 1e-4


def test_the_graphcl_peers_views_are_those_of_their_draws():
    pytest.importorskip("torch")
    from benchmarks import _torch_gin

    # A ring of twenty with loops on all but the last: sizes of a view are known.
    ends = np.arange(20)
    edges = np.concatenate([[ends, np.roll(ends, 1)], [np.roll(ends, 1), ends]], 1)
    graph = _torch_gin.Graph(np.concatenate([edges, [ends[:-1]] * 2], 1), np.eye(20))
    rng = np.random.default_rng(0)
    views = [_torch_gin.draw_view(graph, rng) for _ in range(50)]
    # A node and its two neighbours, or two nodes gone, and one that these leave alone.
    assert {3, 18} <= {len(view.x) for view in views} <= {3, 17, 18}
    for view in views:
        place = np.argmax(view.x, axis=1)
        apart = np.abs(np.diff(place[view.edges], axis=0))
        assert np.all(np.isin(apart, (1, 19)))  # neighbours still, and no loop


def test_halp_of_the_same_draws(torch, peers):
    rng = np.random.default_rng(0)
    shapes = [(8, 16), (8, 16), (5, 16)]
    q, k, prototypes = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    q, k, prototypes = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, k, prototypes))
    keys = jax.random.split(jax.random.key(0), 8)
    z_k, p = jnp.asarray(k), jnp.asarray(prototypes)
    s, c = similarities(z_k, p), similarities(p, p)
    reach, z = jax.vmap(lambda key, s: hallucinate.hallucinate(key, s, s, c, num_positives=10))(
        keys, s
    )

    def loss(q):
        return hallucinate.halp_loss(keys, q, z_k, p, temperature=0.07, num_positives=10)[0]

    ours, gradient = jax.value_and_grad(loss)(jnp.asarray(q))
    share = z.t / jnp.take_along_axis(reach.t_star, z.selected, axis=1)
    draws = [torch.from_numpy(np.array(x)) for x in (z.selected, share)]
    settings = peers.Settings(num_positives=10)
    q_torch = torch.from_numpy(q).requires_grad_()
    rest = (torch.from_numpy(x) for x in (k, prototypes))
    theirs = peers.halp_loss(q_torch, *rest, settings, (draws[0].long(), draws[1]))
    theirs.backward()
    assert 0.5 < float(jnp.mean(z.kept)) < 1.0  # the rank filter has something to do
    assert relative_error(ours, theirs.item()) < 1e-4
    assert relative_error(gradient, q_torch.grad.numpy()) < 1e-4


@pytest.mark.parametrize("mu, nu", [(2.0, 0.0), (2.0, 1.0)])
def test_a_step_moves_queue_prototypes_and_both_encoders(torch, peers, mu, nu):
    torch.manual_seed(0)
    sizes = {"width": 8, "num_layers": 2, "dim": 16, "queue_size": 64, "num_prototypes": 4}
    peer = peers.Peer("sequence", streams=3, **sizes)
    optimizer = peers.make_optimizer(peer)
    settings = peers.Settings(mu=mu, nu=nu, queue_entries=16, num_positives=5, topk=8)
    before = {name: value.clone() for name, value in peer.state_dict().items()}
    rng = np.random.default_rng(0)

    def cluster(points, count):
        assert points.shape == (16, 16)
        # The newest keys come last: those of this step.
        newest.append(points[-8:])
        return riemannian_kmeans(points, count, rng)[0]

    newest = []
    views = torch.randn(2, 3, 8, 6, 150)
    assert np.isfinite(peers.train_step(peer, optimizer, *views, settings, cluster))
    after = peer.state_dict()
    assert all(not torch.equal(before[n], after[n]) for n in ("queue", "prototypes"))
    np.testing.assert_array_equal(newest[2], peer.queue[2, :8].numpy())
    assert torch.equal(before["queue"][:, 8:], after["queue"][:, 8:])
    moved = [n for n in before if n.startswith("query") and not torch.equal(before[n], after[n])]
    assert len(moved) == len([n for n in before if n.startswith("query")])
    assert peer.head == 8


@pytest.mark.parametrize("case", ["clustered/given", "uniform/given"])
def test_numpy_kmeans_is_the_released_one(golden, case):
    arrays = golden("kmeans")
    points, start = arrays[case.split("/")[0] + "/X"], arrays[f"{case}/init_centroids"]
    rng = np.random.default_rng(0)
    centroids, labels, _ = riemannian_kmeans(points, 20, rng, start=start)
    np.testing.assert_array_equal(labels, arrays[f"{case}/labels"])
    np.testing.assert_allclose(centroids, arrays[f"{case}/centroids"], atol=1e-5)
