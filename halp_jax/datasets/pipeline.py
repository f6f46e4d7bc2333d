"""Batches of a data set, each a pure function of the step number (tf.data; in memory: numpy).

Training visits the clips in an order that follows from (seed, epoch) alone (`order`), so a run that
stops at step s and starts again at s sees what it would have seen. Clips of a folder are read from its
record files when their turn comes; nothing but the index is held in memory. A data set in memory
(`arrays`) gives the same batches and needs no TensorFlow. Like the released feeder, a clip longer
than `max_frames` is cut to its first `max_frames`.
"""

import functools
import itertools
import os
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from halp_jax.datasets.arrays import ArrayDataset, make_batch
from halp_jax.datasets.order import epoch_order, shuffle_epoch
from halp_jax.datasets.prepared import Dataset, PreparedDataset
from halp_jax.errors import UserError
from halp_jax.progress import Progress

# {"frames": [batch, max_frames, bodies, joints, xyz] float32, zeros after the end of a clip,
#  "length": [batch] int32, at most max_frames, "label": [batch] int32,
#  "index": [batch] int32, the clip's number in the data set, "valid": [batch] bool}
Batch = dict[str, np.ndarray]

PREFETCHED_BATCHES = 2
CLIPS_PER_READ = 64
# The clips of a step's batch, and which of them are no padding.
Choose = Callable[[int], tuple[Int[np.ndarray, " rows"], np.ndarray]]


