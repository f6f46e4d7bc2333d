"""ISC (Thoker, Doughty & Snoek, MM 2021): two encoders of unlike kinds, each the other's teacher; with HaLP.

A clip is a sequence to one encoder and a graph to the other. The query q of the sequence has the key l of the
graph as its positive and the graph's queue as negatives, the query r of the graph the sequence's:

    L = L_CL(q, l; Q_graph) + L_CL(r, k; Q_sequence)  +  mu (L_HaLP(q, l) + L_HaLP(r, k))

Both see the same two views. Source: moco/builder_inter.py of fmthoker/skeleton-contrast, its form
seq-based_and_graph-based. HaLP on it is ours: the anchor is the positive key, the prototypes are of the queue
that this key enters.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from halp_jax.core.contrast import info_nce
from halp_jax.core.hallucinate import halp_loss
from halp_jax.core.sphere import normalize
from halp_jax.methods import check, common, halp, keys, optim
from halp_jax.methods import streams as st
from halp_jax.methods.base import AXIS, Method, Spec

SHOWN, NEWEST = ("contrast_accuracy", "mu", "kept"), ("mu",)
FIXED, ENCODER, ADVICE = keys.FIXED, keys.ENCODER, keys.ADVICE
make_optimizer = optim.make_sgd
warn_at_start, find_trouble = halp.warn_at_start, halp.find_collapse
SIDES = ("sequence", "graph")
CHOICES = {"isc.graph": common.ENCODERS, "isc.feature": (*SIDES, "both")}


def default_config() -> ml_collections.ConfigDict:
    """The sections of a config that are this method's own."""
    isc = ml_collections.ConfigDict()
    isc.graph = "agcn"  # the graph's encoder; encoder.name is the sequence's
    isc.feature = "sequence"  # whose features are evaluated: sequence (released), graph or both
    config = keys.default_config(queue_size=16384)
    config.isc = isc
    return config


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    check.choices(config, CHOICES)
    for own in _configs(config).values():
        keys.check_config(own, spec)


def make(config: ml_collections.ConfigDict, spec: Spec, halp_loss=halp_loss) -> Method:
    """The method in all streams of the config. `halp_loss`: as `halp.make_term` has it."""
    m, tau = config.moco.momentum, config.moco.temperature
    configs = _configs(config)
    encoders = {side: common.make_encoder(c, spec.layout, AXIS) for side, c in configs.items()}
    view, pull = common.make_view(config), keys.make_pull(config, spec, halp_loss)

    def views(keys, batch):
        return tuple(view(key, batch) for key in keys)

    def init(key):
        params, extra = {}, {}
        for number, (side, own) in enumerate(configs.items()):
            start = keys.make_init(encoders[side], pull, own, spec)
            params[side], extra[side] = start(jax.random.fold_in(key, number))
        return params, _by_kind(extra)

    def loss(params, extra, views, key, step):
        queries, positives, after = {}, {}, {}
        for side, keys_drop in zip(SIDES, common.dropout_keys(key, 4).reshape(2, 2), strict=True):
            encoder, old = encoders[side], {kind: extra[kind][side] for kind in keys.STATES}
            z, _, stats = common.forward(
                encoder, params[side], old["batch_stats"], views[0], keys_drop[0]
            )
            key_params = keys.momentum_update(old["key_params"], params[side], m)
            z_k, _, key_stats = common.forward(
                encoder, key_params, old["key_batch_stats"], views[1], keys_drop[1]
            )
            queries[side], positives[side] = normalize(z), normalize(z_k)
            after[side] = keys.states(stats, key_params, key_stats)

        total, found = 0.0, {}
        for number, (side, other) in enumerate((SIDES, SIDES[::-1])):
            z, z_k, memory = queries[side], positives[other], extra["memory"][other]
            loss_cl, accuracy = info_nce(z, z_k, memory["queue"].keys, tau)
            own = jax.random.fold_in(key, number)
            loss_halp, kept, metrics = keys.push_and_pull(pull, config, memory, z, z_k, own, step)
            after[other] |= kept
            total += loss_cl + loss_halp
            found[side] = metrics | {"loss_cl": loss_cl, "contrast_accuracy": accuracy}
        metrics = jax.tree.map(lambda *values: jnp.mean(jnp.stack(values)), *found.values())
        for name in ("loss_cl", "contrast_accuracy"):
            metrics |= {f"{name}_{side}": found[side][name] for side in SIDES}
        return total, (_by_kind(after), metrics)

    inference = {side: common.make_inference(c, spec.layout) for side, c in configs.items()}
    chosen = SIDES if config.isc.feature == "both" else (config.isc.feature,)

    def infer(which, params, extra, batch):
        stats = {side: {} for side in SIDES} | extra["batch_stats"]  # files keep no empty ones
        return jnp.concatenate(
            [inference[s][which](params[s], {"batch_stats": stats[s]}, batch) for s in chosen], -1
        )

    def encode(params, extra, batch):
        return infer(0, params, extra, batch)

    def embed(params, extra, batch):
        return normalize(infer(1, params, extra, batch))

    # Both sides' points are on two spheres, not on one.
    one = Method(init, views, loss, encode, embed if len(chosen) == 1 else None)
    return st.over_streams(one, config.streams, spec.layout, common=("mu",))


def find_side(config: ml_collections.ConfigDict) -> tuple[str, ml_collections.ConfigDict]:
    """(the side that fine-tuning trains, whose features are evaluated; a config with its encoder alone).

    Raises UserError where both are evaluated.
    """
    if config.isc.feature == "both":
        check.refuse(config, "isc.feature", f"{' or '.join(SIDES)} can be fine-tuned, one of them")
    return config.isc.feature, _configs(config)[config.isc.feature]


def _configs(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """The config of either encoder."""
    graph = config.copy_and_resolve_references()
    graph.encoder.name = config.isc.graph
    return {"sequence": config, "graph": graph}


def _by_kind(extra: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """{side: {kind: ...}} -> {kind: {side: ...}}, with queues and prototypes together as "memory"."""
    found = {kind: {side: extra[side].pop(kind) for side in SIDES} for kind in keys.STATES}
    return found | {"memory": extra}


def step_flops(config: ml_collections.ConfigDict, spec: Spec) -> float:
    """Model FLOPs of one training step on the global batch: as keys.py counts them, of both encoders."""
    return sum(keys.step_flops(own, spec) for own in _configs(config).values())
