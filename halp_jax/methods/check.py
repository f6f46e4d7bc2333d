"""Refusing settings that cannot work: one line that names the field, its value and what to do."""

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
    """Each field must be at least 0 or 1."""
    advice = "it must be at least 1" if least else "it must not be negative"
    for field in fields:
        if not get(config, field) >= least:
            refuse(config, field, advice)


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
