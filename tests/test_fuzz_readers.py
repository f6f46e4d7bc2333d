"""Thousands of damaged files a reader: each gives sound clips or one line of a known error.

Every file starts as a sound tiny one and is damaged by a seeded random mutation. No other
exception may come out, nothing in a pickle may run, and no tiny file may take much memory.
"""

import functools
import io
import os
import time
import tracemalloc
import zipfile

import numpy as np
import pytest
from _files import annotation, poses, skeleton_text, write_pku, write_pyskl, write_split
from _formats import (
    flat_annotation,
    make_clips,
    write_agcn,
    write_aimclr,
    write_ctrgcn,
    write_ctrgcn_raw,
    write_folder,
    write_kinetics400,
    write_layout,
    write_nwucla,
)
from _motion import write_motion

from halp_jax.datasets import (
    READERS,
    agcn,
    ctrgcn,
    folder,
    guess_format,
    ntu,
    nwucla,
    open_source,
    pku,
    pyskl,
    pyskl_points,
    text,
)
from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.read_pool import USUAL_REPAIR, mend_clip
from halp_jax.errors import UserError

CASES = 2_000 if "ALL" in os.environ else 500  # make test ALL=1
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
        assert clip.frames.dtype == np.float32 and not np.isinf(clip.frames).any()
        assert np.isfinite(mend_clip(clip, USUAL_REPAIR).frames).all()
        assert clip.frames.any() and clip.label >= -1
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


def run_cases(make_case, cases: int = CASES) -> dict[str, int]:
    """Counts the outcomes of all cases; none may hang."""
    counts = {"clips": 0, "refused": 0}
    for number in range(cases):
        start = time.process_time()
        counts[make_case(number, np.random.default_rng([7, number]))] += 1
        assert time.process_time() - start < 5, f"case {number} hangs"
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
        put(file, change(sound[number % len(sound)], rng))
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
            assert "names no sample" in str(error) or "is empty" in str(error)


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
        framewise = b"0\n26\n26\n0\n4\n4\n" if number % 4 == 3 else sound[name]
        put(files[name], change(framewise, rng))
        pku._load_video.cache_clear()  # the same name and time of change, other content

        def read():
            source = pku.open_source(tmp_path)
            clips = read_all(source)
            source.splits([clip.info for clip in clips])
            return clips

        result = outcome(read, 25)
        put(files[name], sound[name])
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


def test_fuzz_pyskl_2d(tmp_path):
    file, sound = tmp_path / "a.pkl", []
    for protocol in (2, 4):
        clips = [flat_annotation(f"clip {n}", n, n, 2, 1 + 2 * n) for n in range(2)]
        split = {"a_train": ["clip 0"], "a_val": ["clip 1"]}
        sound.append(write_pyskl(file, clips, split, protocol).read_bytes())

    def case(number, rng):
        data = sound[number % 2]
        if number % 4 < 2:  # bits in the program or the numbers; the others mostly end it
            changed = bytearray(data)
            for place in rng.integers(0, len(data), 2):
                changed[place] ^= 1 << int(rng.integers(8))
            data = bytes(changed)
        else:
            data = mutate(data, rng)
        put(file, data)
        return outcome(lambda: open_and_read(pyskl.open_source, file), 17)

    counts = run_cases(case)
    assert min(counts.values()) > CASES // 40, counts


def open_and_read(open_source, path, **options) -> list:
    """The sound clips of a source, whose splits are made too."""
    source = open_source(path, **options)
    clips = read_all(source)
    source.splits([clip.info for clip in clips])
    return clips


def put(file, data: bytes) -> None:
    """Writes a file anew: the old one may still be mapped, and to cut it short takes long."""
    file.unlink(missing_ok=True)
    file.write_bytes(data)


