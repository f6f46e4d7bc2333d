"""benchmarks/systems.py on a large GPU: all seeds of a row in one program, from packed files.

    python -m halp_jax.export --data=data/pku2p --out=packed/pku2p.npz --half
    python benchmarks/systems_gpu.py --data=packed --task=pku2p:xperf --out=systems.jsonl [--minutes=9]

Same settings, order of clips and evaluation. Several splits of a set, --task=pku2p:xperf,xview, are trained side
by side as its seeds are. A row with HaLP goes on from the row without, from before HaLP comes on. Lines of --out
are as in systems.jsonl; rows that are there are left out, and so is what does not fit into --minutes.

What will be called a result, written on 27 November 2026 before the first run: paired differences over the seeds
of a split, Student's t at 95 %, of HaLP on each host against the host (MoCo and MoCo on ST-GCN: halp - moco;
AimCLR, AS-CAL normalized, CrosSCLR-B, ISC: +halp - without) and of ST-GCN against the BiGRU (HaLP, MoCo). "HaLP
helps on a host" means an interval above zero in the same measure on a split of each set. ST-GCN becomes a variant
of configs/small.py if its HaLP or AimCLR passes HaLP on the BiGRU on PKU xperf in both measures by an interval.
"""

import argparse
import functools
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the checkout will do, it need not be installed

import _seeds  # noqa: E402
import systems  # noqa: E402

from halp_jax.datasets import open_dataset  # noqa: E402
from halp_jax.evaluation import features, knn, linear  # noqa: E402
from halp_jax.methods.base import Spec  # noqa: E402
from halp_jax.methods.prepare import make_prepare  # noqa: E402
from halp_jax.options import parse_config  # noqa: E402

CHUNK = 100  # steps of one call
BLOCK = 64  # clips that are encoded at once
ORDER = "aimclr,moco_stgcn,moco,crossclr_b,isc"


class Data:
    """A set's clips on the device; `members` are all (split, seed) that are trained side by side."""

    def __init__(self, args):
        self.dataset = open_dataset(args.file)
        self.members = [(split, seed) for split in args.splits for seed in range(args.seeds)]
        self.seeds = jnp.array([seed for _, seed in self.members])
        self.arrays = tuple(map(jnp.asarray, _seeds.pad_clips(self.dataset, args.max_frames)))

    @functools.cache  # noqa: B019
    def order_clips(self, size: int, steps: int) -> np.ndarray:
        """Clip numbers [members, steps, size]. They may take a minute: once for all rows that are alike."""
        train = {split: self.dataset.indices(split, "train") for split, _ in self.members}
        orders = [
            _seeds.order_clips(train[split], seed, size, steps) for split, seed in self.members
        ]
        return np.stack(orders)


