"""AimCLR's training step on ST-GCN at full size, ours against plain PyTorch, on one core.

    python benchmarks/aimclr_step.py            (fifteen minutes; needs 10 GiB, and torch beside us)
    python benchmarks/aimclr_step.py --quick

Members: `ours`, `remat` (ours with rematerialised blocks), `torch` (_torch_stgcn.py). Each round starts a
fresh process a member, in turn; it makes one step that is not counted and --steps that are, mining on,
from the same ready views. A figure is the median over rounds.
"""

import functools
import json
import statistics
import time

import _timing
import jax
import numpy as np

import halp_jax.configs.aimclr as config_file
from halp_jax.encoders.stgcn import make_adjacency
from halp_jax.methods import aimclr, base
from halp_jax.methods.base import Spec
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import parallel

MEMBERS = ("ours", "remat", "torch")
QUICK = {"batch": 8, "queue": 512, "repeats": 1}


def make_parser():
    parser = _timing.make_parser(__doc__)
    parser.set_defaults(cores=1, repeats=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--queue", type=int, default=32768)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--members", default=",".join(MEMBERS))
    parser.add_argument("--member", help="for internal use: one of them, in this process")
    return parser


def make_clips(args):
    """Three views [batch, time, bodies, joints, xyz]: query, key, extreme."""
    shape = (args.batch, 50, NTU25.bodies, NTU25.num_joints, 3)
    rng = np.random.default_rng(0)
    return [rng.normal(0.0, 0.3, shape).astype(np.float32) for _ in range(3)]


def make_ours(args, remat: bool):
    config = config_file.get_config("ntu60_xsub")
    config.train.batch_size, config.moco.queue_size = args.batch, args.queue
    config.encoder.stgcn.remat, config.aimclr.mine_epoch = remat, 0
    spec = Spec(NTU25, 1000)
    method, (optimizer, schedules) = aimclr.make(config, spec), aimclr.make_optimizer(config, 1000)
    state = base.create_state(method, optimizer, config.seed)
    update = base.make_update(method, optimizer, schedules)

    def step(state, views):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        return update(state, tuple(jax.tree.map(lambda x: x[None], view) for view in views), key)

    length = np.full(args.batch, 50, np.int32)
    views = tuple({"frames": clips, "length": length} for clips in make_clips(args))
    holder = [parallel.replicate(state, 1)]
    compiled = parallel.compile_step(step, num_devices=1)

    def run():
        holder[0], metrics = compiled(holder[0], views)  # moves the views to the device, too
        return metrics

    return run


def make_torch(args):
    import _torch_stgcn as peers
    import torch
    import torch.nn.functional as F

    torch.manual_seed(0)
    encoder = peers.STGCN(torch.from_numpy(make_adjacency(NTU25.parents)))
    peer = peers.Peer(encoder, F.normalize(torch.randn(args.queue, 128)))
    query, key, extreme = (
        torch.from_numpy(np.ascontiguousarray(x.transpose(0, 4, 1, 3, 2))) for x in make_clips(args)
    )
    return functools.partial(peer.step, extreme, query, key)


def measure(args) -> dict[str, float]:
    make = {"ours": lambda: make_ours(args, False), "remat": lambda: make_ours(args, True)}
    begin = time.perf_counter()
    run = make.get(args.member, lambda: make_torch(args))()
    _timing.wait(run())
    first = time.perf_counter() - begin
    _timing.reset_peak()  # what compilation took
    times = _timing.time_in_turn({"step": run}, repeats=args.steps, warmups=0)["step"]
    return {"wall": times.wall, "cpu": times.cpu, "first": first, "peak": _timing.read_peak()}


def main() -> None:
    args = _timing.parse(make_parser(), QUICK)
    if args.member:
        print(json.dumps(measure(args)))
        return
    machine, _ = _timing.start("AimCLR's step", args)
    members = [m for m in args.members.split(",") if m != "torch" or machine["torch"]]
    options = [f"--{name}={getattr(args, name)}" for name in ("batch", "queue", "steps", "cores")]
    found = {member: [] for member in members}
    for _ in range(args.repeats):
        for member in members:
            child = [__file__, f"--member={member}", *options]
            found[member].append(_timing.run_child(child))
    rows = []
    for member, runs in found.items():
        middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        row = {"member": member, "s": middle["wall"], "cpu_s": middle["cpu"]}
        row |= {"first_s": middle["first"], "peak_gib": middle["peak"] / 2**30}
        rows.append(row)
    _timing.print_table(rows)
    _timing.print_json("aimclr_step", machine=machine, rows=rows, repeats=args.repeats)


if __name__ == "__main__":
    main()
