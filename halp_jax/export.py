"""Writes a prepared data set in the formats of other people's code.

    python -m halp_jax.export --data=data/mine --format=pyskl --out=mine.pkl
    python -m halp_jax.export --data=data/ntu60 --format=npz --split=xsub --out=NTU60_CS.npz

`pyskl` is an annotation pickle for PYSKL and MMAction2, with all splits; `npz` the arrays of one split
as CTR-GCN's generator writes them. --data is a folder of `prepare` or a file of `pack`. Coordinates
are those of the data set: prepare it with --normalize=none for those of the sensor.
"""

import argparse
import sys

from halp_jax.datasets import open_dataset
from halp_jax.datasets.formats_out import write_npz, write_pyskl
from halp_jax.datasets.pipeline import quiet_tensorflow
from halp_jax.errors import UserError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("halp_jax.export", description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of prepare, or file of pack")
    parser.add_argument("--format", required=True, choices=("pyskl", "npz"), help="what to write")
    parser.add_argument("--out", required=True, help="file to write: NAME.pkl or NAME.npz")
    parser.add_argument("--split", help="npz: which split, if there are several")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    args = parser.parse_args(argv)
    quiet_tensorflow()
    try:
        if args.split and args.format == "pyskl":
            raise UserError(
                "--split means nothing to --format=pyskl, which takes all; leave it out"
            )
        dataset = open_dataset(args.data)
        if args.format == "pyskl":
            path = write_pyskl(dataset, args.out, args.overwrite)
        else:
            path = write_npz(dataset, args.out, args.split, args.overwrite)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"export: stopped; nothing was written to {args.out}", file=sys.stderr)
        return 130
    print(f"{path}: {len(dataset)} clips, {path.stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
