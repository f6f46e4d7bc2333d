"""The one error a user is meant to read, and the stop that is none."""

import importlib
import signal
from pathlib import Path
from types import ModuleType


class UserError(ValueError):
    """Bad input, configuration or files. Commands print its one line and exit with status 1."""


def import_optional(name: str, package: str, needed_by: str, otherwise: str = "") -> ModuleType:
    """A module of a package that only some need. Raises UserError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{needed_by} needs the package {package}: pip install {package}{otherwise}"
        ) from None


class Stopped(Exception):
    """The run was asked to stop and has saved its state; `exit_code` is the command's."""

    def __init__(self, signum: int, step: int, workdir: Path):
        name = signal.Signals(signum).name
        super().__init__(f"{name}: saved step {step} in {workdir}; the same command resumes")
        self.exit_code = 128 + signum
