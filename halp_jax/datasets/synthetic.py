"""Reader of the embedded data set: the clips of `skeletons/synthetic.py` as a `Source`.

It needs no files. Names follow NTU RGB+D (setup, camera, person, replication, action), and so do
the benchmarks: `xsub` trains on the odd subjects, `xview` on cameras 2 and 3, and each tests on the
rest. Every clip is a performance of its own, so no test clip has a twin from another camera.
"""

import functools
from collections.abc import Sequence

from halp_jax.datasets.clip import Clip, ClipInfo
from halp_jax.datasets.source import Item, Source, Splits, make_source, split_by_rules
from halp_jax.errors import UserError
from halp_jax.skeletons import synthetic
from halp_jax.skeletons.layout import NTU25

TRAIN_CAMERAS = (2, 3)
MAX_CLIPS = 10_000_000
_FPS = 30.0


def open_source(path: str = "", *, clips: int = 1200, seed: int = 0) -> Source:
    """The embedded data set.

    Args:
        path: not used; there are no files.
        clips: how many there are; the sizes of the 20 classes differ by one at most.
        seed: makes another data set, with other people, of the same kind.

    Raises:
        UserError: a size below 1 or a negative seed.
    """
    for name, value, low, high in (("the number of clips", clips, 1, MAX_CLIPS),
                                   ("seed", seed, 0, 2**63 - 1)):  # fmt: skip
        if not low <= value <= high:
            raise UserError(f"synthetic: {name} is {value}; give a number from {low} to {high}")
    items = [Item(f"clip {index}", index) for index in range(clips)]
    read, notes = functools.partial(read_item, seed=seed), {"seed": seed, "clips": clips}
    names = synthetic.CLASS_NAMES
    return make_source("synthetic", read, items, NTU25, names, make_splits, notes=notes)


def read_item(item: Item, *, seed: int) -> list[Clip]:
    """The one clip of an item, whose payload is the clip's index."""
    label, subject, camera, setup, performance = synthetic.clip_facts(item.payload)
    name = f"S{setup:03d}C{camera:03d}P{subject:03d}R{performance:03d}A{label + 1:03d}"
    frames = synthetic.make_clip(seed, item.payload)
    return [Clip(frames, label, name, subject, camera, setup, performance, fps=_FPS)]


def make_splits(clips: Sequence[ClipInfo]) -> Splits:
    """{"xsub": ..., "xview": ...}, each {"train": names, "test": names}."""
    rules = {
        "xsub": lambda clip: clip.subject % 2 == 1,
        "xview": lambda clip: clip.camera in TRAIN_CAMERAS,
    }
    return split_by_rules(clips, rules)
