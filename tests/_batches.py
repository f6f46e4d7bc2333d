"""What batches are held to, whether their clips lie in a folder or in memory."""

import itertools

import numpy as np
import pytest

from halp_jax.datasets.pipeline import train_batches
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import KINECT20

CLIPS, MAX_FRAMES = 23, 12
REFUSED = [  # options, and what is said of them
    ({"batch_size": 24}, "23 clips of .* are fewer than a batch of 24: choose a smaller"),
    ({"process_count": 3}, "batch of 4 does not divide by 3 processes"),
    ({"process_index": 2, "process_count": 2}, "process 2 is not one of 2"),
    ({"batch_size": 0}, "at least 1"),
    ({"max_frames": 0}, "at least 1"),
    ({"seed": -1}, "must be from 0 to"),
    ({"start_step": -1}, "must be from 0 to"),
    ({"indices": np.array([0, CLIPS])}, "must lie from 0 to 22"),
    ({"indices": np.array([], np.int32)}, "no clips of .* were chosen"),
]


def make_frames(number, layout=KINECT20, bodies=1):
    """1 to 23 frames; coordinate x of frame t is number + t / 100."""
    shape = (1 + number, bodies, layout.num_joints, 3)
    frames = np.random.default_rng(number).normal(size=shape).astype(np.float32)
    frames[..., 0] = number + np.arange(1 + number, dtype=np.float32)[:, None, None] / 100
    return frames


def take(dataset, count, indices=None, **options):
    indices = np.arange(CLIPS) if indices is None else indices
    options = {"batch_size": 4, "seed": 7, "max_frames": MAX_FRAMES} | options
    return list(itertools.islice(train_batches(dataset, indices, **options), count))


def assert_same(batch, other):
    assert batch.keys() == other.keys()
    for name in batch:
        assert batch[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def assert_resumes(dataset, start):
    whole = take(dataset, 16)
    tail = take(dataset, 16 - start, start_step=start)
    for batch, other in zip(whole[start:], tail, strict=True):
        assert_same(batch, other)


def assert_shared_out(dataset, count):
    whole = take(dataset, 7)
    parts = [take(dataset, 7, process_index=p, process_count=count) for p in range(count)]
    for step, batch in enumerate(whole):
        joined = {name: np.concatenate([part[step][name] for part in parts]) for name in batch}
        assert_same(joined, batch)


def assert_refused(dataset, options, message):
    options = {"indices": np.arange(CLIPS), "batch_size": 4, "seed": 7} | options
    with pytest.raises(UserError, match=message):
        train_batches(dataset, options.pop("indices"), **options)
