"""MoCo, HaLP and its controls, all seeds of a row in one program (README.md beside this).

    python benchmarks/value/train.py --data=packed --out=runs/value [--minutes=5]

--data holds files of `python -m halp_jax.export`, one a task. At the end of a row its features are
evaluated, and each seed's figures are lines of OUT/results.jsonl; rows that are there are left out,
and so is what does not fit into --minutes.
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
import optax

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout will do, it need not be installed

from benchmarks import _seeds  # noqa: E402
from halp_jax.configs import small  # noqa: E402
from halp_jax.core import hallucinate, sphere  # noqa: E402
from halp_jax.datasets import open_dataset  # noqa: E402
from halp_jax.evaluation.features import raw_features  # noqa: E402
from halp_jax.methods import base, moco  # noqa: E402
from halp_jax.skeletons import augment  # noqa: E402

STEPS = 3570  # HaLP comes on after a third of them
CS, FOLDS = (0.001, 0.01, 0.1, 1.0), 5  # of the logistic regression
RESULTS = "results.jsonl"
ROWS = {
    "moco": {"mu": 0.0},
    "halp": {},
    "key": {"draw": "slide", "lam": 0.0},
    "points": {"prototypes": "points"},
    "random": {"prototypes": "random"},
    "expected": {"solver": "geodesic", "estimator": "expected"},
    "own": {},
    "label": {},
    **{f"mu={mu}": {"mu": mu} for mu in (0.1, 0.3, 3.0)},
    **{f"M={m}": {"num_prototypes": m} for m in (5, 50, 100)},
}
MAIN = ("moco", "halp", "key", "points", "random", "expected")


def own_prototype(key, anchors, prototypes, labels):
    """The prototype nearest to each anchor."""
    return prototypes[jnp.argmax(sphere.similarities(anchors, prototypes), axis=1)]


def same_class(key, anchors, prototypes, labels):
    """Another clip of the batch with the anchor's label; the anchor itself where there is none."""
    number = jnp.arange(len(labels))
    mates = (labels[:, None] == labels) & (number[:, None] != number)
    drawn = jnp.argmax(mates * jax.random.uniform(key, mates.shape, minval=0.5), axis=1)
    return anchors[jnp.where(mates.any(1), drawn, number)]


WALKS = {"own": own_prototype, "label": same_class}  # the whole way may be walked


def make_method(row: str, config, spec):
    """MoCo with HaLP, or with walks of WALKS in HaLP's place."""
    if row not in WALKS:
        return moco.make(config, spec)
    labels = []  # of the batch in hand, which views and loss see in one trace

    def loss(keys, queries, anchors, prototypes, *, temperature, num_positives, draw, lam, **_):
        anchors, prototypes = jax.lax.stop_gradient((anchors, prototypes))
        target = WALKS[row](jax.random.fold_in(keys[0], 1), anchors, prototypes, labels[-1])
        low, high = hallucinate.sample_range(draw, lam)
        share = jax.vmap(lambda key: jax.random.uniform(key, (num_positives,)))(keys)
        omega = sphere.angle(jnp.sum(anchors * target, axis=1, keepdims=True))
        a, b = sphere.slerp_weights(low + (high - low) * share, omega)
        found = [jnp.sum(queries * x, axis=1, keepdims=True) for x in (anchors, target)]
        return -jnp.mean(a * found[0] + b * found[1]) / temperature, {"kept": jnp.ones(())}

    method = moco.make(config, spec, halp_loss=loss)

    def views(keys, batch):
        labels.append(batch["label"])
        return method.views(keys, batch)

    return method._replace(views=views)


