"""Ways to write the recurrence that were considered, each against the one that stayed.

    python benchmarks/variants.py --cores=1

One GRU layer of two streams, forward and backward, at the paper's size; "kept" is `scan_gru` called
for each stream as encoders/bigru.py does. PERFORMANCE.md says what was expected of each and what
came of it. All variants are checked against the kept one before they are timed.
"""

import functools

import _timing
import jax
import jax.numpy as jnp
import numpy as np

from halp_jax.encoders.gru import scan_gru, scan_gru_reference


def cell(projected, hidden, w_hh, b_hh, sigmoid):
    xr, xz, xn = jnp.split(projected, 3, axis=-1)
    hr, hz, hn = jnp.split(hidden @ w_hh + b_hh, 3, axis=-1)
    r, z = sigmoid(xr + hr), sigmoid(xz + hz)
    n = jnp.tanh(xn + r * hn)
    return (1.0 - z) * n + z * hidden


def scan(x, w_hh, b_hh, *, unroll=1, sigmoid=jax.nn.sigmoid, remat=False):
    def step(hidden, x_t):
        hidden = cell(x_t, hidden, w_hh, b_hh, sigmoid)
        return hidden, hidden

    start = jnp.zeros((x.shape[1], w_hh.shape[0]))
    return jax.lax.scan(jax.checkpoint(step) if remat else step, start, x, unroll=unroll)[1]


def tanh_sigmoid(x):
    return 0.5 * jnp.tanh(0.5 * x) + 0.5


def unstacked(x, w_hh, b_hh):
    """Three products of a third of the width instead of one."""
    weights, biases = jnp.split(w_hh, 3, axis=1), jnp.split(b_hh, 3)

    def step(hidden, x_t):
        xr, xz, xn = jnp.split(x_t, 3, axis=-1)
        hr, hz, hn = (hidden @ w + b for w, b in zip(weights, biases, strict=True))
        r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
        n = jnp.tanh(xn + r * hn)
        hidden = (1.0 - z) * n + z * hidden
        return hidden, hidden

    return jax.lax.scan(step, jnp.zeros((x.shape[1], w_hh.shape[0])), x)[1]


def one_by_one(recurrence):
    """Two streams one after the other, from arrays with a leading axis of two."""
    return lambda x, w, b: jnp.stack([recurrence(x[i], w[i], b[i]) for i in range(2)])


def product_in_scan(frames, w_ih, b_ih, w_hh, b_hh):
    """The product with the input inside the scan, frame by frame."""

    def step(hidden, x_t):
        hidden = cell(x_t @ w_ih + b_ih, hidden, w_hh, b_hh, jax.nn.sigmoid)
        return hidden, hidden

    return jax.lax.scan(step, jnp.zeros((frames.shape[1], w_hh.shape[0])), frames)[1]


VARIANTS = {
    "kept: own backward pass": one_by_one(scan_gru),
    "plain scan, automatic gradients": one_by_one(scan_gru_reference),
    "both streams in one batched product": jax.vmap(scan_gru),
    "unroll 2": one_by_one(functools.partial(scan, unroll=2)),
    "unroll 4": one_by_one(functools.partial(scan, unroll=4)),
    "sigmoid through tanh": one_by_one(functools.partial(scan, sigmoid=tanh_sigmoid)),
    "a product a gate (unstacked)": one_by_one(unstacked),
    "rematerialised": one_by_one(functools.partial(scan, remat=True)),
}


def main() -> None:
    parser = _timing.make_parser(__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--frames", type=int, default=64)
    args = _timing.parse(parser, {"width": 64, "batch": 8, "frames": 8, "repeats": 1, "cores": 1})
    machine, rates = _timing.start("ways to write the recurrence", args)
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.uniform(-1, 1, shape) / args.width**0.5, jnp.float32)

    gates = 3 * args.width
    x, w = draw(2, args.frames, args.batch, gates), draw(2, args.width, gates)
    b, weight = draw(2, gates), draw(2, args.frames, args.batch, args.width)
    members, reference = {}, None
    for name, variant in VARIANTS.items():

        def loss(x, w, b, variant=variant):
            return jnp.sum(variant(x, w, b) * weight)

        run = jax.jit(jax.grad(loss, (0, 1, 2)))
        found = [np.asarray(leaf) for leaf in run(x, w, b)]
        reference = reference or found
        for ours, kept in zip(found, reference, strict=True):
            np.testing.assert_allclose(ours, kept, rtol=1e-3, atol=1e-4 * np.abs(kept).max())
        members[name] = functools.partial(run, x, w, b)
    times = _timing.time_in_turn(members, repeats=args.repeats, min_seconds=0.05)
    kept = times["kept: own backward pass"].wall
    # Forward, gradient of the state, gradient of the weights: three products a frame and stream.
    flops = 3 * 2 * args.frames * 2.0 * args.batch * args.width * gates
    rows = [
        {
            "variant": name, "ms": 1e3 * t.wall, "cpu_ms": 1e3 * t.cpu, "over_kept": t.wall / kept,
            "share_of_matrix_rate": flops / t.wall / rates.flops,
        }
        for name, t in times.items()
    ]  # fmt: skip

    frames, w_ih = draw(args.frames, args.batch, 2 * args.width), draw(2 * args.width, gates)

    def hoisted(frames, w_ih, w_hh):
        return jnp.sum(scan(frames @ w_ih + b[0], w_hh, b[0]) * weight[0])

    def inside(frames, w_ih, w_hh):
        return jnp.sum(product_in_scan(frames, w_ih, b[0], w_hh, b[0]) * weight[0])

    members = {
        name: functools.partial(jax.jit(jax.grad(f, (0, 1, 2))), frames, w_ih, w[0])
        for name, f in {"outside the scan": hoisted, "inside the scan": inside}.items()
    }
    times = _timing.time_in_turn(members, repeats=args.repeats, min_seconds=0.05)
    base = times["outside the scan"].wall
    inputs = [
        {"product with the input": name, "ms": 1e3 * t.wall, "over_outside": t.wall / base}
        for name, t in times.items()
    ]
    _timing.print_table(rows)
    print("\nA layer of one stream with its input of twice the width, automatic gradients:\n")
    _timing.print_table(inputs)
    _timing.print_json("variants", machine=machine, rows=rows, inputs=inputs, repeats=args.repeats)


if __name__ == "__main__":
    main()
