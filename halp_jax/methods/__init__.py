"""Ways to learn from clips and graphs. `config.method` names the module, whose `make` gives a `base.Method`.

Besides `make(config, spec)` a module has `default_config()` (its sections of a config),
`check_config(config, spec)`, `make_optimizer(config, steps_per_epoch)`, `step_flops(config, spec)`,
and a few names that the training loop looks up: see moco.py, and docs/adding_a_method.md.
"""

from types import ModuleType

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
    "moco": moco, "supervised": supervised, "aimclr": aimclr, "crossclr": crossclr,
    "graphcl": graphcl,
    "predict": predict, "ms2l": ms2l, "isc": isc, "ascal": ascal,
    "gltransformer": gltransformer,
}  # fmt: skip


def find_method(config: ml_collections.ConfigDict) -> ModuleType:
    """The module of config.method."""
    if config.method not in METHODS:
        known = ", ".join(METHODS)
        raise UserError(f"config.method={config.method!r}: use one of {known}")
    return METHODS[config.method]


def make_method(config: ml_collections.ConfigDict, spec: Spec) -> Method:
    return find_method(config).make(config, spec)


def create_state(config: ml_collections.ConfigDict, spec: Spec) -> base.TrainState:
    """The state of a run before its first step."""
    module = find_method(config)
    optimizer, _ = module.make_optimizer(config, spec.steps_per_epoch)
    return base.create_state(module.make(config, spec), optimizer, config.seed)


def make_train_step(config: ml_collections.ConfigDict, spec: Spec):
    """The step of a run: (state, batch) -> (state, metrics)."""
    module = find_method(config)
    optimizer, schedules = module.make_optimizer(config, spec.steps_per_epoch)
    return base.make_step(module.make(config, spec), optimizer, config.seed, schedules)
