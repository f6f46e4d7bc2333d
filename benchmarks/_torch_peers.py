"""The training step in plain PyTorch, twice: what a user would have without this project.

    loop       the clip goes through a bidirectional nn.GRU one frame at a time while the state is
               carried, as in the authors' code; both streams of a layer so run forward in time
    sequence   the same network with one nn.GRU call a layer and stream on the whole clip (cuDNN on
               a GPU): what a PyTorch user who looked for speed would write

Both are InfoNCE with a queue, HaLP with its positives materialised, CMD over neighbours that are
gathered, and SGD. tests/test_peers.py holds them to our losses and gradients.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Settings(NamedTuple):
    """The released settings, but for the weights mu of HaLP and nu of CMD."""

    mu: float = 0.0
    nu: float = 0.0
    temperature: float = 0.07
    momentum: float = 0.999  # of the key encoder
    num_positives: int = 100
    lam: float = 0.8
    queue_entries: int = 256
    topk: int = 8192
    teacher_temperature: float = 0.05
    student_temperature: float = 0.1


class Encoder(nn.Module):
    """[batch, time, features] -> unit vectors [batch, dim]."""

    def __init__(self, recurrence: str, features: int, width: int, num_layers: int, dim: int):
        super().__init__()
        self.recurrence = recurrence
        self.input_norm = nn.BatchNorm1d(features)
        if recurrence == "loop":
            self.gru = nn.GRU(features, width, num_layers, bidirectional=True)
        else:
            self.layers = nn.ModuleList(
                nn.ModuleList(nn.GRU(features if i == 0 else 2 * width, width) for _ in range(2))
                for i in range(num_layers)
            )
        self.head = nn.Sequential(
            nn.Linear(2 * width, 2 * width), nn.ReLU(), nn.Linear(2 * width, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_norm(x.transpose(1, 2)).permute(2, 0, 1).contiguous()
        if self.recurrence == "loop":
            state = None
            for frame in x:
                output, state = self.gru(frame[None], state)
            feature = output[0]
        else:
            for layer in self.layers:
                x = torch.cat([stream(x)[0] for stream in layer], dim=-1)
            feature = x[-1]
        return F.normalize(self.head(feature), dim=1)


class Peer(nn.Module):
    """Query and key encoders, queues and prototypes of S streams."""

    def __init__(
        self,
        recurrence: str,
        *,
        streams: int = 1,
        features: int = 150,
        width: int = 1024,
        num_layers: int = 3,
        dim: int = 128,
        queue_size: int = 16384,
        num_prototypes: int = 20,
    ):
        super().__init__()
        shape = (recurrence, features, width, num_layers, dim)
        self.query = nn.ModuleList(Encoder(*shape) for _ in range(streams))
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.head = 0  # where the next key goes
        unit = {"queue": queue_size, "prototypes": num_prototypes}
        for name, count in unit.items():
            self.register_buffer(name, F.normalize(torch.randn(streams, count, dim), dim=2))


def make_optimizer(peer: Peer) -> torch.optim.Optimizer:
    return torch.optim.SGD(peer.query.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)


def info_nce(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    logits = torch.cat([torch.sum(q * k, dim=1, keepdim=True), q @ queue.T], dim=1) / temperature
    return F.cross_entropy(logits, torch.zeros(len(q), dtype=torch.long, device=q.device))


def halp_loss(
    q: Tensor,
    k: Tensor,
    prototypes: Tensor,
    s: Settings,
    draws: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The paper's solver and rank filter on positives [batch, G, dim] that are written down.

    draws: the index of P_sel and t / t*, each [batch, G], instead of random ones.
    """
    with torch.no_grad():
        similarity = k @ prototypes.T
        nearest = similarity.argmax(dim=1)
        if draws is None:
            others = len(prototypes) - 1
            selected = torch.randint(others, (len(k), s.num_positives), device=k.device)
            selected += selected >= nearest[:, None]
            share = 1.0 - s.lam * torch.rand(selected.shape, device=k.device)
        else:
            selected, share = draws
        own, toward, anchor = prototypes[nearest][:, None], prototypes[selected], k[:, None]
        cosine = torch.sum(anchor * toward, dim=2)
        omega = torch.acos(cosine.clamp(-1, 1))
        kappa = (1 - torch.sum(toward * own, dim=2)) / torch.sum(anchor * (own - toward), dim=2)
        t = share * torch.atan2(torch.sin(omega), kappa + cosine) / omega
        positives = torch.sin((1 - t) * omega)[..., None] * anchor
        positives = positives + torch.sin(t * omega)[..., None] * toward
        positives = F.normalize(positives, dim=2)
        kept = (positives @ prototypes.T).argmax(dim=2) == nearest[:, None]
    similarity = torch.sum(q[:, None] * positives, dim=2)
    return -torch.sum(similarity * kept) / kept.sum().clamp(min=1) / s.temperature


