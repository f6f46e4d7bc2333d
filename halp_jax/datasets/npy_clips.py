"""Clips of one's own as .npy arrays without a table: one file, or folders of them.

An array holds [time, joints, axes] or [time, bodies, joints, axes], as in `folder`. --source is a file,
a folder of files, or folders of files, which are then the classes: wave/0007.npy. Otherwise clips are
unlabelled. The split is "random", as in `folder`; give subjects and splits of your own in its table.
"""

import functools
from pathlib import Path

from halp_jax.datasets import folder
from halp_jax.datasets.json_files import list_files
from halp_jax.datasets.labels import label_by_folder
from halp_jax.datasets.npy import map_array
from halp_jax.datasets.source import Item, Source, find_normalized, read_first
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import Layout, guess_layout
from halp_jax.skeletons.layout_file import find_layout

WHAT = "a .npy file [time, bodies, joints, 3], or a folder of them"


def open_source(path: str | Path, *, layout: str | None = None, seed: int = 0) -> Source:
    """A .npy file, or a folder with .npy files and folders of them.

    Args:
        layout: a known one or a .json file of your own; the first sound clip tells if not given.
        seed: of the split "random".

    Raises:
        UserError: no file, or a skeleton that is not known.
    """
    place, files = list_files(path, r".*\.npy", WHAT)
    names = {file.relative_to(place).with_suffix("").as_posix(): file for file in files}
    labels, class_names = label_by_folder(list(names))
    items = [
        Item(name, (file.relative_to(place).as_posix(), labels[name], -1, None))
        for name, file in names.items()
    ]
    chosen = find_layout(layout) if layout else _guess_layout(files)
    read = functools.partial(folder.read_item, folder=str(place))
    return find_normalized(folder.make_source("npy", read, items, chosen, class_names, seed))


def _guess_layout(files: list[Path]) -> Layout:
    """The layout that the joints and coordinates of the first sound file tell."""
    array = read_first(files, map_array)
    shape = array.shape
    layout = guess_layout(shape[-2], shape[-1]) if len(shape) in (3, 4) else None
    if layout is None:
        raise UserError(
            f"{files[0].parent}: an array {list(shape)}, which tells no skeleton; give [time, bodies,"
            " joints, axes] and the skeleton with --layout"
        )
    return layout
