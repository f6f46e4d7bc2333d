"""GraphCL's augmentations (You et al., NeurIPS 2020; the released unsupervised_TU/aug.py).

A view is the same padded graphs under other masks. Drawn on the device, from a key for each graph:

    drop_nodes     a tenth of the nodes go, with their edges
    permute_edges  a tenth of the edges go, loops among them; none come, as released
    subgraph       a start node and up to a fifth of the nodes: random neighbours of it (released: it
                   never goes further), or grown by random neighbours of all it has (textbook)
    mask_nodes     a tenth of the nodes get features ~ N(0.5, 0.5)

Then nodes without any edge, a loop counting as one, go; and so do the loops.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt32

from halp_jax.encoders.gin import Graphs
from halp_jax.methods.base import Batch, sample_keys

DROP, EDGES, SUBGRAPH, MASK = KINDS = ("drop_nodes", "permute_edges", "subgraph", "mask_nodes")
# One of them is drawn for each graph.
AUGMENTATIONS = {kind: (kind,) for kind in KINDS} | {
    "random2": (DROP, SUBGRAPH), "random3": (DROP, EDGES, SUBGRAPH), "random4": KINDS,
}  # fmt: skip
SUBGRAPHS = ("released", "textbook")
LOOPS = ("released", "all", "none")


def whole(shard: Batch, layout: Any, loops: str) -> Graphs:
    """The graphs of one shard of a batch as they are, with loops.

    Args:
        layout: GraphLayout of the data set.
        loops: "released" gives one to every node but the last, in this view alone; "all" to every
            node in both views; "none" to none.
    """
    columns = [
        jax.nn.one_hot(shard["labels"][:, i], count, dtype=shard["attributes"].dtype)
        for i, count in enumerate(layout.labels)
    ]
    begin = np.cumsum((0, *layout.labels[:-1]), dtype=np.int32)
    bare = layout.labels and not shard["attributes"].shape[1]
    there = {"released": shard["looped"], "all": shard["node_mask"]}
    given = {name: shard[name] for name in Graphs._fields if name in shard}
    return Graphs(
        x=jnp.concatenate([*columns, shard["attributes"]], axis=1), nodes=shard["node_mask"],
        edges=None, loops=there.get(loops, jnp.zeros_like(shard["looped"])),
        graphs=shard["graph_mask"], ones=shard["labels"] + begin if bare else None, **given,
    )  # fmt: skip


def augment(
    key: Key[Array, ""], shard: Batch, g: Graphs, kinds: tuple[str, ...], subgraph: str, loops: str
) -> Graphs:
    """One of `kinds` for each graph, drawn at random. `g`: of `whole`."""
    sizes, owner, place = shard["num_nodes"], g.graph_of_node, shard["place_in_graph"]
    first = jnp.cumsum(sizes) - sizes
    keys = sample_keys(key, len(sizes))
    which, begin = jax.vmap(lambda k: jax.random.uniform(k, (2,)), out_axes=1)(keys)
    choice = jnp.minimum((which * len(kinds)).astype(jnp.int32), len(kinds) - 1)

    def of(kind):  # the graphs, and the nodes, that this one is for
        mine = choice == kinds.index(kind)
        return mine, mine[owner]

    nodes = g.nodes
    bits = draw_bits(keys, 0, owner, place)
    eligible, take = nodes, sizes // 10
    if SUBGRAPH in kinds:
        mine, walks = of(SUBGRAPH)
        at = first + jnp.minimum((begin * sizes).astype(jnp.int32), jnp.maximum(sizes - 1, 0))
        start = jnp.zeros_like(nodes).at[at].max(g.graphs)
        if subgraph == "released":
            near, most = reached(g, start)[0] & ~start, sizes // 5
        else:
            near, most = grow(keys, shard, g, start), sizes
        eligible, take = jnp.where(walks, near, nodes), jnp.where(mine, most, take)
    picked = eligible & (rank(bits, eligible, owner, first) < take[owner])
    x, edges, looped = g.x, None, g.loops
    if SUBGRAPH in kinds:
        nodes = jnp.where(walks, picked | start, nodes)
    if DROP in kinds:
        nodes = nodes & ~(of(DROP)[1] & picked)
    if MASK in kinds:
        number = jax.vmap(jax.random.fold_in, (0, None))(keys, MASK_DRAW)[owner]
        normal = jax.vmap(lambda k, i: jax.random.normal(jax.random.fold_in(k, i), x.shape[1:]))
        masked = (of(MASK)[1] & picked)[:, None]
        x = jnp.where(masked, 0.5 + 0.5 * normal(number, place).astype(x.dtype), x)
        g = g._replace(ones=None)
    if EDGES in kinds:
        edges, looped = permute_edges(keys, shard, g, of(EDGES)[0])
    return keep(g, x, nodes, edges, looped, loops)


EDGE_DRAW, LOOP_DRAW, MASK_DRAW, GROW_DRAW = 1, 2, 3, 4  # which bits of a graph's key; nodes: 0


def draw_bits(
    keys: Key[Array, " graphs"], number: Any, owner: Int[Array, " n"], place: Int[Array, " n"]
) -> UInt32[Array, " n"]:
    """Random bits for nodes or edges: of their graph's key, `number` and their place in the graph.

    So neither padding nor the number of devices changes a draw.
    """
    keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
    return jax.vmap(lambda k, i: jax.random.bits(jax.random.fold_in(k, i), (), "uint32"))(
        keys[owner], place
    )


def rank(
    bits: UInt32[Array, " n"],
    eligible: Bool[Array, " n"],
    owner: Int[Array, " n"],
    first: Int[Array, " graphs"],
) -> Int[Array, " n"]:
    """The place of each among those of its graph in the order of `bits`, the eligible ones first."""
    numbers = jnp.arange(len(bits), dtype=jnp.int32)
    _, _, order = jax.lax.sort((2 * owner + ~eligible, bits, numbers), num_keys=2)
    return jnp.zeros_like(numbers).at[order].set(numbers - first[owner[order]])


def reached(
    g: Graphs, nodes: Bool[Array, " nodes"]
) -> tuple[Bool[Array, " nodes"], Bool[Array, " nodes"]]:
    """(nodes with an edge from `nodes`, nodes with an edge to them), over edges that are there."""

    def there(numbers):
        return True if g.edges is None else g.edges[numbers]

    def reach(table, numbers, tails, heads):
        near = jnp.any(nodes[table] & there(numbers), axis=1)
        return near.at[heads[g.late]].max(nodes[tails[g.late]] & there(g.late))

    into = reach(g.sources, g.edges_in, g.senders, g.receivers)
    return into, reach(g.targets, g.edges_out, g.receivers, g.senders)


def grow(
    keys: Key[Array, " graphs"], shard: Batch, g: Graphs, start: Bool[Array, " nodes"]
) -> Bool[Array, " nodes"]:
    """What joins `start`: a fifth of the nodes, one by one, each a random neighbour of all so far."""
    owner, place = g.graph_of_node, shard["place_in_graph"]
    last = jnp.uint32(2**32 - 1)

    def more(carry):
        step, _, going = carry
        return going & (step < jnp.max(shard["num_nodes"] // 5))

    def add(carry):
        step, inside, _ = carry
        near = reached(g, inside)[0] & ~inside & g.nodes
        near &= (step < shard["num_nodes"] // 5)[owner]
        bits = jnp.where(near, draw_bits(keys, GROW_DRAW + step, owner, place), last)
        least = jax.ops.segment_min(bits, owner, len(g.graphs), indices_are_sorted=True)
        return step + 1, inside | (near & (bits == least[owner])), jnp.any(near)

    return jax.lax.while_loop(more, add, (0, start, jnp.array(True)))[1] & ~start


def permute_edges(
    keys: Key[Array, " graphs"], shard: Batch, g: Graphs, mine: Bool[Array, " graphs"]
) -> tuple[Bool[Array, " edges"], Bool[Array, " nodes"]]:
    """(edges, loops) that stay: of the graphs `mine` all but a tenth of both together."""
    owner = g.graph_of_node[g.receivers]
    counts = shard["num_edges"]
    place = jnp.arange(len(owner)) - (jnp.cumsum(counts) - counts)[owner]
    bits = jnp.concatenate([
        draw_bits(keys, EDGE_DRAW, owner, place),
        draw_bits(keys, LOOP_DRAW, g.graph_of_node, shard["place_in_graph"]),
    ])  # fmt: skip
    eligible = jnp.concatenate([shard["edge_mask"], g.loops])
    owners, both = jnp.concatenate([owner, g.graph_of_node]), counts + shard["num_nodes"]
    loops = jax.ops.segment_sum(g.loops.astype(jnp.int32), g.graph_of_node, len(mine))
    take = jnp.where(mine, (counts + loops) // 10, 0)
    gone = rank(bits, eligible, owners, jnp.cumsum(both) - both) < take[owners]
    left = eligible & ~gone
    return left[: len(owner)], left[len(owner) :]


def keep(
    g: Graphs,
    x: Float[Array, "nodes features"],
    nodes: Bool[Array, " nodes"],
    edges: Bool[Array, " edges"] | None,
    looped: Bool[Array, " nodes"],
    loops: str,
) -> Graphs:
    """The view that holds these nodes, and of the edges between them those in `edges` (None: all)."""
    view = g._replace(x=x, nodes=nodes, edges=edges)
    into, out = reached(view, nodes)
    nodes = nodes & (looped | into | out)
    return view._replace(nodes=nodes, loops=nodes if loops == "all" else jnp.zeros_like(nodes))


def compact(g: Graphs, rows: int) -> Graphs:
    """The same in fewer rows: the nodes that are there, which must be fewer than `rows`, and spare ones."""
    order = jnp.nonzero(g.nodes, size=rows, fill_value=len(g.nodes) - 1)[0]
    spare = rows - 1  # of the nodes that are not there
    place = jnp.full(len(g.nodes), spare).at[order].set(jnp.arange(rows)).at[-1].set(spare)
    return g._replace(
        x=g.x[order], nodes=g.nodes[order], loops=g.loops[order], graph_of_node=g.graph_of_node[order],
        senders=place[g.senders], receivers=place[g.receivers], sources=place[g.sources[order]],
        targets=place[g.targets[order]], edges_in=g.edges_in[order], edges_out=g.edges_out[order],
        ones=None if g.ones is None else g.ones[order],
    )  # fmt: skip
