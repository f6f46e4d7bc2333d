"""NW-UCLA in the JSON files that CTR-GCN and its kin train on: a file a clip.

    a08_s03_e01_v02.json   {"file_name": "a08_s03_e01_v02", "label": 7,
                            "skeletons": [[[x, y, z], ... 20 joints], ... frames]}

Action, subject, trial and view are in the name; `label` counts the ten actions, whose numbers in names
have gaps, from 1. Coordinates are metres of a Kinect v1 with y up, (0, 0, 0) is a missing joint. View 3
tests in "xview", as in the data set's paper, and even subjects in "xsub".

Written from the structure of the real files. The same clips as a PYSKL pickle are read by `pyskl`, and
that was held to the real ones.
"""

from collections.abc import Sequence
from pathlib import Path

from halp_jax.datasets.clip import Clip, ClipInfo, DamagedClip
from halp_jax.datasets.files import list_files, load_json, to_numbers
from halp_jax.datasets.labels import UCLA_ACTIONS, parse_name_fields
from halp_jax.datasets.source import (
    Item,
    Source,
    Splits,
    make_source,
    split_by_rules,
    split_odd_subjects,
)
from halp_jax.skeletons.layout import KINECT20

WHAT = "the folder of NW-UCLA's files, a01_s01_e00_v01.json"
_NAMES = r"a\d{2}_s\d{2}_e\d{2}_v\d{2}\.json"
_MAX_BYTES = 32 * 2**20  # the longest clip, of 201 frames, takes 0.3 MB
_TEST_VIEW = 3


def read_item(item: Item) -> list[Clip]:
    """One file -> one clip. Raises DamagedClip."""
    path = item.payload
    content = load_json(path, _MAX_BYTES)
    fields = content if isinstance(content, dict) else {}
    label = fields.get("label")
    if type(label) is not int or not 1 <= label <= len(UCLA_ACTIONS):
        raise DamagedClip(
            f"{path}: its label is {str(label)[:40]}, not 1 to {len(UCLA_ACTIONS)}; fetch it again"
        )
    frames = to_numbers(fields.get("skeletons"))
    if frames.ndim != 3 or frames.shape[1:] != (KINECT20.num_joints, 3):
        raise DamagedClip(f"{path}: its skeletons are not [time, 20, 3] numbers; fetch it again")
    frames = frames[:, None]
    return [Clip(frames, label - 1, item.id, **parse_name_fields(item.id))]


def open_source(path: str | Path) -> Source:
    """The folder of the files, or one of them. Raises UserError where there is none."""
    _, files = list_files(path, _NAMES, WHAT)
    items = [Item(name, str(file)) for name, file in {f.stem: f for _, f in files}.items()]
    return make_source("nwucla", read_item, items, KINECT20, UCLA_ACTIONS, make_splits)


def make_splits(infos: Sequence[ClipInfo]) -> Splits:
    """{"xview": ..., "xsub": ...}, each {"train": names, "test": names}."""
    xview = split_by_rules(infos, {"xview": lambda info: info.camera != _TEST_VIEW})
    return xview | split_odd_subjects(infos)