def make_config(row: str, args: argparse.Namespace):
    """The setting of a row. An epoch is one step here, so that all sets train for as many."""
    config = small.get_config()
    config.streams = args.streams
    config.optim.milestones = (args.steps * 6 // 7,)
    config.halp.mu, config.halp.start_epoch = 1.0, args.start
    config.halp.update(ROWS[row])
    return config


class Data:
    """A task's clips on the device, and the order in which each seed sees those of training."""

    def __init__(self, file: Path, split: str, config, args: argparse.Namespace):
        self.dataset = open_dataset(file)
        clips = _seeds.pad_clips(self.dataset, config.data.max_frames)
        self.arrays = tuple(map(jnp.asarray, clips))
        self.train = self.dataset.indices(split, "train")
        self.test = self.dataset.indices(split, "test")
        self.order = np.stack([self.shuffle(seed, config, args.steps) for seed in args.numbers])

    def shuffle(self, seed: int, config, steps: int) -> np.ndarray:
        """Clip numbers [steps, batch], a permutation an epoch, the rest of it left out."""
        size = config.train.batch_size
        epoch = len(self.train) // size
        rng = np.random.default_rng(seed)
        whole = [rng.permutation(self.train)[: epoch * size] for _ in range(-(-steps // epoch))]
        return np.concatenate(whole)[: steps * size].reshape(steps, size).astype(np.int32)


def centre_crop(config, frames, length):
    return augment.centre_crop(
        frames, length, ratio=config.knn.crop, num_frames=config.views.num_frames
    )


def make_runner(row: str, config, dataset):
    """-> (create, run, encode) for all seeds at once."""
    spec = base.Spec(dataset.layout)
    method, labels = make_method(row, config, spec), jnp.asarray(dataset.labels)
    create, run = _seeds.make_runner(config, spec, method, labels)

    def encode(params, batch_stats, frames, lengths):
        """[streams, clips, features] of centre crops."""
        clips = jax.vmap(functools.partial(centre_crop, config))(frames, lengths)
        batch = {"frames": clips, "length": jnp.full(len(clips), clips.shape[1], jnp.int32)}
        return method.encode(params, {"batch_stats": batch_stats}, batch)

    encode = jax.jit(jax.vmap(encode, (0, 0, None, None)))

    def features(state, frames, lengths):
        return encode(state.params, state.extra["batch_stats"], frames, lengths)

    return create, run, features


def combine(features, train):
    """Streams [streams, clips, features] side by side, each centred and scaled to unit mean norm."""
    centred = features - features[:, train].mean(1, keepdims=True)
    norm = jnp.linalg.norm(centred[:, train], axis=-1).mean(1)
    return jnp.concatenate(list(centred / norm[:, None, None]), axis=-1)


def nearest(x, y, train, test):
    """Cosine 1-NN: share of the test clips whose class it finds."""
    unit = x / jnp.linalg.norm(x, axis=1, keepdims=True)
    return jnp.mean(y[train][jnp.argmax(unit[test] @ unit[train].T, axis=1)] == y[test])


def fit(x, y, chosen, c, num_classes, iterations=150):
    """Logistic regression of the `chosen` rows (1 or 0): min |w|^2 / 2 + c sum of losses, by L-BFGS."""

    def objective(p):
        losses = optax.softmax_cross_entropy_with_integer_labels(x @ p["w"] + p["b"], y)
        return jnp.sum(p["w"] ** 2) / 2 + c * jnp.sum(chosen * losses)

    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(objective)

    def step(carry, _):
        p, state = carry
        value, grad = value_and_grad(p, state=state)
        updates, state = solver.update(
            grad, state, p, value=value, grad=grad, value_fn=objective
        )  # fmt: skip
        return (optax.apply_updates(p, updates), state), value

    start = {"w": jnp.zeros((x.shape[1], num_classes)), "b": jnp.zeros(num_classes)}
    return jax.lax.scan(step, (start, solver.init(start)), length=iterations)[0][0]


def logistic(x, y, train, test, folds, num_classes):
    """Share of right test clips; features standardised, C by cross-validation over `folds` [train]."""
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-6)
    inside, labels, cs = x[train], y[train], jnp.array(CS)

    def right(c, fold):
        p = fit(inside, labels, folds != fold, c, num_classes)
        found = jnp.argmax(inside @ p["w"] + p["b"], axis=1)
        return jnp.sum((found == labels) & (folds == fold))

    pairs = jnp.repeat(cs, FOLDS), jnp.tile(jnp.arange(FOLDS), len(CS))
    best = cs[jnp.argmax(jax.vmap(right)(*pairs).reshape(len(CS), FOLDS).sum(1))]
    p = fit(inside, labels, jnp.ones(len(labels)), best, num_classes)
    return jnp.mean(jnp.argmax(x[test] @ p["w"] + p["b"], axis=1) == y[test]), best


@functools.partial(jax.jit, static_argnames="num_classes")
@functools.partial(jax.vmap, in_axes=(0, None, None, None, None, None))
def measure(features, y, train, test, folds, num_classes):
    """Of one seed's features [streams, clips, features]."""
    found = {}
    for name, chosen in {"joint": features[:1], "all": features}.items():
        x = combine(chosen, train)
        found[f"{name} 1-NN"] = nearest(x, y, train, test)
        found[f"{name} logistic"], found[f"{name} C"] = logistic(
            x, y, train, test, folds, num_classes
        )
    return found


class Task:
    """One data set and split: its start, which all rows share, and its compiled rows."""

    def __init__(self, task: str, args: argparse.Namespace):
        name, split = task.split(":")
        self.name, self.args = task, args
        self.data = Data(args.data / f"{name}.npz", split, make_config("moco", args), args)
        self.start = None

    def compile(self, row: str):
        """-> (create, run, encode), `run` compiled; many of them at once, in threads."""
        config = make_config(row, self.args)
        create, run, encode = make_runner(row, config, self.data.dataset)
        seeds = jnp.array(self.args.numbers)
        state = jax.eval_shape(create, seeds)
        chunk = jnp.asarray(self.data.order[:, : self.args.chunk])
        lowered = run.lower(state, jnp.int32(0), seeds, chunk, *self.data.arrays)
        return create, lowered.compile(), encode

    def train(self, row: str, compiled) -> str:
        create, run, encode = compiled
        args, data, seeds = self.args, self.data, jnp.array(self.args.numbers)
        state, first = self.start, args.start
        if state is None:
            state, first = create(seeds), 0
            if row == "moco":
                self.evaluate("untrained", encode(state, *data.arrays), {})
        else:  # none yet, and of another number in some rows
            none = jnp.zeros_like(jax.eval_shape(create, seeds).extra["prototypes"])
            state = state.replace(extra=state.extra | {"prototypes": none})
        begin = time.monotonic()
        for number in range(first, args.steps, args.chunk):
            chunk = jnp.asarray(data.order[:, number : number + args.chunk])
            state, metrics = run(state, jnp.int32(number), seeds, chunk, *data.arrays)
            if number + args.chunk == args.start and self.start is None:
                self.start = state
        jax.block_until_ready(metrics)
        rate = 1e3 * (time.monotonic() - begin) / (args.steps - first)
        found = self.evaluate(row, encode(state, *data.arrays), metrics)
        return f"{self.name} {row}: {found}; {rate:.2f} ms a step of {args.seeds} seeds"

    def measure_raw(self) -> str:
        """Raw coordinates of the centre crops, which know no seed."""
        config, layout = make_config("moco", self.args), self.data.dataset.layout
        clips = jax.vmap(functools.partial(centre_crop, config))(*self.data.arrays)
        raw = jnp.stack(list(raw_features(config, layout, clips)))
        return f"{self.name} raw: {self.evaluate('raw', raw[None], {}, seeds=(None,))}"

    def evaluate(self, row: str, features, metrics: dict, seeds=None) -> str:
        """Adds a line a seed to results.jsonl; returns the means."""
        y, data = np.asarray(self.data.dataset.labels), self.data
        folds = np.random.default_rng(0).permutation(len(data.train)) % FOLDS
        found = measure(features, y, data.train, data.test, folds, int(y.max()) + 1)
        found = {name: np.asarray(value, float) for name, value in (found | metrics).items()}
        with open(self.args.out / RESULTS, "a") as file:
            for i, seed in enumerate(seeds or self.args.numbers):
                line = {"task": self.name, "row": row, "seed": seed, "steps": self.args.steps}
                line |= {name: round(float(value[i]), 6) for name, value in found.items()}
                file.write(json.dumps(line) + "\n")
        names = [name for name in found if name.endswith(("1-NN", "logistic"))]
        return ", ".join(f"{name} {100 * found[name].mean():.2f}" for name in names)


def read_results(folder: Path) -> list[dict]:
    path = folder / RESULTS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("packed"))
    parser.add_argument("--out", type=Path, default=Path("runs/value"))
    parser.add_argument("--tasks", default="pku2p:xperf,nwucla:xview")
    parser.add_argument("--rows", default=",".join(MAIN), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--streams", default="joint,motion,bone")
    parser.add_argument("--raw", action="store_true", help="raw coordinates, and nothing else")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first seed")
    parser.add_argument("--minutes", type=float, default=1e9, help="no row is begun after these")
    parser.add_argument("--steps", type=int, default=STEPS, help="a multiple of 3 chunks")
    parser.add_argument("--chunk", type=int, default=119, help="steps of one call")
    parser.add_argument("--threads", type=int, default=4, help="rows that are compiled at once")
    args = parser.parse_args()
    args.streams = tuple(args.streams.split(","))
    args.numbers = tuple(range(args.first, args.first + args.seeds))
    args.start = args.steps // 3 // args.chunk * args.chunk
    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {args.seeds} seeds", flush=True)
    tasks = [Task(task, args) for task in args.tasks.split(",")]
    if args.raw:
        for task in tasks:
            print(task.measure_raw(), flush=True)
        return 0
    with ThreadPoolExecutor(args.threads) as pool:
        jobs = [(row, task) for row in args.rows.split(",") for task in tasks]
        lines = read_results(args.out)
        done = {(e["task"], e["row"], e["seed"]) for e in lines if e["steps"] == args.steps}
        wanted = {
            (row, task): {(task.name, row, seed) for seed in args.numbers} for row, task in jobs
        }
        jobs = [job for job in jobs if not wanted[job] <= done]
        compiled = [pool.submit(task.compile, row) for row, task in jobs]
        for (row, task), program in zip(jobs, compiled, strict=True):
            if time.monotonic() - begin > 60 * args.minutes:
                print(f"{task.name} {row}: no time left", flush=True)
                program.cancel()
                continue
            line = task.train(row, program.result())
            print(f"{line}, at {time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
