"""AimCLR's training step in plain PyTorch: what a user would have without this project.

Modules bear the names that the released checkpoints have, so tests/test_peers.py loads the reference state
and holds losses and gradients to the reference step.
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS, STRIDES = (1, 1, 1, 1, 2, 2, 2, 4, 4), (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)


class Graph(nn.Module):
    """A 1x1 convolution to three maps, each summed over its part of the neighbours."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, 3 * outputs, 1)

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        parts = self.conv(x).unflatten(1, (3, -1))
        return torch.einsum("rpctv,pvw->rctw", parts, shares)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, skip: bool, dropout: float):
        super().__init__()
        self.gcn = Graph(inputs, outputs)
        self.tcn = nn.Sequential(
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, (9, 1), (stride, 1), (4, 0)),
            nn.BatchNorm2d(outputs),
            nn.Dropout(dropout),
        )
        self.skip, self.residual = skip, None
        if skip and (inputs, stride) != (outputs, 1):
            conv = nn.Conv2d(inputs, outputs, 1, (stride, 1))
            self.residual = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor, shares: Tensor) -> Tensor:
        y = self.tcn(self.gcn(x, shares))
        if self.skip:
            y = y + (x if self.residual is None else self.residual(x))
        return F.relu(y)


class STGCN(nn.Module):
    """Clips [batch, xyz, time, joints, bodies] -> embeddings, and those of the dropped map on demand."""

    def __init__(self, shares: Tensor, width=16, last=256, dim=128, dropout=0.5):
        super().__init__()
        joints = shares.shape[1]
        self.register_buffer("A", shares)
        self.data_bn = nn.BatchNorm1d(3 * joints)
        sizes = [3, *(width * k for k in WIDTHS), last]
        self.st_gcn_networks = nn.ModuleList(
            Block(sizes[i], sizes[i + 1], STRIDES[i], i > 0, dropout if i else 0.0)
            for i in range(10)
        )
        self.edge_importance = nn.ParameterList(torch.ones_like(shares) for _ in range(10))
        self.fc = nn.Sequential(nn.Linear(last, last), nn.ReLU(), nn.Linear(last, dim))

    def forward(self, x: Tensor, drop: float = 0.0) -> tuple[Tensor, ...]:
        batch, _, time, joints, bodies = x.shape
        x = x.permute(0, 4, 3, 1, 2).reshape(batch * bodies, joints * 3, time)
        x = self.data_bn(x).reshape(-1, joints, 3, time).permute(0, 2, 3, 1)
        for block, edges in zip(self.st_gcn_networks, self.edge_importance, strict=True):
            x = block(x, self.A * edges)
        maps = (x, drop_by_attention(x, drop)) if drop else (x,)
        return tuple(
            F.normalize(self.fc(m.mean((2, 3)).reshape(batch, bodies, -1).mean(1))) for m in maps
        )


def drop_by_attention(x: Tensor, threshold: float) -> Tensor:
    """The map [rows, channels, time, joints] without what stands out most, scaled up by the shares kept."""
    with torch.no_grad():
        square = (x - x.mean((2, 3), keepdim=True)).square()
        spread = square.sum((2, 3), keepdim=True) / (x[0, 0].numel() - 1)
        attention = torch.sigmoid(square / (4 * (spread + 1e-4)) + 0.5)
        joint = (attention.mean((1, 2)) < threshold)[:, None, None].float()
        point = (attention < threshold).float()
    return x * (joint / joint.mean()) * (point / point.mean())


class Losses(NamedTuple):
    contrast: Tensor
    extreme: Tensor
    dropped: Tensor


class Peer:
    def __init__(self, encoder: STGCN, queue: Tensor, rate: float = 0.1):
        self.query, self.queue, self.head = encoder, queue, 0
        self.key = copy.deepcopy(encoder).requires_grad_(False)
        self.optimizer = torch.optim.SGD(encoder.parameters(), rate, 0.9, weight_decay=1e-4)

    def compute_loss(
        self, extreme: Tensor, x_q: Tensor, x_k: Tensor, neighbours: int
    ) -> tuple[Losses, Tensor]:
        """Moves the key encoder; `neighbours` of each view are positives, 0 before mining. -> losses, keys."""
        (q,), views = self.query(x_q), self.query(extreme, 0.7)
        with torch.no_grad():
            for key, query in zip(self.key.parameters(), self.query.parameters(), strict=True):
                key.mul_(0.999).add_(query, alpha=0.001)
            (k,) = self.key(x_k)
        rows = [
            torch.cat([(z * k).sum(1, keepdim=True), z @ self.queue.T], 1) / 0.07
            for z in (q, *views)
        ]
        positive = torch.zeros_like(rows[0])
        positive[:, 0] = 1
        if neighbours:
            for row in rows:
                positive.scatter_(1, 1 + row[:, 1:].topk(neighbours).indices, 1.0)
        log_q = F.log_softmax(rows[0], 1)
        contrast = -((log_q * positive).sum(1) / positive.sum(1)).mean()
        target = log_q.detach().exp()
        pulls = [-(target * F.log_softmax(row, 1)).sum(1).mean() for row in rows[1:]]
        return Losses(contrast, *pulls), k

    def step(self, extreme: Tensor, x_q: Tensor, x_k: Tensor, neighbours: int = 1) -> float:
        losses, k = self.compute_loss(extreme, x_q, x_k, neighbours)
        loss = losses.contrast + (losses.extreme + losses.dropped) / 2
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.queue[self.head : self.head + len(k)] = k
        self.head = (self.head + len(k)) % len(self.queue)
        return loss.item()
