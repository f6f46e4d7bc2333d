"""GIN (Xu et al., ICLR 2019) as GraphCL's released code builds it (unsupervised_TU/gin.py).

    h = W2 relu(W1 (x_i + sum_j x_j));  x = BN(relu(h))        three times, 32 wide
    features = the sums over each graph of all three x, side by side

Graphs are padded (`datasets.graph_batches`); what is not there counts nowhere.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float, Int

from halp_jax.encoders.norm import BatchNorm
from halp_jax.encoders.temporal import compute_once

FULL = {"precision": "highest", "kernel_init": nn.initializers.xavier_uniform()}  # in float32


class Graphs(NamedTuple):
    """A shard of a batch, or a view of it: the same arrays under other masks."""

    x: Float[Array, "nodes features"]
    nodes: Bool[Array, " nodes"]  # those that are there
    loops: Bool[Array, " nodes"]  # those with a self loop
    edges: Bool[Array, " edges"] | None  # those that are there; None: all between nodes that are
    graphs: Bool[Array, " graphs"]  # those that are there
    graph_of_node: Int[Array, " nodes"]  # rising
    senders: Int[Array, " edges"]
    receivers: Int[Array, " edges"]  # rising
    sources: Int[Array, "nodes columns"]  # tables of neighbours in ...
    targets: Int[Array, "nodes columns"]  # ... and out
    edges_in: Int[Array, "nodes columns"]  # the edges to them
    edges_out: Int[Array, "nodes columns"]
    late: Int[Array, " late"]  # edges that are in neither table
    ones: Int[Array, "nodes columns"] | None = None  # where the ones of x are, if all else is 0


def sum_neighbours(g: Graphs, x: Float[Array, "nodes width"]) -> Float[Array, "nodes width"]:
    """The sum over each node's incoming edges of the x that they come from; loops apart."""
    x = x * g.nodes[:, None]
    there = (None, None) if g.edges is None else (g.edges[g.edges_in], g.edges[g.edges_out])
    total = _sum_table(x, g.sources, g.targets, *there)
    if len(g.late):  # of nodes with many neighbours
        sent = x[g.senders[g.late]]
        sent = sent if g.edges is None else sent * g.edges[g.late][:, None]
        total += jax.ops.segment_sum(sent, g.receivers[g.late], len(x))
    return total * g.nodes[:, None]


@jax.custom_vjp
def _sum_table(x, sources, targets, into, out):
    """sum_k into[:, k] x[sources[:, k]]. Its gradient is the same sum over the other table.

    What autodiff would make of it, additions at given places, is many times slower on a CPU.
    """
    total = jnp.zeros_like(x)
    for k in range(sources.shape[1]):  # fused to one pass; x[sources] would be written to memory
        near = x[sources[:, k]]
        total += near if into is None else near * into[:, k, None]
    return total


def _sum_table_forward(x, *tables):
    return _sum_table(x, *tables), tables


def _sum_table_backward(tables, cotangent):
    sources, targets, into, out = tables
    return _sum_table(cotangent, targets, sources, out, into), None, None, None, None


_sum_table.defvjp(_sum_table_forward, _sum_table_backward)


class SumDense(nn.Module):
    """A linear layer of the sum over a node and its neighbours."""

    width: int

    @nn.compact
    def __call__(self, g: Graphs, x: Float[Array, "nodes inputs"]) -> Float[Array, "nodes width"]:
        inputs = x.shape[1]
        kernel = self.param("kernel", FULL["kernel_init"], (inputs, self.width))
        bias = self.param("bias", nn.initializers.zeros, (self.width,))

        def multiply(x):
            return jnp.matmul(x, kernel, precision=FULL["precision"])

        def add_up(x):
            return x + x * g.loops[:, None] + sum_neighbours(g, x)

        if inputs <= self.width:
            return multiply(add_up(x)) + bias
        # The sum takes longer than the product: it is of whichever is narrower.
        y = multiply(x) if g.ones is None else jnp.sum(kernel[g.ones], axis=1)
        return add_up(compute_once(y)) + bias


class GIN(nn.Module):
    """Encoder and projection head. Graphs -> (embedding, not normalised; features), [graphs, L w]."""

    width: int = 32
    num_layers: int = 3
    axis_name: str | None = None  # mapped axis whose batches count as one

    @property
    def num_features(self) -> int:
        return self.width * self.num_layers

    @nn.compact
    def __call__(self, g: Graphs, train: bool) -> tuple[Array, Array]:
        x, pooled = g.x, []
        for layer in range(self.num_layers):
            x = nn.relu(SumDense(self.width, name=f"layer{layer}_in")(g, x))
            x = nn.relu(nn.Dense(self.width, name=f"layer{layer}_out", **FULL)(x))
            norm = BatchNorm(axis_name=self.axis_name, name=f"layer{layer}_norm")
            x = norm(x, train, g.nodes)
            kept = x * g.nodes[:, None]
            pooled.append(
                jax.ops.segment_sum(kept, g.graph_of_node, len(g.graphs), indices_are_sorted=True)
            )
        features = jnp.concatenate(pooled, axis=1)
        hidden = nn.relu(nn.Dense(self.num_features, name="hidden", **FULL)(features))
        return nn.Dense(self.num_features, name="out", **FULL)(hidden), features

    def count_flops(self, nodes: float, graphs: int, inputs: int) -> float:
        """Model FLOPs of one forward pass, without the sums over neighbours."""
        w, f = self.width, self.num_features
        per_node = 2 * w * inputs + 2 * w * w * (2 * self.num_layers - 1)
        return float(nodes * per_node + graphs * 4 * f * f)


def make_encoder(config: ml_collections.ConfigDict, axis_name: str | None = None) -> GIN:
    return GIN(config.encoder.width, config.encoder.num_layers, axis_name)
