"""A look at a data set before and after it is prepared: are these people, and what do they do?

`check_skeleton` compares the first clips of a source with its layout before any work is done;
`save_picture` draws some of a prepared data set, which `prepare` does beside the data.
"""

import dataclasses
import sys
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Int

from halp_jax.datasets import pipeline
from halp_jax.datasets.prepared import Dataset
from halp_jax.datasets.read_pool import Reading, read_item
from halp_jax.datasets.source import Source
from halp_jax.errors import UserError
from halp_jax.skeletons.common import convert_clip
from halp_jax.skeletons.layout import Layout, find_known
from halp_jax.skeletons.plausible import (
    advise_on_spine,
    find_faults,
    find_fitting,
    is_person_sized,
    is_picture,
)

PICTURE = "clips.png"
_CHECKED, _DRAWN = 16, 6
_DPI, _WORD = 60, 28


def check_skeleton(source: Source, reading: Reading) -> dict[str, str]:
    """What a user should know of the layout of a source, and of a spine of their own, for the notes.

    Raises:
        UserError: the layout was guessed, and these are points in a picture, or people whose joints
            are in another order. What is neither is let in with a warning.
    """
    layout, notes = source.layout, {}
    target = reading.as_layout or layout
    if source.guessed:
        notes["layout"] = f"{_tell_guess(layout)}; give --layout if the order is another"
    clips = []
    raw = dataclasses.replace(reading, normalize="none", as_layout=None)
    for item in source.items[:_CHECKED]:
        clips += [clip.frames for clip in read_item(raw, item).clips]
        if len(clips) >= _CHECKED:
            break
    clips = clips[:_CHECKED]
    faults = find_faults(clips, layout)
    another = is_picture(clips, layout) or is_person_sized(clips, layout)
    if faults and source.guessed and another:
        fitting = [f"--layout={name}" for name in find_fitting(clips, layout)]
        own = 'with "axes": 2' if is_picture(clips, layout) else "with the order of the joints"
        ways = " or ".join([*fitting, f"--layout=FILE.json {own}"])
        raise UserError(
            f"{source.format}: the skeleton is {_tell_guess(layout)}, but {faults[0]}; give {ways},"
            f" or --layout={layout.name} if it is that all the same"
        )
    if faults:
        way = "give --layout=FILE.json with the order of the joints"
        if layout.axes == 3 and not another:
            way = "write them in metres"
        notes["doubtful"] = (
            f"the clips do not look like {layout.name}: {faults[0]}; see {PICTURE}, and if they are not,"
            f" {way}"
        )
        print(f"warning: {notes['doubtful']}", file=sys.stderr)
    if clips and reading.normalize != "none" and find_known(target.name) != target:
        line = advise_on_spine([convert_clip(each, layout, target) for each in clips], target)
        notes |= {"spine": line} if line else {}
    return notes


def _tell_guess(layout: Layout) -> str:
    return f"{layout.name}, guessed from {layout.num_joints} joints of {layout.axes} numbers"


def choose_clips(dataset: Dataset, count: int = _DRAWN) -> Int[np.ndarray, " chosen"]:
    """Clips of as many classes as there are among `count`, spread over the data set."""
    _, first = np.unique(dataset.labels, return_index=True)
    of_each = first[np.linspace(0, len(first) - 1, min(count, len(first))).astype(int)]
    others = np.setdiff1d(np.arange(len(dataset)), of_each)
    missing = min(count - len(of_each), len(others))
    more = others[np.linspace(0, len(others) - 1, missing).astype(int)] if missing else others[:0]
    return np.sort(np.concatenate([of_each, more]))


def read_clips(dataset: Dataset, numbers: Int[np.ndarray, " chosen"]) -> list[np.ndarray]:
    """All frames of these clips, [time, bodies, joints, xyz] each."""
    longest = int(dataset.lengths[numbers].max())
    (batch,) = pipeline.eval_batches(dataset, numbers, batch_size=len(numbers), max_frames=longest)
    return [f[:n] for f, n in zip(batch["frames"], batch["length"], strict=True)]


def save_picture(
    dataset: Dataset, numbers: Int[np.ndarray, " chosen"], path: Path, up: str | None = None
) -> None:
    """Draws a strip of each of these clips, with `up` upwards; by default as the data set says."""
    from halp_jax.skeletons import plot  # matplotlib takes its time

    figure = plot.plot_grid(
        read_clips(dataset, numbers),
        [_title(dataset, number) for number in numbers],
        dataset.layout,
        rate=float(dataset.metadata.get("fps") or 0),
        up=up or dataset.up,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of names in scripts that its font lacks
        plot.save_figure(figure, path, dpi=_DPI)


def _title(dataset: Dataset, number: int | np.integer) -> str:
    """Number, name and class of a clip, short enough for its strip."""
    label = dataset.labels[number]
    words = [dataset.names[number], dataset.class_names[label] if label >= 0 else "no label"]
    short = [word if len(word) <= _WORD else word[: _WORD - 1] + "…" for word in words]
    return f"{number}: {', '.join(short)}"
