"""What all commands share: how their options are read, and how they end.

--config=FILE[:VARIANT] --config.x.y=value   of the commands that have a config; a FILE of configs/ is
                                             found wherever the command is typed
--some-option=value                          --some_option=value is the same
"""

import argparse
import contextlib
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from halp_jax.datasets.pipeline import quiet_tensorflow
from halp_jax.errors import Stopped, UserError
from halp_jax.progress import Shown, escape_controls
from halp_jax.training import shutdown

CONFIGS = Path(__file__).parent / "configs"  # a link in the repository, a copy in the wheel


class Parser(argparse.ArgumentParser):
    """One that names what is wrong in the line of every other error, and takes `_` for `-`."""

    def error(self, message: str):
        raise UserError(f"{message} (--help lists the options)")

    def parse_known_args(self, args=None, namespace=None):
        args = sys.argv[1:] if args is None else args
        return super().parse_known_args([_with_dashes(each) for each in args], namespace)


def make_parser(command: str, about: str | None, **options: Any) -> Parser:
    """The parser of `python -m halp_jax.COMMAND`; `about` is the module's docstring."""
    layout = argparse.RawDescriptionHelpFormatter
    return Parser(
        f"halp_jax.{command}", description=about, allow_abbrev=False, formatter_class=layout,
        **options,
    )  # fmt: skip


def _with_dashes(argument: str) -> str:
    name, equals, value = argument.partition("=")
    if not name.startswith("--") or name == "--config" or name.startswith("--config."):
        return argument
    # A shell leaves the ~ of --workdir=~/runs as it is.
    return name.replace("_", "-") + equals + os.path.expanduser(value)


def run_command(
    command: str,
    work: Callable[[Sequence[str]], int | None],
    argv: Sequence[str] | None,
    *,
    stopped: str = "nothing was written",
    sigterm: bool = True,
) -> int:
    """Does `work(arguments)` -> the exit status, after one line on stderr where it failed.

    0 when all is done, 1 after an error, 143 or 130 after SIGTERM or Ctrl-C. In a run of many
    processes an error of one ends all of them.

    Args:
        stopped: what a user finds after a stop, and what to do.
        sigterm: False where `work` takes care of SIGTERM itself.
    """
    quiet_tensorflow()
    jax.config.update("jax_enable_x64", False)  # of JAX_ENABLE_X64: checkpoints are in float32
    for number in range(3):  # that of a closed stream is given to no file of ours
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with (
            contextlib.redirect_stdout(sys.stdout and Shown(sys.stdout)),
            contextlib.redirect_stderr(sys.stderr and Shown(sys.stderr, log=True)),
            shutdown.handled(_interrupt, (signal.SIGTERM, signal.SIGHUP) if sigterm else ()),
        ):
            status = work(sys.argv[1:] if argv is None else argv) or 0
        if sys.stdout:
            sys.stdout.flush()
        return status
    except OSError as error:  # whoever read has gone, or a full disk: nothing more is to be flushed
        if error.filename or error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _say(f"error: {command}: not all could be printed ({error.strerror})")
        return 1
    except UserError as error:
        _say(f"error: {error}")
        return shutdown.leave(error)
    except Stopped as error:
        _say(str(error))
        return error.exit_code
    except KeyboardInterrupt as error:
        _say(f"{command}: stopped; {stopped}")
        return shutdown.leave(error, 128 + (error.args[0] if error.args else signal.SIGINT))
    except Exception as error:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        _say(f"error: {shutdown.describe(error)}")
        return shutdown.leave(error)


def _say(line: str) -> None:
    with contextlib.suppress(OSError, ValueError):  # full or closed: the exit status says it
        if sys.stderr:
            print(escape_controls(line), file=sys.stderr, flush=True)


def _interrupt(signum: int, frame: object) -> None:
    """SIGTERM and SIGHUP end the work as Ctrl-C does; their number is the argument."""
    raise KeyboardInterrupt(signum)


def find_config(file: str) -> str:
    """configs/demo.py:VARIANT or demo:VARIANT -> the same, of the copy that is installed with halp_jax.

    A file that is there goes before it.
    """
    path, colon, variant = file.partition(":")
    shipped = CONFIGS / f"{Path(path).stem}.py"
    if not Path(path).exists() and Path(path).parent.name in ("", "configs") and shipped.exists():
        path = str(shipped)
    return path + colon + variant


def _complete(option: str) -> str:
    """The option as ml_collections takes it."""
    name, _, value = option.partition("=")
    if name == "--config":
        return f"{name}={find_config(value)}"
    if name == "--config.streams" and re.fullmatch(r"\w+(,\w+)+", value):
        return f"{name}={tuple(value.split(','))}"
    return option


def names_config_file(options: Sequence[str]) -> bool:
    return any(option.split("=")[0] == "--config" for option in options)


def parse_config(options: Sequence[str], default: ConfigDict | None = None) -> ConfigDict:
    """The config that these options say: of a file, or `default` where none is named, with changes.

    Raises:
        UserError: an unknown field, a value of another type, a file that cannot be read, or an
            argument that is no option of a config.
    """
    values = flags.FlagValues()
    about = "Config file, e.g. configs/halp.py:ntu60_xsub; override with --config.x=y"
    options = list(options)
    if "--config" in options[:-1]:  # --config FILE
        place = options.index("--config")
        options[place : place + 2] = [f"--config={options[place + 1]}"]
    options = [_complete(option) for option in options]
    arguments = ["halp_jax", *options]
    common = {"flag_values": values, "sys_argv": arguments, "lock_config": True}
    try:
        if names_config_file(options):
            holder = config_flags.DEFINE_config_file("config", None, about, **common)
        elif default is not None:
            holder = config_flags.DEFINE_config_dict("config", default, about, **common)
        else:
            raise UserError("--config is missing: give --config=FILE[:VARIANT]")
        unknown = values(arguments)[1:]
        config = holder.value.copy_and_resolve_references()
        config.lock()  # a file that could not be read fails only when it is used
    except UserError:
        raise
    except Exception as error:  # a config's file is a program: anything may be wrong with it
        text = str(error).replace("\\n", " ").split("Error: ")[-1]  # without a config's traceback
        reason = " ".join(text.split())
        if isinstance(error, AttributeError | KeyError):  # of a field or a section, in quotes
            name = reason.strip("'\"")
            reason = f"no setting {name!r} (configs/default.py has all settings)"
        raise UserError(f"bad option: {reason}") from error
    if unknown:
        raise UserError(f"unknown argument {unknown[0]!r}: write --config.section.field=value")
    return config
