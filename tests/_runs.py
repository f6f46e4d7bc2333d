"""A prepared data set and a config so small that a training step takes milliseconds."""

import contextlib

import numpy as np
import pytest

from configs import default
from halp_jax import datasets
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import Clip
from halp_jax.datasets.source import Item, Source
from halp_jax.skeletons import synthetic
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import parallel

TRAIN, TEST, STEPS_PER_EPOCH = 26, 6, 3  # 26 clips are 3 batches of 8 and a rest


def small_config(data_dir="data"):
    """HaLP from epoch 1 on; every second epoch is saved and evaluated."""
    config = default.get_config()
    config.data.dir = str(data_dir)
    config.data.max_frames = 12
    config.views.num_frames, config.views.min_frames = 6, 4
    config.encoder.width, config.encoder.num_layers, config.encoder.dim = 8, 1, 8
    config.moco.queue_size = 32
    config.halp.num_prototypes, config.halp.queue_entries, config.halp.num_positives = 4, 32, 8
    config.halp.mu, config.halp.start_epoch, config.halp.update_every = 1.0, 1, 2
    config.optim.milestones = (3,)
    config.train.batch_size, config.train.epochs, config.train.log_every = 8, 6, 2
    config.train.num_devices = 2
    config.checkpoint.every_epochs, config.checkpoint.keep_every_epochs = 2, 0
    config.knn.every_epochs, config.knn.batch_size = 2, 16
    return config


def read_clip(item: Item) -> list[Clip]:
    rng = np.random.default_rng(item.payload)
    frames = rng.normal(size=(5 + item.payload % 12, 2, 25, 3)).astype(np.float32)
    return [Clip(frames, item.payload % 3, item.id)]


def split(infos):
    names = [info.name for info in infos]
    return {"xsub": {"train": names[:TRAIN], "test": names[TRAIN:]}}


def prepare(path):
    """Writes the data set to `path`."""
    items = tuple(Item(f"clip{number:02d}", number) for number in range(TRAIN + TEST))
    source = Source("fake", NTU25, tuple("abc"), items, read_clip, split, {})
    return prepare_source(source, path, normalize="none")


def pack_clips(path):
    """20 short clips of 3 classes, 14 of them to learn from, in one file; its path."""
    frames = [synthetic.make_clip(0, index)[:10] for index in range(20)]
    splits = {"xsub": {"train": range(14), "test": range(14, 20)}}
    dataset = datasets.from_arrays(frames, np.arange(20) % 3, layout="ntu25", splits=splits)
    return datasets.pack(dataset, path)


@contextlib.contextmanager
def one_compiled_step():
    """All runs inside have the step of the first, compiled once."""
    compiled, compile_step = [], parallel.compile_step

    def compile_first(step, **options):
        if not compiled:
            compiled.append(compile_step(step, **options))
        return compiled[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel, "compile_step", compile_first)
        yield