def cmd_loss(queries: list[Tensor], keys: list[Tensor], queues: Tensor, s: Settings) -> Tensor:
    """The sum over ordered pairs of streams of a KL divergence over the teacher's neighbours."""
    total = queries[0].new_zeros(())
    students = [q @ queue.T for q, queue in zip(queries, queues, strict=True)]
    for a, (k, queue) in enumerate(zip(keys, queues, strict=True)):
        values, neighbours = torch.topk(k @ queue.T, s.topk, dim=1)
        teacher = F.softmax(values / s.teacher_temperature, dim=1)
        for b, student in enumerate(students):
            if a != b:
                chosen = torch.gather(student, 1, neighbours) / s.student_temperature
                total = total + F.kl_div(
                    F.log_softmax(chosen, dim=1), teacher, reduction="batchmean"
                )
    return total


def compute_loss(
    peer: Peer, x_q: Tensor, x_k: Tensor, s: Settings
) -> tuple[Tensor, dict[str, Tensor], list[Tensor]]:
    """Moves the key encoder, then (loss, its terms, the new keys); x [streams, batch, time, features]."""
    with torch.no_grad():
        for key, query in zip(peer.key.parameters(), peer.query.parameters(), strict=True):
            key.mul_(s.momentum).add_(query, alpha=1.0 - s.momentum)
        keys = [encoder(x) for encoder, x in zip(peer.key, x_k, strict=True)]
    queries = [encoder(x) for encoder, x in zip(peer.query, x_q, strict=True)]
    streams = list(zip(queries, keys, peer.queue, peer.prototypes, strict=True))
    terms = {"loss_cl": sum(info_nce(q, k, queue, s.temperature) for q, k, queue, _ in streams)}
    if s.mu:
        terms["loss_halp"] = sum(halp_loss(q, k, p, s) for q, k, _, p in streams)
    if s.nu:
        terms["loss_cmd"] = cmd_loss(queries, keys, peer.queue, s)
    weights = {"loss_cl": 1.0, "loss_halp": s.mu, "loss_cmd": s.nu}
    return sum(weights[name] * term for name, term in terms.items()), terms, keys


def train_step(
    peer: Peer,
    optimizer: torch.optim.Optimizer,
    x_q: Tensor,
    x_k: Tensor,
    s: Settings,
    cluster: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> float:
    """One step; with `cluster` (points, count) -> centroids also new prototypes, on the CPU."""
    loss, _, keys = compute_loss(peer, x_q, x_k, s)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    size, batch = peer.queue.shape[1], x_q.shape[1]
    for stream, key in enumerate(keys):
        peer.queue[stream, peer.head : peer.head + batch] = key
    peer.head = (peer.head + batch) % size
    if cluster is not None:
        place = (peer.head - s.queue_entries + torch.arange(s.queue_entries)) % size
        for stream, queue in enumerate(peer.queue):
            points = queue[place].cpu().numpy()
            found = cluster(points, peer.prototypes.shape[1])
            peer.prototypes[stream] = torch.from_numpy(np.asarray(found, np.float32))
    return loss.item()
