"""2s-AGCN (Shi et al., CVPR 2019) on one stream: ten blocks whose edges are learnt and differ from clip to clip.

Source: moco/AGCN.py of fmthoker/skeleton-contrast. Shares of neighbours are the sum of three: the bones',
learnt ones that all clips have, and, for each body of each clip, a softmax over how well joints match.
Each body is a row of its own, and so is one that is absent; the feature is the mean over time, joints and bodies.

A map is [rows, joints, time, channels]: with the rows in front each row's shares are one product.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float

from halp_jax.encoders.base import ClipEncoder
from halp_jax.encoders.heads import make_head
from halp_jax.encoders.matmul import Precision, matmul
from halp_jax.encoders.norm import BatchNorm
from halp_jax.encoders.temporal import TAPS, compute_once, convolve_time

SMALL = 1e-6  # first weights of the learnt edges, and of the batch norm after the neighbours' sum
MATCHED = 4  # a block of `width` channels matches joints by a quarter as many
_STRIDES = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)

Map = Float[Array, "rows joints time channels"]


def make_adjacency(parents: Sequence[int]) -> Float[np.ndarray, "3 source target"]:
    """Shares of the joint itself, of its parent, and of its children: each adds up to 1 a target, or is 0.

    Args:
        parents: of each joint; a root is its own.
    """
    joints, parents = np.arange(len(parents)), np.asarray(parents)
    itself = np.eye(len(parents))
    from_parent = np.zeros_like(itself)
    child = joints[joints != parents]
    from_parent[parents[child], child] = 1
    from_children = from_parent.T / np.maximum(from_parent.sum(1), 1)
    return np.stack([itself, from_parent, from_children]).astype(np.float32)


def _normal(mean_of: int):
    """A normal distribution of variance 2 / mean_of."""
    return nn.initializers.normal((2.0 / mean_of) ** 0.5)


class Block(nn.Module):
    """A sum over neighbours, a convolution over time, and the way around both."""

    width: int
    stride: int = 1  # in time
    skip: str = "same"  # the way around: "none", "same", or "project"
    precision: Precision = "float32"
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Map, adjacency: Float[Array, "parts source target"], train: bool
    ) -> Float[Array, "rows joints new_time outputs"]:
        inputs = x.shape[-1]
        y = self.gather(x, adjacency)
        y = self.norm("graph_norm", SMALL)(y, train)
        around = x
        if inputs != self.width:
            around = self.norm("inner_norm")(self.linear("inner", x, self.width), train)
        y = nn.relu(y + around)
        w_time = self.param("w_time", _normal(TAPS * self.width), (TAPS, self.width, self.width))
        b_time = self.param("b_time", nn.initializers.zeros, (self.width,))
        y = convolve_time(y, w_time, self.stride, self.precision) + b_time
        y = self.norm("time_norm")(y, train)
        if self.skip == "project":
            x = self.linear("skip", x[:, :, :: self.stride], self.width)
            x = self.norm("skip_norm")(x, train)
        return compute_once(nn.relu(y if self.skip == "none" else y + x))

    def gather(self, x: Map, adjacency: Array) -> Array:
        """Each joint's neighbours in three parts, each with a matrix of its own, added up."""
        rows, joints, time, inputs = x.shape
        parts, matched = len(adjacency), self.width // MATCHED
        learnt = self.param("edges", nn.initializers.constant(SMALL), adjacency.shape)
        shape = (2, parts, inputs, matched)  # of sources and of targets
        w_match = self.param("w_match", _normal(matched), shape)
        b_match = self.param("b_match", nn.initializers.zeros, (2, parts, matched))
        found = matmul(x, jnp.moveaxis(w_match, 2, 0).reshape(inputs, -1), self.precision)
        found = (found + b_match.reshape(-1)).reshape(rows, joints, time, 2, parts, matched)
        sources, targets = found[:, :, :, 0], found[:, :, :, 1]
        match = jnp.einsum("nvtkc,nwtkc->nkvw", sources, targets, precision="highest")
        shares = jax.nn.softmax(match / (time * matched), axis=2) + adjacency + learnt

        w = self.param("w_graph", _normal(parts * inputs * self.width), (parts, inputs, self.width))
        b = self.param("b_graph", nn.initializers.zeros, (parts, self.width))
        flat, y = x.reshape(rows, joints, -1), jnp.sum(b, 0)
        for part in range(parts):
            to_target = jnp.swapaxes(shares[:, part], 1, 2)
            near = jnp.matmul(to_target, flat, precision="highest").reshape(x.shape)
            y = y + matmul(near, w[part], self.precision)
        return y

    def linear(self, name: str, x: Map, width: int) -> Array:
        w = self.param(f"w_{name}", _normal(width), (x.shape[-1], width))
        b = self.param(f"b_{name}", nn.initializers.zeros, (width,))
        return matmul(x, w, self.precision) + b

    def norm(self, name: str, scale: float = 1.0) -> BatchNorm:
        start = nn.initializers.constant(scale)
        return BatchNorm(scale_init=start, axis_name=self.axis_name, name=name)


class AGCN(ClipEncoder):
    """2s-AGCN; all frames of a view are valid, and there is no dropout."""

    parents: tuple[int, ...]
    width: int = 64
    dim: int = 128
    precision: Precision = "float32"
    axis_name: str | None = None

    @property
    def num_features(self) -> int:
        return 4 * self.width

    def list_blocks(self) -> list[tuple[int, int]]:
        """(channels, stride in time) of each block."""
        w = self.width
        return list(zip([w] * 4 + [2 * w] * 3 + [4 * w] * 3, _STRIDES, strict=True))

    def encode(self, clips, length, train, keys):
        batch, time, bodies, joints, xyz = clips.shape
        if joints != len(self.parents):
            raise ValueError(f"an encoder of {len(self.parents)} joints cannot take {joints}")
        adjacency = jnp.asarray(make_adjacency(self.parents))
        x = clips.reshape(batch, time, bodies * joints * xyz)
        x = BatchNorm(axis_name=self.axis_name, name="input_norm")(x, train)
        x = x.reshape(batch, time, bodies, joints, xyz).transpose(0, 2, 3, 1, 4)
        x = x.reshape(batch * bodies, joints, time, xyz)
        for i, (width, stride) in enumerate(self.list_blocks()):
            skip = "same" if (x.shape[-1], stride) == (width, 1) else "project"
            x = Block(
                width, stride, skip if i else "none", self.precision, self.axis_name, name=f"block{i}"
            )(x, adjacency, train)  # fmt: skip
            self.sow("intermediates", "maps", x)  # for tests and for looking inside
        head = make_head(self.dim, last=_normal(self.dim) if self.dim else None)

        def pool(x):
            return jnp.mean(jnp.mean(x, (1, 2)).reshape(batch, bodies, -1), 1)

        return x, pool, head

    def apply_drop(self, drop, x):
        return jnp.swapaxes(drop(jnp.swapaxes(x, 0, 1)), 0, 1)


def make_encoder(
    config: ml_collections.ConfigDict, parents: Sequence[int], axis_name: str | None = None
) -> AGCN:
    """The encoder of config.encoder.agcn for a skeleton; `axis_name`: as `bigru.make_encoder` has it."""
    e = config.encoder
    return AGCN(tuple(parents), e.agcn.width, e.dim, config.train.precision, axis_name)
