"""Items of a source -> clips that are checked and normalised, in one process or in several.

Results come in the order of the items, whatever the number of processes. A damaged item or clip is
reported, not raised: whoever reads the results decides whether to go on.
"""

import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np

from halp_jax.datasets.clip import MAX_FRAMES, MAX_RATE, Clip, ClipInfo, DamagedClip, check_clip
from halp_jax.datasets.source import Item
from halp_jax.errors import UserError
from halp_jax.skeletons.common import convert_clip
from halp_jax.skeletons.layout import Layout
from halp_jax.skeletons.normalize import normalize_clip, view_clip
from halp_jax.skeletons.repair import MAX_GAP, count_resampled, fill_gaps, resample, trim_end

MAX_ITEMS_PER_TASK = 8
FEWER_BODIES = "clips with more bodies than wanted, those that move most kept"
EMPTY_END = "clips whose empty frames at the end were left out"
LOST_JOINTS = "clips with NaN joints, gaps of up to {} frames filled in, longer ones left missing"
RESAMPLED = "clips taken to {:g} frames a second"


NORMALIZERS: dict[str, Callable[..., np.ndarray]] = {
    "upright": normalize_clip,
    "view": view_clip,
    "released": functools.partial(view_clip, as_released=True),
    "none": lambda frames, layout: frames,
}


def check_normalize(name: str) -> None:
    """Raises UserError where `name` is no normalisation."""
    if name not in NORMALIZERS:
        known = ", ".join(NORMALIZERS)
        raise UserError(f"normalisation {name!r} is not known; use one of {known}")


@dataclasses.dataclass(frozen=True)
class Repair:
    """What is done to clips as their reader gives them, see `skeletons.repair`.

    Attributes:
        max_gap: joints that are NaN for no more frames are filled in.
        fps: the frame rate in Hz of clips whose files do not tell it; 0 if it is not known.
        resample: the frame rate that all clips are taken to; 0 leaves each its own.
    """

    max_gap: int = MAX_GAP
    fps: float = 0.0
    resample: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("max_gap", MAX_FRAMES), ("fps", MAX_RATE), ("resample", MAX_RATE)):
            if not 0 <= (value := getattr(self, name)) <= most:
                raise UserError(f"{name} is {value}; give a number from 0 to {most}")


USUAL_REPAIR = Repair()


@dataclasses.dataclass(frozen=True)
class Reading:
    """All that a process needs to turn an item into finished clips. Picklable."""

    read: Callable[[Item], list[Clip]]
    layout: Layout
    num_classes: int
    normalize: str
    as_layout: Layout | None = None  # to take the clips to, if another is wanted
    repair: Repair = USUAL_REPAIR


class ItemResult(NamedTuple):
    """The sound clips of one item, and {"item": id, "reason": line} for each damaged one."""

    clips: list[Clip]
    damaged: list[dict[str, str]]


class Written(NamedTuple):
    """What is known of the clips that were written, in the order of the source."""

    infos: list[ClipInfo]
    lengths: list[int]
    rates: list[float]  # frames a second, 0 where unknown
    damaged: list[dict[str, str]]  # what was left out
    remarks: Counter[str]

    def add(self, info: ClipInfo, length: int, fps: float, remarks: Sequence[str]) -> None:
        self.infos.append(info)
        self.lengths.append(length)
        self.rates.append(fps)
        self.remarks.update(remarks)


