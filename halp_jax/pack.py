"""Writes a prepared data set to one file that travels and that needs no TensorFlow to be read.

    python -m halp_jax.pack --data=data/ntu60 --out=ntu60.npz [--half] [--overwrite]
    python -m halp_jax.train --config.data.dir=ntu60.npz ...

The file is read into memory whole: 600 bytes a frame of two bodies of 25 joints, 3 GB for NTU RGB+D
60. With --half the file has float16, half as large, coordinates right to a millimetre.
"""

import argparse
import sys

from halp_jax.datasets import open_dataset, pack
from halp_jax.datasets.pipeline import quiet_tensorflow
from halp_jax.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("halp_jax.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder that prepare wrote")
    parser.add_argument("--out", required=True, help="file to write, NAME.npz")
    parser.add_argument("--half", action="store_true", help="float16: half the size, 1 mm")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    args = parser.parse_args(argv)
    quiet_tensorflow()
    try:
        dataset = open_dataset(args.data)
        path = pack(dataset, args.out, half=args.half, overwrite=args.overwrite)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"pack: stopped; nothing was written to {args.out}", file=sys.stderr)
        return 130
    size = path.stat().st_size / 2**20
    print(f"{path}: {len(dataset)} clips, {dataset.lengths.sum()} frames, {size:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
