"""The parser of `.skeleton` files: every number to the last bit, whatever stands between them."""

import numpy as np
import pytest
from _files import SHARED, poses, skeleton_text

from benchmarks import _plain_ntu
from halp_jax.datasets import ntu
from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.skeleton_text import parse_skeleton
from halp_jax.datasets.source import Item

FRAMES = [list(enumerate(pose, 72057594037931101)) for pose in poses(0, 4, 3)]
FRAMES[1] = FRAMES[1][1:2]
FRAMES.insert(2, [])
TEXT = skeleton_text(FRAMES)
FIRST_X = TEXT.splitlines()[4].split()[0]
NUMBERS = (
    "0", "-0", "-0.0", "7", "-3", "0.1", "-0.12345678", "0.123456789", "9.99999999", "10.25",
    "-123.456", "1E-05", "-9.276937E-05", "0.30000000000000004", "2.", "-.5", "00.5", "1E5",
    "0.000000059604644775390625", "+1.5", "1e-05",
)  # fmt: skip


def parse(text):
    return parse_skeleton(text.encode(), "x")


def test_the_bodies_of_a_file():
    recording = parse(TEXT)
    assert (
        recording.num_frames == 5 and recording.frame.tolist() == [0] * 3 + [1] + [3] * 3 + [4] * 3
    )
    assert recording.slot.tolist() == [0, 1, 2, 0, 0, 1, 2, 0, 1, 2]
    bodies = [body for frame in FRAMES for body in frame]
    assert recording.ids == tuple(number for number, _ in bodies)
    np.testing.assert_array_equal(recording.poses, [pose for _, pose in bodies])


@pytest.mark.parametrize("number", NUMBERS)
def test_every_way_to_write_a_number(number):
    recording = parse(TEXT.replace(FIRST_X, number, 1))
    assert np.float64(float(number)).tobytes() == recording.poses[0, 0, :1].tobytes()


@pytest.mark.parametrize("digits", range(1, 18))
def test_random_numbers_are_the_nearest_float64(digits):
    rng = np.random.default_rng(digits)
    pose = rng.normal(scale=10.0 ** rng.integers(-4, 2, (25, 3)))
    text = skeleton_text([[(1, pose)]])
    for old, row in zip(text.splitlines()[4:], pose, strict=True):
        new = " ".join(f"{value:.{digits}G}" for value in row)
        text = text.replace(old, " ".join([new, *old.split()[3:]]))
    wanted = [[float(f"{value:.{digits}G}") for value in row] for row in pose]
    assert parse(text).poses.tobytes() == np.array([wanted]).tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip(),
        lambda text: text + "\n \r\n",
        lambda text: text.replace(" ", "  ", 1),
        lambda text: text.replace("\n", " \n"),
        lambda text: text.replace(" ", "\t"),
        lambda text: "\n" + text,
    ],
)
def test_blanks_and_line_ends_of_other_systems(change):
    ours, theirs = parse(change(TEXT)), parse(TEXT)
    assert (ours.num_frames, ours.ids) == (theirs.num_frames, theirs.ids)
    for name in ("frame", "slot", "poses"):
        assert getattr(ours, name).tobytes() == getattr(theirs, name).tobytes(), name


@pytest.mark.parametrize("value", ["x", "1.2.3f", "<html>", "nan", "inf"])
def test_text_is_refused_where_nobody_looks_too(value):
    line = TEXT.splitlines()[4].split()
    data = TEXT.replace(" ".join(line), " ".join([*line[:7], value, *line[8:]]), 1)
    if value in ("nan", "inf"):
        np.testing.assert_array_equal(parse(data).poses, parse(TEXT).poses)
    else:
        with pytest.raises(DamagedClip, match="text that is no number"):
            parse(data)


def check_peer(file):
    """The plain reader of the benchmark, and ours with the bodies told apart as it does."""
    (ours,) = ntu.read_item(Item(file.stem, str(file)), by="slot")
    np.testing.assert_array_equal(ours.frames, _plain_ntu.read_clip(file))
    assert ours.frames[:, 0].any()


def test_the_plain_reader_of_the_benchmark_gives_the_same(tmp_path):
    file = tmp_path / "S001C001P001R001A001.skeleton"
    file.write_text(TEXT)
    check_peer(file)


@pytest.mark.skipif(not (SHARED / "ntu").is_dir(), reason="no original NTU files beside the tree")
def test_original_files_equal_the_plain_reader():
    for file in sorted((SHARED / "ntu").glob("*.skeleton")):
        check_peer(file)
