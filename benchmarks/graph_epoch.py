"""An epoch of GraphCL: ours against plain PyTorch and PyG's layers, in turn, on one core.

    python benchmarks/graph_epoch.py --data=FOLDER_OF_ZIPS [--sets=MUTAG,PROTEINS,NCI1,DD] [--together=20]

Views, both forward passes, loss, backward, Adam; batches of 128 as configs/graphcl.py has them. Compilation
apart. --together: so many seeds in one vmapped program, too. With a GPU ours and torch run there.
"""

from pathlib import Path

import _timing
import graph_table
import jax
import jax.numpy as jnp
import numpy as np

from halp_jax.datasets import graph_batches, tu
from halp_jax.datasets.order import epoch_order

QUICK = {"sets": "MUTAG", "repeats": 1}


def make_parser():
    parser = _timing.make_parser(__doc__)
    parser.set_defaults(cores=1, repeats=7)
    parser.add_argument("--data", type=Path, default=graph_table.ROOT.parent / "shared" / "data")
    parser.add_argument("--together", type=int, default=0, help="seeds in one program")
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


def measure(name: str, args) -> list[dict]:
    dataset = tu.read(args.data / f"tu_{name}.zip")
    config = graph_table.make_config(name, "GraphCL", "")
    order, size = np.arange(len(dataset))[epoch_order(len(dataset), 0, 0)], config.train.batch_size
    batches = graph_batches.make_batches(dataset, order, size)
    batches = jax.block_until_ready(jax.tree.map(jnp.asarray, batches))
    members = {"ours": make_ours(dataset, config, batches)}
    if args.together:
        many = jax.tree.map(lambda x: jnp.stack([x] * args.together), batches)
        members[f"{args.together} seeds"] = make_ours(dataset, config, many, args.together)
    if _timing.import_torch():
        from _torch_gin import Peer, from_dataset

        graphs = from_dataset(dataset)
        members["torch"] = Peer(graphs, order, size).epoch
        if _timing.try_import("torch_geometric"):
            members["pyg"] = Peer(graphs, order, size, pyg=True).epoch
    times = _timing.time_in_turn(members, repeats=args.repeats, warmups=2, min_seconds=0.2)
    return [
        {"set": name, "member": member, "cpu_s": t.cpu, "s": t.wall, "against ours": t.cpu / times["ours"].cpu}
        for member, t in times.items()
    ]  # fmt: skip


def main() -> None:
    args = _timing.parse(make_parser(), QUICK)
    machine, _ = _timing.start("GraphCL's epoch", args)
    rows = [row for name in args.sets.split(",") for row in measure(name, args)]
    _timing.print_table(rows)
    _timing.print_json("graph_epoch", machine=machine, rows=rows, repeats=args.repeats)


if __name__ == "__main__":
    main()