def train_batches(
    dataset: Dataset,
    indices: Int[np.ndarray, " chosen"],
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    max_frames: int = 300,
    process_index: int = 0,
    process_count: int = 1,
) -> Iterator[Batch]:
    """Endless batches from `start_step` on; each epoch is another permutation of the clips.

    An epoch has len(indices) // batch_size steps and leaves out the last clips of its permutation.

    Args:
        indices: clip numbers to train on, e.g. dataset.indices("xsub", "train").
        batch_size: of the global batch, of which process p of P gets the p-th part of P.
        seed: any integer from 0 to 2**63 - 1.
        max_frames: the length that clips are padded or cut to.

    Raises:
        UserError: fewer clips than a batch, or a batch that does not divide by the processes.
    """
    clips = _check(dataset, indices, batch_size, max_frames)
    if len(clips) < batch_size:
        raise UserError(
            f"{len(clips)} clips of {dataset.path} are fewer than a batch of {batch_size}: choose a"
            " smaller batch or a larger split"
        )
    if process_count < 1 or batch_size % process_count:
        raise UserError(
            f"a batch of {batch_size} does not divide by {process_count} processes: choose a"
            f" multiple of {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise UserError(f"process {process_index} is not one of {process_count}, counted from 0")
    if not 0 <= seed < 2**63 or start_step < 0:
        raise UserError(f"seed {seed} and step {start_step} must be from 0 to 2**63 - 1")
    rows, steps_per_epoch = batch_size // process_count, len(clips) // batch_size

    @functools.lru_cache(maxsize=2)
    def reorder(epoch: int) -> np.ndarray:
        return clips[shuffle_epoch(len(clips), seed, epoch)]

    def choose(step: int) -> tuple[np.ndarray, np.ndarray]:
        epoch, step_of_epoch = divmod(step, steps_per_epoch)
        first = step_of_epoch * batch_size + process_index * rows
        return reorder(epoch)[first : first + rows], np.ones(rows, bool)

    return _iterate(dataset, start_step, None, choose, rows, max_frames)


def eval_batches(
    dataset: Dataset,
    indices: Int[np.ndarray, " chosen"],
    *,
    batch_size: int,
    max_frames: int = 300,
) -> Iterator[Batch]:
    """Every clip once, in order. The last batch repeats its last clip, with "valid" false.

    Raises:
        UserError: there are no clips, or one of them is not in the data set.
    """
    clips = _check(dataset, indices, batch_size, max_frames)

    def choose(step: int) -> tuple[np.ndarray, np.ndarray]:
        position = step * batch_size + np.arange(batch_size)
        return clips[np.minimum(position, len(clips) - 1)], position < len(clips)

    return _iterate(dataset, 0, -(-len(clips) // batch_size), choose, batch_size, max_frames)


def iterate_clips(
    dataset: Dataset, numbers: Int[np.ndarray, " chosen"], label: str
) -> Iterator[tuple[int, Float[np.ndarray, "time bodies joints xyz"]]]:
    """(clip number, all its frames) in the order of `numbers`; `label` says what is going on."""
    if not len(numbers):
        return
    size, longest = min(CLIPS_PER_READ, len(numbers)), int(dataset.lengths[numbers].max())
    with Progress(len(numbers), label, unit="clips") as progress:
        for batch in eval_batches(dataset, numbers, batch_size=size, max_frames=longest):
            for row in np.flatnonzero(batch["valid"]):
                yield int(batch["index"][row]), batch["frames"][row, : batch["length"][row]]
            progress.update(int(batch["valid"].sum()))


def describe_cut(lengths: Int[np.ndarray, " chosen"], max_frames: int, part: str) -> str:
    """A line that says how much `max_frames` cuts off of clips of a part of a split; "" if nothing."""
    long = lengths[lengths > max_frames]
    if not len(long):
        return ""
    lost = (long - max_frames).sum() / lengths.sum()
    return (
        f"{len(long)} of {len(lengths)} {part} clips are longer than data.max_frames={max_frames} and"
        f" cut to their start ({lost:.0%} of all frames are lost, the longest has {long.max()}):"
        " raise --config.data.max_frames, or prepare with --resample=HZ"
    )


def whole_epochs(
    dataset: Any,
    indices: Int[np.ndarray, " chosen"],
    *,
    batch_size: int,
    seed: int,
    epochs: int,
    start_step: int = 0,
    max_frames: int = 300,
) -> Iterator[Batch]:
    """The batches from `start_step` to the last epoch's end, each epoch another order of the clips.

    The last batch of an epoch holds the clips that are left, fewer than `batch_size` perhaps: it is
    not filled up, for statistics of a batch must not see padding.
    """
    steps = -(-len(indices) // batch_size)
    padding = steps * batch_size - len(indices)
    first, skipped = divmod(start_step, steps)
    orders = [
        np.pad(indices[epoch_order(len(indices), seed, epoch)], (0, padding), mode="edge")
        for epoch in range(first, epochs)
    ]
    clips = np.concatenate(orders)[skipped * batch_size :]
    batches = eval_batches(dataset, clips, batch_size=batch_size, max_frames=max_frames)
    for step, batch in enumerate(batches, start_step):
        last = (step + 1) % steps == 0
        yield {n: leaf[: batch_size - padding] for n, leaf in batch.items()} if last else batch


def _check(dataset: Dataset, indices: np.ndarray, batch_size: int, max_frames: int) -> np.ndarray:
    clips = np.asarray(indices, np.int32)
    if batch_size < 1 or max_frames < 1:
        raise UserError(f"batch {batch_size} and max_frames {max_frames} must be at least 1")
    if clips.ndim != 1 or not len(clips):
        raise UserError(f"no clips of {dataset.path} were chosen: choose a split that has some")
    if clips.min() < 0 or clips.max() >= len(dataset):
        raise UserError(f"clip numbers must lie from 0 to {len(dataset) - 1} for {dataset.path}")
    return clips


def _iterate(
    dataset: Dataset, start: int, stop: int | None, choose: Choose, rows: int, max_frames: int
) -> Iterator[Batch]:
    """The batches of these steps, without `stop` endless; those of a folder are read ahead."""
    if isinstance(dataset, ArrayDataset):
        steps = itertools.count(start) if stop is None else range(start, stop)
        return (make_batch(dataset, *choose(step), max_frames) for step in steps)
    tf = import_tensorflow()
    shape = (dataset.layout.bodies, dataset.layout.num_joints, 3)
    spec = {"frames": tf.io.FixedLenSequenceFeature(shape, tf.float32, allow_missing=True)}

    def read(step: np.int64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        clips, valid = choose(int(step))
        return clips, valid, np.array(dataset.read_records(clips), object)

    def load(step: Any) -> dict[str, Any]:
        found = tf.numpy_function(read, [step], (tf.int32, tf.bool, tf.string))
        clips, valid, records = (tf.ensure_shape(leaf, [rows]) for leaf in found)
        # Parsing a batch at once pads its clips with zeros to the longest of them.
        frames = tf.io.parse_example(records, spec)["frames"][:, :max_frames]
        missing = max_frames - tf.shape(frames)[1]
        frames = tf.pad(frames, [[0, 0], [0, missing], [0, 0], [0, 0], [0, 0]])
        return {
            "frames": tf.ensure_shape(frames, [rows, max_frames, *shape]),
            "length": tf.minimum(tf.gather(dataset.lengths, clips), max_frames),
            "label": tf.gather(dataset.labels, clips),
            "index": clips,
            "valid": valid,
        }

    steps = tf.data.Dataset.range(start, np.iinfo(np.int64).max if stop is None else stop)
    parallel = max(1, min(4, os.cpu_count() or 1))
    load = tf.autograph.experimental.do_not_convert(load)  # it holds no Python branch to convert
    batches = steps.map(load, num_parallel_calls=parallel, deterministic=True)
    iterator = batches.prefetch(PREFETCHED_BATCHES).as_numpy_iterator()
    return _name_errors(tf, dataset, iterator)


def _name_errors(tf: ModuleType, dataset: PreparedDataset, batches: Iterator[Batch]) -> Iterator:
    """The same batches; what goes wrong below is told as the reader's own line."""
    op_error = tf.errors.OpError  # looked up now: when the interpreter ends, tf may be gone first
    try:
        yield from batches
    except (op_error, UnicodeDecodeError) as error:  # the latter from quoting damaged bytes
        lines = [line for line in str(error).splitlines() if "UserError:" in line]
        reason = lines[0].split("UserError:")[-1].strip() if lines else str(error).split("\n")[0]
        raise UserError(
            reason if lines else f"{dataset.path} cannot be read ({reason}): run prepare again"
        ) from error


def quiet_tensorflow() -> None:
    """Stops TensorFlow's start-up messages. For commands; call it before TensorFlow is imported."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # nothing here uses it, but it announces


def import_tensorflow() -> ModuleType:
    """TensorFlow, kept off the accelerators: they belong to JAX."""
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            "a folder of records needs TensorFlow, which is not installed: pip install tensorflow"
            " tensorflow-datasets, or write a packed file, prepare --out=NAME.npz, which needs none"
        ) from error
    try:
        tf.config.set_visible_devices([], "GPU")
    except RuntimeError:
        pass  # the user's own program has started TensorFlow already, with devices of its choice
    return tf
