"""Evaluates a pre-trained encoder on a downstream protocol; writes WORKDIR/eval/PROTOCOL.json.

    python -m halp_jax.evaluate --workdir=runs/halp --protocol=knn
    python -m halp_jax.evaluate --workdir=runs/halp --protocol=linear --config.linear.epochs=40
    python -m halp_jax.evaluate --workdir=runs/raw --protocol=knn --encoder=raw --config=FILE.py
    python -m halp_jax.evaluate --workdir=runs/cmd --protocol=linear --stream=joint,mean,ensemble
    python -m halp_jax.evaluate --workdir=runs/joint --join=runs/bone --protocol=knn --stream=concat
    python -m halp_jax.evaluate --workdir=runs/halp --protocol=semi --config.semi.fractions=0.05,0.1
    python -m halp_jax.evaluate --workdir=runs/halp --protocol=transfer --config.data.dir=data/pku2

Settings are those of the run (WORKDIR/config.json) or, for encoders without training, those of
--config=FILE[:VARIANT]; any --config.field=value changes them. Accuracies are shares in [0, 1].
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_collections

from halp_jax import datasets
from halp_jax.datasets import pipeline
from halp_jax.errors import UserError
from halp_jax.evaluation import features, finetune, knn, linear, load, streams, table
from halp_jax.options import names_config_file, parse_config
from halp_jax.training import checkpoint

PROTOCOLS = {
    "knn": knn.evaluate, "linear": linear.evaluate, "finetune": finetune.evaluate,
    "transfer": finetune.evaluate, "semi": finetune.evaluate_semi,
}  # fmt: skip


def parse_args(argv: list[str]) -> tuple[argparse.Namespace, ml_collections.ConfigDict]:
    """The command's options, and the run's config as the --config options change it."""
    more = "--config.field=value changes a setting; --config=FILE[:VARIANT] replaces them all"
    parser = argparse.ArgumentParser("halp_jax.evaluate", epilog=more, allow_abbrev=False)
    parser.add_argument("--workdir", required=True, help="folder of the training run")
    parser.add_argument("--protocol", required=True, choices=PROTOCOLS)
    parser.add_argument("--encoder", default="trained", choices=features.ENCODERS)
    about = "one or more of joint, motion, bone, mean, concat, ensemble; default: the first there"
    parser.add_argument("--stream", default="", help=about)
    about = "another run, whose streams stand beside this run's; may be repeated"
    parser.add_argument("--join", action="append", default=[], metavar="DIR", help=about)
    parser.add_argument("--step", type=int, help="checkpoint to load; default: the last")
    args, rest = parser.parse_known_args(argv)
    from_file = names_config_file(rest)
    if from_file and args.encoder == "trained":
        raise UserError("a trained encoder has its run's config; give --config.field=value instead")
    if args.join and args.encoder != "trained":
        raise UserError(f"--join joins trained runs; --encoder={args.encoder} has none")
    return args, parse_config(rest, None if from_file else checkpoint.load_config(args.workdir))


def evaluate(
    args: argparse.Namespace, config: ml_collections.ConfigDict
) -> Iterator[dict[str, Any]]:
    """Runs one protocol -> for each stream that was asked for, what its JSON file holds."""
    start = time.perf_counter()
    if not config.data.dir:
        raise UserError("data.dir is not set; give the prepared folder as --config.data.dir=DIR")
    dataset = datasets.open_dataset(config.data.dir)
    config, variables, step = load.load_encoder(
        args.encoder, config, dataset.layout, args.workdir, step=args.step, joined=args.join
    )
    looks = streams.parse_looks(args.stream, config.streams)
    needed = streams.find_needed(looks, config.streams)
    embed = features.make_embedding(args.encoder, config, dataset.layout, needed)
    encoder = features.Encoder(embed, variables, needed)
    features.check_fit(encoder, config, dataset.layout)
    options = {}
    if args.protocol == "transfer" and args.encoder == "trained":
        load.check_transfer(config, args.workdir)
    if args.protocol == "semi":  # hours at full size: its draws are kept as they are done
        options["store"] = Path(args.workdir) / "eval" / "draws"
        options["identity"] = f"{args.encoder} {step} {args.join}"
    results = PROTOCOLS[args.protocol](config, dataset, encoder, looks, **options)
    for look, found in results.items():
        for figures in found if isinstance(found, list) else [found]:
            yield {
                "protocol": args.protocol, "encoder": args.encoder, "stream": look,
                "split": config.data.split, **table.name_classes(figures, dataset.class_names),
                "step": step, "seed": config.seed, "joined": args.join,
                "seconds": round(time.perf_counter() - start, 3), "config": config.to_dict(),
            }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    pipeline.quiet_tensorflow()
    rows, result, path = {}, {}, None
    try:
        args, config = parse_args(sys.argv[1:] if argv is None else argv)
        for result in evaluate(args, config):
            path = table.write_result(args.workdir, result)
            shown = {name: result[name] for name in ("top1", "top5", "best_top1")}
            rows[f"{table.row_name(result)}, {table.column_name(result)}"] = shown
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table.format_table(rows))
    print(f"{result['num_test']} test clips of {result['split']}, {result['seconds']} s: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
