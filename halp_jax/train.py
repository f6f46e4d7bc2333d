r"""Pre-trains the encoder of a config, on clips or graphs: MoCo, HaLP on top of it, or another method.

    python -m halp_jax.train --config=configs/halp.py:ntu60_xsub --workdir=runs/halp \
        --config.data.dir=data/ntu60 [--config.section.field=value ...]

The same command resumes a stopped run; on a cluster run it on every host (launch/README.md). The workdir
receives config.json, metrics.jsonl and checkpoints/. Exit status: 0 when all epochs are done, 1 after an
error (one line on standard error), 143 or 130 when SIGTERM or Ctrl-C stopped the run (its state is
saved).
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from halp_jax import datasets
from halp_jax.errors import UserError
from halp_jax.evaluation.knn import make_knn_evaluator
from halp_jax.options import make_parser, parse_config, run_command
from halp_jax.training import checks, cluster
from halp_jax.training.loop import train

CACHE = "~/.cache/halp_jax"
log = logging.getLogger("halp_jax")  # the project's own messages


def parse_args(argv: Sequence[str]) -> tuple[argparse.Namespace, ConfigDict]:
    """The command's options, and the config; UserError for what is unknown or of another type."""
    more = "--config=FILE[:VARIANT] names the settings, --config.field=value changes one"
    parser = make_parser("train", __doc__, epilog=more)
    parser.add_argument("--workdir", help="folder of the run")
    args, rest = parser.parse_known_args(argv)
    config = parse_config(rest)
    if not args.workdir:
        raise UserError("--workdir is missing: give both --config=FILE and --workdir=DIR")
    if config.data.dir:  # found from any folder when the run is evaluated
        config.data.dir = os.path.abspath(os.path.expanduser(config.data.dir))
    return args, config


def run(config: ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """One run, as the command does it."""
    with cluster.fail_together():
        checks.check_config(config)
        dataset = datasets.open_dataset(config.data.dir)
        checks.check_unit(config, dataset)
        config.data.split = dataset.choose_split(config.data.split)
        evaluators = []
        if config.knn.every_epochs and checks.lacks_labels(dataset, config.data.split):
            log.warning("no kNN during training: the clips to train or to test on have no labels")
        elif config.knn.every_epochs:
            evaluators = [make_knn_evaluator(config, dataset)]
    train(config, workdir, dataset=dataset, evaluators=evaluators)


def start(argv: Sequence[str]) -> None:
    """Reads the options, joins the other processes, trains."""
    args, config = parse_args(argv)
    cluster.join(config)
    if jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:
        # Restarts skip compilation. Not on CPUs: what was compiled for one may crash another.
        jax.config.update("jax_compilation_cache_dir", str(Path(CACHE).expanduser()))
    run(config, args.workdir)


def main(argv: Sequence[str] | None = None) -> int:
    log.setLevel(logging.INFO)
    log.addHandler(handler := logging.StreamHandler())  # without date and file
    log.propagate = False  # libraries may have given the root logger a handler: once is enough
    try:
        stopped = "the newest checkpoint is the last one saved"
        return run_command("train", start, argv, stopped=stopped, sigterm=False)
    finally:
        log.removeHandler(handler)
        log.propagate = True


if __name__ == "__main__":
    sys.exit(main())
