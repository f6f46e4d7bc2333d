"""Batches are a pure function of the step: whatever the start, the processes and the threads."""

import numpy as np
import pytest
from _batches import (
    CLIPS,
    MAX_FRAMES,
    REFUSED,
    assert_refused,
    assert_resumes,
    assert_shared_out,
    make_frames,
    take,
)

from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import Clip
from halp_jax.datasets.order import epoch_order
from halp_jax.datasets.pipeline import describe_cut, eval_batches
from halp_jax.datasets.prepared import open_dataset
from halp_jax.datasets.source import Item, Source
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import KINECT20


def make_clip(number: int) -> Clip:
    return Clip(make_frames(number), number % 5, f"clip{number}")


def read_clip(item: Item) -> list[Clip]:
    return [make_clip(item.payload)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    items = tuple(Item(str(number), number) for number in range(CLIPS))
    source = Source("fake", KINECT20, tuple("abcde"), items, read_clip, lambda _: {}, {})
    return prepare_source(source, tmp_path_factory.mktemp("data") / "set", normalize="none")


def assert_holds_its_clips(batch):
    for row, number in enumerate(batch["index"]):
        clip = make_clip(int(number))
        length = min(len(clip.frames), MAX_FRAMES)
        np.testing.assert_array_equal(batch["frames"][row, :length], clip.frames[:length])
        assert not batch["frames"][row, length:].any()
        assert (batch["length"][row], batch["label"][row]) == (length, clip.label)


def test_what_max_frames_cuts_off_is_told_in_a_line(dataset):
    # Clips of 1 to 23 frames: 11 are longer than 12, by 1 to 11 frames, 66 of 276 in all.
    assert describe_cut(dataset.lengths, MAX_FRAMES, "training") == (
        "11 of 23 training clips are longer than data.max_frames=12 and cut to their start (24% of"
        " all frames are lost, the longest has 23): raise --config.data.max_frames, or prepare with"
        " --resample=HZ"
    )
    assert describe_cut(dataset.lengths[:12], MAX_FRAMES, "test") == ""
    assert describe_cut(dataset.lengths[:0], MAX_FRAMES, "test") == ""


def test_batch_holds_its_clips_cut_or_padded(dataset):
    batches = take(dataset, 12)
    for batch in batches:
        assert_holds_its_clips(batch)
        assert batch["valid"].all()
    assert {name: (value.shape, value.dtype.name) for name, value in batches[0].items()} == {
        "frames": ((4, MAX_FRAMES, 1, 20, 3), "float32"),
        "length": ((4,), "int32"),
        "label": ((4,), "int32"),
        "index": ((4,), "int32"),
        "valid": ((4,), "bool"),
    }
    assert any((batch["length"] < MAX_FRAMES).any() for batch in batches)
    assert any((batch["index"] >= MAX_FRAMES).any() for batch in batches)


@pytest.mark.parametrize("size, batch_size", [(23, 4), (23, 23), (7, 7), (1, 1), (16, 4), (22, 5)])
def test_each_epoch_is_a_part_of_another_permutation(dataset, size, batch_size):
    indices = np.arange(CLIPS)[::-1][:size]
    steps = size // batch_size
    seen = [
        np.concatenate([batch["index"] for batch in epoch])
        for epoch in np.array_split(take(dataset, 4 * steps, indices, batch_size=batch_size), 4)
    ]
    for epoch in seen:
        # No clip twice, so the tail that did not fill a batch is dropped and not made up.
        assert len(set(epoch)) == len(epoch) == steps * batch_size
        assert set(epoch) <= set(indices)
    if size > 4:
        assert len({tuple(epoch) for epoch in seen}) == 4


def test_dropped_clips_differ_between_epochs_so_that_all_are_seen(dataset):
    seen = [set(batch["index"]) for batch in take(dataset, 10 * 5)]
    assert set.union(*seen) == set(range(CLIPS))


def test_no_epoch_comes_back(dataset):
    # 5 steps an epoch: the op alone repeats the order of epoch 0 in epoch 256.
    orders = set()
    for epoch in range(0, 1024, 128):
        batches = take(dataset, 5, start_step=5 * epoch)
        orders.add(tuple(np.concatenate([batch["index"] for batch in batches])))
    assert len(orders) == 8


def test_order_follows_from_the_seed(dataset):
    def orders(seed):
        return tuple(np.concatenate([batch["index"] for batch in take(dataset, 5, seed=seed)]))

    seeds = (0, 1, 2**31, 2**32, 2**32 + 1, 2**63 - 1)
    assert len({orders(seed) for seed in seeds}) == len(seeds)
    assert orders(1) == orders(1)


@pytest.mark.parametrize("start", [1, 4, 5, 6, 13])
def test_a_run_from_step_k_is_the_tail_of_a_run_from_0(dataset, start):
    assert_resumes(dataset, start)


def test_a_far_step_starts_at_once(dataset):
    (batch,) = take(dataset, 1, start_step=10**12)
    assert_holds_its_clips(batch)


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_out_the_batch_of_one(dataset, count):
    assert_shared_out(dataset, count)


@pytest.mark.parametrize("batch_size", [1, 5, 23, 30])
def test_eval_gives_every_clip_once_in_order(dataset, batch_size):
    indices = np.array([4, 2, 22, 9, 0, 11, 17])
    batches = list(eval_batches(dataset, indices, batch_size=batch_size, max_frames=MAX_FRAMES))
    assert len(batches) == -(-7 // batch_size)
    index = np.concatenate([batch["index"] for batch in batches])
    valid = np.concatenate([batch["valid"] for batch in batches])
    np.testing.assert_array_equal(index[valid], indices)
    np.testing.assert_array_equal(index[~valid], np.full((~valid).sum(), 17))
    for batch in batches:
        assert len(batch["index"]) == batch_size
        assert_holds_its_clips(batch)


@pytest.mark.parametrize("options, message", REFUSED)
def test_bad_options_are_refused_at_once(dataset, options, message):
    assert_refused(dataset, options, message)


def test_damage_found_while_reading_ends_in_the_readers_own_line(dataset, tmp_path):
    for file in dataset.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    broken = open_dataset(tmp_path)
    (file,) = tmp_path.glob("*.tfrecord-*")
    file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(UserError, match=rf"^{file} is damaged at byte 0: run prepare again"):
        list(eval_batches(broken, np.arange(4), batch_size=2))
    # Records of the right length whose checksums are not those of their bytes.
    sizes = dataset.metadata["shards"][0]["records"]
    file.write_bytes(b"".join(n.to_bytes(8, "little") + b"\xff" * (n + 8) for n in sizes))
    with pytest.raises(UserError, match=rf"^{file} is damaged at byte 0: run prepare again"):
        list(eval_batches(open_dataset(tmp_path), np.arange(4), batch_size=2))


def test_the_order_of_an_epoch_stays_what_it_was():
    """A run that resumes under a newer version must meet the same clips."""
    assert epoch_order(8, 3, 2).tolist() == [0, 6, 5, 3, 2, 7, 4, 1]
    assert len({tuple(epoch_order(8, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4
