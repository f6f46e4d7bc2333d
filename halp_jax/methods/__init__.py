"""Ways to learn from clips and graphs. `config.method` names the module, whose `make` gives a `base.Method`.

Besides `make(config, spec)` a module has `default_config()` (its sections of a config),
`check_config(config, spec)`, `make_optimizer(config, steps_per_epoch)`, `step_flops(config, spec)`, and those of
DEFAULTS that are others: docs/adding_a_method.md.
"""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import ml_collections

from halp_jax.errors import UserError
from halp_jax.methods import (
    aimclr,
    ascal,
    base,
    crossclr,
    gltransformer,
    graphcl,
    isc,
    moco,
    ms2l,
    predict,
    supervised,
)
from halp_jax.methods.base import Method, Spec

METHODS = {
    "moco": moco, "supervised": supervised, "aimclr": aimclr, "crossclr": crossclr, "graphcl": graphcl,
    "isc": isc, "predict": predict, "ascal": ascal, "ms2l": ms2l, "gltransformer": gltransformer,
}  # fmt: skip
# What a module may leave out.
DEFAULTS = {
    "SHOWN": (),  # metrics of the progress line
    "ADVICE": "a lower --config.optim.learning_rate",  # where the loss is no longer finite
    "NEWEST": (),  # metrics that are schedules: of an interval the newest value, not the average
    "KEEPS_REST": False,  # the last batch of an epoch is left out where it would be smaller
    "FIXED": (),  # settings that a run cannot resume without
    "ENCODER": ("params", "extra/batch_stats"),  # what --config.init_what=encoder takes over
    "UNIT": "clips",  # what it learns from
    "NEEDS_LABELS": False,  # clips without a label are left out
    # (config) -> (of several encoders the one that fine-tuning trains, a config with it alone).
    "find_side": lambda config: ("", config),
    # (config) -> what to say of a run at its first step, or None.
    "warn_at_start": lambda config: None,
    # (lines of metrics.jsonl so far) -> what tells of a run that learns nothing, or None.
    "find_trouble": lambda records: None,
}


def find_method(config: ml_collections.ConfigDict) -> SimpleNamespace:
    """What the module of config.method has, and DEFAULTS."""
    if config.method not in METHODS:
        known = ", ".join(METHODS)
        raise UserError(f"config.method={config.method!r}: use one of {known}")
    return SimpleNamespace(**DEFAULTS | vars(METHODS[config.method]))


def make_method(config: ml_collections.ConfigDict, spec: Spec) -> Method:
    return find_method(config).make(config, spec)


class Program(NamedTuple):
    """What a run computes; runs that differ in the seed alone share what is compiled of it."""

    create: Callable[[int], base.TrainState]  # (seed) -> the state before the first step
    step: Callable[..., Any]  # ((state, seed), batch) -> ((state, seed), metrics)


def make_program(config: ml_collections.ConfigDict, spec: Spec) -> Program:
    """The computations of a run; config.seed is not looked at."""
    module = find_method(config)
    method = module.make(config, spec)
    optimizer, schedules = module.make_optimizer(config, spec.steps_per_epoch)

    def step(carried, batch):
        state, seed = carried
        state, metrics = base.make_step(method, optimizer, seed, schedules)(state, batch)
        return (state, seed), metrics

    return Program(functools.partial(base.create_state, method, optimizer), step)


def create_state(config: ml_collections.ConfigDict, spec: Spec) -> base.TrainState:
    """The state of a run before its first step."""
    return make_program(config, spec).create(config.seed)


def make_train_step(config: ml_collections.ConfigDict, spec: Spec):
    """The step of a run: (state, batch) -> (state, metrics)."""
    module = find_method(config)
    optimizer, schedules = module.make_optimizer(config, spec.steps_per_epoch)
    return base.make_step(module.make(config, spec), optimizer, config.seed, schedules)
