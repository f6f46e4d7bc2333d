"""Ways to write the recurrence that were considered, each against the one that stayed.

    python benchmarks/variants.py --cores=1

First one GRU layer of two streams, forward and backward, at the paper's size; "kept" is `scan_gru`
called for each stream as encoders/bigru.py does. Then one product with the input. Then the whole
encoder (--encoder-width, smaller, for it takes long): several encoders at once, and three layers as
one wavefront. All variants are checked against the kept one before they are timed. PERFORMANCE.md
says what was expected of each and what came of it.
"""

import functools

import _timing
import jax
import jax.numpy as jnp
import numpy as np

from halp_jax.encoders.bigru import BiGRU, flatten_clips
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


def wavefront(params, x):
    """All layers in one scan of time + layers - 1 ticks: layer l is l frames behind the first.

    [batch, time, features] -> the top layer's last frame, [batch, 2 width]. A tick is two batched
    products over layers and streams; what a layer reads is what the one below said a tick ago.
    """
    layers = [params[f"layer{i}"] for i in range(sum(name.startswith("layer") for name in params))]
    count, width = len(layers), layers[0]["w_hh"].shape[1]
    first = jnp.einsum("bti,sig->tsbg", x, layers[0]["w_ih"]) + layers[0]["b_ih"][None, :, None]
    first = jnp.pad(first, ((0, count - 1), (0, 0), (0, 0), (0, 0)))
    w_ih = jnp.stack([layer["w_ih"] for layer in layers[1:]])
    b_ih = jnp.stack([layer["b_ih"] for layer in layers[1:]])
    w_hh, b_hh = (jnp.stack([layer[name] for layer in layers]) for name in ("w_hh", "b_hh"))

    def tick(hidden, inputs):
        frame, number = inputs
        below = jnp.concatenate([hidden[:-1, 0], hidden[:-1, 1]], axis=-1)
        above = jnp.einsum("lbi,lsig->lsbg", below, w_ih) + b_ih[:, :, None]
        projected = jnp.concatenate([frame[None], above])
        recurrent = jnp.einsum("lsbh,lshg->lsbg", hidden, w_hh) + b_hh[:, :, None]
        xr, xz, xn = jnp.split(projected, 3, axis=-1)
        hr, hz, hn = jnp.split(recurrent, 3, axis=-1)
        r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
        new = (1.0 - z) * jnp.tanh(xn + r * hn) + z * hidden
        begun = (number >= jnp.arange(count))[:, None, None, None]
        return jnp.where(begun, new, hidden), None

    start = jnp.zeros((count, 2, x.shape[0], width))
    hidden, _ = jax.lax.scan(tick, start, (first, jnp.arange(len(first))))
    return jnp.concatenate([hidden[-1, 0], hidden[-1, 1]], axis=-1)


def time_encoders(args):
    """Whole encoders: three at once, two forward, and the wavefront -> rows."""
    encoder = BiGRU(args.encoder_width)
    rng = np.random.default_rng(0)
    shape = (3, args.batch, args.frames, 2, 25, 3)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 3)
    variables = jax.jit(jax.vmap(lambda key: encoder.init(key, x[0], train=False)))(keys)
    params, stats = variables["params"], variables["batch_stats"]
    single = [jax.tree.map(lambda leaf, i=i: leaf[i], params) for i in range(3)]
    stat = jax.tree.map(lambda leaf: leaf[0], stats)
    weight = jnp.asarray(rng.normal(size=(args.batch, 2 * args.encoder_width)), jnp.float32)

    def feature(params, x):
        normalised = {"params": params, "batch_stats": stat}
        return encoder.apply(normalised, x, train=False)[1]

    def loss(params, x):
        return jnp.sum(feature(params, x) * weight)

    def loss_of_wavefront(params, x):
        x = flatten_clips(x) / jnp.sqrt(1 + 1e-5)  # as batch norm at first
        return jnp.sum(wavefront(params, x) * weight)

    gradient, forward = jax.jit(jax.grad(loss)), jax.jit(feature)
    by_wave = jax.jit(jax.grad(loss_of_wavefront))
    for ours, kept in zip(
        jax.tree.leaves(by_wave(single[0], x[0])["layer1"]),
        jax.tree.leaves(gradient(single[0], x[0])["layer1"]),
        strict=True,
    ):
        np.testing.assert_allclose(ours, kept, rtol=1e-2, atol=1e-3 * np.abs(kept).max())
    three, two = jax.jit(jax.vmap(jax.grad(loss))), jax.jit(jax.vmap(feature))
    pair = jax.tree.map(lambda leaf: leaf[:2], params)
    members = {
        "one encoder (kept)": lambda: gradient(single[0], x[0]),
        "one encoder, layers as a wavefront": lambda: by_wave(single[0], x[0]),
        "three encoders, one after the other": lambda: [
            gradient(p, x[i]) for i, p in enumerate(single)
        ],
        "three encoders, vmapped (kept)": lambda: three(params, x),
        "two forward, one after the other (kept)": lambda: [
            forward(p, x[i]) for i, p in enumerate(single[:2])
        ],
        "two forward, vmapped": lambda: two(pair, x[:2]),
    }
    times = _timing.time_in_turn(members, repeats=args.repeats)
    base = times["one encoder (kept)"].wall
    return [
        {"encoder": name, "ms": 1e3 * t.wall, "cpu_ms": 1e3 * t.cpu, "over_one": t.wall / base}
        for name, t in times.items()
    ]


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
    parser.add_argument("--encoder-width", type=int, default=512)
    quick = {"width": 64, "encoder_width": 32, "batch": 8, "frames": 8, "repeats": 1, "cores": 1}
    args = _timing.parse(parser, quick)
    jax.config.update("jax_default_matmul_precision", "float32")  # of `@`, as of `scan_gru`
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
            np.testing.assert_allclose(ours, kept, rtol=1e-3, atol=1e-3 * np.abs(kept).max())
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
    encoders = time_encoders(args)
    print(f"\nEncoders of width {args.encoder_width}, forward and backward where not said:\n")
    _timing.print_table(encoders)
    _timing.print_json(
        "variants", machine=machine, rows=rows, inputs=inputs, encoders=encoders,
        repeats=args.repeats,
    )  # fmt: skip


if __name__ == "__main__":
    main()
