"""Writes a prepared data set to one file: to move it, for other people's code, or to look at.

    python -m halp_jax.export --data=data/ntu60 --out=ntu60.npz [--half]
    python -m halp_jax.export --data=data/mine --out=mine.pkl
    python -m halp_jax.export --data=data/ntu60 --format=ctrgcn --split=xsub --out=NTU60_CS.npz
    python -m halp_jax.export --data=data/mine --out=clips.png --clips=S001C001P001R001A009,17,230

`packed` holds the whole data set and is read without TensorFlow; it can be a --config.data.dir. It is
read into memory whole: 600 bytes a frame of two bodies of 25 joints, 3 GB for NTU RGB+D 60. --half
stores float16, half as large, coordinates accurate to a millimetre. `pyskl` is an annotation pickle for
PYSKL and MMAction2, with all splits; `ctrgcn` the arrays of one split as CTR-GCN's generator writes
them. Coordinates are those of the data set: for those of the sensor prepare it with --normalize=none.

`picture` draws clips, and says what does not look like people in them. Look before you train: nothing
else shows a wrong order of joints, left for right, or pixels for metres. `prepare` leaves such a
picture, clips.png, in the folder of the data. Clips are given by name or by number, from 0. Normalised
clips are drawn with z upwards, raw ones with y upwards as from a Kinect, or as --up says.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from halp_jax.datasets import Dataset, open_dataset, pack
from halp_jax.datasets.formats_out import write_npz, write_pyskl
from halp_jax.datasets.preview import choose_clips, read_clips, save_picture
from halp_jax.errors import UserError
from halp_jax.options import make_parser, run_command
from halp_jax.skeletons.plausible import find_faults
from halp_jax.skeletons.plot import UPS

PICTURES = (".png", ".pdf", ".svg")
FORMATS = {".npz": "packed", ".pkl": "pyskl"} | dict.fromkeys(PICTURES, "picture")
OPTIONS = {"half": "packed", "split": "ctrgcn", "clips": "picture", "up": "picture"}
CHECKED, MOST = 32, 48  # clips that are looked at, and of one picture


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("export", __doc__)
    parser.add_argument("--data", required=True, help="folder of prepare, or a packed file")
    parser.add_argument("--out", required=True, help="file to write")
    known = ("packed", "pyskl", "ctrgcn", "picture")
    about = "default: by the ending, .npz: packed, .pkl: pyskl, .png, .pdf, .svg: picture"
    parser.add_argument("--format", choices=known, help=about)
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.add_argument("--half", action="store_true", help="packed: float16, half the size, 1 mm")
    parser.add_argument("--split", help="ctrgcn: which split, if there are several")
    about = "picture: names or numbers; default: six of different classes"
    parser.add_argument("--clips", help=about)
    parser.add_argument("--up", choices=UPS, help="picture: of raw clips; default: y")
    args = parser.parse_args(argv)
    ending = Path(args.out).suffix
    args.format = args.format or FORMATS.get(ending)
    if not args.format or (args.format == "picture" and ending not in PICTURES):
        raise UserError(f"--out={args.out} does not end in {', '.join(FORMATS)}")
    for name, format in OPTIONS.items():
        if getattr(args, name) and args.format != format:
            raise UserError(f"--{name} means nothing to --format={args.format}; leave it out")
    return args


def export(argv: Sequence[str]) -> None:
    """Writes the file and says what is in it."""
    args = parse_args(argv)
    dataset = open_dataset(args.data)
    if dataset.unit == "graphs":
        raise UserError(f"{args.data} holds graphs, which lie in one file already: {dataset.path}")
    if args.format == "picture":
        draw(dataset, args)
        return
    if args.format == "pyskl":
        path = write_pyskl(dataset, args.out, args.overwrite)
    elif args.format == "ctrgcn":
        path = write_npz(dataset, args.out, args.split, args.overwrite)
    else:
        path = pack(dataset, args.out, half=args.half, overwrite=args.overwrite)
    size = path.stat().st_size / 2**20
    print(f"{path}: {len(dataset)} clips, {dataset.lengths.sum()} frames, {size:.1f} MiB")


def draw(dataset: Dataset, args: argparse.Namespace) -> None:
    """Draws clips, and says what is doubtful in these and some others."""
    if Path(args.out).expanduser().exists() and not args.overwrite:
        raise UserError(f"{args.out} exists; choose another --out, or --overwrite to replace it")
    numbers = find_clips(dataset, args.clips) if args.clips else choose_clips(dataset)
    save_picture(dataset, numbers, Path(args.out), args.up)
    spread = np.linspace(0, len(dataset) - 1, min(CHECKED, len(dataset))).astype(int)
    clips = read_clips(dataset, np.union1d(spread, numbers))
    for fault in find_faults(clips, dataset.layout):
        print(f"not like {dataset.layout.name}: {fault}")
    print(f"{args.out}: {len(numbers)} of {len(dataset)} clips")


def find_clips(dataset: Dataset, given: str) -> Int[np.ndarray, " chosen"]:
    """The numbers of clips that are named or numbered, separated by commas.

    Raises:
        UserError: there is no such clip, or too many are asked for.
    """
    place = {name: number for number, name in enumerate(dataset.names)}
    numbers = []
    for each in given.split(","):
        number = place.get(each, int(each) if each.isdecimal() and each.isascii() else -1)
        if not 0 <= number < len(dataset):
            raise UserError(
                f"{dataset.path} has no clip {each!r}; give names, or numbers from 0 to"
                f" {len(dataset) - 1}"
            )
        numbers.append(number)
    if len(numbers) > MOST:
        raise UserError(f"{len(numbers)} clips in one picture; give up to {MOST}")
    return np.array(numbers)


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("export", export, argv)


if __name__ == "__main__":
    sys.exit(main())
