r"""Pre-trains encoders on unlabelled clips: MoCo, and HaLP on top of it.

    python -m halp_jax.train --config=configs/halp.py:ntu60_xsub --workdir=runs/halp \
        --config.data.dir=data/ntu60 [--config.section.field=value ...]

The same command goes on where a run has stopped. The workdir receives config.json, metrics.jsonl
and checkpoints/. Exit status: 0 when all epochs are done, 1 after an error (one line on standard
error), 143 or 130 when SIGTERM or Ctrl-C stopped the run (its state is saved).
"""

import logging
import os
import sys
from pathlib import Path

import jax
import ml_collections
from absl import flags
from ml_collections import config_flags

from halp_jax import datasets
from halp_jax.datasets import pipeline
from halp_jax.errors import UserError
from halp_jax.evaluation.knn import make_knn_evaluator
from halp_jax.training.checks import check_config
from halp_jax.training.loop import Stopped, train

CACHE = "~/.cache/halp_jax"


def parse_args(argv: list[str]) -> flags.FlagValues:
    """`config`, `workdir` and `distributed`; UserError for what is unknown or of another type."""
    values = flags.FlagValues()
    arguments = ["train", *argv]
    config_flags.DEFINE_config_file(
        "config", None, "Config file, e.g. configs/halp.py:ntu60_xsub; override with --config.x=y",
        flag_values=values, sys_argv=arguments, lock_config=True,
    )  # fmt: skip
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    about = "One of several processes that train together (Slurm, TPU pod)."
    flags.DEFINE_bool("distributed", False, about, flag_values=values)
    try:
        unknown = values(arguments)[1:]
        missing = [name for name in ("config", "workdir") if values[name].value is None]
        if not missing:
            values.config.lock()  # a file that could not be read fails only when it is used
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        text = str(error).replace("\\n", " ").split("Error: ")[-1]  # without a config's traceback
        reason = " ".join(text.split())
        raise UserError(f"bad option: {reason} (configs/default.py has all settings)") from error
    if unknown:
        raise UserError(f"unknown argument {unknown[0]!r}: write --config.section.field=value")
    if missing:
        raise UserError(f"--{missing[0]} is missing: give both --config=FILE and --workdir=DIR")
    return values


def run(config: ml_collections.ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """One run, as the command does it."""
    check_config(config)
    dataset = datasets.open_dataset(config.data.dir)
    evaluators = [make_knn_evaluator(config, dataset)] if config.knn.every_epochs else []
    train(config, workdir, dataset=dataset, evaluators=evaluators)


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(argv):
        print(__doc__)
        return 0
    pipeline.quiet_tensorflow()
    log = logging.getLogger("halp_jax")  # the project's own messages, without date and file
    log.setLevel(logging.INFO)
    log.addHandler(handler := logging.StreamHandler())
    try:
        options = parse_args(argv)
        if options.distributed:
            jax.distributed.initialize()
        if jax.default_backend() != "cpu" and not jax.config.jax_compilation_cache_dir:
            # Restarts skip compilation. Not on CPUs: what was compiled for one may crash another.
            jax.config.update("jax_compilation_cache_dir", str(Path(CACHE).expanduser()))
        run(options.config, options.workdir)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    except KeyboardInterrupt:
        print("interrupted: the newest checkpoint is the last one saved", file=sys.stderr)
        return 130
    finally:
        log.removeHandler(handler)
    return 0


if __name__ == "__main__":
    sys.exit(main())
