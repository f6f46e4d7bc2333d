"""One GRU layer alone, forward and forward+backward: what our backward pass buys, against torch.

    python benchmarks/recurrence.py --cores=1

Members: `scan_gru`, ours; `reference`, the plain scan with automatic gradients; `nn.GRU`, one call on the
whole clip; `loop`, nn.GRU on one frame at a time. All have the input product inside, with the 2 x width
inputs that the upper layers have; the gradient is that of input and parameters. --precision is that of
both products of `scan_gru` and of torch (bfloat16: autocast); `reference` is always float32 and then stands
for the size of the rounding.
"""

import _steps
import _timing
import jax
import jax.numpy as jnp
import numpy as np
from _plain_gru import scan_gru_reference

from halp_jax.encoders.gru import scan_gru
from halp_jax.encoders.matmul import matmul

QUICK = {"widths": "32,64", "batch": 8, "frames": 16, "repeats": 2, "cores": 1}


def make_arrays(width: int, args) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    bound = width**-0.5
    shapes = {"w_ih": (2 * width, 3 * width), "w_hh": (width, 3 * width)}
    shapes |= {"b_ih": (3 * width,), "b_hh": (3 * width,)}
    arrays = {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}
    arrays["x"] = rng.normal(size=(args.frames, args.batch, 2 * width))
    arrays["direction"] = rng.normal(size=(args.frames, args.batch, width))
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def make_ours(scan, arrays, precision):
    """-> (forward, forward and backward), both without arguments."""
    arrays = jax.tree.map(jnp.asarray, arrays)
    direction = arrays.pop("direction")

    def layer(a):
        projected = matmul(a["x"], a["w_ih"], precision) + a["b_ih"]
        return scan(projected, a["w_hh"], a["b_hh"], precision)

    forward = jax.jit(layer)
    # The direction is an argument: as a constant it would be folded into the program.
    both = jax.jit(lambda a, d: jax.vjp(layer, a)[1](d))
    return lambda: forward(arrays), lambda: both(arrays, direction)


def make_torch(per_frame: bool, arrays, precision):
    import torch

    device, autocast = _timing.prepare_torch(precision)
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    x, direction = tensors["x"].requires_grad_(), tensors["direction"]
    gru = torch.nn.GRU(x.shape[2], direction.shape[2]).to(device)
    with torch.no_grad():
        for name in ("w_ih", "w_hh", "b_ih", "b_hh"):
            kind = "weight" if name[0] == "w" else "bias"
            getattr(gru, f"{kind}_{name[2:]}_l0").copy_(tensors[name].t())

    def layer():
        if not per_frame:
            return gru(x)[0]
        outputs, state = [], None
        for frame in x:
            output, state = gru(frame[None], state)
            outputs.append(output)
        return torch.cat(outputs)

    def forward():
        with torch.no_grad(), autocast():
            return layer().float()

    def both():
        gru.zero_grad()
        x.grad = None
        with autocast():
            output = layer().float()
        output.backward(direction)
        return x.grad

    return forward, both


def main() -> None:
    parser = _timing.make_parser(__doc__)
    _steps.add_size(parser)
    parser.add_argument("--widths", default="128,256,512,1024")
    args = _timing.parse(parser, QUICK)
    machine, rates = _timing.start("one GRU layer", args)
    rows = []
    for width in map(int, args.widths.split(",")):
        arrays = make_arrays(width, args)
        members = {"scan_gru": make_ours(scan_gru, arrays, args.precision)}
        members["reference"] = make_ours(reference, arrays, "float32")
        if machine["torch"]:
            members["nn.GRU"] = make_torch(False, arrays, args.precision)
            members["loop"] = make_torch(True, arrays, args.precision)
        outputs = {name: to_numpy(run[0]()) for name, run in members.items()}
        off = {k: float(np.max(np.abs(v - outputs["scan_gru"]))) for k, v in outputs.items()}
        runs = {(k, i): run[i] for k, run in members.items() for i in range(2)}
        times = _timing.time_in_turn(runs, repeats=args.repeats, min_seconds=0.1)
        clips = args.frames * args.batch
        flops = 2.0 * clips * 3 * width * (2 * width + width)
        # Input and output once, weights once; the backward pass also their gradients.
        num_bytes = 4.0 * (clips * 3 * width + 9 * width * width)
        for name in members:
            forward, both = times[name, 0], times[name, 1]
            floor = [_timing.floor_seconds(n * flops, n * num_bytes, rates) for n in (1, 3)]
            rows.append({
                "member": f"{width} {name}",
                "forward_ms": 1e3 * forward.wall, "over_ours": forward.wall / times["scan_gru", 0].wall,
                "floor": 1e3 * floor[0],
                "both_ms": 1e3 * both.wall, "both_over_ours": both.wall / times["scan_gru", 1].wall,
                "both_floor": 1e3 * floor[1], "both_cpu_ms": 1e3 * both.cpu,
                "gflops": 3 * flops / both.wall / 1e9, "difference": off[name],
            })  # fmt: skip
    _timing.print_table(rows)
    print("\nfloor: the least time in ms; difference: the largest in the output, to scan_gru")
    size = {"batch": args.batch, "frames": args.frames, "precision": args.precision}
    _timing.print_json("recurrence", machine=machine, size=size, repeats=args.repeats, rows=rows)


def reference(projected, w_hh, b_hh, precision):
    return scan_gru_reference(projected, w_hh, b_hh)  # always float32


def to_numpy(x) -> np.ndarray:
    return np.asarray(x.cpu() if hasattr(x, "cpu") else x)


if __name__ == "__main__":
    main()
