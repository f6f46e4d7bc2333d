"""On paper: what 8, 64 and 512 chips would make of a step, and when talking reaches a tenth of it.

    python benchmarks/scaling_model.py --tflops=100 --links=450,50 --latency-us=10

Nothing is measured here. A step is its FLOPs at the rate of one chip (`benchmarks/step.py` prints
it; the default is an assumption) and what the devices tell one another in it, as the bytes of
methods/moco.py:

    gradients    all-reduce of every parameter of the query encoders and heads
    keys         all-gather of the batch's keys, for the queue that every device keeps
    statistics   all-reduce of mean and square of each input, of both encoders, forward and backward
    figures      all-reduce of some dozen scalars
    prototypes   nothing: every device clusters the same queue and finds the same ones

An all-reduce of B bytes over n chips takes 2 (n - 1) / n B / bandwidth + 2 log2(n) latencies (NCCL's
trees), an all-gather half of that; the slower of two networks (within eight chips, between them) counts.
Nothing is hidden behind computation, which flatters nobody.
"""

import argparse
import json
import math

import _steps
import _timing

from halp_jax.methods.base import Spec
from halp_jax.methods.moco import step_flops
from halp_jax.skeletons.layout import NTU25

CHIPS = (8, 64, 512)
FIGURES = 24  # scalars in a step's metrics, about


def collective_bytes(config) -> dict[str, float]:
    """What is reduced (counted once) or gathered in one step, bytes; keys for the global batch."""
    streams = len(config.streams)
    inputs = NTU25.bodies * NTU25.num_joints * 3
    return {
        "gradients": 4.0 * streams * _steps.count_parameters(config),
        "keys": 4.0 * streams * config.train.batch_size * config.encoder.dim,
        "statistics": 4.0 * streams * 3 * 2 * inputs,  # forward of both, backward of one
        "figures": 4.0 * FIGURES,
    }


def communication_seconds(config, chips: int, links: tuple[float, float], latency: float) -> float:
    """Seconds of all collectives of a step; links in bytes/s within eight chips and between them."""
    bandwidth = links[0] if chips <= 8 else min(links)
    seconds = 0.0
    for name, size in collective_bytes(config).items():
        once = (chips - 1) / chips * size / bandwidth + math.log2(chips) * latency
        seconds += once if name == "keys" else 2 * once
    return seconds


def compute_seconds(config, chips: int, flops: float) -> float:
    return step_flops(config, Spec(NTU25)) / chips / flops


def find_batch(args, method: str, chips: int, share: float) -> int:
    """The smallest global batch, doubled from one clip a chip, with at most `share` of talking."""
    batch = chips
    while True:
        args.batch = batch
        config = _steps.make_config(args, method)
        talk = communication_seconds(config, chips, args.link, 1e-6 * args.latency_us)
        if talk <= share * (talk + compute_seconds(config, chips, 1e12 * args.tflops)):
            return batch
        batch *= 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    _steps.add_size(parser)
    parser.add_argument("--tflops", type=float, default=100.0, help="of one chip, as in step.py")
    parser.add_argument("--links", default="450,50", help="GB/s within eight chips, between them")
    parser.add_argument("--latency-us", type=float, default=10.0, help="of one message")
    args = parser.parse_args()
    args.cores = 0
    within, between = (1e9 * float(x) for x in args.links.split(","))
    args.link, paper_batch, rows = (within, between), args.batch, []
    for method in ("baseline", "halp_cmd"):
        for chips in CHIPS:
            batch = max(paper_batch, chips)
            args.batch = batch
            config = _steps.make_config(args, method)
            compute = compute_seconds(config, chips, 1e12 * args.tflops)
            talk = communication_seconds(config, chips, args.link, 1e-6 * args.latency_us)
            rows.append({
                "method": method, "chips": chips, "batch": batch, "compute_ms": 1e3 * compute,
                "talk_ms": 1e3 * talk, "talk_share": talk / (talk + compute),
                "gradient_mb": collective_bytes(config)["gradients"] / 1e6,
                "clips_per_s": batch / (talk + compute),
                "batch_at_10_percent": find_batch(args, method, chips, 0.1),
            })  # fmt: skip
    print(f"assumed: {args.tflops:g} TFLOP/s a chip, links {args.links} GB/s, ", end="")
    print(f"{args.latency_us:g} us a message\n")
    _timing.print_table(rows)
    print(json.dumps({"benchmark": "scaling_model", "rows": rows}))


if __name__ == "__main__":
    main()
