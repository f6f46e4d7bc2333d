"""P&C's decoder (Su, Liu, Shlizerman, CVPR 2020): the code of a clip back to its frames, by a weak GRU.

A decoder that learns well would leave the encoder little to do, so it is kept from it: it sees no frame but
the first, or none. Its gates are torch.nn.GRU's; TensorFlow's GRUCell, by which the paper's runs were, resets
the state before the product instead of after it.
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

    def count_flops(self, num_frames: int, width: int, features: int) -> float:
        """Floating point operations of a clip with its state carried, matrix products alone."""
        return 2.0 * num_frames * width * (3 * width + features)
