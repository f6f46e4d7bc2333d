"""The encoder of AS-CAL (Rao et al. 2021): one LSTM layer, the mean of its states over all frames.

    i, f, o = sigmoid(W x_t + b + U h_(t-1) + d),   g = tanh(the same of its own)
    c_t = f * c_(t-1) + i * g,   h_t = o * tanh(c_t),   h_0 = c_0 = 0

(Hochreiter & Schmidhuber 1997, as torch.nn.LSTM; gates are stacked i, f, g, o.) Source: models/Models.py of
LZU-SIAT/AS-CAL. Frames after a clip's end, zeros, count in the mean like any other.
"""

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from halp_jax.encoders.base import ClipEncoder
from halp_jax.encoders.heads import make_head, torch_uniform
from halp_jax.encoders.matmul import Precision, matmul


class LSTM(ClipEncoder):
    """One LSTM layer; `length` is not looked at, and there are neither batch statistics nor dropout."""

    width: int = 256
    head: bool = True
    dim: int = 128
    precision: Precision = "float32"

    @property
    def num_features(self) -> int:
        return self.width

    def count_flops(self, num_frames: int, num_inputs: int) -> float:
        """Floating point operations of one forward pass of one clip: matrix products, the head's included."""
        head = self.width * (self.width + self.dim) if self.head and self.dim else 0
        return 2.0 * (num_frames * 4 * self.width * (num_inputs + self.width) + head)

    def encode(self, clips, length, train, keys):
        x = jnp.swapaxes(flatten_clips(clips), 0, 1)
        start, gates = torch_uniform(self.width), 4 * self.width
        w_ih = self.param("w_ih", start, (x.shape[-1], gates))
        w_hh = self.param("w_hh", start, (self.width, gates))
        b_ih, b_hh = (self.param(name, start, (gates,)) for name in ("b_ih", "b_hh"))
        # The product with the input needs no recurrence: all frames at once, outside the scan.
        projected = matmul(x, w_ih, self.precision) + (b_ih + b_hh)

        def step(state, projected_t):
            hidden, cell = state
            rows = projected_t + matmul(hidden, w_hh, self.precision)
            i, f, g, o = jnp.split(rows, 4, axis=-1)
            cell = jax.nn.sigmoid(f) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
            return (hidden, cell), hidden

        zeros = jnp.zeros((len(clips), self.width))
        _, states = jax.lax.scan(step, (zeros, zeros), projected)
        embed = make_head(self.dim if self.head else 0)
        return states, lambda states: jnp.mean(states, axis=0), embed

    def apply_drop(self, drop, x):
        return jnp.swapaxes(drop(jnp.swapaxes(x, 0, 1)[None])[0], 0, 1)


def flatten_clips(
    clips: Float[Array, "batch time bodies joints xyz"],
) -> Float[Array, "batch time features"]:
    """The numbers of each frame in AS-CAL's order: coordinate, joint, then body."""
    return jnp.transpose(clips, (0, 1, 4, 3, 2)).reshape(*clips.shape[:2], -1)


def make_encoder(config: ml_collections.ConfigDict) -> LSTM:
    """The encoder of config.encoder.lstm."""
    e = config.encoder
    return LSTM(e.lstm.width, e.lstm.head, e.dim, config.train.precision)
