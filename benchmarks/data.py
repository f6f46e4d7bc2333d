"""The data path: clips/s of the pipeline and of the views, against a worker of a plain torch loader.

    python benchmarks/data.py --cores=1                       (embedded clips, written to a temporary folder)
    python benchmarks/data.py --data=data/ntu60 --split=xsub

`pipeline` reads batches from the record files, `views` makes both views of a batch on the device,
`both` does one after the other as a training step sees them. The peer holds its clips in memory as
[clips, 3, 300, joints, bodies] and cuts, resizes and corrupts them one by one, as the released
feeder. Then a run of real steps: what share of it is spent waiting for a batch (goal: below 2 %)?
"""

import tempfile

import _steps
import _timing
import jax
import numpy as np

from halp_jax import methods
from halp_jax.datasets import open_dataset, open_source, pipeline
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.prepared import USED
from halp_jax.methods.base import Spec
from halp_jax.methods.moco import step_flops
from halp_jax.methods.streams import split_streams
from halp_jax.skeletons.augment import random_view
from halp_jax.training import parallel
from halp_jax.training.report import Meter

QUICK = {"clips": 64, "batch": 16, "width": 32, "queue": 256, "steps": 3, "repeats": 2, "cores": 1}
QUICK |= {"layers": 1}


def make_views_on_device(config, layout):
    """The first half of the training step: a batch to two views of every stream."""

    @jax.jit
    def views(key, frames, length):
        def one(key):
            keys = jax.random.split(key, len(length))
            view = jax.vmap(lambda *clip: random_view(*clip, config.views))
            clips = {"frames": view(keys, frames, length)}
            return split_streams(clips, config.streams, layout)["frames"]

        return [one(k) for k in jax.random.split(key)]

    return lambda batch: views(jax.random.key(0), batch["frames"], batch["length"])


class PlainDataset:
    """One clip at a time, in numpy, as a torch data set's worker does it."""

    def __init__(self, clips: np.ndarray, lengths: np.ndarray, num_frames: int):
        self.clips, self.lengths, self.num_frames = clips, lengths, num_frames
        self.rng = np.random.default_rng(0)
        self.torch = _timing.try_import("torch")

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        clip, length = np.array(self.clips[index]), int(self.lengths[index])
        return self.corrupt(self.crop(clip, length)), self.corrupt(self.crop(clip, length))

    def crop(self, clip: np.ndarray, length: int) -> np.ndarray:
        size = int(np.floor(length * self.rng.uniform(0.1, 1.0)))
        size = min(max(size, self.num_frames), length)
        start = self.rng.integers(length - size + 1)
        return self.resize(clip[:, start : start + size])

    def resize(self, clip: np.ndarray) -> np.ndarray:
        """[3, time, joints, bodies] -> [3, num_frames, joints, bodies], linearly."""
        channels, time, joints, bodies = clip.shape
        if self.torch:  # an image of `time` rows
            image = self.torch.from_numpy(np.ascontiguousarray(clip)).permute(0, 2, 3, 1)
            image = image.reshape(1, channels * joints * bodies, time, 1)
            resize = self.torch.nn.functional.interpolate
            image = resize(image, (self.num_frames, 1), mode="bilinear", align_corners=False)
            image = image.reshape(channels, joints, bodies, self.num_frames)
            return image.permute(0, 3, 1, 2).contiguous().numpy()
        place = (np.arange(self.num_frames) + 0.5) * time / self.num_frames - 0.5
        place = np.clip(place, 0, time - 1)
        below = np.floor(place).astype(int)
        above = np.minimum(below + 1, time - 1)
        weight = (place - below).astype(np.float32)[:, None, None]
        return clip[:, below] * (1 - weight) + clip[:, above] * weight

    def corrupt(self, clip: np.ndarray) -> np.ndarray:
        if self.rng.random() < 0.5:
            matrix = self.rng.uniform(-1, 1, (3, 3))
            np.fill_diagonal(matrix, 1.0)
            return np.einsum("dc,ctvm->dtvm", matrix.astype(np.float32), clip)
        joints = self.rng.choice(clip.shape[2], min(15, clip.shape[2]), replace=False)
        clip = clip.copy()
        if self.rng.random() < 0.5:
            clip[:, :, joints] = 0.0
        else:
            matrix = self.rng.uniform(-1, 1, (3, 3)).astype(np.float32)
            clip[:, :, joints] = np.einsum("dc,ctvm->dtvm", matrix, clip[:, :, joints])
        return clip


def load_plain(dataset, indices, config) -> PlainDataset:
    """The same clips as the peer's file holds them, all in memory (the released .npy is mapped)."""
    batches = pipeline.eval_batches(
        dataset, indices, batch_size=64, max_frames=config.data.max_frames
    )
    batches = list(batches)
    valid = np.concatenate([b["valid"] for b in batches])
    frames = np.concatenate([b["frames"] for b in batches])[valid]
    lengths = np.concatenate([b["length"] for b in batches])[valid]
    clips = np.ascontiguousarray(frames.transpose(0, 4, 1, 3, 2))
    return PlainDataset(clips, lengths, config.views.num_frames)


