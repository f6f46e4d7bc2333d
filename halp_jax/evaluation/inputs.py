"""Files of any format as clips that an encoder takes."""

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path

from halp_jax import datasets
from halp_jax.datasets.clip import Clip
from halp_jax.datasets.read_pool import Reading, read_items
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import Layout
from halp_jax.training import normalization


def read_clips(
    path: Path,
    format: str | None,
    options: Mapping[str, str],
    layout: Layout,
    to_apply: str | None = None,
) -> list[Clip]:
    """The clips of a file or folder, with the joints and bodies of `layout`, not yet normalised.

    Damaged ones are named on standard error and left out. The only clip of a file is called by its
    path, others as the format calls them.

    Args:
        format: of the files; None to tell it from them.
        options: of the format's reader. A .npy array has the joints of `layout` if they say nothing.
        to_apply: what the clips will be normalised by; those that come with another are refused, see
            `normalization.check_files`. None takes them all.

    Raises:
        UserError: no clip is sound, or the joints cannot be taken to `layout`.
    """
    format = format or datasets.guess_format(path)
    if format == "npy":
        options = {"layout": layout.name} | dict(options)
    source = datasets.open_source(format, path, **options)
    if to_apply:
        normalization.check_files(source.normalized, path, to_apply)
    reading = Reading(source.read, source.layout, len(source.class_names), "none", layout)
    results = list(read_items(reading, source.items, workers=1))
    clips = [clip for result in results for clip in result.clips]
    damaged = [entry["reason"] for result in results for entry in result.damaged]
    if not clips:
        raise UserError(damaged[0] if damaged else f"{path} has no clips; check what it is")
    for reason in damaged:
        print(f"damaged, left out: {reason}", file=sys.stderr)
    if path.is_file() and len(clips) == len(source.items) == 1:
        clips = [dataclasses.replace(clip, name=str(path)) for clip in clips]
    return clips
