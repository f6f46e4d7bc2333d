"""The encoder of GL-Transformer (Kim et al., ECCV 2022): attention over joints, then over frames.

A frame is a set of nodes, every joint of every body. A block attends over the nodes of each frame, joins their
numbers to one vector a frame, attends over frames, and ends in an MLP on those vectors; a learnt position
embedding is added before each of the two attentions. The feature is the mean over valid frames. Source:
model/transformer.py of Boeun-Kim/GL-Transformer; its `pred_token_emb`, which nothing reads, is left out.

One joint, the root of the bones, is embedded by weights of its own: skeletons/turned.py puts there the way
that the body went.
"""

import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Bool, Float, Key

from halp_jax.encoders.base import ClipEncoder
from halp_jax.encoders.heads import make_head, torch_uniform
from halp_jax.encoders.matmul import Precision, matmul


class Linear(nn.Module):
    """x @ kernel + bias, both starting as torch.nn.Linear's."""

    outputs: int
    precision: Precision = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        start = torch_uniform(x.shape[-1])
        kernel = self.param("kernel", start, (x.shape[-1], self.outputs))
        bias = self.param("bias", start, (self.outputs,))
        return matmul(x, kernel, self.precision) + bias


def make_thin(keys: Key[Array, " batch"] | None) -> Callable[..., Array]:
    """-> thin(x, rate, *shape): dropout of x [batch, ...], with draws of its own in every call.

    `shape`: that of one sample's draws, where one is for many numbers. Without keys x stays as it is.
    """
    calls = itertools.count()

    def thin(x, rate, *shape):
        number = next(calls)
        if keys is None or not rate:
            return x
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
        draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate, shape or x.shape[1:]))
        return jnp.where(draw(own), x / (1.0 - rate), 0.0)

    return thin


class Attention(nn.Module):
    """Scaled dot products of all pairs along the last axis but one (Vaswani et al. 2017)."""

    heads: int
    dropout: float
    precision: Precision

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*rows n width"],
        thin: Callable[..., Array],
        there: Bool[Array, "batch n"] | None = None,
    ) -> Float[Array, "*rows n width"]:
        """`there`: of rows that are a batch, what may be attended to; None: everything."""
        width = x.shape[-1]
        three = Linear(3 * width, self.precision, name="qkv")(x)
        q, k, v = jnp.moveaxis(three.reshape(*x.shape[:-1], 3, self.heads, -1), -3, 0)
        full = {"precision": "highest"}
        scores = jnp.einsum("...qhc,...khc->...hqk", q, k, **full) * (width // self.heads) ** -0.5
        if there is not None:
            scores = jnp.where(there[:, None, None], scores, -1e9)
        weights = thin(jax.nn.softmax(scores), self.dropout)
        mixed = jnp.einsum("...hqk,...khc->...qhc", weights, v, **full).reshape(x.shape)
        return thin(Linear(width, self.precision, name="out")(mixed), self.dropout)


class Block(nn.Module):
    """Attention over nodes, attention over frames, an MLP on frames, each added to what it sees.

    `drop_path` is how often one of the three is left out: the first of a frame, the others of a clip.
    """

    num_frames: int
    heads: int
    dropout: float
    drop_path: float
    precision: Precision

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch time nodes width"],
        there: Bool[Array, "batch time"],
        thin: Callable[..., Array],
    ) -> Float[Array, "batch time nodes width"]:
        batch, time, nodes, width = x.shape
        settings = self.heads, self.dropout, self.precision
        shape = (1, self.num_frames, nodes, width)
        place = self.param("place", nn.initializers.zeros, shape)[:, :time]
        x = x + place
        seen = Attention(*settings, name="spatial")(norm("spatial_norm")(x), thin)
        x = x + thin(seen, self.drop_path, time, 1, 1)
        x = (x + place).reshape(batch, time, -1)  # added again: as released
        seen = Attention(*settings, name="temporal")(norm("temporal_norm")(x), thin, there)
        x = x + thin(seen, self.drop_path, 1, 1)
        inner = Linear(2 * x.shape[-1], self.precision, name="wide")(norm("mlp_norm")(x))
        inner = thin(jax.nn.gelu(inner, approximate=False), self.dropout)
        inner = thin(Linear(x.shape[-1], self.precision, name="narrow")(inner), self.dropout)
        return (x + thin(inner, self.drop_path, 1, 1)).reshape(batch, time, nodes, width)


def norm(name: str) -> nn.LayerNorm:
    """As torch.nn.LayerNorm."""
    return nn.LayerNorm(epsilon=1e-5, use_fast_variance=False, name=name)


class MotionTransformer(ClipEncoder):
    """Clips of at most `num_frames`; frames that are not valid are neither attended to nor pooled."""

    nodes: int  # joints of all bodies
    root: int
    num_frames: int = 300
    width: int = 48  # numbers of a node
    heads: int = 8
    blocks: int = 4
    dropout: float = 0.1
    drop_path: float = 0.1  # of the last block; the first has 0, those between are between
    dim: int = 128
    precision: Precision = "float32"

    @property
    def num_features(self) -> int:
        return self.nodes * self.width

    def encode(self, clips, length, train, keys):
        batch, time, bodies, joints, _ = clips.shape
        if bodies * joints != self.nodes:
            raise ValueError(f"an encoder of {self.nodes} nodes cannot take {bodies * joints}")
        there = jnp.ones((batch, time), bool)
        if length is not None:  # of a clip without any frame the first
            there = jnp.arange(time) < jnp.maximum(length, 1)[:, None]
        thin = make_thin(keys)
        x = jnp.swapaxes(clips, 2, 3)
        way = Linear(self.width, self.precision, name="root")(x[:, :, self.root])
        x = Linear(self.width, self.precision, name="joint")(x).at[:, :, self.root].set(way)
        x = thin(x.reshape(batch, time, self.nodes, self.width), self.dropout)
        for i in range(self.blocks):
            path = self.drop_path * i / max(self.blocks - 1, 1)
            block = Block(
                self.num_frames, self.heads, self.dropout, path, self.precision, name=f"block{i}"
            )
            x = block(x, there, thin)
        x = norm("norm")(x.reshape(batch, time, -1))
        for i in range(2):
            x = Linear(self.num_features, self.precision, name=f"mlp{i}")(x)
            x = norm(f"mlp_norm{i}")(jax.nn.gelu(x, approximate=False))
        self.sow("intermediates", "frames", x)  # for pretext tasks, tests and looking inside
        head = make_head(self.dim)

        def pool(x):
            return jnp.mean(x, axis=1, where=there[..., None])

        return x, pool, head

    def apply_drop(self, drop, x):
        return drop(x[None])[0]


def make_encoder(config: ml_collections.ConfigDict, nodes: int, root: int) -> MotionTransformer:
    """The encoder of config.encoder.transformer, for clips of at most config.views.num_frames."""
    return MotionTransformer(
        nodes, root, config.views.num_frames, dim=config.encoder.dim,
        precision=config.train.precision, **config.encoder.transformer.to_dict(),
    )  # fmt: skip
