"""The paper's table of graphs: GraphCL, HaLP on it, and two controls, with seeds and intervals.

    python benchmarks/graph_table.py --data=../shared/data --sets=MUTAG,PROTEINS,NCI1 --seeds=20
    python benchmarks/graph_table.py --data=../shared/data --sets=DD --seeds=5
    python benchmarks/graph_table.py --show     # only prints what is there

Rows: an untrained encoder, GraphCL, GraphCL+HaLP, and the control that pulls toward the anchor alone (t = 0).
Each result is a line of --out; what is there already is not done again, so the same command goes on.
--change=halp.mu=1.0 (several, separated by commas) trains other settings, kept apart. `--first=5` starts
at seed 5. A set's seeds are padded alike, so each row compiles once; --together=S trains S in one program.
"""

import argparse
import json
import os
import platform
import runpy
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from halp_jax.datasets import graph_batches, tu
from halp_jax.datasets.arrays import epoch_order
from halp_jax.evaluation import graphs, svm, table
from halp_jax.methods import base, graphcl
from halp_jax.methods.base import AXIS, Spec

ROOT = Path(__file__).parents[1]
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
    parser.add_argument("--together", type=int, default=1)
    parser.add_argument("--change", default="")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "graph_table.jsonl")
    parser.add_argument("--show", action="store_true")
    return parser.parse_args()


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


def train(dataset, config, seeds, sizes, cache):
    """The state of each seed after all epochs, side by side -> (states, seconds, without compiling)."""
    numbers, size = np.arange(len(dataset)), config.train.batch_size
    orders = [numbers[epoch_order(len(numbers), seed, 0)] for seed in seeds]
    each = [graph_batches.make_batches(dataset, order, size, sizes=sizes) for order in orders]
    batches = [
        jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *step)
        for step in zip(*each, strict=True)
    ]
    spec = Spec(dataset.layout, len(batches), dataset.num_classes)
    method = graphcl.make(config, spec)
    optimizer, _ = graphcl.make_optimizer(config, len(batches))

    def create(seed):
        params, extra = method.init(jax.random.key(seed))
        return base.TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), extra)

    def one(seed, state, batch):
        step = base.make_step(method, optimizer, seed)
        step = jax.vmap(step, (None, 0), axis_name=AXIS, axis_size=1)
        state, metrics = step(state, jax.tree.map(lambda leaf: leaf[None], batch))
        return jax.tree.map(lambda leaf: leaf[0], (state, metrics["loss"]))

    wanted = jnp.asarray(seeds)
    states = jax.jit(jax.vmap(create))(wanted)
    if not config.train.epochs:
        return states, 0.0
    if len(seeds) not in cache:
        run = jax.jit(jax.vmap(one), donate_argnums=1)
        cache[len(seeds)] = run.lower(wanted, states, batches[0]).compile()
    begin = time.perf_counter()
    for _ in range(config.train.epochs):
        for batch in batches:
            states, loss = cache[len(seeds)](wanted, states, batch)
    if not np.isfinite(np.asarray(loss)).all():
        raise SystemExit(f"the loss is not finite: seeds {seeds}")
    return states, time.perf_counter() - begin


def run_row(dataset, name, row, seeds, args, write):
    config = make_config(name, row, args.change)
    if row == "untrained":
        config.train.epochs = 0
    numbers, size = np.arange(len(dataset)), config.train.batch_size
    every = [numbers[epoch_order(len(numbers), s, 0)] for s in range(args.first + args.seeds)]
    sizes = tuple(
        np.max([graph_batches.find_sizes(dataset, o, size) for o in every], axis=0).tolist()
    )
    cache = {}
    for begin in range(0, len(seeds), args.together):
        group = seeds[begin : begin + args.together]
        states, seconds = train(dataset, config, group, sizes, cache)
        values, draws = [], []
        for i, seed in enumerate(group):
            state = jax.tree.map(lambda leaf: leaf[i], states)  # noqa: B023
            variables = (state.params, state.extra["batch_stats"])
            values.append(graphs.extract(config, dataset, numbers, variables))
            config.seed = seed
            draws.append(graphs.draw_seeds(config))
        start = time.perf_counter()
        found = svm.cross_validate(values, dataset.labels, draws)
        took = (time.perf_counter() - start) / len(group)
        for seed, predictions, own in zip(group, found, draws, strict=True):
            accuracy = [
                graphs.fold_accuracy(p, dataset.labels, d)
                for p, d in zip(predictions, own, strict=True)
            ]
            write({
                "set": name, "row": row, "seed": seed, "change": args.change,
                "top1": float(np.mean(accuracy)), "draws": accuracy,
                "train_s": round(seconds / len(group), 2), "svm_s": round(took, 2),
                "together": len(group), "device": jax.devices()[0].device_kind,
                "machine": f"{platform.machine()}, {os.cpu_count()} cores", "jax": jax.__version__,
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
    print(table.align(lines))


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
        dataset = tu.read(args.data / f"tu_{name}.zip")
        for row in args.rows.split(","):
            plain = row in ROWS[:2]  # no setting of HaLP changes these
            there = select(records, name, row, "" if plain else args.change)
            missing = [s for s in range(args.first, args.first + args.seeds) if s not in there]
            if missing and not (plain and args.change):
                run_row(dataset, name, row, missing, args, write)
    show(records, args.change)


if __name__ == "__main__":
    main()
