"""The recurrence of encoders/gru.py as two Pallas kernels for TPUs: the weights stay on the chip.

`scan_gru` is a loop of products. Unless the compiler keeps the recurrent weights on the chip, each
fetches them from main memory anew: 12.6 MB in every time step at width 1024, more than all else that
the step reads and writes; and a frame's loads and stores wait for its product. Here a whole clip is
one kernel, and the next frame is on its way while this one is computed. Its grid is [batch blocks,
time], time innermost and in order; the weights have the same block at every point of it, so they are
fetched once into VMEM (64 to 128 MiB on a TPU since v5; a v4 has 16, enough for bfloat16) and stay,
and the state is a scratch beside them. The backward kernel does the same with the transposed
weights, from the last frame to the first. What the gradient of the weights needs comes out of it,
and one product after it does the rest, as in `scan_gru`.

Not for GPUs: a block of threads there has 228 KiB of shared memory (H100, H200), a fiftieth of the
weights. They would have to be spread over all multiprocessors, in one persistent kernel whose blocks
exchange the state behind a barrier of the whole grid in every frame, and Pallas has no such barrier.

No TPU has run them: they are interpreted on a CPU (`interpret=True`), equal `scan_gru` there
(tests/test_gru_pallas.py), and lower for TPUs. `benchmarks/recurrence.py` times them where there is one.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from halp_jax.encoders.gru import cell
from halp_jax.encoders.matmul import Precision, matmul
from halp_jax.errors import UserError

LANES, SUBLANES = 128, 8  # a TPU's registers hold float32 in tiles of 8 x 128
MOST_ROWS = 128  # clips in a block
MOST_VMEM = 120 * 2**20  # bytes; no TPU has more than 128 MiB


def pallas_gru(
    projected: Float[Array, "time batch gates"],
    w_hh: Float[Array, "width gates"],
    b_hh: Float[Array, " gates"],
    precision: Precision = "float32",
    interpret: bool | pltpu.InterpretParams = False,
) -> Float[Array, "time batch width"]:
    """As `scan_gru`, of float32 arrays of any size; one that fits no tile is padded with zeros.

    Args:
      precision: of the products. "tensorfloat32" is computed as "float32", for a kernel has one pass
        of bfloat16 or all six.
      interpret: without a TPU. `pltpu.InterpretParams` imitates one more closely, more slowly.

    Raises:
      UserError: shapes that do not fit together, or weights that no TPU's VMEM holds.
    """
    (time, batch, _), width = projected.shape, w_hh.shape[0]
    gates = projected.shape[2:] + w_hh.shape[1:] + b_hh.shape
    if not time * batch * width or gates != (3 * width,) * 3:
        raise UserError(
            f"pallas_gru: projected {projected.shape}, w_hh {w_hh.shape} and b_hh {b_hh.shape} do not fit: "
            f"give [time, batch, 3 width], [width, 3 width] and [3 width], none of them empty"
        )
    rows, columns = _padded_rows(batch), _round_up(width, LANES)
    # A clip or unit of zeros is its own: no other reads it, and no gradient reaches it.
    projected = jnp.pad(projected, ((0, 0), (0, rows - batch), (0, 0)))
    w_hh = jnp.pad(w_hh, ((0, columns - width), (0, 0)))
    projected, w_hh, b_hh = (_pad_gates(x, columns) for x in (projected, w_hh, b_hh))
    return _gru(projected, w_hh, b_hh, precision, interpret)[:, :batch, :width]


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _gru(projected, w_hh, b_hh, precision, interpret):
    return _run_forward(projected, w_hh, b_hh, precision, interpret, keep=False)[0]


def _forward(projected, w_hh, b_hh, precision, interpret):
    hiddens, *gates = _run_forward(projected, w_hh, b_hh, precision, interpret, keep=True)
    return hiddens, (hiddens, gates, w_hh)


def _backward(precision, interpret, residuals, d_hiddens):
    hiddens, gates, w_hh = residuals
    previous = jnp.concatenate([jnp.zeros_like(hiddens[:1]), hiddens[:-1]])
    frames = d_hiddens, previous, *gates
    d_projected, d_recurrent = _run_backward(frames, w_hh, precision, interpret)
    width, gate_width = w_hh.shape
    rows = previous.reshape(-1, width), d_recurrent.reshape(-1, gate_width)
    d_w_hh = matmul(rows[0].T, rows[1], precision)
    return d_projected, d_w_hh, jnp.sum(d_recurrent, axis=(0, 1))


_gru.defvjp(_forward, _backward)


def _run_forward(projected, w_hh, b_hh, precision, interpret, keep):
    """-> [hiddens], and with `keep` also what the backward pass needs: r, z, n, hn."""
    width = w_hh.shape[0]
    call = _Call(projected.shape, width, precision, interpret)
    return call.run(
        _forward_kernel,
        inputs=[
            (projected, call.frame(3 * width)),
            (_factor(w_hh, precision), call.resident(w_hh.shape)),
            (b_hh[None], call.resident((1, 3 * width))),
        ],
        outputs=[call.frame(width)] * (5 if keep else 1),
    )


def _run_backward(frames, w_hh, precision, interpret):
    """-> d_projected and d_recurrent, the gradient of W_h h + b_h; both [time, batch, 3 width]."""
    width = w_hh.shape[0]
    call = _Call(frames[0].shape, width, precision, interpret, backward=True)
    return call.run(
        _backward_kernel,
        inputs=[
            *((x, call.frame(width)) for x in frames),
            (_factor(w_hh.T, precision), call.resident(w_hh.T.shape)),
        ],
        outputs=[call.frame(3 * width)] * 2,
    )


def _forward_kernel(precision, projected, w_hh, b_hh, hiddens, *kept_and_scratch):
    """One frame of one block; refs are [rows, ...] of this frame."""
    *kept, hidden = kept_and_scratch

    @pl.when(pl.program_id(1) == 0)
    def _():
        hidden[...] = jnp.zeros_like(hidden)

    before = hidden[...]
    recurrent = _multiply(before, w_hh[...], precision) + b_hh[...]
    hidden[...], gates = cell(projected[...], recurrent, before)
    hiddens[...] = hidden[...]
    for ref, gate in zip(kept, gates, strict=False):  # none where nothing is kept
        ref[...] = gate


def _backward_kernel(
    precision, d_hiddens, previous, r, z, n, hn, w_back, d_projected, d_recurrent, carried
):
    """One frame of one block, the last first; the names are those of `scan_gru`'s backward step."""

    @pl.when(pl.program_id(1) == 0)
    def _():
        carried[...] = jnp.zeros_like(carried)

    r, z, n, hn = r[...], z[...], n[...], hn[...]
    d_hidden = carried[...] + d_hiddens[...]
    d_n = d_hidden * (1.0 - z) * (1.0 - n * n)
    d_z = d_hidden * (previous[...] - n) * z * (1.0 - z)
    d_r = d_n * hn * r * (1.0 - r)
    d_projected[...] = jnp.concatenate([d_r, d_z, d_n], axis=-1)
    d_recurrent[...] = jnp.concatenate([d_r, d_z, d_n * r], axis=-1)
    carried[...] = d_hidden * z + _multiply(d_recurrent[...], w_back[...], precision)


