"""ST-GCN (Yan et al., AAAI 2018) in the size of SkeletonCLR, CrosSCLR and AimCLR: ten blocks on the bones.

Source: net/st_gcn.py and net/utils/graph.py of Levigty/AimCLR. Each body of a clip is a row of its own,
and so is one that is absent; the feature is the mean over time, joints and bodies.

A map is [joints, rows, time, channels]. With the joints in front the sum over neighbours is one
product for all of it, and the convolution over time finds its rows side by side.
"""

import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from halp_jax.encoders.base import ClipEncoder
from halp_jax.encoders.heads import make_head
from halp_jax.encoders.matmul import Precision, matmul
from halp_jax.encoders.norm import BatchNorm
from halp_jax.encoders.temporal import TAPS, compute_once, convolve_time

GRAPHS = ("released", "distance")

Map = Float[Array, "joints rows time channels"]


def make_adjacency(
    parents: Sequence[int], graph: str = "released"
) -> Float[np.ndarray, "3 source target"]:
    """Shares of each joint's neighbours, itself among them, in three parts that add up to 1 a target.

    The parts are the joint itself; neighbours that are not nearer to the root; nearer ones.

    Args:
        parents: of each joint; a root is its own.
        graph: one of GRAPHS.
    """
    joints = np.arange(len(parents))
    near = np.eye(len(parents))
    near[joints, parents] = near[parents, joints] = 1
    depth = np.where(joints == np.asarray(parents), 0, np.inf)
    for _ in joints if graph == "distance" else joints[:1]:
        further = np.where(near > 0, depth, np.inf).min(1) + 1
        depth = np.minimum(depth, further)
    share = near / near.sum(0)
    itself, nearer = np.eye(len(parents)) > 0, depth[:, None] < depth
    parts = (itself, ~itself & ~nearer, nearer)
    return np.stack([share * part for part in parts]).astype(np.float32)


