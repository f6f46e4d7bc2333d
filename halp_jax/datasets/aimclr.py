"""Arrays that AimCLR, its baselines and CrosSCLR train on: 2s-AGCN's, prepared once more.

A folder, one for each benchmark, with {train,val}_position.npy [clips, 3, 50, joints, bodies] and
{train,val}_label.pkl (names, labels). Their preparation resampled every clip to 50 frames, turned it
about y, and moved each body so that its joint 20 (between the shoulders) is at (0, 0, 0) of every
frame: where a second body stood is lost. Clips are kept as they are unless --normalize is given.

Written from AimCLR's code; none of its arrays was at hand to read.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from halp_jax.datasets import agcn
from halp_jax.datasets.clip import Clip
from halp_jax.datasets.source import Item, Source

_NOTE = "by AimCLR's preparation, each body around a joint of its own; kept unless --normalize says"
# A joint at exactly (0, 0, 0) is a missing one. The joint at the origin is there: a micrometre off.
_THERE = np.float32(1e-6)


def read_item(item: Item, read: Callable[[Item], list[Clip]]) -> list[Clip]:
    """One row of an array -> one clip. Raises DamagedClip."""
    clips = []
    for clip in read(item):
        seen = clip.frames.any((2, 3), keepdims=True)
        missing = ~clip.frames.any(-1, keepdims=True)
        frames = np.where(seen & missing, _THERE, clip.frames)
        clips.append(dataclasses.replace(clip, frames=frames))
    return clips


def open_source(path: str | Path, *, layout: str | None = None) -> Source:
    """The folder with the arrays of one benchmark; see `agcn.open_source`.

    Raises:
        UserError: files are missing, damaged or do not fit together.
    """
    source = agcn.open_source(path, layout=layout, data_names=("position.npy",))
    return dataclasses.replace(
        source,
        format="aimclr",
        read=functools.partial(read_item, read=source.read),
        notes=source.notes | {"normalised": _NOTE},
        normalized="aimclr",
    )
