"""The BiGRU encoder of HaLP and CMD: batch norm of the input (ISC has none), stacked GRU layers, an MLP head.

The released code (moco/GRU.py) feeds its bidirectional GRU one frame at a time while it carries the
state, so both streams of a layer run FORWARD in time, each on the concatenation of the two below,
and the feature is the top layer's last frame. The paper's tables are of that network
(`direction="forward"`). `direction="bidirectional"` is the textbook's: the second stream runs
backward, and the feature joins the final states of both. `pooling="mean"` (not the authors') takes
the mean over all frames instead of the last one: every frame has a short way to the loss.

`padding` says which parts of the network leave out the frames after a clip's end. "none": none does,
`length` is not looked at. "pooling": features are of frames before the end alone. "everywhere": the
backward stream starts at the end, too.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float, Int

from halp_jax.encoders.base import ClipEncoder
from halp_jax.encoders.gru import scan_gru
from halp_jax.encoders.heads import make_head, torch_uniform
from halp_jax.encoders.matmul import Precision, matmul
from halp_jax.encoders.norm import BatchNorm

PADDINGS = ("none", "pooling", "everywhere")
# Added to the number of frames, as the released MS2L does: a clip without any has a feature.
_NO_FRAME = 0.01


class GRULayer(nn.Module):
    """Two GRU streams of `width` on the same input: [time, batch, in] -> two [time, batch, width]."""

    width: int
    backward: bool = False  # the second stream runs backward in time
    precision: Precision = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "time batch features"], length: Int[Array, " batch"] | None = None
    ) -> list[Float[Array, "time batch width"]]:
        """`length`: the frames that the second stream takes in reverse order; None: all."""
        # Xavier-uniform on the stacked gate matrices, fan-out 3 * width: the released initialisation.
        xavier = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", batch_axis=(0,))
        default = torch_uniform(self.width)
        gates = 3 * self.width
        w_ih = self.param("w_ih", xavier, (2, x.shape[-1], gates))
        w_hh = self.param("w_hh", xavier, (2, self.width, gates))
        b_ih = self.param("b_ih", default, (2, gates))
        b_hh = self.param("b_hh", default, (2, gates))

        if streams_together():
            frames = jnp.stack([x, reverse_frames(x, length)]) if self.backward else x

            def run(frames, w_ih, w_hh, b_ih, b_hh):
                projected = matmul(frames, w_ih, self.precision) + b_ih
                return scan_gru(projected, w_hh, b_hh, self.precision)

            each = jax.vmap(run, (0 if self.backward else None, 0, 0, 0, 0))
            first, second = each(frames, w_ih, w_hh, b_ih, b_hh)
            return [first, reverse_frames(second, length) if self.backward else second]
        streams = []
        # The gradient of a split is one concatenation; of two indices it is a padded sum.
        halves = [jnp.split(w, 2) for w in (w_ih, w_hh, b_ih, b_hh)]
        for i, weights in enumerate(zip(*halves, strict=True)):
            w_ih, w_hh, b_ih, b_hh = (w[0] for w in weights)
            reverse = self.backward and i == 1
            # The product with the input needs no recurrence: all frames at once, outside the scan.
            frames = reverse_frames(x, length) if reverse else x
            projected = matmul(frames, w_ih, self.precision) + b_ih
            hidden = scan_gru(projected, w_hh, b_hh, self.precision)
            streams.append(reverse_frames(hidden, length) if reverse else hidden)
        return streams


def streams_together() -> bool:
    """Whether one scan takes both streams of a layer: half as many cells wait for one another.

    A layer then takes 0.85 of the time on an H100, and a third more on a CPU at width 64
    (PERFORMANCE.md).
    """
    return jax.default_backend() != "cpu"


def reverse_frames(
    x: Float[Array, "time batch features"], length: Int[Array, " batch"] | None = None
) -> Float[Array, "time batch features"]:
    """The first `length` frames of each clip in reverse order, the others where they are."""
    if length is None:
        return x[::-1]
    time = jnp.arange(len(x))[:, None]
    order = jnp.where(time < length, length - 1 - time, time)
    return jnp.take_along_axis(x, order[..., None], axis=0)


class BiGRU(ClipEncoder):
    """Stacked GRU layers; `length` is looked at by `padding`, and there is no dropout."""

    width: int = 1024
    num_layers: int = 3
    direction: str = "forward"
    dim: int = 128
    pooling: str = "last"
    precision: Precision = "float32"  # of the recurrent layers' products
    axis_name: str | None = None
    input_norm: bool = True
    bodies: int = 0  # it looks at the first so many; 0: at all
    padding: str = "none"

    @property
    def num_features(self) -> int:
        return 2 * self.width

    def count_flops(self, num_frames: int, num_inputs: int) -> float:
        """Floating point operations of one forward pass of one clip, the head's included.

        Matrix products alone (a multiply-add counts 2): two GRUs a layer, three gates each, input
        and hidden products in every frame; then the two layers of the head.
        """
        products = 0
        for layer in range(self.num_layers):
            inputs = num_inputs if layer == 0 else self.num_features
            products += 2 * 3 * self.width * (inputs + self.width)
        head = self.num_features * (self.num_features + self.dim) if self.dim else 0
        return 2.0 * (num_frames * products + head)

    def encode(self, clips, length, train, keys):
        if self.direction not in ("forward", "bidirectional"):
            raise ValueError(f"unknown direction {self.direction!r}: forward or bidirectional")
        if self.pooling not in ("last", "mean"):
            raise ValueError(f"unknown pooling {self.pooling!r}: last or mean")
        backward = self.direction == "bidirectional"
        x = flatten_clips(clips, self.bodies)
        if self.input_norm:
            x = BatchNorm(axis_name=self.axis_name, name="input_norm")(x, train)
        x = jnp.swapaxes(x, 0, 1)
        ends = None if self.padding == "none" else length
        for i in range(self.num_layers):
            layer = GRULayer(self.width, backward, self.precision, name=f"layer{i}")
            first, second = layer(x, ends if self.padding == "everywhere" else None)
            x = jnp.concatenate([first, second], axis=-1)
        self.sow("intermediates", "frames", x)  # for decoders, tests and looking inside
        head = make_head(self.dim)

        def pool(x):
            if self.pooling == "mean":
                return jnp.mean(x, axis=0) if ends is None else mean_frames(x, ends)
            first, second = jnp.split(x, 2, axis=-1)
            return jnp.concatenate([last(first), second[0] if backward else last(second)], axis=-1)

        def last(x):
            if ends is None:
                return x[-1]
            return x[jnp.maximum(ends - 1, 0), jnp.arange(len(ends))]

        return x, pool, head

    def apply_drop(self, drop, x):
        return jnp.swapaxes(drop(jnp.swapaxes(x, 0, 1)[None])[0], 0, 1)


def mean_frames(
    x: Float[Array, "time batch features"], length: Int[Array, " batch"]
) -> Float[Array, "batch features"]:
    """The mean over the first `length` frames of each clip."""
    there = (jnp.arange(len(x))[:, None] < length)[..., None]
    return jnp.sum(x * there, axis=0) / (length + _NO_FRAME)[:, None]


def flatten_clips(
    clips: Float[Array, "batch time bodies joints xyz"], bodies: int = 0
) -> Float[Array, "batch time features"]:
    """The numbers of each frame in the released code's order: joint-major, coordinate, then body.

    Args:
        bodies: of the first so many alone; 0: of all.
    """
    clips = clips[:, :, : bodies or None]
    return jnp.transpose(clips, (0, 1, 3, 4, 2)).reshape(*clips.shape[:2], -1)


def make_encoder(config: ml_collections.ConfigDict, axis_name: str | None = None) -> BiGRU:
    """The encoder of config.encoder; `axis_name`: the mapped axis over which a batch is spread."""
    e, t = config.encoder, config.train
    return BiGRU(
        e.width, e.num_layers, e.direction, e.dim, e.pooling, t.precision, axis_name,
        e.input_norm, e.bodies, e.padding,
    )  # fmt: skip
