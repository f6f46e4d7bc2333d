"""GraphCL's training step in plain PyTorch: what a user would have without this project.

`random2` views in numpy, batches of concatenated edge lists, neighbours summed by index_add_, or by
GINConv of torch_geometric. tests/test_peers.py holds loss and gradients to the reference step.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TEMPERATURE = 0.2


class Graph(NamedTuple):
    edges: np.ndarray  # [2, edges], loops on all nodes but the last
    x: np.ndarray  # [nodes, features]


class Batch(NamedTuple):
    x: Tensor
    edges: Tensor
    owner: Tensor  # of each node
    count: int  # graphs


def from_dataset(dataset) -> list[Graph]:
    one_hot = np.eye(dataset.layout.num_features, dtype=np.float32)[dataset.node_labels[:, 0]]
    found = []
    for i, (first, end) in enumerate(
        zip(dataset.first_node[:-1], dataset.first_node[1:], strict=True)
    ):
        edges = dataset.edges[dataset.first_edge[i] : dataset.first_edge[i + 1]].T - first
        loops = np.arange(edges.max())
        found.append(Graph(np.concatenate([edges, [loops, loops]], 1), one_hot[first:end]))
    return found


def draw_view(graph: Graph, rng: np.random.Generator) -> Graph:
    """A tenth of the nodes gone, or a node and some of its neighbours; then no loops, no lone nodes."""
    (source, target), count = graph.edges, len(graph.x)
    if rng.random() < 0.5:
        kept = np.ones(count, bool)
        kept[rng.choice(count, count // 10, replace=False)] = False
    else:
        kept, start = np.zeros(count, bool), rng.integers(count)
        near = np.setdiff1d(target[source == start], start)
        kept[start] = True
        kept[rng.permutation(near)[: count // 5]] = True
    return keep(graph, kept)


def keep(graph: Graph, kept: np.ndarray) -> Graph:
    edges = graph.edges[:, kept[graph.edges].all(0)]
    there = np.zeros(len(graph.x), bool)
    there[edges] = True
    return Graph((np.cumsum(there) - 1)[edges[:, edges[0] != edges[1]]], graph.x[there])


def collate(graphs: list[Graph]) -> Batch:
    sizes = np.array([len(graph.x) for graph in graphs])
    first = np.cumsum(sizes) - sizes
    edges = np.concatenate([graph.edges + n for graph, n in zip(graphs, first, strict=True)], 1)
    x = np.concatenate([graph.x for graph in graphs])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    arrays = (torch.from_numpy(array).to(device) for array in (x, edges, owner))
    return Batch(*arrays, len(graphs))


class GIN(nn.Module):
    def __init__(self, inputs: int, width: int = 32, layers: int = 3, pyg: bool = False):
        super().__init__()
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width if i else inputs, width), nn.ReLU(), nn.Linear(width, width)
            )
            for i in range(layers)
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(layers))
        size = layers * width
        self.head = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, size))
        self.convs = [None] * layers
        if pyg:
            from torch_geometric.nn import GINConv

            self.convs = nn.ModuleList(map(GINConv, self.mlps))

    def forward(self, batch: Batch) -> Tensor:
        x, pooled = batch.x, []
        for mlp, norm, conv in zip(self.mlps, self.norms, self.convs, strict=True):
            if conv is None:
                source, target = batch.edges
                x = mlp(x + torch.zeros_like(x).index_add_(0, target, x[source]))
            else:
                x = conv(x, batch.edges)
            x = norm(F.relu(x))
            pooled.append(x.new_zeros(batch.count, x.shape[1]).index_add_(0, batch.owner, x))
        return self.head(torch.cat(pooled, 1))


def nt_xent(anchors: Tensor, others: Tensor) -> Tensor:
    """One-sided, the positive not among the others."""
    s = torch.exp(F.normalize(anchors, dim=1) @ F.normalize(others, dim=1).T / TEMPERATURE)
    positive = s.diagonal()
    return -torch.log(positive / (s.sum(1) - positive)).mean()


class Peer:
    """Trains; `epoch` goes through all batches once. The first views never change: made once."""

    def __init__(self, graphs: list[Graph], order: np.ndarray, batch_size: int, pyg: bool = False):
        torch.manual_seed(0)
        self.rng, self.encoder = np.random.default_rng(0), GIN(graphs[0].x.shape[1], pyg=pyg)
        if torch.cuda.is_available():
            self.encoder.cuda()
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), lr=0.01)
        chosen = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        self.groups = [[graphs[n] for n in numbers] for numbers in chosen]
        self.whole = [collate(group) for group in self.groups]

    def epoch(self) -> None:
        for group, whole in zip(self.groups, self.whole, strict=True):
            view = collate([draw_view(graph, self.rng) for graph in group])
            self.optimizer.zero_grad()
            nt_xent(self.encoder(whole), self.encoder(view)).backward()
            self.optimizer.step()
