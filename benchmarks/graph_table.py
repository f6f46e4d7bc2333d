"""The paper's table of graphs: GraphCL, HaLP on it, and two controls, with seeds and intervals.

    python benchmarks/graph_table.py --data=FOLDER_OF_ZIPS --sets=MUTAG,PROTEINS,NCI1 --seeds=20
    python benchmarks/graph_table.py --data=FOLDER_OF_ZIPS --sets=DD --seeds=5
    python benchmarks/graph_table.py --show     # only prints what is there

Rows: an untrained encoder, GraphCL, GraphCL+HaLP, and the control that pulls toward the anchor alone (t = 0).
Each result is a line of --out; what is there already is not done again, so the same command resumes.
--change=halp.mu=1.0 (several, separated by commas) trains other settings, kept apart. `--first=5` starts
at seed 5. A set's seeds are padded alike, so each row compiles once. Two commands with other --sets or
seeds may run side by side and write to one file.

Seeds side by side under vmap are no faster on a CPU: a gather with a batch axis leaves XLA's fast path.
"""

import argparse
import json
import os
import runpy
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy import stats

from halp_jax.datasets import graph_batches, tu
from halp_jax.datasets.order import epoch_order
from halp_jax.errors import UserError
from halp_jax.evaluation import graphs, svm
from halp_jax.methods import base, graphcl
from halp_jax.methods.base import AXIS, Spec

ROOT = Path(__file__).resolve().parents[1]
ROWS = ("untrained", "GraphCL", "GraphCL+HaLP", "control t=0")
PAPER = {  # of the paper, and GraphCL's by its authors
    "MUTAG": {"GraphCL": "86.80±1.3", "GraphCL+HaLP": "89.35±1.2"},
    "PROTEINS": {"GraphCL": "74.39", "GraphCL+HaLP": "74.65"},
    "NCI1": {"GraphCL": "77.87", "GraphCL+HaLP": "78.88"},
    "DD": {"GraphCL": "78.62", "GraphCL+HaLP": "79.20"},
}


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", default=",".join(PAPER))
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--change", default="")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "graph_table.jsonl")
    parser.add_argument("--show", action="store_true")
    return parser.parse_args()


def read(folder, name):
    """NAME.zip of the collection, or tu_NAME.zip."""
    plain = folder / f"{name}.zip"
    return tu.read(plain if plain.exists() else folder / f"tu_{name}.zip")


def make_config(name, row, change):
    halp = "" if row in ("untrained", "GraphCL") else "+halp"
    config = runpy.run_path(str(ROOT / "configs" / "graphcl.py"))["get_config"](name + halp)
    for setting in filter(None, change.split(",")):
        field, _, value = setting.partition("=")
        section, _, field = field.partition(".")
        config[section][field] = type(config[section][field])(value)
    if row == "control t=0":
        config.halp.draw, config.halp.lam = "slide", 0.0  # t ~ U(0, 0)
    return config


def make_run(dataset, config, num_steps, together=False):
    """(create, step, method): seed -> state, and (seed, state, batch) -> (state, loss), compiled once.

    `together`: all three, and what comes back, of several seeds.
    """
    method = graphcl.make(config, Spec(dataset.layout, num_steps, dataset.num_classes))
    optimizer, _ = graphcl.make_optimizer(config, num_steps)

    def create(seed):
        params, extra = method.init(jax.random.key(seed))
        return base.TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), extra)

    def step(seed, state, batch):
        state, metrics = base.make_step(method, optimizer, seed)(state, batch)
        return state, metrics["loss"]

    if together:
        create, step = jax.vmap(create), jax.vmap(step)
    mesh, same = Mesh(np.array(jax.devices()[:1]), (AXIS,)), PartitionSpec()
    step = jax.shard_map(step, mesh=mesh, in_specs=same, out_specs=same, check_vma=False)
    place = NamedSharding(mesh, same)  # of all, lest the second step be compiled anew
    create, step = (
        jax.jit(f, in_shardings=place, out_shardings=place, donate_argnums=d)
        for f, d in ((create, ()), (step, 1))
    )
    return create, step, method


def train(config, create, step, seed, batches):
    """The state after all epochs, and the seconds that they took."""
    seed, loss = jnp.int32(seed), 0.0
    state = create(seed)
    batches = jax.block_until_ready(jax.tree.map(jnp.asarray, batches))
    begin = time.perf_counter()
    for _ in range(config.train.epochs):
        for batch in batches:
            state, loss = step(seed, state, batch)
    if not np.isfinite(loss):
        raise SystemExit(f"the loss is not finite: seed {seed}")
    return state, time.perf_counter() - begin


