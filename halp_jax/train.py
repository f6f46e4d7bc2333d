r"""Pre-trains encoders on unlabelled clips: MoCo, and HaLP on top of it.

    python -m halp_jax.train --config=configs/halp.py:ntu60_xsub --workdir=runs/halp \
        --config.data.dir=data/ntu60 [--config.section.field=value ...]

The same command goes on where a run has stopped, and is typed on every host of a cluster
(launch/README.md). The workdir receives config.json, metrics.jsonl
and checkpoints/. Exit status: 0 when all epochs are done, 1 after an error (one line on standard
error), 143 or 130 when SIGTERM or Ctrl-C stopped the run (its state is saved).
"""

import argparse
import logging
import os
import sys
import traceback
from pathlib import Path

import jax
import ml_collections

from halp_jax import datasets
from halp_jax.datasets import pipeline
from halp_jax.errors import UserError
from halp_jax.evaluation.knn import make_knn_evaluator
from halp_jax.options import parse_config
from halp_jax.training import checks, cluster
from halp_jax.training.loop import Stopped, train

CACHE = "~/.cache/halp_jax"
log = logging.getLogger("halp_jax")  # the project's own messages


def parse_args(argv: list[str]) -> tuple[argparse.Namespace, ml_collections.ConfigDict]:
    """The command's options, and the config; UserError for what is unknown or of another type."""
    more = "--config=FILE[:VARIANT] names the settings, --config.field=value changes one"
    parser = argparse.ArgumentParser(
        "halp_jax.train", description=__doc__, epilog=more, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--workdir", help="folder of the run")
    args, rest = parser.parse_known_args(argv)
    config = parse_config(rest)
    if not args.workdir:
        raise UserError("--workdir is missing: give both --config=FILE and --workdir=DIR")
    return args, config


def run(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """One run, as the command does it."""
    with cluster.together():
        checks.check_config(config)
        dataset = datasets.open_dataset(config.data.dir)
        evaluators = []
        if config.knn.every_epochs and checks.lacks_labels(dataset, config.data.split):
            log.warning("no kNN during training: the clips to train or to test on have no labels")
        elif config.knn.every_epochs:
            evaluators = [make_knn_evaluator(config, dataset)]
    train(config, workdir, dataset=dataset, evaluators=evaluators)


def main(argv: list[str] | None = None) -> int:
    pipeline.quiet_tensorflow()
    log.setLevel(logging.INFO)
    log.addHandler(handler := logging.StreamHandler())  # without date and file
    log.propagate = False  # libraries may have given the root logger a handler: once is enough
    try:
        args, config = parse_args(sys.argv[1:] if argv is None else argv)
        cluster.join(config)
        if jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:
            # Restarts skip compilation. Not on CPUs: what was compiled for one may crash another.
            jax.config.update("jax_compilation_cache_dir", str(Path(CACHE).expanduser()))
        run(config, args.workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return cluster.leave(error)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt as error:
        print("interrupted: the newest checkpoint is the last one saved", file=sys.stderr)
        return cluster.leave(error, 130)
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        if not cluster.is_loss(error):
            traceback.print_exc()
        print(f"error: {cluster.describe(error)}", file=sys.stderr)
        return cluster.leave(error)
    finally:
        log.removeHandler(handler)
        log.propagate = True
    return 0


if __name__ == "__main__":
    sys.exit(main())
