"""Thousands of damaged files a reader: each gives sound clips or one line of a known error.

Every file starts as a sound tiny one and is damaged by a seeded random mutation. No other
exception may come out, nothing in a pickle may run, and no tiny file may take much memory.
"""

import time
import tracemalloc

import numpy as np
import pytest
from _files import annotation, poses, skeleton_text, write_pku, write_pyskl, write_split

from halp_jax.datasets import ntu, pku, pyskl
from halp_jax.datasets.clip import DamagedClip
from halp_jax.errors import UserError

CASES = 2_000
MEMORY_LIMIT = 8 * 2**20
TOKENS = (
    b"nan", b"-nan", b"inf", b"-1", b"0", b"25", b"1e999", b"1e300", b"-1e30", b"2147483648",
    b"99999999999999999999", b"9" * 5000, b"", b"\xff\xfe", b"\x00", b"1,2", b"abc", b"0x10",
    b"1_0",
)  # fmt: skip


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three of: flip bytes, cut the end or a piece out, double a piece, replace a number."""
    for _ in range(rng.integers(1, 4)):
        if not data:
            break
        kind = rng.integers(5)
        start, end = sorted(rng.integers(0, len(data) + 1, 2))
        if kind == 0:
            changed = bytearray(data)
            for place in rng.integers(0, len(data), rng.integers(1, 9)):
                changed[place] = rng.integers(256)
            data = bytes(changed)
        elif kind == 1:
            data = data[:start]
        elif kind == 2:
            data = data[:start] + data[end:]
        elif kind == 3:
            data = data[:end] + data[start:end] + data[end:]
        else:
            place = rng.integers(len(data))
            begin = max(data.rfind(gap, 0, place) for gap in (b" ", b"\n", b",")) + 1
            stops = [data.find(gap, place) for gap in (b" ", b"\n", b",")]
            stop = min((each for each in stops if each >= 0), default=len(data))
            data = data[:begin] + TOKENS[rng.integers(len(TOKENS))] + data[stop:]
    return data


def mutate_lines(data: bytes, rng: np.random.Generator) -> bytes:
    """A mutation that leaves the numbers' grid mostly intact: lines or one early number."""
    lines = data.split(b"\n")
    place = int(rng.integers(len(lines)))
    if rng.integers(2):
        other = int(rng.integers(len(lines)))
        lines[place], lines[other] = lines[other], lines[place]
    else:
        words = lines[place].split(b" ")
        words[int(rng.integers(len(words)))] = TOKENS[rng.integers(len(TOKENS))]
        lines[place] = b" ".join(words)
    return b"\n".join(lines)


def outcome(open_and_read, layout_joints: int) -> str:
    """ "clips" or "refused"; anything else fails the test."""
    try:
        clips = open_and_read()
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return "refused"
    for clip in clips:
        assert clip.frames.ndim == 4 and clip.frames.shape[2:] == (layout_joints, 3)
        assert clip.frames.dtype == np.float32 and np.isfinite(clip.frames).all()
        assert clip.frames.any() and clip.label >= 0
    return "clips"


def read_all(source) -> list:
    """The sound clips; one damaged item does not hide the others from the checks."""
    clips, damaged = [], None
    for item in source.items:
        try:
            clips += source.read(item)
        except DamagedClip as error:
            assert "\n" not in str(error)
            damaged = error
    if damaged and not clips:
        raise damaged
    return clips


def run_cases(make_case) -> dict[str, int]:
    """Counts the outcomes of all cases; none may hang."""
    counts = {"clips": 0, "refused": 0}
    for number in range(CASES):
        start = time.perf_counter()
        counts[make_case(number, np.random.default_rng([7, number]))] += 1
        assert time.perf_counter() - start < 5, f"case {number} hangs"
    return counts


def test_fuzz_ntu(tmp_path):
    sound = [
        skeleton_text([list(enumerate(pose)) for pose in poses(seed, 2, bodies)]).encode()
        for seed, bodies in enumerate((1, 2, 1, 3))
    ]
    file = tmp_path / "S001C001P001R001A001.skeleton"
    file.write_bytes(sound[0])
    source = ntu.open_source(tmp_path)

    def case(number, rng):
        change = mutate_lines if number % 3 == 0 else mutate
        file.write_bytes(change(sound[number % len(sound)], rng))
        return outcome(lambda: source.read(source.items[0]), 25)

    counts = run_cases(case)
    assert min(counts.values()) > CASES // 20, counts


def test_fuzz_ntu_missing_lists_and_names(tmp_path):
    rng = np.random.default_rng(3)
    listed = tmp_path / "x_missing_skeletons.txt"
    (tmp_path / "S001C001P001R001A001.skeleton").write_text("0")
    for _ in range(200):
        listed.write_bytes(mutate(b"1 sample\n\n\nS001C002P005R002A008\n", rng))
        try:
            assert len(ntu.open_source(tmp_path).items) == 1
        except UserError as error:
            assert "names no sample" in str(error)


