"""An epoch of GraphCL: ours against plain PyTorch and PyG's layers, in turn, on one core.

    python benchmarks/graph_epoch.py --data=FOLDER_OF_ZIPS [--sets=MUTAG,DD] [--members=ours,torch,pyg]

Views, both forward passes, loss, backward, Adam; batches of 128 as configs/graphcl.py has them. Compilation
apart. Each member has a process of its own in each of --rounds, for their memory gets into each other's way: ours
takes a third longer on DD once torch has run beside it. A member "20 seeds" is so many in one vmapped program.
With a GPU all run there.
"""

import json
from pathlib import Path

import _timing
import graph_table
import jax
import jax.numpy as jnp
import numpy as np

from halp_jax.datasets import graph_batches
from halp_jax.datasets.order import epoch_order

QUICK = {"sets": "MUTAG", "repeats": 1, "rounds": 1, "members": "ours"}


def make_parser():
    parser = _timing.make_parser(__doc__)
    parser.set_defaults(cores=1, repeats=5)
    parser.add_argument("--data", type=Path, default=graph_table.ROOT.parent / "shared" / "data")
    parser.add_argument("--members", default="ours,torch,pyg")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", default="", help="this member, in this process")
    parser.add_argument("--sets", default=",".join(graph_table.PAPER))
    return parser


def make_ours(dataset, config, batches, seeds=0):
    """An epoch of one seed, or of so many at once, each with the batches of its own."""
    create, step, _ = graph_table.make_run(dataset, config, len(batches), together=bool(seeds))
    seed = jnp.arange(seeds) if seeds else jnp.int32(0)
    holder = [create(seed)]

    def epoch():
        for batch in batches:
            holder[0], loss = step(seed, holder[0], batch)
        return loss

    return epoch


def make_member(member: str, dataset, config):
    """A function that trains for an epoch."""
    order, size = np.arange(len(dataset))[epoch_order(len(dataset), 0, 0)], config.train.batch_size
    if member in ("torch", "pyg"):
        from _torch_gin import Peer, from_dataset

        return Peer(from_dataset(dataset), order, size, pyg=member == "pyg").epoch
    seeds = int(member.split()[0]) if member.endswith("seeds") else 0
    batches = graph_batches.make_batches(dataset, order, size)
    if seeds:
        batches = jax.tree.map(lambda x: np.stack([x] * seeds), batches)
    batches = jax.block_until_ready(jax.tree.map(jnp.asarray, batches))
    return make_ours(dataset, config, batches, seeds)


def measure(name: str, args) -> list[dict]:
    peers, found = {"torch": "torch", "pyg": "torch_geometric"}, {}
    members = [m for m in args.members.split(",") if m not in peers or _timing.try_import(peers[m])]
    for _ in range(args.rounds):
        for member in members:
            options = [f"--data={args.data}", f"--sets={name}", f"--repeats={args.repeats}"]
            child = [__file__, *options, f"--cores={args.cores}", f"--alone={member}"]
            found.setdefault(member, []).append(_timing.run_child(child))
    middle = {m: [float(np.median(x)) for x in np.transpose(found[m])] for m in members}
    return [
        {"set": name, "member": member, "cpu_s": cpu, "s": wall, "against ours": wall / middle["ours"][1]}
        for member, (cpu, wall) in middle.items()
    ]  # fmt: skip


def main() -> None:
    args = _timing.parse(make_parser(), QUICK)
    if args.alone:
        dataset = graph_table.read(args.data, args.sets)
        config = graph_table.make_config(args.sets, "GraphCL", "")
        alone = {args.alone: make_member(args.alone, dataset, config)}
        times = _timing.time_in_turn(alone, repeats=args.repeats, warmups=2, min_seconds=0.2)
        print(json.dumps([times[args.alone].cpu, times[args.alone].wall]))
        return
    machine, _ = _timing.start("GraphCL's epoch", args)
    rows = [row for name in args.sets.split(",") for row in measure(name, args)]
    _timing.print_table(rows)
    _timing.print_json("graph_epoch", machine=machine, rows=rows, repeats=args.repeats)


if __name__ == "__main__":
    main()
