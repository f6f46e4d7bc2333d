"""One training step: baseline, HaLP, CMD and HaLP+CMD against two PyTorch programs of the same step.

    python benchmarks/step.py --cores=1            (the paper's size; an hour on one core)
    python benchmarks/step.py --cores=1 --methods=baseline,halp --repeats=3

Members: `clips`, our step as training runs it, from the pipeline's batch on; `views`, ours from two
ready views on; `loop` and `sequence`, the peers of _torch_peers.py, from the same views on. The
prototypes are computed anew in every tenth step: a step's time is that of nine without and one with.
--precision is that of the recurrent products of all members (bfloat16: autocast in torch).
"""

import functools
import sys
import time
from typing import Any

import _steps
import _timing
import jax
import numpy as np
from _numpy_kmeans import riemannian_kmeans

from halp_jax.methods.base import AXIS, Spec
from halp_jax.methods.moco import step_flops
from halp_jax.skeletons.layout import NTU25

OURS, PEERS = ("clips", "views"), ("loop", "sequence")
QUICK = {"width": 32, "layers": 1, "batch": 8, "frames": 8, "queue": 256, "repeats": 1, "cores": 1}
QUICK |= {"methods": "halp_cmd", "members": "views,sequence"}


def make_parser():
    parser = _timing.make_parser(__doc__)
    _steps.add_size(parser)
    parser.add_argument("--methods", default=",".join(_steps.METHODS))
    parser.add_argument("--members", default=",".join(OURS + PEERS))
    parser.add_argument("--steps", type=int, default=0, help="a sample; 0: 1, on accelerators 8")
    about = (
        "methods whose memory is measured, or none; plan: XLA's plan of our steps, and no timing"
    )
    parser.add_argument("--memory", default="all", help=about)
    parser.add_argument("--memory-of", help="for internal use: METHOD:MEMBER in this process")
    return parser


class OurMembers:
    """Our compiled steps; methods with the same streams pass on one state, to spare memory."""

    def __init__(self, args):
        self.args, self.holders = args, {}

    def make(self, method: str, member: str):
        config = _steps.make_config(self.args, method)
        if config.streams not in self.holders:
            self.holders[config.streams] = _steps.Holder(_steps.make_state(config))
        holder = self.holders[config.streams]
        if member == "clips":
            return holder.member(_steps.step_from_clips(config), _steps.make_batch(config))
        return holder.member(_steps.step_from_views(config), _steps.make_views(config))


class PeerMembers:
    """The torch programs; one model for all methods with the same streams and recurrence."""

    def __init__(self, args):
        import _torch_peers
        import torch

        self.args, self.peers, self.torch, self.models = args, _torch_peers, torch, {}
        self.device, self.autocast = _timing.prepare_torch(args.precision)

    def make(self, method: str, member: str):
        config = _steps.make_config(self.args, method)
        if (member, config.streams) not in self.models:
            peer = self.peers.Peer(
                member,
                streams=len(config.streams),
                width=config.encoder.width,
                num_layers=config.encoder.num_layers,
                queue_size=config.moco.queue_size,
            ).to(self.device)
            self.models[member, config.streams] = peer, self.peers.make_optimizer(peer)
        peer, optimizer = self.models[member, config.streams]
        settings = self.peers.Settings(mu=config.halp.mu, nu=config.cmd.nu, topk=config.cmd.topk)
        views = _steps.make_views(config)
        x_q, x_k = (
            self.torch.from_numpy(np.swapaxes(views[name], 0, 1).copy()).to(self.device)
            for name in ("x_q", "x_k")
        )
        rng = np.random.default_rng(0)

        def cluster(points, count):
            return riemannian_kmeans(points, count, rng)[0]

        def run(first: int = 0, count: int = 1) -> Any:
            for step in range(first, first + count):
                due = config.halp.mu and (step + 1) % config.halp.update_every == 0
                with self.autocast():
                    self.peers.train_step(
                        peer, optimizer, x_q, x_k, settings, cluster if due else None
                    )

        return run


def planned_bytes(args, method: str) -> int:
    """What XLA sets aside for our step from views: arguments, results, and all between them."""
    config = _steps.make_config(args, method)
    state = jax.eval_shape(lambda: _steps.make_state(config))
    views = jax.eval_shape(lambda: _steps.make_views(config))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), (AXIS,))
    everywhere, rows = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(AXIS)
    mapped = jax.shard_map(
        _steps.step_from_views(config), mesh=mesh, in_specs=(everywhere, rows),
        out_specs=everywhere, check_vma=False,
    )  # fmt: skip
    compiled = jax.jit(mapped, donate_argnums=0).lower(state, views).compile()
    plan = compiled.memory_analysis()
    total = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return total - plan.alias_size_in_bytes  # the state is given back in its own memory


