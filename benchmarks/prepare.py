"""Preparing raw NTU RGB+D: our reader against a plain line-by-line one, then `prepare` as a whole.

    python benchmarks/prepare.py --cores=1                    (a file: goal, 20 times the plain reader)
    python benchmarks/prepare.py                              (prepare with 1 and 2 processes too)
    python benchmarks/prepare.py --ntu=nturgb+d_skeletons     (original files; the last 50 of them)

The peer (`_plain_ntu.py`) reads as the field's repositories do: readline, split, float, a dict a
joint, arrays. Both give the two bodies that move most, and the same to the last bit, which is
checked. Files of `--ntu` and files written here, of 80 to 120 frames and one or two bodies.
"""

import os
import tempfile
import time
from pathlib import Path

import _plain_ntu
import _timing
import numpy as np

from halp_jax.datasets import ntu, open_source, pipeline
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.read_pool import Reading, read_items
from halp_jax.datasets.source import Item

QUICK = {"files": 3, "clips": 12, "repeats": 2, "cores": 1}
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "ntu"
MOST = 50  # original files to time


def write_skeleton(file: Path, rng: np.random.Generator) -> None:
    """A file as the sensor's program writes them: seven digits, and all that nobody uses too."""
    time, bodies = rng.integers(80, 121), rng.integers(1, 3)
    place = rng.normal(0, (0.5, 0.1, 0.3), (1, bodies, 1, 3)) + (0, 0, 3.5)
    poses = place + rng.normal(0, 0.4, (1, bodies, 25, 3))
    poses = poses + rng.normal(0, 0.02, (time, bodies, 25, 3)).cumsum(0)
    pixels = rng.uniform(100, 1000, (time, bodies, 25, 4))
    turns = rng.normal(0, 0.5, (time, bodies, 25, 4))
    lines = [str(time)]
    for frame in np.concatenate([poses, pixels, turns], -1):
        lines.append(str(bodies))
        for body, joints in enumerate(frame.tolist()):
            lines += [f"{72057594037931101 + body} 0 1 1 0 0 0 0.0652722 -0.246433 2", "25"]
            lines += [" ".join([f"{value:.7G}" for value in joint]) + " 2" for joint in joints]
    file.write_text("\n".join(lines) + "\n")


def write_set(folder: Path, count: int, distinct: int) -> list[Path]:
    """`count` files, of which so many are distinct; the others are further names of these."""
    folder.mkdir()
    rng, files = np.random.default_rng(0), []
    for index in range(count):
        person, action = divmod(index, 60)
        name = f"S001C001P{person % 40 + 1:03d}R{person // 40 + 1:03d}A{action + 1:03d}.skeleton"
        files.append(folder / name)
        if index < distinct:
            write_skeleton(files[-1], rng)
        else:
            os.link(files[index % distinct], files[-1])
    return files


def compare(what: str, files: list[Path], repeats: int, rates: _timing.Rates) -> list[dict]:
    """Both readers over all files, in turn -> rows of milliseconds a file."""

    def read_ours(bodies: str) -> list[np.ndarray]:
        clips = [ntu.read_item(Item(file.stem, str(file)), by=bodies)[0] for file in files]
        return [clip.frames for clip in clips]

    def read_plainly() -> list[np.ndarray]:
        return [_plain_ntu.read_clip(file) for file in files]

    for file, ours, theirs in zip(files, read_ours("slot"), read_plainly(), strict=True):
        if ours.tobytes() != theirs.tobytes():
            raise SystemExit(f"{file}: the two readers differ")
    members = {
        "plain": read_plainly,
        "ours": lambda: read_ours("slot"),
        "ours, people by id": lambda: read_ours("id"),
        "ours, without ghosts": lambda: read_ours("denoised"),
    }
    times = _timing.time_in_turn(members, repeats=repeats)
    size = float(np.mean([file.stat().st_size for file in files]))
    return [
        {
            "reader": name,
            "files": f"{len(files)} {what}",
            "ms_a_file": 1e3 * timing.wall / len(files),
            "cpu_ms": 1e3 * timing.cpu / len(files),
            "best_ms": 1e3 * timing.low / len(files),
            "over_plain": times["plain"].cpu / timing.cpu,
            "floor_ms": 1e3 * _timing.floor_seconds(0, 2 * size, rates),
            "kb_a_file": size / 1e3,
        }
        for name, timing in times.items()
    ]


def time_prepare(folder: Path, out: Path, workers: int, plain_seconds: float) -> dict:
    """All files of a folder, once: read by so many processes; and read, normalised and written.

    `over_plain` compares with the plain reader of a file, which neither normalises nor writes.
    """
    source = open_source("ntu", folder)
    count, start = len(source.items), time.perf_counter()
    reading = Reading(source.read, source.layout, len(source.class_names), "none")
    read = sum(len(result.clips) for result in read_items(reading, source.items, workers))
    between = time.perf_counter()
    dataset = prepare_source(source, out, workers=workers, overwrite=True)
    end = time.perf_counter()
    assert len(dataset) == read == count
    row = {"workers": workers, "clips": count}
    for name, seconds in {"read": between - start, "prepare": end - between}.items():
        row |= {f"{name}_s": seconds, f"{name}_clips_per_s": count / seconds}
        row[f"{name}_over_plain"] = count * plain_seconds / seconds
    return row


def main() -> None:
    parser = _timing.make_parser(__doc__)
    parser.add_argument("--ntu", help="folder of original .skeleton files")
    parser.add_argument("--files", type=int, default=24, help="to write and to time one by one")
    parser.add_argument("--clips", type=int, default=2400, help="of the whole prepare; 0: none")
    args = _timing.parse(parser, QUICK)
    pipeline.quiet_tensorflow()
    machine, rates = _timing.start("preparing raw NTU RGB+D", args)
    source = Path(args.ntu or SHARED)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sets = {"written here": write_set(place / "few", args.files, args.files)}
        if source.is_dir():
            sets = {"original": sorted(source.rglob("*.skeleton"))[-MOST:]} | sets
        else:
            print(f"{source} does not exist: no original files are read")
        rows = [row for what in sets for row in compare(what, sets[what], args.repeats, rates)]
        _timing.print_table(rows)
        whole = []
        if args.clips:
            write_set(place / "many", args.clips, min(args.clips, 120))
            plain = next(row["ms_a_file"] / 1e3 for row in rows if "written" in row["files"])
            time_prepare(place / "few", place / "out", 1, plain)  # TensorFlow loads
            whole = [
                time_prepare(place / "many", place / "out", workers, plain)
                for workers in ((1, 2) if machine["cores"] > 1 or args.quick else (1,))
            ]
            print()
            _timing.print_table(whole)
    _timing.print_json("prepare", machine=machine, repeats=args.repeats, rows=rows, whole=whole)


if __name__ == "__main__":
    main()
