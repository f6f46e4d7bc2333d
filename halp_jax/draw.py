"""Draws clips of a prepared data set, and says what does not look like people in it.

    python -m halp_jax.draw --data=data/mine --out=clips.png
    python -m halp_jax.draw --data=data/mine --out=clips.png --clips=S001C001P001R001A009,17,230

Look before you train: a wrong order of joints, left for right, or pixels for metres are numbers as
sound as any. `prepare` leaves such a picture, clips.png, in the folder of the data. --data is such a
folder or a file of `pack`; clips go by name or number, from 0. Normalised clips are drawn with z
upwards, raw ones with y as a Kinect has it, or as --up says.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Int

from halp_jax.datasets import Dataset, open_dataset
from halp_jax.datasets.looks import choose_clips, read_clips, save_picture
from halp_jax.datasets.pipeline import quiet_tensorflow
from halp_jax.errors import UserError
from halp_jax.skeletons.draw import UPS
from halp_jax.skeletons.plausible import find_faults

ENDINGS = (".png", ".pdf", ".svg")
CHECKED, MOST = 32, 48


def find_clips(dataset: Dataset, given: str) -> Int[np.ndarray, "chosen"]:
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


def check(dataset: Dataset, numbers: Int[np.ndarray, "chosen"]) -> list[str]:
    """What is doubtful in these clips and some others, a line each."""
    spread = np.linspace(0, len(dataset) - 1, min(CHECKED, len(dataset))).astype(int)
    return find_faults(read_clips(dataset, np.union1d(spread, numbers)), dataset.layout)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("halp_jax.draw", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of prepare, or file of pack")
    parser.add_argument("--out", required=True, help="picture to write: NAME.png, .pdf or .svg")
    parser.add_argument("--clips", help="names or numbers; default: six of different classes")
    parser.add_argument("--up", choices=UPS, help="of raw clips; default: y")
    args = parser.parse_args(argv)
    quiet_tensorflow()
    try:
        if not args.out.endswith(ENDINGS):
            raise UserError(f"--out={args.out} does not end in {', '.join(ENDINGS)}")
        dataset = open_dataset(args.data)
        numbers = find_clips(dataset, args.clips) if args.clips else choose_clips(dataset)
        save_picture(dataset, numbers, Path(args.out).expanduser(), args.up)
        faults = check(dataset, numbers)
    except (UserError, OSError) as error:
        told = (
            f"cannot write {args.out} ({error.strerror})" if isinstance(error, OSError) else error
        )
        print(f"error: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("draw: stopped", file=sys.stderr)
        return 130
    for fault in faults:
        print(f"not like {dataset.layout.name}: {fault}")
    print(f"{args.out}: {len(numbers)} of {len(dataset)} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
