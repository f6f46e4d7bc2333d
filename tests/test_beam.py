"""`prepare` as an Apache Beam pipeline: the same data set as from the processes of one machine."""

import importlib.util

import numpy as np
import pytest

from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import Clip, DamagedClip
from halp_jax.datasets.pipeline import eval_batches
from halp_jax.datasets.source import Item, Source
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import NTU25

THERE = importlib.util.find_spec("apache_beam") is not None
needs_beam = pytest.mark.skipif(not THERE, reason="pip install -r requirements-beam.txt")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Beam, many


def read(item: Item) -> list[Clip]:
    if item.payload == 4:
        raise DamagedClip(f"{item.id}: cut short; replace the file")
    rng = np.random.default_rng(item.payload)
    frames = rng.normal(size=(3 + item.payload % 5, 1, 25, 3)).astype(np.float32)
    clips = [
        Clip(frames + k, item.payload % 2, f"{item.id}_{k}", remark="odd" if k else "")
        for k in range(1 + item.payload % 3)
    ]
    if item.payload == 7:
        clips.append(Clip(frames, 0, "item05_0"))  # a name that is there
        clips.append(Clip(frames * np.nan, 0, "item07_nan"))
    return clips


def make_source(count: int) -> Source:
    items = tuple(Item(f"item{number:02d}", number) for number in range(count))
    return Source("fake", NTU25, ("a", "b"), items, read, lambda infos: {}, {})


@needs_beam
def test_beam_writes_what_one_process_writes(tmp_path, capfd):
    plain = prepare_source(make_source(12), tmp_path / "plain", workers=1)
    beam = prepare_source(make_source(12), tmp_path / "beam", beam_runner="DirectRunner")
    for name in ("names", "labels", "lengths", "damaged", "notes", "splits", "normalize", "fps"):
        assert beam.metadata[name] == plain.metadata[name], name
    assert len(beam.metadata["damaged"]) == 3 and beam.metadata["notes"]["odd"] > 3
    for ours, theirs in zip(
        *(eval_batches(d, np.arange(len(d)), batch_size=4) for d in (beam, plain)), strict=True
    ):
        np.testing.assert_array_equal(ours["frames"], theirs["frames"])
        np.testing.assert_array_equal(ours["label"], theirs["label"])
    assert {path.suffix for path in (tmp_path / "beam").iterdir()} <= {
        ".json", ".txt", ".tfrecord-00000-of-00001"
    }  # fmt: skip
    assert "damaged, left out: item04: cut short" in capfd.readouterr().err


@needs_beam
def test_beam_leaves_nothing_of_what_is_refused(tmp_path):
    with pytest.raises(UserError, match="item04: cut short"):
        prepare_source(make_source(6), tmp_path / "a", beam_runner="DirectRunner", strict=True)
    only = Source("fake", NTU25, ("a",), (Item("item04", 4),), read, lambda infos: {}, {})
    with pytest.raises(UserError, match="no sound clip"):
        prepare_source(only, tmp_path / "b", beam_runner="DirectRunner")
    with pytest.raises(UserError, match="pipeline on NoRunner failed"):
        prepare_source(make_source(3), tmp_path / "c", beam_runner="NoRunner")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(THERE, reason="Apache Beam is there")
def test_without_beam_one_line_says_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match="requirements-beam.txt"):
        prepare_source(make_source(3), tmp_path / "a", beam_runner="DirectRunner")
    assert not list(tmp_path.iterdir())
