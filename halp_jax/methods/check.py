"""Refusing settings that cannot work: one line that names the field, its value and what to do."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import ml_collections

from halp_jax.errors import UserError


def choices(config: ml_collections.ConfigDict, known: Mapping[str, Sequence[str]]) -> None:
    """Each field must have one of its known values."""
    for field, values in known.items():
        if get(config, field) not in values:
            refuse(config, field, f"use one of {', '.join(values)}")


def at_least(config: ml_collections.ConfigDict, least: int, *fields: str) -> None:
    """Each field must be finite and at least `least`, which is 0 or 1."""
    advice = "it must be at least 1" if least else "it must be 0 or more"
    for field in fields:
        if not get(config, field) >= least:
            refuse(config, field, advice)
        if get(config, field) == math.inf:
            refuse(config, field, "it must be finite")


def seed(config: ml_collections.ConfigDict) -> None:
    """JAX makes its keys of 32 bits: seeds that differ above them would be the same run."""
    if not 0 <= config.seed < 2**32:
        refuse(config, "seed", "it must lie in [0, 2^32)")


def crop(config: ml_collections.ConfigDict, *fields: str) -> None:
    """Each field must be a range of shares of a clip."""
    for field in fields:
        value = get(config, field)
        if len(value) != 2 or not all(isinstance(end, int | float) for end in value):
            refuse(config, field, "give (low, high)")
        if not 0 < value[0] <= value[1] <= 1:
            refuse(config, field, "give (low, high) with 0 < low <= high <= 1")


def share_above_zero(config: ml_collections.ConfigDict, *fields: str) -> None:
    """Each field must be a share that leaves something."""
    for field in fields:
        if not 0 < get(config, field) <= 1:
            refuse(config, field, "it must lie in (0, 1]")


def rising(config: ml_collections.ConfigDict, field: str, what: str = "epochs") -> None:
    """The field must be whole numbers of `what`, in rising order."""
    numbers = list(get(config, field))
    whole = all(isinstance(number, int) and number >= 1 for number in numbers)
    if not whole or numbers != sorted(set(numbers)):
        refuse(config, field, f"give {what} in rising order, each once")


def shares(config: ml_collections.ConfigDict, *fields: str) -> None:
    """Each field must be a share of something."""
    for field in fields:
        if not 0 <= get(config, field) <= 1:
            refuse(config, field, "it must lie in [0, 1]")


def above_zero(config: ml_collections.ConfigDict, *fields: str) -> None:
    for field in fields:
        if not get(config, field) > 0:
            refuse(config, field, "it must be above 0")


def get(config: ml_collections.ConfigDict, field: str) -> Any:
    """The value of "section.field"."""
    for part in field.split("."):
        config = config[part]
    return config


def refuse(config: ml_collections.ConfigDict, field: str, advice: str) -> NoReturn:
    raise UserError(f"config.{field}={get(config, field)!r}: {advice}")
