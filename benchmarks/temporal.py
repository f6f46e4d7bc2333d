"""ST-GCN's convolution over time as the products that XLA can make of it, at the sizes of AimCLR's blocks,
full and small.

    python benchmarks/temporal.py            (a minute or two on one core)

Forward and backward of nine taps on maps [joints * rows, time, channels]: `conv`, XLA's convolution;
`shifted`, nine products added up; `im2col`, nine shifts side by side and one product; `band`, one product
with a banded matrix. Written down before the first run: im2col wins at 16 and 32 channels, where a
product of so few is slow, conv at 256, where im2col writes the map nine times; shifted loses everywhere.
"""

import functools

import _timing
import jax
import jax.numpy as jnp

from halp_jax.encoders import temporal

SIZES = (
    (50, 16, 16, 1),
    (50, 32, 32, 2),
    (25, 32, 32, 1),
    (25, 64, 64, 2),
    (13, 64, 64, 1),
    (13, 256, 256, 1),
    (32, 4, 4, 1),
    (16, 8, 8, 1),
    (8, 64, 64, 1),
)
QUICK = {"rows": 16, "repeats": 1}


def make_parser():
    parser = _timing.make_parser(__doc__)
    parser.set_defaults(cores=1)
    parser.add_argument("--rows", type=int, default=256, help="bodies of a batch")
    return parser


def conv(x, weights, stride):
    y = jax.lax.conv_general_dilated(
        x, weights, (stride,), ((4, 4),), dimension_numbers=("NWC", "WIO", "NWC")
    )
    return y


def shift(x, stride):
    padded = jnp.pad(x, ((0, 0), (4, 4), (0, 0)))
    return [padded[:, i : i + x.shape[1] : stride] for i in range(temporal.TAPS)]


def shifted(x, weights, stride):
    return sum(part @ w for part, w in zip(shift(x, stride), weights, strict=True))


def im2col(x, weights, stride):
    return jnp.concatenate(shift(x, stride), axis=-1) @ weights.reshape(-1, weights.shape[-1])


def band(x, weights, stride):
    return temporal.multiply_by_band(x[None], weights, stride, "float32")[0]


def make_member(form, x, weights, stride):
    def loss(x, weights):
        return jnp.sum(form(x, weights, stride) ** 2)

    return functools.partial(jax.jit(jax.grad(loss, (0, 1))), x, weights)


def main() -> None:
    args = _timing.parse(make_parser(), QUICK)
    machine, rates = _timing.start("nine taps over time, forward and backward", args)
    rows = []
    for time, inputs, outputs, stride in SIZES:
        keys = jax.random.split(jax.random.key(0))
        x = jax.random.normal(keys[0], (25 * args.rows, time, inputs))
        weights = jax.random.normal(keys[1], (temporal.TAPS, inputs, outputs))
        members = {
            f.__name__: make_member(f, x, weights, stride) for f in (conv, shifted, im2col, band)
        }
        wanted = members["conv"]()
        for member in members.values():
            for ours, theirs in zip(member(), wanted, strict=True):
                assert jnp.linalg.norm(ours - theirs) < 1e-4 * jnp.linalg.norm(theirs)
        times = _timing.time_in_turn(members, repeats=args.repeats)
        flops = 3 * 2.0 * x.shape[0] * -(-time // stride) * temporal.TAPS * inputs * outputs
        row = {"time, channels, stride": f"{time}, {inputs}, {stride}"}
        row |= {f"{name}_ms": 1e3 * t.wall for name, t in times.items()}
        rows.append(row | {"floor_ms": 1e3 * flops / rates.flops})
    _timing.print_table(rows)
    _timing.print_json("temporal", machine=machine, rows=rows, repeats=args.repeats)


if __name__ == "__main__":
    main()
