"""Damaged files of pose detectors: each gives sound clips or one line of a known error."""

import numpy as np
import pytest
from _detections import SETS
from test_fuzz_readers import CASES, mutate, open_and_read, outcome, put, run_cases

from halp_jax.datasets import READERS

JOINTS = {"openpose": 25, "coco": 17, "kinetics": 18, "mediapipe": 35, "yolo": 17}
# What a mutation of bytes seldom hits upon.
TOKENS = (
    b"null",
    b"[]",
    b"{}",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"9" * 400,
    b'"a"',
    b"[1,[2]]",
    b"true",
)


def mutate_value(data: bytes, rng: np.random.Generator, ends: bytes) -> bytes:
    """One value between such characters replaced: the file mostly stays sound."""
    stops = [place for place, byte in enumerate(data) if byte in ends]
    place = int(rng.integers(len(stops) - 1))
    begin, end = stops[place] + 1, stops[place + 1]
    return data[:begin] + TOKENS[rng.integers(len(TOKENS))] + data[end:]


@pytest.mark.parametrize(
    ("format", "ending"),
    [(format, ".json") for format in SETS if format != "yolo"]
    + [("mediapipe", ".csv"), ("mediapipe", ".npy"), ("yolo", ".txt")],
)
def test_fuzz_detections(tmp_path, format, ending):
    _, path, options = SETS[format][0](tmp_path / "set")
    layout = {"openpose": "body25", "yolo": "coco17"}.get(format)
    given = options | ({"layout": layout} if layout else {})
    sound = {}
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        kind = "label" in file.name
        if file.suffix != ending or kind in sound:
            file.unlink()  # one of a kind, so that the others do not hide what becomes of it
        else:
            sound[kind] = file, file.read_bytes()
    sound = dict(sound.values())

    def case(number, rng):
        file = sorted(sound)[number % len(sound)]
        ends = {".json": b",:[]{}", ".txt": b" \n"}.get(ending)
        value = ends and number % 5 < 3
        put(file, mutate_value(sound[file], rng, ends) if value else mutate(sound[file], rng))

        def read():
            READERS[format](path, **options)  # what it takes the joints for depends on them
            return open_and_read(READERS[format], path, **given)

        result = outcome(read, JOINTS[format])
        put(file, sound[file])
        return result

    counts = run_cases(case, CASES // 2)
    assert min(counts.values()) > CASES // 40, counts
