"""The two ways to parse a `.skeleton` file: equal to the last bit, and the quick one knows its limits."""

import numpy as np
import pytest
from _files import SHARED, poses, skeleton_text
from test_fuzz_readers import mutate, mutate_lines

from benchmarks import _plain_ntu
from halp_jax.datasets import ntu
from halp_jax.datasets.skeleton_text import _Damage, parse_regular, parse_tokens
from halp_jax.datasets.source import Item

FRAMES = [list(enumerate(pose, 72057594037931101)) for pose in poses(0, 4, 3)]
FRAMES[1] = FRAMES[1][1:2]
FRAMES.insert(2, [])
TEXT = skeleton_text(FRAMES)
FIRST_X = TEXT.splitlines()[4].split()[0]
NUMBERS = (
    "0", "-0", "-0.0", "7", "-3", "0.1", "-0.12345678", "0.123456789", "9.99999999", "10.25",
    "-123.456", "1E-05", "-9.276937E-05", "0.30000000000000004", "2.", "-.5", "00.5", "1E5",
    "0.000000059604644775390625",
)  # fmt: skip


def assert_equal(ours, theirs):
    assert (ours.num_frames, ours.ids) == (theirs.num_frames, theirs.ids)
    for name in ("frame", "slot", "poses"):
        left, right = getattr(ours, name), getattr(theirs, name)
        assert left.dtype == right.dtype and left.shape == right.shape
        assert left.tobytes() == right.tobytes(), name


@pytest.mark.parametrize("number", NUMBERS)
def test_every_way_to_write_a_number(number):
    data = TEXT.replace(FIRST_X, number, 1).encode()
    recording = parse_regular(data)
    assert np.float64(float(number)).tobytes() == recording.poses[0, 0, :1].tobytes()
    assert_equal(recording, parse_tokens(data))


@pytest.mark.parametrize("digits", range(1, 18))
def test_random_numbers_are_the_nearest_float64(digits):
    rng = np.random.default_rng(digits)
    pose = rng.normal(scale=10.0 ** rng.integers(-4, 2, (25, 3)))
    data = skeleton_text([[(1, pose)]])
    for old, row in zip(data.splitlines()[4:], pose, strict=True):
        new = " ".join(f"{value:.{digits}G}" for value in row).replace("+", "")
        data = data.replace(old, " ".join([new, *old.split()[3:]]))
    recording = parse_regular(data.encode())
    assert_equal(recording, parse_tokens(data.encode()))
    assert recording.poses[0, 3, 1] == float(f"{pose[3, 1]:.{digits}G}")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip(),
        lambda text: text + "\n \r\n",
    ],
    ids=["carriage returns", "no last line end", "more line ends"],
)
def test_line_ends_of_other_systems(change):
    data = change(TEXT).encode()
    assert_equal(parse_regular(data), parse_tokens(TEXT.encode()))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace(" ", "  ", 1),
        lambda text: text.replace("\n", " \n"),
        lambda text: text.replace(" ", "\t"),
        lambda text: text.replace(FIRST_X, "+1.5", 1),
        lambda text: text.replace(FIRST_X, "1e-05", 1),
        lambda text: "\n" + text,
    ],
)
def test_what_is_sound_but_not_regular_is_left_to_the_slow_way(change):
    data = change(TEXT).encode()
    assert parse_regular(data) is None
    assert_equal(ntu.parse_skeleton(data, "x"), parse_tokens(data))


def test_damaged_files_are_seen_by_the_quick_way_too():
    counts = {"same": 0, "left": 0, "text": 0}
    for number in range(1500):
        rng = np.random.default_rng([11, number])
        data = (mutate_lines if number % 3 == 0 else mutate)(TEXT.encode(), rng)
        recording = parse_regular(data)
        try:
            reference = parse_tokens(data)
        except _Damage as reason:
            # Of numbers that nobody uses the quick way looks at the characters alone.
            assert recording is None or str(reason) == "it holds text that is no number"
            counts["left" if recording is None else "text"] += 1
            continue
        if recording is not None:
            assert_equal(recording, reference)
            counts["same"] += 1
    assert counts["same"] > 100 and counts["left"] > 500, counts
    assert counts["text"] < 15, counts


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
def test_original_files_take_the_quick_way_and_equal_the_plain_reader():
    for file in sorted((SHARED / "ntu").glob("*.skeleton")):
        recording = parse_regular(file.read_bytes())
        assert recording is not None, file
        assert_equal(recording, parse_tokens(file.read_bytes()))
        check_peer(file)