class Row:
    """One config on one set, compiled for all members."""

    def __init__(self, name: str, variant: str, data: Data, args):
        options = [f"--config={systems.find_config(name)}:{variant}", *args.override]
        options += [f"--config.data.dir={args.file}", *systems.make_options(name)]
        self.name, self.config, self.data = f"{name}:{variant}", parse_config(options), data
        self.base = f"{name}:{systems.find_host(variant)}"
        train, dataset = self.config.train, data.dataset
        epoch = train.epoch_steps
        self.steps = train.epochs * epoch
        self.order = data.order_clips(train.batch_size, self.steps)
        start = self.config.halp.start_epoch * epoch - 1 if self.name != self.base else 0
        self.start = start // CHUNK * CHUNK
        self.spec = Spec(dataset.layout, epoch, dataset.num_classes, float(dataset.lengths.mean()))

    def compile(self) -> None:
        self.create, run = _seeds.make_runner(self.config, self.spec)
        state = jax.eval_shape(self.create, self.data.seeds)
        chunk = jnp.asarray(self.order[:, :CHUNK])
        given = jnp.int32(0), self.data.seeds, chunk, *self.data.arrays
        self.run = run.lower(state, *given).compile()

    def train(self, state, until: int):
        """(state after all steps, state after `until`, metrics, seconds a step)."""
        kept, first, begin = None, self.start if state is not None else 0, time.monotonic()
        state = self.create(self.data.seeds) if state is None else state
        for number in range(first, self.steps, CHUNK):
            if number == until:
                kept = state
            chunk = jnp.asarray(self.order[:, number : number + CHUNK])
            given = jnp.int32(number), self.data.seeds, chunk, *self.data.arrays
            state, metrics = self.run(state, *given)
        jax.block_until_ready(metrics)
        return state, kept, metrics, (time.monotonic() - begin) / (self.steps - first)

    def extract(self, state, crop, num_crops: int = 1):
        """Features [members, crops, clips, features], crops as evaluation/features.py draws them."""
        config, layout = self.config, self.data.dataset.layout
        prepare, views = make_prepare(config, layout), config.views
        view = features.make_view(crop, views.num_frames, views.min_frames, prepare)
        embed = features.make_embedding("trained", config, layout)

        def one(variables, seed, frames, lengths):
            rows = frames, lengths, jnp.arange(len(lengths))
            blocks = -(-len(lengths) // BLOCK)
            padding = blocks * BLOCK - len(lengths)
            rows = jax.tree.map(
                lambda x: jnp.pad(x, ((0, padding), *[(0, 0)] * (x.ndim - 1)), "edge"), rows
            )
            rows = jax.tree.map(lambda x: x.reshape(-1, BLOCK, *x.shape[1:]), rows)

            def encode(number, rows):
                clips = jax.vmap(view, (None, None, 0, 0, 0))(seed, number, *rows)
                return embed(variables, clips)

            found = [
                jax.lax.map(lambda rows, n=n: encode(n, rows), rows).reshape(blocks * BLOCK, -1)
                for n in range(num_crops)
            ]
            return jnp.stack(found)[:, : len(lengths)]

        run = jax.jit(jax.vmap(one, (0, 0, None, None)))
        return run(features.get_variables(state), self.data.seeds, *self.data.arrays)

    def evaluate(self, state) -> dict[str, list[float]]:
        """Shares of right test clips of each member."""
        config, dataset, members = self.config, self.data.dataset, self.data.members
        settings, labels = config.linear, np.asarray(dataset.labels)
        near = self.extract(state, config.knn.crop)
        crops = self.extract(state, tuple(settings.crop), settings.num_crops)
        centre = near
        if settings.test_crop != config.knn.crop:
            centre = self.extract(state, settings.test_crop)
        found = {"knn": [], "linear": []}
        for split in dict(members):
            train, test = (dataset.indices(split, part) for part in ("train", "test"))
            mine = [i for i, (name, _) in enumerate(members) if name == split]
            for i in mine:
                place = np.asarray(knn.nearest(near[i, 0, train], near[i, 0, test], 1)[0])[:, 0]
                found["knn"].append(float(np.mean(labels[train][place] == labels[test])))

            def probe(seed, crops, centre, train=train):
                key = jax.random.fold_in(jax.random.key(seed), linear._PROBE_KEY)
                own = jnp.asarray(labels[train], jnp.int32)
                given = settings, key, crops, own, centre, dataset.num_classes
                return linear.train_probe(*given)[0][-1]

            rows = np.array(mine)
            given = self.data.seeds[rows], crops[rows][:, :, train], centre[rows][:, 0, test]
            logits = np.asarray(jax.jit(jax.vmap(probe))(*given))
            found["linear"] += np.mean(logits.argmax(-1) == labels[test], axis=1).tolist()
        return found


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, required=True, help="folder of NAME.npz")
    parser.add_argument("--task", required=True, help="NAME:SPLIT,SPLIT")
    parser.add_argument("--rows", default=ORDER)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("systems.jsonl"))
    parser.add_argument("--minutes", type=float, default=1e9, help="no row is begun after these")
    parser.add_argument("--threads", type=int, default=4, help="rows that are compiled at once")
    args, args.override = parser.parse_known_args()
    name, splits = args.task.split(":")
    args.file, args.max_frames, args.splits = args.data / f"{name}.npz", 256, splits.split(",")
    args.set = name
    return args


def main() -> None:
    args, begin = parse_args(), time.monotonic()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {args.task}", flush=True)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(line["data"], line["row"]) for line in map(json.loads, lines)}
    data = Data(args)
    names = [(n, v) for n in args.rows.split(",") for v in systems.ROWS[n][1].split(",")]
    first = f"{args.set} {args.splits[0]}"
    rows = [Row(n, v, data, args) for n, v in names if (first, f"{n}:{v}") not in done]

    def write(row, encoder, state):
        found = row.evaluate(state)
        name = row.name if encoder == "trained" else row.name.split(":")[0]
        with open(args.out, "a") as file:
            for protocol, values in found.items():
                for (split, seed), top1 in zip(data.members, values, strict=True):
                    line = {"data": f"{args.set} {split}", "row": name, "encoder": encoder}
                    line |= {"seed": seed, "protocol": protocol, "top1": round(top1, 4)}
                    file.write(json.dumps(line) + "\n")
        each = [f"{k} {100 * np.mean(v):.1f}" for k, v in found.items()]
        print(f"{args.set} {name} {encoder}: {', '.join(each)}; ", end="", flush=True)

    with ThreadPoolExecutor(args.threads) as pool:
        programs, starts, untrained = [pool.submit(row.compile) for row in rows], {}, set()
        for row, program in zip(rows, programs, strict=True):
            if time.monotonic() - begin > 60 * args.minutes:
                print(f"{args.set} {row.name}: no time left", flush=True)
                program.cancel()
                continue
            program.result()
            if (name := row.name.split(":")[0]) not in untrained:
                untrained.add(name)
                write(row, "random", row.create(data.seeds))
            start = starts.pop(row.base, None) if row.start else None
            until = max((r.start for r in rows if r.base == row.name and r.start), default=-1)
            state, starts[row.name], metrics, seconds = row.train(start, until)
            loss = np.asarray(metrics["loss"])
            if not np.isfinite(loss).all():
                raise SystemExit(f"{row.name}: the loss is not finite: {loss}")
            write(row, "trained", state)
            rate = f"{1e3 * seconds:.1f} ms a step of {len(data.members)}"
            print(f"{rate}; at {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