def mutate_array(data: bytes, rng: np.random.Generator, number: int) -> bytes:
    """A .npy file damaged anywhere, in its header, or in single bits of its numbers."""
    begin = data.index(b"\n") + 1
    if number % 3 == 0:
        return mutate(data, rng)
    if number % 3 == 1:
        return mutate(data[:begin], rng) + data[begin:]
    changed = bytearray(data)
    for place in rng.integers(begin, len(data), 3):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def test_fuzz_agcn(tmp_path):
    clips = make_clips(3, bodies=1)
    write_agcn(tmp_path, {"train": [clip[:2] for clip in clips[:2]], "val": [clips[2][:2]]}, 3)
    names = ("train_data_joint.npy", "train_label.pkl", "train_num_frame.npy")
    files = [tmp_path / name for name in names]
    sound = [file.read_bytes() for file in files]

    def case(number, rng):
        place = number % 3
        file, data = files[place], sound[place]
        change = mutate(data, rng) if place == 1 else mutate_array(data, rng, number // 3)
        put(file, change)
        agcn._open_array.cache_clear()
        result = outcome(lambda: open_and_read(agcn.open_source, tmp_path), 25)
        put(file, data)
        return result

    counts = run_cases(case)
    assert min(counts.values()) > CASES // 20, counts


def write_zip(path, members: dict[str, bytes], compression: int) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(zipfile.ZipInfo(name), data, compression)


def test_fuzz_ctrgcn(tmp_path):
    file, sound, members = tmp_path / "NTU60_CS.npz", [], {}
    clips = [clip[:2] for clip in make_clips(3)]
    for save in (np.savez, np.savez_compressed):
        write_ctrgcn(file, {"train": clips[:2], "test": clips[2:]}, 2, save)
        sound.append(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def case(number, rng):
        if number % 4 == 0:  # the archive
            put(file, mutate(sound[number // 4 % 2], rng))
        else:  # an array in it, which is whole as far as the archive knows
            name = sorted(members)[int(rng.integers(len(members)))]
            changed = members | {name: mutate_array(members[name], rng, number)}
            stored = zipfile.ZIP_DEFLATED if number % 8 < 4 else zipfile.ZIP_STORED
            file.unlink(missing_ok=True)
            write_zip(file, changed, stored)
        ctrgcn._open_rows.cache_clear()
        return outcome(lambda: open_and_read(ctrgcn.open_source, file), 25)

    counts = run_cases(case)
    ctrgcn._open_rows.cache_clear()
    assert min(counts.values()) > CASES // 20, counts


def test_fuzz_nwucla(tmp_path):
    file = write_nwucla(tmp_path, ["a08_s02_e01_v02"]) / "a08_s02_e01_v02.json"
    sound = file.read_bytes()

    def case(number, rng):
        put(file, (mutate_lines if number % 3 == 0 else mutate)(sound, rng))
        return outcome(lambda: open_and_read(nwucla.open_source, tmp_path), 20)

    counts = run_cases(case)
    assert min(counts.values()) > CASES // 20, counts


def flip_bits(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for place in rng.integers(0, len(data), 2):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


@pytest.mark.parametrize("kind", ["aimclr", "raw", "kinetics"])
def test_fuzz_prepared_arrays(tmp_path, kind):
    if kind == "aimclr":
        path = write_aimclr(tmp_path, {"train": 2})
        files = [path / "train_label.pkl", path / "train_position.npy"]
        read, joints = agcn.open_aimclr, 25
    elif kind == "raw":
        path = write_ctrgcn_raw(tmp_path, (2, 2))
        files = [path / name for name in (ctrgcn.JOINTS, ctrgcn.COUNTS, ctrgcn.NAMES)]
        read, joints = ctrgcn.open_source, 25
    else:
        path = write_kinetics400(tmp_path, 2)
        files, read, joints = [path, tmp_path / "kpfiles" / "0000.pkl"], pyskl.open_source, 17
    sound = [file.read_bytes() for file in files]

    def case(number, rng):
        place = number % len(files)
        put(files[place], (flip_bits if number % 4 < 2 else mutate)(sound[place], rng))
        agcn._open_array.cache_clear()
        pyskl_points._load.cache_clear()
        result = outcome(lambda: open_and_read(read, path), joints)
        put(files[place], sound[place])
        return result

    counts = run_cases(case, CASES // 4)
    assert min(counts.values()) > CASES // 160, counts


def test_fuzz_guess(tmp_path):
    sound = [b'{"people":[{"pose_keypoints_2d":[1,2,3]}]}', b"file,label\nclips/0.npy,1\n",
             b"time,Hips.x,Hips.y\n1,2,3\n", b"\x93NUMPY\1\0v\0{'descr': '<f4'}"]  # fmt: skip
    files = [tmp_path / f"clip.{suffix}" for suffix in ("json", "csv", "csv", "npy")]

    def case(number, rng):
        put(files[number % 4], mutate(sound[number % 4], rng))
        try:
            return "clips" if guess_format(files[number % 4]) else ""
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            return "refused"

    counts = run_cases(case)
    assert min(counts.values()) > CASES // 40, counts


def test_fuzz_folder_and_layout(tmp_path):
    rows = ["clips/0.npy,wave,3,train", "clips/1.npy,kick,4,test"]
    clips = [clip[:2] for clip in make_clips(2, 1, 6)]
    write_folder(tmp_path, clips, "file,label,subject,split", rows)
    layout = write_layout(tmp_path / "hand.json")
    files = [tmp_path / "labels.csv", tmp_path / "clips" / "0.npy", layout]
    sound = [file.read_bytes() for file in files]

    def case(number, rng):
        place = number % 3
        file, data = files[place], sound[place]
        if place == 1:
            change = mutate_array(data, rng, number // 3)
        else:
            change = mutate_lines(data, rng) if number % 2 else mutate(data, rng)
        put(file, change)
        read = functools.partial(open_and_read, folder.open_source, tmp_path, layout=str(layout))
        result = outcome(read, 6)
        put(file, data)
        return result

    counts = run_cases(case)
    assert min(counts.values()) > CASES // 20, counts


@pytest.mark.parametrize("format", ["bvh", "trc", "mat", "text"])
def test_fuzz_motion_files(tmp_path, format):
    options = write_motion(tmp_path, format, clips=1, time=2) | {"layout": "kinect20"}
    (file,) = tmp_path.glob("a/*")
    sound = file.read_bytes()

    def guess():
        open_source(format, tmp_path, **{**options, "layout": None})
        return []

    def case(number, rng):
        change = mutate_lines if number % 3 == 0 else mutate
        put(file, change(sound, rng))
        text._load.cache_clear()
        outcome(guess, 20)
        return outcome(lambda: open_and_read(READERS[format], tmp_path, **options), 20)

    counts = run_cases(case, CASES // 4)
    assert min(counts.values()) > CASES // 80, counts


def claim_shape(sound: bytes, shape: str) -> bytes:
    """A .npy file whose header claims another shape."""
    array = np.load(io.BytesIO(sound))
    old = str(array.shape).encode()
    assert sound.count(old) == 1
    return sound.replace(old + b" " * (len(shape) - len(old)), shape.encode())


@pytest.mark.parametrize("reader", ["ntu", "pku", "pyskl", "agcn", "ctrgcn", "folder"])
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
    elif reader in ("agcn", "folder"):
        clips = [clip[:2] for clip in make_clips(2, bodies=1)]
        if reader == "agcn":
            file = write_agcn(tmp_path, {"train": clips}, 2) / "train_data_joint.npy"
            shapes = ["(2, 3, 9000000, 25, 1)", "(99999999999, 3, 2, 25, 1)", "(2, 3, 2, 25, 1e99)"]
        else:
            file = write_folder(tmp_path, clips) / "clips" / "0.npy"
            shapes = ["(900000000, 1, 25, 3)", "(2, 1, 25, 99999999999)", "(2, -1, 25, 3)"]
        sound = file.read_bytes()
        claims = [claim_shape(sound, shape) for shape in shapes]
    elif reader == "ctrgcn":
        file = tmp_path / "NTU60_CS.npz"
        clips = [clip[:2] for clip in make_clips(2)]
        sound = write_ctrgcn(file, {"train": clips}, 2).read_bytes()
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        claims = []
        # 100 MB of zeros in 100 kB: clips of 20,000 frames, and labels of many clips.
        bomb = {"x_train.npy": (8, 20_000, 150), "y_train.npy": (40_000, 600)}
        for name, shape in bomb.items():
            stream = io.BytesIO()
            np.save(stream, np.zeros(shape, np.float32))
            write_zip(file, members | {name: stream.getvalue()}, zipfile.ZIP_DEFLATED)
            claims.append(file.read_bytes())
        changed = claim_shape(members["x_train.npy"], "(99999999, 2, 150)")
        write_zip(file, members | {"x_train.npy": changed}, zipfile.ZIP_STORED)
        claims.append(file.read_bytes())
    else:
        file = tmp_path / "a.pkl"
        sound = write_pyskl(file, [annotation("a", 999, time=2)], {}).read_bytes()
        claims = [b"\x80\x02Nr\xff\xff\xff\x7f.", b"\x80\x05\x96\0\0\0\0\0\0\1\0."]
        claims.append(b"\x80\x03B\0\0\0\x7f" + b"abc.")  # 2 GB in 11 bytes
    file.write_bytes(sound)
    assert outcome(lambda: read_all(READERS[reader](str(tmp_path))), 25) == "clips"
    tracemalloc.start()
    try:
        for number in range(100):
            data = claims[number] if number < len(claims) else mutate(sound, rng)
            file.write_bytes(data)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            outcome(lambda: read_all(READERS[reader](str(tmp_path))), 25)
            peak = tracemalloc.get_traced_memory()[1] - before
            assert peak < MEMORY_LIMIT + 40 * len(data), f"case {number}: {peak} bytes"
    finally:
        tracemalloc.stop()