def test_fuzz_pku(tmp_path):
    write_pku(tmp_path, {"0105-M": [(26, 0, 3, 2), (3, 3, 6, 1)]}, time=6)
    split = write_split(tmp_path / "cross-view.txt", ["0105-M", "0002-L"], ["0003-M"])
    files = {
        "video": tmp_path / "skeleton" / "0105-M.txt",
        "label": tmp_path / "label" / "0105-M.txt",
        "split": split,
    }
    sound = {name: file.read_bytes() for name, file in files.items()}

    def case(number, rng):
        name = ("video", "label", "split", "label")[number % 4]
        change = mutate_lines if number % 3 == 0 else mutate
        files[name].write_bytes(change(sound[name], rng))
        pku._load_video.cache_clear()  # the same name and time of change, other content

        def read():
            source = pku.open_source(tmp_path)
            clips = read_all(source)
            source.splits([clip.info for clip in clips])
            return clips

        result = outcome(read, 25)
        files[name].write_bytes(sound[name])
        return result

    counts = run_cases(case)
    assert min(counts.values()) > CASES // 20, counts


def test_fuzz_pyskl(tmp_path):
    sentinel = tmp_path / "sentinel"
    file = tmp_path / "a.pkl"
    sound = []
    for protocol in (2, 4, 5):
        clips = [annotation(f"0005-L_0000{n}", n, n, time=2, bodies=1) for n in range(2)]
        split = {"xsub_train": ["0005-L_00000"], "xsub_val": ["0005-L_00001"]}
        sound.append(write_pyskl(file, clips, split, protocol).read_bytes())
    # Material that a flipped or doubled piece could turn into a call.
    call = b"cposix\nsystem\nX" + len(f"touch {sentinel}").to_bytes(4, "little")
    call += f"touch {sentinel}".encode() + b"\x85R"

    def case(number, rng):
        data = sound[number % len(sound)]
        # Half of the mutations in the program, not in the coordinates.
        if number % 2:
            place = int(rng.integers(2, min(200, len(data))))
            piece = data[:place]
            if number % 4 == 1:
                data = mutate(piece, rng) + data[place:]
            else:
                data = piece + call + data[place:]
        elif number % 4:
            data = mutate(data, rng)
        else:
            changed = bytearray(data)
            for place in rng.integers(0, len(data), 3):
                changed[place] ^= 1 << int(rng.integers(8))
            data = bytes(changed)
        file.write_bytes(data)

        def read():
            source = pyskl.open_source(file)
            clips = read_all(source)
            source.splits([clip.info for clip in clips])
            return clips

        result = outcome(read, 25)
        assert not sentinel.exists(), f"case {number} ran code"
        return result

    counts = run_cases(case)
    assert min(counts.values()) > CASES // 40, counts


@pytest.mark.parametrize("reader", ["ntu", "pku", "pyskl"])
def test_tiny_files_take_little_memory(tmp_path, reader):
    rng = np.random.default_rng(5)
    if reader == "ntu":
        file = tmp_path / "S001C001P001R001A001.skeleton"
        sound = skeleton_text([list(enumerate(pose)) for pose in poses(0, 2, 2)]).encode()
        claims = [b"5000\n" + b"0\n" * 4_999 + sound[2:], b"4999" + sound[1:]]
        # Many empty frames, and one person under a new id in each of the others.
        one = sound.split(b"\n")[2:29]
        claims.append(b"4000\n" + b"0\n" * 3_950 + b"\n".join([b"1", *one] * 50) + b"\n")
    elif reader == "pku":
        write_pku(tmp_path, {"0105-M": [(26, 0, 3, 2)]}, time=6)
        file = tmp_path / "label" / "0105-M.txt"
        sound = file.read_bytes()
        claims = [b"1,0,999999999,2\n" * 500]
    else:
        file = tmp_path / "a.pkl"
        sound = write_pyskl(file, [annotation("a", 999, time=2)], {}).read_bytes()
        claims = [b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x05\x96\0\0\0\0\0\0\1\0."]
    open_source = {"ntu": ntu.open_source, "pku": pku.open_source, "pyskl": pyskl.open_source}
    file.write_bytes(sound)
    assert outcome(lambda: read_all(open_source[reader](tmp_path)), 25) == "clips"
    tracemalloc.start()
    try:
        for number in range(100):
            data = claims[number] if number < len(claims) else mutate(sound, rng)
            file.write_bytes(data)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            outcome(lambda: read_all(open_source[reader](tmp_path)), 25)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < MEMORY_LIMIT + 40 * len(data), f"case {number}: {peak} bytes"
    finally:
        tracemalloc.stop()