def draw_kept(
    keys: Key[Array, " batch"], shape: tuple[int, ...], rate: float
) -> Bool[Array, "batch ..."]:
    """For each clip a mask of `shape`: False with probability `rate`, to 1/256.

    A byte for each entry: random numbers of 32 bits would take as long as a block.
    """
    size = math.prod(shape)

    def draw(key):
        words = jax.random.bits(key, (-(-size // 4),))
        return jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[:size].reshape(shape)

    return jax.vmap(draw)(keys) >= _round_rate(rate)


def _round_rate(rate: float) -> int:
    """In 256ths, fewer than all."""
    return min(round(256 * rate), 255)


def drop_out(x: Map, keys: Key[Array, " batch"], rate: float) -> Map:
    """Dropout. Each clip has a key: its draws do not depend on how a batch is split over devices."""
    joints, rows, *rest = x.shape
    kept = draw_kept(keys, (rows // len(keys), joints, *rest), rate)
    kept = jnp.moveaxis(kept.reshape(rows, joints, *rest), 1, 0)
    return jnp.where(kept, x / (1.0 - _round_rate(rate) / 256), 0.0)


def draw_weights(std: float) -> Callable[..., Array]:
    """Initialiser of convolutions and linear layers, whose biases start at 0; `std` 0: He et al. 2015.

    A spread that knows no number of inputs, as released, is far too small for few of them. Batch norm and the
    unit sphere hide that from the output, but not from the first steps, which then throw weights far off.
    """
    return nn.initializers.normal(std) if std else nn.initializers.he_normal()


class Block(nn.Module):
    """A sum over neighbours, a convolution over time, and the way around both."""

    width: int
    stride: int = 1  # in time
    skip: str = "same"  # the way around: "none", "same", or "project"
    dropout: float = 0.0
    precision: Precision = "float32"
    axis_name: str | None = None
    start_std: float = 0.02

    def norm(self, name: str) -> BatchNorm:
        return BatchNorm(scale_init=_around_one, axis_name=self.axis_name, name=name)

    @nn.compact
    def __call__(
        self,
        x: Map,
        adjacency: Float[Array, "parts source target"],
        keys: Key[Array, " batch"] | None,
        train: bool,
    ) -> Float[Array, "joints rows new_time outputs"]:
        parts, inputs, start = len(adjacency), x.shape[-1], draw_weights(self.start_std)
        edges = self.param("edges", nn.initializers.ones, adjacency.shape)
        w_graph = self.param("w_graph", start, (parts, inputs, self.width))
        b_graph = self.param("b_graph", nn.initializers.zeros, (parts, self.width))
        w_time = self.param("w_time", start, (TAPS, self.width, self.width))
        b_time = self.param("b_time", nn.initializers.zeros, (self.width,))

        # First the sum over neighbours, then the product: that order has the fewer channels to sum. Part by
        # part: one product for all three would need them side by side, and copying takes longer.
        shares = adjacency * edges
        y = 0.0
        for share, w in zip(shares, w_graph, strict=True):
            near = jnp.matmul(share.T, x.reshape(x.shape[0], -1), precision="highest")
            y = y + matmul(near.reshape(x.shape), w, self.precision)
        y = y + jnp.einsum("kvw,kc->wc", shares, b_graph, precision="highest")[:, None, None]
        y = nn.relu(self.norm("graph_norm")(y, train))
        y = convolve_time(y, w_time, self.stride, self.precision) + b_time
        y = self.norm("time_norm")(y, train)
        if train and self.dropout and keys is not None:
            y = drop_out(y, keys, self.dropout)
        if self.skip == "project":
            w = self.param("w_skip", start, (inputs, self.width))
            b = self.param("b_skip", nn.initializers.zeros, (self.width,))
            x = matmul(x[:, :, :: self.stride], w, self.precision) + b
            x = self.norm("skip_norm")(x, train)
        return compute_once(nn.relu(y if self.skip == "none" else x + y))


@nn.remat
def _run(block, x, adjacency, keys):
    return block(x, adjacency, keys, True)


def _run_forward(block, *args):
    return nn.vjp(_run, block, *args)


def _run_backward(pull_back, cotangent):
    """`nn.remat` alone spares nothing on a CPU: XLA takes its barriers out before it orders the work,
    and then computes each block again as soon as it can. So what the block is computed from is made to
    depend on the cotangent: zero is added, in a form that XLA does not see through.
    """
    zero = jnp.minimum(jnp.abs(cotangent.ravel()[0]), 0.0)
    return jax.tree.map(lambda x: x + zero if _is_map(x) else x, pull_back)(cotangent)


def _is_map(x):
    return x.ndim == 4 and jnp.issubdtype(x.dtype, jnp.floating)


# A block of which nothing but the input is kept for the gradient.
run_lean = nn.custom_vjp(_run, _run_forward, _run_backward)


def _around_one(key, shape, dtype=jnp.float32):
    return 1.0 + 0.02 * jax.random.normal(key, shape, dtype)


class STGCN(ClipEncoder):
    """ST-GCN; all frames of a view are valid."""

    parents: tuple[int, ...]
    width: int = 16
    last_width: int = 256
    dim: int = 128
    graph: str = "released"
    dropout: float = 0.5
    start_std: float = 0.02
    remat: bool = False
    precision: Precision = "float32"
    axis_name: str | None = None

    @property
    def num_features(self) -> int:
        return self.last_width

    def list_blocks(self) -> list[tuple[int, int]]:
        """(channels, stride in time) of each block."""
        w = self.width
        strides = (1, 1, 1, 1, 2, 1, 1, 2, 1, 1)
        return list(
            zip([w] * 4 + [2 * w] * 3 + [4 * w] * 2 + [self.last_width], strides, strict=True)
        )

    def count_flops(self, num_frames: int, num_inputs: int) -> float:
        """Floating point operations of one forward pass of one clip, the head's included.

        Matrix products alone (a multiply-add counts 2), in the order of the released code: in each
        block the 1x1 convolution to three parts, the sum over neighbours, the convolution over time
        and, where it is one, the skip.
        """
        joints = len(self.parents)
        bodies, time, inputs = num_inputs // (3 * joints), num_frames, 3
        products = 0
        for number, (width, stride) in enumerate(self.list_blocks()):
            shorter = -(-time // stride)
            products += time * 3 * width * (inputs + joints) + shorter * TAPS * width**2
            if number and (inputs, stride) != (width, 1):
                products += shorter * inputs * width
            time, inputs = shorter, width
        head = self.last_width * (self.last_width + self.dim) if self.dim else 0
        return 2.0 * (bodies * joints * products + head)

    def encode(self, clips, length, train, keys):
        batch, time, bodies, joints, xyz = clips.shape
        if joints != len(self.parents):
            raise ValueError(f"an encoder of {len(self.parents)} joints cannot take {joints}")
        adjacency = jnp.asarray(make_adjacency(self.parents, self.graph))
        x = jnp.moveaxis(clips, 2, 1).reshape(batch * bodies, time, joints * xyz)
        norm = BatchNorm(scale_init=_around_one, axis_name=self.axis_name, name="input_norm")
        x = jnp.moveaxis(norm(x, train).reshape(*x.shape[:2], joints, xyz), 2, 0)
        for i, (width, stride) in enumerate(self.list_blocks()):
            skip = "same" if (x.shape[-1], stride) == (width, 1) else "project"
            own = None
            if keys is not None:
                own = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            block = Block(
                width, stride, skip if i else "none", self.dropout if i else 0.0, self.precision,
                self.axis_name, self.start_std, name=f"block{i}",
            )  # fmt: skip
            lean = self.remat and train
            x = run_lean(block, x, adjacency, own) if lean else block(x, adjacency, own, train)
            self.sow("intermediates", "maps", x)  # for tests and for looking inside

        head = make_head(self.dim, start=draw_weights(self.start_std))

        def pool(x):
            return jnp.mean(jnp.mean(x, (0, 2)).reshape(batch, bodies, -1), 1)

        return x, pool, head


def make_encoder(
    config: ml_collections.ConfigDict, parents: Sequence[int], axis_name: str | None = None
) -> STGCN:
    """The encoder of config.encoder.stgcn for a skeleton; `axis_name`: as `bigru.make_encoder` has it."""
    e = config.encoder
    return STGCN(
        tuple(parents), dim=e.dim, precision=config.train.precision, axis_name=axis_name,
        **e.stgcn.to_dict(),
    )  # fmt: skip