def run_row(dataset, name, row, seeds, args, write):
    config = make_config(name, row, args.change)
    if row == "untrained":
        config.train.epochs = 0
    numbers, size = np.arange(len(dataset)), config.train.batch_size
    orders = {s: numbers[epoch_order(len(numbers), s, 0)] for s in range(args.first + args.seeds)}
    each = [graph_batches.find_sizes(dataset, order, size) for order in orders.values()]
    sizes = graph_batches.Sizes(*np.max(each, axis=0).tolist())
    create, step, method = make_run(dataset, config, -(-len(numbers) // size))
    encode = graphs.make_encode(method, dataset.layout)
    for i, seed in enumerate(seeds):
        batches = graph_batches.make_batches(dataset, orders[seed], size, sizes=sizes)
        if not i and config.train.epochs:  # compiles; its time is nobody's
            jax.block_until_ready(step(jnp.int32(seed), create(jnp.int32(seed)), batches[0]))
        state, seconds = train(config, create, step, seed, batches)
        variables = (state.params, state.extra["batch_stats"])
        values = graphs.extract(config, dataset, numbers, encode, variables)
        config.seed = seed
        draws, start = graphs.draw_seeds(config), time.perf_counter()
        found = svm.cross_validate(values, dataset.labels, draws)
        took = time.perf_counter() - start
        accuracy = [
            graphs.fold_accuracy(predictions, dataset.labels, draw)
            for predictions, draw in zip(found, draws, strict=True)
        ]
        write({
            "set": name, "row": row, "seed": seed, "change": args.change,
            "top1": float(np.mean(accuracy)), "draws": accuracy,
            "train_s": round(seconds, 2), "svm_s": round(took, 2),
            "device": jax.devices()[0].device_kind, "cores": os.cpu_count(), "jax": jax.__version__,
        })  # fmt: skip


def show(records, change):
    """Mean ± standard deviation (of the population, as the paper), and paired differences to GraphCL."""
    lines = [["", "row", "seeds", "ours", "paper", "minus GraphCL", "95 %", "train s", "svm s"]]
    for name in dict.fromkeys(record["set"] for record in records):
        for row in ROWS:
            own = select(records, name, row, "" if row in ROWS[:2] else change)
            if not own:
                continue
            values = 100 * np.array([r["top1"] for r in own.values()])
            difference, interval = compare(own, select(records, name, "GraphCL", ""))
            seconds = [f"{np.mean([r[k] for r in own.values()]):.1f}" for k in ("train_s", "svm_s")]
            lines.append([
                name, row, str(len(values)), f"{values.mean():.2f}±{values.std():.2f}",
                PAPER[name].get(row, "-"), *(("-", "-") if row == "GraphCL" else (difference, interval)),
                *seconds,
            ])  # fmt: skip
    print(pd.DataFrame(lines[1:], columns=lines[0]).to_string(index=False))


def select(records, name, row, change):
    found = [r for r in records if (r["set"], r["row"], r["change"]) == (name, row, change)]
    return {r["seed"]: r for r in found}


def compare(own, other):
    """The mean difference over the seeds of both, and its 95 % interval (Student's t)."""
    both = sorted(own.keys() & other.keys())
    d = 100 * np.array([own[s]["top1"] - other[s]["top1"] for s in both])
    if len(d) < 2:
        return "-", "-"
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
    return f"{d.mean():+.2f}", f"[{d.mean() - half:+.2f}, {d.mean() + half:+.2f}]"


def main():
    args = parse_args()
    records = []
    if args.out.exists():
        records = [json.loads(line) for line in args.out.read_text().splitlines() if line]

    def write(record):
        records.append(record)
        with open(args.out, "a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)

    for name in [] if args.show else args.sets.split(","):
        dataset = read(args.data, name)
        for row in args.rows.split(","):
            plain = row in ROWS[:2]  # no setting of HaLP changes these
            there = select(records, name, row, "" if plain else args.change)
            missing = [s for s in range(args.first, args.first + args.seeds) if s not in there]
            if missing and not (plain and args.change):
                run_row(dataset, name, row, missing, args, write)
    show(records, args.change)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