def measure_waiting(config, dataset, indices, steps: int) -> dict[str, float]:
    """Steps as the training loop does them -> share of the time spent waiting, and a step's."""
    run = parallel.compile_step(
        methods.make_train_step(config, Spec(dataset.layout, _steps.STEPS_PER_EPOCH))
    )
    place = parallel.make_placer()
    read = pipeline.train_batches(
        dataset, indices, batch_size=config.train.batch_size, seed=0,
        max_frames=config.data.max_frames,
    )  # fmt: skip
    batches = parallel.prefetch(({name: b[name] for name in USED} for b in read), place)
    state = parallel.replicate(methods.create_state(config, Spec(dataset.layout)))
    state, metrics = run(state, next(batches))
    jax.block_until_ready(metrics)
    meter = Meter(config.train.batch_size, step_flops(config, Spec(dataset.layout)))
    for _ in range(steps):
        state, metrics = run(state, meter.fetch(batches))
        meter.add(metrics)
    figures = meter.flush()[0]
    batches.close()
    return {name: figures[name] for name in ("input_wait", "clips_per_s", "model_tflops_per_s")}


def main() -> None:
    parser = _timing.make_parser(__doc__)
    _steps.add_size(parser)
    parser.add_argument("--data", help="folder that halp_jax.prepare wrote; else embedded clips")
    parser.add_argument("--split", default="xsub")
    parser.add_argument("--clips", type=int, default=1024, help="of the embedded set")
    parser.add_argument("--steps", type=int, default=10, help="to look for waiting in; 0: none")
    args = _timing.parse(parser, QUICK)
    pipeline.quiet_tensorflow()
    machine, rates = _timing.start("the data path", args)
    config = _steps.make_config(args, "baseline")
    with tempfile.TemporaryDirectory() as folder:
        if not args.data:
            prepare_source(open_source("synthetic", "", clips=args.clips), f"{folder}/set")
        dataset = open_dataset(args.data or f"{folder}/set")
        indices = dataset.indices(args.split, "train")
        measure(args, config, dataset, indices, machine, rates)


def measure(args, config, dataset, indices, machine, rates) -> None:
    batch_size = min(args.batch, len(indices))
    config.train.batch_size = batch_size
    options = {"batch_size": batch_size, "seed": 0, "max_frames": config.data.max_frames}
    batches = pipeline.train_batches(dataset, indices, **options)
    views = make_views_on_device(config, dataset.layout)
    ready = next(batches)
    plain = load_plain(dataset, indices, config)
    order = np.random.default_rng(0)

    def load_plainly():
        chosen = order.choice(len(plain.lengths), batch_size)
        return [np.stack(view) for view in zip(*(plain[i] for i in chosen), strict=True)]

    members = {
        "pipeline": lambda: next(batches),
        "views": lambda: views(ready),
        "both": lambda: views(next(batches)),
        "plain loader": load_plainly,
    }
    # A sample lasts for many batches, so that those read ahead between two samples weigh little.
    times = _timing.time_in_turn(
        members, repeats=args.repeats, min_seconds=0.2 if args.quick else 2
    )
    frames = ready["frames"].nbytes
    small = 2 * frames * config.views.num_frames / config.data.max_frames
    # Read from the files as they lie, written padded, read for the views, views written.
    stored = frames * float(np.mean(dataset.lengths[indices])) / config.data.max_frames
    least = {"pipeline": stored + frames, "views": frames + small, "plain loader": 2 * small}
    least["both"] = least["pipeline"] + least["views"]
    rows = []
    for name, timing in times.items():
        rows.append({
            "member": name, "clips_per_s": batch_size / timing.wall,
            "clips_per_cpu_s": batch_size / timing.cpu if timing.cpu else None,
            "over_plain": times["plain loader"].wall / timing.wall,
            "floor_clips_per_s": batch_size * rates.bandwidth / least[name],
        })  # fmt: skip
    _timing.print_table(rows)
    waiting = None
    if args.steps:
        waiting = measure_waiting(config, dataset, indices, args.steps)
        print(f"\nbaseline, width {args.width}, {args.steps} steps:", end=" ")
        print(", ".join(f"{name} {value:.4g}" for name, value in waiting.items()))
    lengths = dataset.lengths[indices]
    _timing.print_json(
        "data", machine=machine, batch=batch_size, clips=len(indices),
        mean_length=float(np.mean(lengths)), width=args.width, repeats=args.repeats, rows=rows,
        waiting=waiting,
    )  # fmt: skip


if __name__ == "__main__":
    main()
