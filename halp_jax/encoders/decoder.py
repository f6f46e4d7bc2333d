"""Decoders: P&C's, of a clip's code, and MS2L's, of its frames' features.

P&C's (Su, Liu, Shlizerman, CVPR 2020) brings the code of a clip back to its frames, by a weak GRU. A decoder
that learns well would leave the encoder little to do, so it is kept from it: it sees no frame but the first,
or none. Its gates are torch.nn.GRU's; TensorFlow's GRUCell, by which the paper's runs were, resets the state
before the product instead of after it.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from halp_jax.encoders.gru import cell, scan_gru
from halp_jax.encoders.heads import torch_uniform
from halp_jax.encoders.matmul import Precision, matmul


class CodeDecoder(nn.Module):
    """One GRU layer as wide as the code, and a linear layer to the numbers of a frame.

    Args (of `__call__`):
      code: the first state.
      first: frame 0 of each clip.
      num_frames: how many are decoded.
      fixed_states: the state is the code in every frame, the input the last output (at first `first`),
        to which the output is added. Otherwise the state is carried, and inputs are 0.
    """

    precision: Precision = "float32"

    @nn.compact
    def __call__(
        self,
        code: Float[Array, "batch width"],
        first: Float[Array, "batch features"],
        num_frames: int,
        fixed_states: bool,
    ) -> Float[Array, "batch num_frames features"]:
        width, features = code.shape[1], first.shape[1]
        xavier, default = nn.initializers.xavier_uniform(), torch_uniform(width)
        w_ih = self.param("w_ih", xavier, (features, 3 * width))
        w_hh = self.param("w_hh", xavier, (width, 3 * width))
        b_ih = self.param("b_ih", default, (3 * width,))
        b_hh = self.param("b_hh", default, (3 * width,))
        w_out = self.param("w_out", default, (width, features))
        b_out = self.param("b_out", default, (features,))
        if fixed_states:
            recurrent = matmul(code, w_hh, self.precision) + b_hh

            def step(frame, _):
                hidden, _ = cell(matmul(frame, w_ih, self.precision) + b_ih, recurrent, code)
                frame = frame + matmul(hidden, w_out, self.precision) + b_out
                return frame, frame

            decoded = jax.lax.scan(step, first, length=num_frames)[1]
        else:
            inputs = jnp.broadcast_to(b_ih, (num_frames, len(code), 3 * width))
            hidden = scan_gru(inputs, w_hh, b_hh, self.precision, code)
            decoded = matmul(hidden, w_out, self.precision) + b_out
        return jnp.swapaxes(decoded, 0, 1)

    def count_flops(self, num_frames: int, width: int, features: int, fixed_states: bool) -> float:
        """Floating point operations of a clip, matrix products alone."""
        if fixed_states:
            return 2.0 * width * (3 * width + num_frames * 4 * features)
        return 2.0 * num_frames * width * (3 * width + features)


class FrameDecoder(nn.Module):
    """MS2L's decoder (Lin et al., MM 2020): two GRU layers as wide as a frame's feature, and a linear one.

    [time, batch, width] -> [batch, time, outputs]; all its weights start as torch's.
    """

    outputs: int
    precision: Precision = "float32"

    @nn.compact
    def __call__(
        self, features: Float[Array, "time batch width"]
    ) -> Float[Array, "batch time outputs"]:
        width = features.shape[2]
        default = torch_uniform(width)
        for i in range(2):
            w_ih = self.param(f"w_ih{i}", default, (width, 3 * width))
            w_hh = self.param(f"w_hh{i}", default, (width, 3 * width))
            b_ih = self.param(f"b_ih{i}", default, (3 * width,))
            b_hh = self.param(f"b_hh{i}", default, (3 * width,))
            projected = matmul(features, w_ih, self.precision) + b_ih
            features = scan_gru(projected, w_hh, b_hh, self.precision)
        w_out = self.param("w_out", default, (width, self.outputs))
        b_out = self.param("b_out", default, (self.outputs,))
        return jnp.swapaxes(matmul(features, w_out, self.precision) + b_out, 0, 1)

    def count_flops(self, num_frames: int, width: int) -> float:
        """Floating point operations of a clip, matrix products alone."""
        return 2.0 * num_frames * width * (2 * 6 * width + self.outputs)