def _factor(w, precision):
    """As it lies on the chip."""
    return w.astype(jnp.bfloat16) if precision == "bfloat16" else w


def _multiply(x, w, precision):
    exact = None if precision == "bfloat16" else jax.lax.Precision.HIGHEST
    return jnp.dot(x.astype(w.dtype), w, precision=exact, preferred_element_type=jnp.float32)


class _Call:
    """What both kernels are called with: the grid, the blocks of arrays and the memory they take."""

    def __init__(self, shape, width, precision, interpret, backward=False):
        (self.time, self.batch, _), self.width, self.backward = shape, width, backward
        self.rows = self.batch // pl.cdiv(self.batch, MOST_ROWS)
        self.precision, self.interpret = precision, interpret

    def frame(self, features):
        """A block's rows of the frame that is due."""

        def index(block, step):
            return self.time - 1 - step if self.backward else step, block, 0

        return pl.BlockSpec((None, self.rows, features), index)

    def resident(self, shape):
        """All of an array, fetched once: the same block at every point of the grid, in one copy."""
        return pl.BlockSpec(shape, lambda *_: (0, 0), pipeline_mode=pl.Buffered(1))

    def run(self, kernel, inputs, outputs):
        arrays, specs = zip(*inputs, strict=True)
        shape = self.time, self.batch
        return pl.pallas_call(
            functools.partial(kernel, self.precision),
            grid=(self.batch // self.rows, self.time),
            in_specs=specs,
            out_specs=outputs,
            out_shape=[
                jax.ShapeDtypeStruct((*shape, s.block_shape[-1]), "float32") for s in outputs
            ],
            scratch_shapes=[pltpu.VMEM((self.rows, self.width), "float32")],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"),
                vmem_limit_bytes=self.count_bytes(arrays, [*specs, *outputs]),
            ),
            interpret=self.interpret,
            name="gru_backward" if self.backward else "gru_forward",
        )(*arrays)

    def count_bytes(self, arrays, specs):
        """The VMEM that the kernel asks for. Blocks of a frame are there twice: one is on its way."""
        resident = sum(x.size * x.dtype.itemsize for x in arrays if x.ndim == 2)
        frames = sum(spec.block_shape[-1] for spec in specs if len(spec.block_shape) == 3)
        scratch_and_values = 16 * self.width  # the state, and two times 3 width and some more
        count = resident + 4 * self.rows * (2 * frames + scratch_and_values)
        if count > MOST_VMEM:
            raise UserError(
                f"pallas_gru needs {count / 2**20:.0f} MiB of a TPU's VMEM at width {self.width}, there "
                "are 128 at most: use scan_gru"
            )
        return count


def _padded_rows(batch):
    """The batch as blocks of equal size, each a multiple of the tile."""
    blocks = pl.cdiv(batch, MOST_ROWS)
    return blocks * _round_up(pl.cdiv(batch, blocks), SUBLANES)


def _round_up(size, multiple):
    return pl.cdiv(size, multiple) * multiple


def _pad_gates(x, columns):
    """[..., 3 width] -> [..., 3 columns]: each of the three gates by itself."""
    gates = x.reshape(*x.shape[:-1], 3, -1)
    gates = jnp.pad(gates, [(0, 0)] * (x.ndim) + [(0, columns - gates.shape[-1])])
    return gates.reshape(*x.shape[:-1], 3 * columns)
