"""CrosSCLR (Li et al., CVPR 2021): streams that first learn alone, then from one another's neighbours.

Before `crossclr.start_epoch` each stream is SkeletonCLR; from there on the loss between streams of
core/cross_view.py takes its place. Source: net/crossclr_3views.py of LinguoLi/CrosSCLR. With the BiGRU
(CrosSCLR-B) set shared_heads and frozen_keys to False; how its authors had them is not known.

Two quirks of the released code are settings, and on by default with its encoder:

* shared_heads: the head of every stream but joint is a layer of its own with a ReLU, then the whole
  head of the joint stream. Each stream keeps a copy of that one, and the copies stay equal. The key
  encoders' one moves as often as there are streams in each step.
* frozen_keys: from `start_epoch` on only the second stream's key encoder moves, and the shared head,
  once a step.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from halp_jax.core.contrast import info_nce
from halp_jax.core.cross_view import cross_loss
from halp_jax.core.hallucinate import halp_loss
from halp_jax.core.sphere import normalize
from halp_jax.encoders.heads import MLPHead
from halp_jax.methods import check, common, halp, keys, normal_view, optim
from halp_jax.methods import streams as st
from halp_jax.methods.base import AXIS, Method, Spec
from halp_jax.methods.cmd import name_pairs

SHOWN, NEWEST = ("contrast_accuracy", "mu", "kept"), ("mu",)
FIXED = (*keys.FIXED, "crossclr.shared_heads")
ENCODER, ADVICE = keys.ENCODER, keys.ADVICE
make_optimizer, step_flops = optim.make_sgd, keys.step_flops
warn_at_start, find_trouble = halp.warn_at_start, halp.find_collapse
OWNER = "joint"  # the stream whose head all share


def default_config() -> ml_collections.ConfigDict:
    """The sections of a config that are this method's own."""
    crossclr = ml_collections.ConfigDict()
    crossclr.start_epoch = 150  # each stream learns alone before it
    crossclr.neighbours = 1  # that each stream passes on to the others
    crossclr.context = True  # the products of both streams' similarities are logits, too
    crossclr.shared_heads = True
    crossclr.frozen_keys = True
    crossclr.redraw_keys = False  # released: the key encoder's first weights are not the query's
    config = keys.default_config(queue_size=32768)
    config.update({"crossclr": crossclr, "normal_view": normal_view.default_config().normal_view})
    return config


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    keys.check_config(config, spec)
    normal_view.check_config(config)
    check.at_least(config, 0, "crossclr.start_epoch")
    check.at_least(config, 1, "crossclr.neighbours")
    keys.check_neighbours(config, "crossclr.neighbours")
    if len(config.streams) < 2:
        check.refuse(config, "streams", "CrosSCLR needs two streams or more")
    if not config.crossclr.shared_heads:
        return
    if OWNER not in config.streams:
        check.refuse(config, "crossclr.shared_heads", f"it is the head of the stream {OWNER}")
    if config.encoder.name == "lstm" and not config.encoder.lstm.head:
        check.refuse(config, "crossclr.shared_heads", "this encoder has no head to share")


def make(config: ml_collections.ConfigDict, spec: Spec, halp_loss=halp_loss) -> Method:
    """The method in all streams of the config. `halp_loss`: as `halp.make_term` has it."""
    c, m, tau = config.crossclr, config.moco.momentum, config.moco.temperature
    encoder = common.make_encoder(config, spec.layout, AXIS)
    view, _ = normal_view.make_views(config, spec.layout)
    pull = keys.make_pull(config, spec, halp_loss)
    names = tuple(config.streams)
    owns = jnp.array([name == OWNER for name in names])  # the head that is shared
    start = c.start_epoch * spec.steps_per_epoch

    def views(keys, batch):
        return tuple(view(key, batch) for key in keys)

    def init_one(key):
        params, extra = init_alone(key)
        if not c.shared_heads:
            return params, extra
        return with_own(params), extra | {"key_params": with_own(extra["key_params"])}

    def with_own(params):
        return params | {"own": params["head"]["hidden"]}

    def init(key):
        params, extra = method.init(key)
        if not c.shared_heads:
            return params, extra
        return share(params), extra | {"key_params": share(extra["key_params"])}

    def share(params):
        place = names.index(OWNER)
        head = jax.tree.map(lambda w: jnp.broadcast_to(w[place], w.shape), params["head"])
        return params | {"head": head}

    def encode(params, batch_stats, view, key):
        """(point on the sphere, new statistics) of one stream."""
        z, feature, batch_stats = common.forward(encoder, params, batch_stats, view, key)
        if c.shared_heads:
            z = project(params, feature, owns[jax.lax.axis_index(st.AXIS)])
        return normalize(z), batch_stats

    def project(params, feature, owner):
        own = nn.Dense(feature.shape[-1], precision="highest")
        layer = nn.relu(own.apply({"params": params["own"]}, feature))
        head = MLPHead(config.encoder.dim)
        return head.apply({"params": params["head"]}, jnp.where(owner, feature, layer))

    def move_keys(key_params, params, step):
        crossed = c.frozen_keys & (step >= start)
        still = crossed & (jax.lax.axis_index(st.AXIS) != 1)
        moved = keys.momentum_update(key_params, params, jnp.where(still, 1.0, m))
        if not c.shared_heads:
            return moved
        often = jnp.where(crossed, m, m ** len(names))
        return moved | {"head": keys.momentum_update(key_params["head"], params["head"], often)}

    def loss_one(params, extra, views, key, step):
        drop_q, drop_k = common.dropout_keys(key, 2)
        if c.shared_heads:
            params = params | {"head": sum_gradients(params["head"])}
        z_q, batch_stats = encode(params, extra["batch_stats"], views[0], drop_q)
        key_params = move_keys(extra["key_params"], params, step)
        z_k, key_batch_stats = encode(key_params, extra["key_batch_stats"], views[1], drop_k)
        negatives = extra["queue"].keys
        loss_cl, accuracy = info_nce(z_q, z_k, negatives, tau)
        loss_halp, kept, metrics = keys.push_and_pull(pull, config, extra, z_q, z_k, key, step)
        metrics |= {"loss_cl": loss_cl, "contrast_accuracy": accuracy}
        extra = kept | keys.states(batch_stats, key_params, key_batch_stats)
        alone = (step < start) * loss_cl
        return alone + loss_halp, (extra, metrics, z_q, z_k, negatives)

    def learn_from_others(step, queries, anchors, negatives):
        loss, terms = cross_loss(queries, anchors, negatives, tau, c.neighbours, c.context)
        return (step >= start) * loss, {"loss_cross": loss, **name_pairs("cross", names, terms.T)}

    def embed(params, extra, batch):
        features = method.encode(params, extra, batch)
        return normalize(jax.vmap(project)(params, features, owns))

    init_alone = keys.make_init(encoder, pull, config, spec, redrawn=c.redraw_keys)
    encode_features, embed_alone = common.make_inference(config, spec.layout)
    method = st.over_streams(
        Method(init_one, views, loss_one, encode_features, embed_alone), names, spec.layout,
        between=[learn_from_others], common=("mu",),
    )  # fmt: skip
    return method._replace(init=init, embed=embed if c.shared_heads else method.embed)


def sum_gradients(copies):
    """The copies themselves; the gradient of each becomes the sum over streams, so they stay equal."""

    def tie(w):
        total = jax.lax.psum(w, st.AXIS)
        return jax.lax.stop_gradient(w) + (total - jax.lax.stop_gradient(total))

    return jax.tree.map(tie, copies)
