"""Evaluates a pre-trained encoder on a downstream protocol; writes WORKDIR/eval/PROTOCOL.json.

The classifier of linear, finetune and transfer is saved beside it as PROTOCOL.npz, for `embed`.

    python -m halp_jax.evaluate --workdir=runs/halp --protocol=knn
    python -m halp_jax.evaluate --workdir=runs/halp --protocol=linear --config.linear.epochs=40
    python -m halp_jax.evaluate --workdir=runs/raw --protocol=knn --encoder=raw --config=FILE.py
    python -m halp_jax.evaluate --workdir=runs/cmd --protocol=linear --stream=joint,mean,ensemble
    python -m halp_jax.evaluate --workdir=runs/joint --join=runs/bone --protocol=knn --stream=concat
    python -m halp_jax.evaluate --workdir=runs/halp --protocol=semi --config.semi.fractions=0.05,0.1
    python -m halp_jax.evaluate --workdir=runs/halp --protocol=transfer --config.data.dir=data/pku2
    python -m halp_jax.evaluate --workdir=runs/mutag --protocol=svm

Settings are those of the run (WORKDIR/config.json) or, for encoders without training, those of
--config=FILE[:VARIANT]; --config.field=value changes one. Accuracies in the file are shares in [0, 1].
The same command resumes fine-tuning that was stopped. On a cluster run it on every host
(launch/README.md).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import ml_collections
import pandas as pd

from halp_jax.errors import UserError
from halp_jax.evaluation import features, protocols, result_files
from halp_jax.options import make_parser, names_config_file, parse_config, run_command
from halp_jax.training import checkpoint, cluster

MEASURES = ("top1", "top5", "best_top1")


def parse_args(argv: Sequence[str]) -> tuple[argparse.Namespace, ml_collections.ConfigDict]:
    """The command's options, and the run's config as the --config options change it."""
    more = "--config.field=value changes a setting; --config=FILE[:VARIANT] replaces them all"
    parser = make_parser("evaluate", __doc__, epilog=more)
    parser.add_argument("--workdir", required=True, help="folder of the training run")
    parser.add_argument("--protocol", required=True, choices=protocols.NAMES)
    parser.add_argument("--encoder", default="trained", choices=features.ENCODERS)
    about = "one or more of joint, motion, bone, mean, concat, together, ensemble; default: the first there"
    parser.add_argument("--stream", default="", help=about)
    about = "another run, whose streams stand beside this run's; may be repeated"
    parser.add_argument("--join", action="append", default=[], metavar="DIR", help=about)
    parser.add_argument(
        "--part", default="test", help="what to test on: test, or val if there is one"
    )
    parser.add_argument("--step", type=int, help="checkpoint to load; default: the last")
    args, rest = parser.parse_known_args(argv)
    from_file = names_config_file(rest)
    if from_file and args.encoder == "trained":
        raise UserError("a trained encoder has its run's config; give --config.field=value instead")
    if args.join and args.encoder != "trained":
        raise UserError(f"--join joins trained runs; --encoder={args.encoder} has none")
    if args.step is not None and (args.join or args.encoder != "trained"):
        raise UserError("--step is of one trained run; leave it out")
    of_run = args.encoder == "trained" or (Path(args.workdir) / checkpoint.CONFIG).exists()
    if from_file or not of_run:
        return args, parse_config(rest)  # which asks for --config where it is not given
    return args, parse_config(rest, checkpoint.load_config(args.workdir))


def evaluate(argv: Sequence[str]) -> None:
    """Evaluates, and prints the table of what it found."""
    args, config = parse_args(argv)
    cluster.join(config)
    found = protocols.run(
        config, args.workdir, args.protocol, encoder=args.encoder, stream=args.stream,
        join=args.join, step=args.step, part=args.part,
    )  # fmt: skip
    cluster.exchange("")  # nobody leaves before the first has written
    if not cluster.is_first():
        return
    rows = {}
    for result, _ in found:
        shown = {name: 100 * result[name] for name in MEASURES if name in result}
        rows[f"{result_files.row_name(result)}, {result_files.column_name(result)}"] = shown
    print(pd.DataFrame(rows).T.to_string(float_format="%.1f"))
    unit = "graphs" if result["stream"] == "graph" else "clips"
    clips = f"{result['num_test']} {args.part} {unit} of {result['split']}"
    if result["unlabelled"]:
        clips += f", {result['unlabelled']} of train and {args.part} without a label left out"
    if args.encoder == "trained":  # the newest of a run at work is soon another
        clips += f", checkpoint {result['step']}"
    print(f"{clips}, {result['seconds']} s: {found[-1][1]}")


def main(argv: Sequence[str] | None = None) -> int:
    again = "the same command begins again; fine-tuning resumes after its last save"
    return run_command("evaluate", evaluate, argv, stopped=again)


if __name__ == "__main__":
    sys.exit(main())
