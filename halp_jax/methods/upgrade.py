"""Older runs: their configs, and the names in their checkpoints, brought to today's form."""

import dataclasses

import ml_collections

from halp_jax.methods.base import TrainState

# Fields that configs of before lack, with the value that such a run had.
SETTINGS = {
    "method": "moco", "train.precision": "float32", "encoder.name": "bigru",
    "encoder.pooling": "last", "encoder.stgcn": {
        "width": 16, "last_width": 256, "graph": "released", "dropout": 0.5, "remat": False,
    },
    "linear.start_std": 0.01, "linear.keep_rest": True,
    "halp.prototypes": "kmeans", "checkpoint.every_minutes": 0.0, "finetune.save_minutes": 5.0,
    "finetune.keep_weights": True,
}  # fmt: skip
# Fields that came with more encoders, for configs of clips.
ENCODERS = {
    "input_norm": True, "bodies": 0, "padding": "none", "agcn": {"width": 64},
    "lstm": {"width": 256, "head": True},
    "transformer": {"width": 48, "heads": 8, "blocks": 4, "dropout": 0.1, "drop_path": 0.1},
}  # fmt: skip
# Fields that changed nothing a run computes.
GONE = ("train.recurrence",)
FIELDS = tuple(field.name for field in dataclasses.fields(TrainState))


def upgrade_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The config with the fields that an older run does not have yet, and without those that are gone."""
    with config.unlocked():
        if knn := config.get("knn"):  # it had one k, and plain votes
            knn.temperature = knn.get("temperature", 0.0)
            with knn.ignore_type():
                knn.k = tuple(knn.k) if isinstance(knn.k, list | tuple) else (knn.k,)
        if linear := config.get("linear"):
            linear.optimizer = linear.get("optimizer", "sgd")
        if train := config.get("train"):
            train.epoch_steps = train.get("epoch_steps", 0)
        if view := config.get("normal_view"):
            view.kind = view.get("kind", "skeletonclr")
        if "method" not in config:
            _bring_to_methods(config)
        if "stgcn" in config.get("encoder", ()):
            for name, value in ENCODERS.items():
                config.encoder[name] = config.encoder.get(name, value)
            config.encoder.stgcn.start_std = config.encoder.stgcn.get("start_std", 0.02)
    return config


def _bring_to_methods(config: ml_collections.ConfigDict) -> None:
    """What was added, and went, up to the choice of methods."""
    for field, value in SETTINGS.items():
        section, _, name = field.rpartition(".")
        if section and section not in config:
            continue
        holder = config[section] if section else config
        holder[name] = holder.get(name, value)
    for field in GONE:
        section, _, name = field.rpartition(".")
        if name in config.get(section, ()):
            del config[section][name]


def current_path(path: str) -> str:
    """A path in the state of a checkpoint, whatever its age.

    Before there was a choice of methods, what MoCo keeps (queue/keys, prototypes ...) stood beside
    the params; now it stands in `extra`.
    """
    return path if path.split("/")[0] in FIELDS else f"extra/{path}"
