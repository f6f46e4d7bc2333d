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
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from halp_jax.datasets.clip import Clip, DamagedClip, check_clip
from halp_jax.datasets.source import Item
from halp_jax.errors import UserError
from halp_jax.skeletons import spine
from halp_jax.skeletons.common import convert_clip
from halp_jax.skeletons.layout import Layout
from halp_jax.skeletons.normalize import normalize_clip, view_clip

MAX_ITEMS_PER_TASK = 8
FEWER_BODIES = "clips with more bodies than wanted, those that move most kept"


def _keep(frames: Float[np.ndarray, "..."], layout: Layout) -> Float[np.ndarray, "..."]:
    return frames


NORMALIZERS: dict[str, Callable[..., np.ndarray]] = {
    "upright": normalize_clip,
    "view": view_clip,
    "released": functools.partial(view_clip, as_released=True),
    "none": _keep,
}


@dataclasses.dataclass(frozen=True)
class Reading:
    """All that a process needs to turn an item into finished clips. Picklable."""

    read: Callable[[Item], list[Clip]]
    layout: Layout
    num_classes: int
    normalize: str
    as_layout: Layout | None = None  # to take the clips to, if another is wanted


class ItemResult(NamedTuple):
    """The sound clips of one item, and {"item": id, "reason": line} for each damaged one."""

    clips: list[Clip]
    damaged: list[dict[str, str]]


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
                clip, reading.layout, reading.num_classes, reading.normalize, reading.as_layout
            )
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
) -> Clip:
    """The clip checked, normalised, and with the layout's number of bodies (absent ones zero).

    It is taken from `layout` to `as_layout` before, if that is given: what normalisation turns and
    centres on are joints of the new layout.

    Raises:
        DamagedClip: see `check_clip`.
    """
    clip = check_clip(clip, layout, num_classes)
    if as_layout is not None and as_layout != layout:
        if clip.frames.any((0, 2, 3)).sum() > as_layout.bodies:
            remark = "; ".join(filter(None, (clip.remark, FEWER_BODIES)))
            clip = dataclasses.replace(clip, remark=remark)
        clip = dataclasses.replace(clip, frames=convert_clip(clip.frames, layout, as_layout))
        layout = as_layout
    frames = NORMALIZERS[normalize](clip.frames, layout)
    absent = layout.bodies - frames.shape[1]
    if absent:
        frames = np.pad(frames, ((0, 0), (0, absent), (0, 0), (0, 0)))
    finished = dataclasses.replace(clip, frames=np.ascontiguousarray(frames, np.float32))
    return check_clip(finished, layout, num_classes)


def advise_spine(reading: Reading, items: tuple[Item, ...], count: int = 16) -> dict[str, str]:
    """What the first clips say about the spine line of a user's own layout, as a note of it."""
    found = (read_item(reading, item).clips for item in items[:count])
    clips = [clip.frames for clips in found for clip in clips]
    line = spine.advise(clips, reading.as_layout or reading.layout) if clips else None
    return {"spine": line} if line else {}


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
    pool = ProcessPoolExecutor(workers, context, _start_worker, (reading,))
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