def count_cores() -> int:
    """The processors that this process may use; on macOS, which does not tell, all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_rates(rates: Sequence[float]) -> tuple[float | None, dict[str, str]]:
    """The frame rate in Hz of all clips, None if they differ or do not tell; and the note of it."""
    different = {round(rate, 2) for rate in rates}
    if len(different) == 1:
        return different.pop() or None, {}
    known, unknown = different - {0}, sum(not rate for rate in rates)
    told = " to ".join(f"{rate:g}" for rate in sorted({min(known), max(known)})) + " Hz"
    told += f", {unknown} unknown" if unknown else ""
    return None, {"frame rates": f"{told}; take them to one with --resample"}


def read_item(reading: Reading, item: Item) -> ItemResult:
    """Reads, checks and normalises the clips of one item."""
    result = ItemResult([], [])

    def leave_out(error: Exception) -> None:
        reason = " ".join(str(error).split())
        result.damaged.append({"item": str(item.id), "reason": reason})

    try:
        found = reading.read(item)
    except (DamagedClip, OSError) as error:
        leave_out(error)
        return result
    except Exception as error:
        error.add_note(f"while reading item {item.id}")
        raise
    for clip in found:
        try:
            finished = finish_clip(
                clip, reading.layout, reading.num_classes, reading.normalize, reading.as_layout,
                reading.repair,
            )  # fmt: skip
            result.clips.append(finished)
        except DamagedClip as error:
            leave_out(error)
    return result


def finish_clip(
    clip: Clip,
    layout: Layout,
    num_classes: int,
    normalize: str,
    as_layout: Layout | None = None,
    repair: Repair = USUAL_REPAIR,
) -> Clip:
    """The clip checked, mended, normalised, and with the layout's number of bodies.

    It is taken from `layout` to `as_layout` before it is normalised, if that is given: what
    normalisation turns and centres on are joints of the new layout. Absent bodies are zero.

    Raises:
        DamagedClip: see `check_clip`.
        UserError: it is to be resampled and nobody knows its frame rate.
    """
    clip = check_clip(clip, layout, num_classes)
    clip = mend_clip(clip, repair)
    if as_layout is not None and as_layout != layout:
        if clip.frames.any((0, 2, 3)).sum() > as_layout.bodies:
            clip = clip.add_remark(FEWER_BODIES)
        clip = dataclasses.replace(clip, frames=convert_clip(clip.frames, layout, as_layout))
        layout = as_layout
    frames = NORMALIZERS[normalize](clip.frames, layout)
    absent = layout.bodies - frames.shape[1]
    if absent:
        frames = np.pad(frames, ((0, 0), (0, absent), (0, 0), (0, 0)))
    finished = dataclasses.replace(clip, frames=np.ascontiguousarray(frames, np.float32))
    return check_clip(finished, layout, num_classes)


def mend_clip(clip: Clip, repair: Repair) -> Clip:
    """Without an empty end and NaN, at the frame rate that is wanted; remarks say what was done.

    Raises:
        DamagedClip: it would be too long at that rate.
        UserError: it is to be resampled and its frame rate is not known.
    """
    if len(frames := trim_end(clip.frames)) < len(clip.frames):
        clip = clip.add_remark(EMPTY_END, frames=frames)
    if (frames := fill_gaps(clip.frames, repair.max_gap)) is not clip.frames:
        clip = clip.add_remark(LOST_JOINTS.format(repair.max_gap), frames=frames)
    rate, wanted = clip.fps or repair.fps, repair.resample or clip.fps or repair.fps
    if round(rate, 2) == round(wanted, 2):  # a file may say .0333333 s a frame
        return clip if clip.fps == rate else dataclasses.replace(clip, fps=rate)
    if not rate:
        raise UserError(
            f"clip {clip.name}: its file tells no frame rate to resample; give it as --fps"
        )
    if (count := count_resampled(len(clip.frames), rate, wanted)) > MAX_FRAMES:
        raise DamagedClip(
            f"clip {clip.name}: {count} frames at {wanted:g} Hz, more than the limit of"
            f" {MAX_FRAMES}; correct its frame rate of {rate:g} Hz or leave it out"
        )
    frames = resample(clip.frames, rate, wanted)
    return clip.add_remark(RESAMPLED.format(wanted), frames=frames, fps=wanted)


def read_items(reading: Reading, items: tuple[Item, ...], workers: int) -> Iterator[ItemResult]:
    """One result an item, in the order of the items. Close it to end the processes early.

    Raises:
        UserError: a process was killed from outside.
    """
    if min(workers, len(items)) <= 1:
        yield from (read_item(reading, item) for item in items)
        return
    size = min(MAX_ITEMS_PER_TASK, max(1, len(items) // (4 * workers)))
    groups = [items[start : start + size] for start in range(0, len(items), size)]
    workers = min(workers, len(groups))
    context = multiprocessing.get_context("spawn")
    try:
        pool = ProcessPoolExecutor(workers, context, _start_worker, (reading,))
    except (OSError, ImportError) as error:  # no semaphores, as where /dev/shm is missing
        raise UserError(f"no reader process can be started ({error}): give --workers=1") from error
    pending: deque[Future[list[ItemResult]]] = deque()
    try:
        for group in groups:
            pending.append(pool.submit(_read_group, group))
            # Only so many finished groups may wait in memory for their turn.
            if len(pending) >= 3 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a reader process died, probably for lack of memory; run again with fewer workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_reading: Reading  # of this worker process, sent once and not with every group


def _start_worker(reading: Reading) -> None:
    global _reading
    _reading = reading
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the parent ends the workers
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    # A killed parent cannot end its workers, and their queue never tells them.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _read_group(group: tuple[Item, ...]) -> list[ItemResult]:
    return [read_item(_reading, item) for item in group]
