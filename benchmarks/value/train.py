"""MoCo, HaLP and its controls, all seeds of a row in one program (README.md beside this).

    python benchmarks/value/train.py --data=packed --out=runs/value [--minutes=5]

--data holds files of `python -m halp_jax.export`, one a task. For each task and row the features of
all clips go to OUT/TASK_ROW.npz, [seeds, streams, clips, features] in float16, at the end of the row;
rows whose file is there are left out, and so is what does not fit into --minutes.
"""

import argparse
import functools
import runpy
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # the checkout will do, it need not be installed

from halp_jax.datasets import open_dataset  # noqa: E402
from halp_jax.methods import base, moco  # noqa: E402
from halp_jax.skeletons import augment  # noqa: E402

CONFIG = Path(__file__).parents[2] / "configs" / "small.py"
START, STEPS = 1190, 3570  # HaLP comes on; the end
ROWS = {
    "moco": {"mu": 0.0},
    "halp": {},
    "key": {"draw": "slide", "lam": 0.0},
    "points": {"prototypes": "points"},
    "random": {"prototypes": "random"},
    "expected": {"solver": "geodesic", "estimator": "expected"},
}


def make_config(row: str, streams: tuple[str, ...]):
    """The setting of a row. An epoch is one step here, so that all sets train for as many."""
    config = runpy.run_path(str(CONFIG))["get_config"]("baseline")
    config.streams, config.encoder.width, config.encoder.pooling = streams, 64, "mean"
    config.optim.milestones = (STEPS * 6 // 7,)
    config.halp.mu, config.halp.start_epoch = 1.0, START
    config.halp.update(ROWS[row])
    return config


class Data:
    """A task's clips on the device, and the order in which each seed sees those of training."""

    def __init__(self, file: Path, split: str, config, num_seeds: int):
        self.dataset = open_dataset(file)
        self.lengths = np.minimum(self.dataset.lengths, config.data.max_frames).astype(np.int32)
        shape = (len(self.lengths), config.data.max_frames, *self.dataset.frames.shape[1:])
        frames = np.zeros(shape, np.float32)
        for i, length in enumerate(self.lengths):
            frames[i, :length] = self.dataset.clip(i)[:length]
        self.arrays = jnp.asarray(frames), jnp.asarray(self.lengths)
        self.train = self.dataset.indices(split, "train")
        self.test = self.dataset.indices(split, "test")
        self.order = np.stack([self.shuffle(seed, config) for seed in range(num_seeds)])

    def shuffle(self, seed: int, config) -> np.ndarray:
        """Clip numbers [steps, batch], a permutation an epoch, the rest of it left out."""
        size = config.train.batch_size
        epoch = len(self.train) // size
        rng = np.random.default_rng(seed)
        whole = [rng.permutation(self.train)[: epoch * size] for _ in range(-(-STEPS // epoch))]
        return np.concatenate(whole)[: STEPS * size].reshape(STEPS, size).astype(np.int32)


def make_runner(config, layout):
    """-> (create, run, encode) for all seeds at once."""
    spec = base.Spec(layout)
    method = moco.make(config, spec, axes=("seeds",))
    optimizer, _ = moco.make_optimizer(config, 1)

    def create(seed):
        return base.create_state(method, optimizer, seed)

    def run(state, number, seed, order, frames, lengths):
        """A chunk of steps from `number` on, of one seed."""
        step = base.make_step(method, optimizer, seed)
        alone = jax.vmap(step, in_axes=(None, 0), axis_name=base.AXIS)  # the one device

        def one(state, chosen):
            batch = {"frames": frames[chosen][None], "length": lengths[chosen][None]}
            state, metrics = jax.tree.map(lambda x: x[0], alone(state, batch))
            return state, metrics

        # The number of the step is the same in all seeds, and no part of what is mapped: so that
        # prototypes are computed when they are due, and not in every step.
        def body(carry, chosen):
            parts, number = carry
            state, metrics = one(base.TrainState(number, *parts), chosen)
            return ((state.params, state.opt_state, state.extra), number + 1), metrics

        parts = (state.params, state.opt_state, state.extra)
        (parts, number), metrics = jax.lax.scan(body, (parts, number), order)
        return base.TrainState(number, *parts), jax.tree.map(lambda x: x[-1], metrics)

    def encode(params, batch_stats, frames, lengths):
        """[streams, clips, features] of centre crops."""
        crop = functools.partial(
            augment.centre_crop, ratio=config.knn.crop, num_frames=config.views.num_frames
        )
        clips = jax.vmap(crop)(frames, lengths)
        batch = {"frames": clips, "length": jnp.full(len(clips), clips.shape[1], jnp.int32)}
        return method.encode(params, {"batch_stats": batch_stats}, batch)

    # The same number of the step for all: in and out.
    states = base.TrainState(None, 0, 0, 0)
    run = jax.vmap(run, (states, None, 0, 0, None, None), (states, 0), axis_name="seeds")
    encode = jax.jit(jax.vmap(encode, (0, 0, None, None)))

    def features(state, frames, lengths):
        found = encode(state.params, state.extra["batch_stats"], frames, lengths)
        return np.asarray(found, np.float16)

    return jax.jit(jax.vmap(create)), jax.jit(run), features


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("packed"))
    parser.add_argument("--out", type=Path, default=Path("runs/value"))
    parser.add_argument("--tasks", default="pku2p:xperf,nwucla:xview")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--streams", default="joint,motion,bone")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--steps", type=int, default=STEPS, help="fewer: does it run?")
    parser.add_argument("--chunk", type=int, default=119, help="steps of one call")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    seeds, streams = jnp.arange(args.seeds), tuple(args.streams.split(","))
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {args.seeds} seeds", flush=True)
    start_at = (
        min(START, args.steps // 3 // args.chunk * args.chunk) if args.steps < STEPS else START
    )

    for task in args.tasks.split(","):
        name, split = task.split(":")
        data = Data(args.data / f"{name}.npz", split, make_config("moco", streams), args.seeds)
        start = None
        for row in args.rows.split(","):
            file = args.out / f"{name}_{split}_{row}.npz"
            if file.exists():
                continue
            create, run, encode = make_runner(make_config(row, streams), data.dataset.layout)
            state, first = start, start_at
            if state is None:
                state, first = create(seeds), 0
                untrained = encode(state, *data.arrays)
            row_begin = time.monotonic()
            for number in range(first, args.steps, args.chunk):
                chunk = data.order[:, number : number + args.chunk]
                state, metrics = run(
                    state.replace(step=None),
                    jnp.int32(number), seeds, jnp.asarray(chunk), *data.arrays,
                )  # fmt: skip
                if number == first:
                    jax.block_until_ready(metrics)
                    compiled = time.monotonic()
                if number + args.chunk == start_at and start is None:
                    start = jax.tree.map(jnp.copy, state)
                if time.monotonic() - begin > 60 * args.minutes:
                    print("the time is over", flush=True)
                    return 1
            features = encode(state, *data.arrays)
            if row == "moco":
                np.savez(
                    args.out / f"{name}_{split}_untrained.npz",
                    features=untrained,
                )
            np.savez(
                file, features=features, labels=np.asarray(data.dataset.labels), train=data.train,
                test=data.test, **{k: np.asarray(v) for k, v in metrics.items()},
            )  # fmt: skip
            done = time.monotonic()
            steps = args.steps - first - args.chunk
            print(
                f"{file.name}: loss {np.mean(metrics['loss']):.3f}, compiled and first chunk "
                f"{compiled - row_begin:.1f} s, then {1e3 * (done - compiled) / max(steps, 1):.2f} ms "
                f"a step of {args.seeds} seeds, at {done - begin:.0f} s", flush=True,
            )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