def main() -> None:
    args = _timing.parse(make_parser(), QUICK)
    if args.memory == "plan":
        rows = [
            {
                "method": method, "planned_mib": planned_bytes(args, method) / 2**20,
                "least_mib": _steps.minimum_memory(_steps.make_config(args, method)) / 2**20,
            }
            for method in args.methods.split(",")
        ]  # fmt: skip
        for row in rows:
            row["over_first"] = row["planned_mib"] / rows[0]["planned_mib"]
        _timing.print_table(rows)
        _timing.print_json("memory", machine=_timing.describe_machine(), rows=rows)
        return
    has_torch = bool(_timing.try_import("torch"))
    if args.memory_of:
        method, member = args.memory_of.split(":")
        makers = OurMembers if member in OURS else PeerMembers
        _timing.report_memory(lambda: makers(args).make(method, member), steps=1)
        return
    machine, rates = _timing.start("one training step", args)
    methods = args.methods.split(",")
    members = [m for m in args.members.split(",") if m in OURS or has_torch]
    steps = args.steps or (1 if jax.default_backend() == "cpu" else 8)
    if not 1 <= steps <= 9:
        sys.exit("--steps: 1 to 9, for the tenth computes the prototypes")

    ours = OurMembers(args)
    peers = PeerMembers(args) if has_torch else None
    runs = {}
    for method in methods:
        update_every = _steps.make_config(args, method).halp.update_every
        for member in members:
            run = (ours if member in OURS else peers).make(method, member)
            runs[method, member, "plain"] = functools.partial(run, 0, steps)
            if _steps.METHODS[method][1]:  # single steps, to compare like with like
                if steps > 1:
                    runs[method, member, "single"] = functools.partial(run, 0, 1)
                runs[method, member, "prototypes"] = functools.partial(run, update_every - 1, 1)
    first = {}  # seconds of the first call: compilation and a sample
    for key, run in runs.items():
        begin = time.perf_counter()
        _timing.wait(run())
        first[key] = time.perf_counter() - begin
    times = _timing.time_in_turn(runs, repeats=args.repeats, warmups=0)

    rows = []
    for method in methods:
        config = _steps.make_config(args, method)
        flops, floor = step_flops(config, Spec(NTU25)), _steps.step_bytes(config)
        for member in members:
            wall, cpu, prototypes = summarise(times, method, member, steps, config)
            row = {"member": f"{method} {member}", "ms": 1e3 * wall, "cpu_ms": 1e3 * cpu}
            base = ("baseline", member, "plain")
            row["over_baseline"] = wall * steps / times[base].wall if base in times else None
            row["prototypes_ms"] = prototypes
            plain = (method, member, "plain")
            row["compile_s"] = first[plain] - times[plain].wall if member in OURS else None
            row["gflops"] = flops / wall / 1e9
            row["mfu"] = flops / wall / rates.flops
            row["floor_ms"] = 1e3 * _timing.floor_seconds(flops, floor, rates)
            row["peak_mib"] = None
            if args.memory == "all" or method in args.memory.split(","):
                child = [__file__, f"--memory-of={method}:{member}", *_steps.size_options(args)]
                memory = _timing.run_child(child)
                row["peak_mib"] = memory.get("device", memory["steps"]) / 2**20
            row["least_mib"] = _steps.minimum_memory(config) / 2**20
            rows.append(row)
    _timing.print_table(rows)
    print("\nmfu: share of the matrix rate above. peak_mib: while stepping, without the imports'")
    print("but with what compilation left (on a GPU: allocated there); least_mib: on paper.")
    speedups = {}
    for method in methods:
        for peer in PEERS:
            if "views" in members and peer in members:
                key, other = (method, peer, "plain"), (method, "views", "plain")
                speedups[f"{method} {peer}"] = round(times[key].wall / times[other].wall, 3)
    if speedups:
        print("views against: " + ", ".join(f"{k} {v:.2f}x" for k, v in speedups.items()))
    size = {name: getattr(args, name) for name in ("width", "layers", "batch", "frames", "queue")}
    size["precision"] = args.precision
    _timing.print_json(
        "step", machine=machine, size=size, repeats=args.repeats, steps_a_sample=steps,
        rows=rows, speedups=speedups,
    )  # fmt: skip


def summarise(times, method: str, member: str, steps: int, config):
    """-> seconds and CPU seconds a step, every tenth with prototypes; what those cost (ms)."""
    plain = times[method, member, "plain"]
    wall, cpu = plain.wall / steps, plain.cpu / steps
    due = times.get((method, member, "prototypes"))
    if due is None:
        return wall, cpu, None
    single = times.get((method, member, "single"), plain)
    every = config.halp.update_every
    wall += (due.wall - single.wall) / every
    cpu += (due.cpu - single.cpu) / every
    return wall, cpu, 1e3 * (due.wall - single.wall)


if __name__ == "__main__":
    main()
