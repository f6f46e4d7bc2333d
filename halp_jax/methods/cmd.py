"""CMD as a term between the streams of a method: nu L_CMD (core/distill.py)."""

import functools
from collections.abc import Callable, Sequence

import ml_collections
from jaxtyping import Array

from halp_jax.core.distill import cmd_loss
from halp_jax.methods import check, keys


def default_config() -> ml_collections.ConfigDict:
    """The section `cmd` of a config."""
    cmd = ml_collections.ConfigDict()  # mutual distillation between two or more streams
    cmd.nu = 0.0  # weight of the CMD loss; 0 is none (released CMD: 1)
    cmd.topk = 8192  # neighbours in the queue that a teacher passes on; at most moco.queue_size
    cmd.teacher_temperature = 0.05
    cmd.student_temperature = 0.1
    return cmd


def make_terms(c: ml_collections.ConfigDict, streams: Sequence[str]) -> list[Callable]:
    """The term for `streams.over_streams(between=...)`: seen are queries, keys and the queues."""
    if not c.nu:
        return []
    distill = functools.partial(
        cmd_loss, topk=c.topk, teacher_temperature=c.teacher_temperature,
        student_temperature=c.student_temperature,
    )  # fmt: skip

    def term(step, queries, keys, negatives):
        loss, terms = distill(queries, keys, negatives)
        return c.nu * loss, {"loss_cmd": loss, **name_pairs("kl", streams, terms)}

    return [term]


def name_pairs(name: str, streams: Sequence[str], terms: Array) -> dict[str, Array]:
    """The terms [teacher, student] between two streams as {name}_{teacher}_{student}."""
    return {
        f"{name}_{a}_{b}": terms[i, j]
        for i, a in enumerate(streams)
        for j, b in enumerate(streams)
        if i != j
    }


def check_config(config: ml_collections.ConfigDict) -> None:
    """Raises UserError for a section that cannot work."""
    check.at_least(config, 1, "cmd.topk")
    check.at_least(config, 0, "cmd.nu")
    if not config.cmd.nu:
        return
    if len(config.streams) < 2:
        check.refuse(
            config, "cmd.nu",
            "CMD needs two streams or more; set --config.streams=\"('joint','motion','bone')\"",
        )  # fmt: skip
    keys.check_neighbours(config, "cmd.topk")
    check.above_zero(config, "cmd.teacher_temperature", "cmd.student_temperature")
