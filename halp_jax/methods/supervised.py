"""Learning from labels: an encoder and a linear layer on its features, trained together.

From random weights, or from an encoder that another method has trained: that is fine-tuning
(evaluation/finetune.py). As the released loader has it, the last, incomplete batch of an epoch is
trained on, too, its loss being the mean over the clips it has. A view is a random crop.
"""

import jax
import jax.numpy as jnp
import ml_collections

from halp_jax.methods import common, optim
from halp_jax.methods import streams as st
from halp_jax.methods.base import AXIS, Method, Spec
from halp_jax.methods.prepare import apply_prepare, make_prepare
from halp_jax.methods.probe import init_probe, probe_loss
from halp_jax.skeletons.augment import random_crop

NEEDS_LABELS = True
KEEPS_REST = True  # the last batch of an epoch is trained on, though it may be smaller
ENCODER = ("params/encoder", "extra/batch_stats")
ADVICE = "a lower learning rate"
check_config, make_optimizer = common.check_config, optim.make_sgd


def default_config() -> ml_collections.ConfigDict:
    """No settings of its own: it looks at views.crop, its numbers of frames, and optim."""
    return ml_collections.ConfigDict()


def make(config: ml_collections.ConfigDict, spec: Spec) -> Method:
    """The method in all streams of the config, each with a linear layer of its own."""
    encoder, v = common.make_encoder(config, spec.layout, AXIS), config.views
    prepare = make_prepare(config, spec.layout)
    encode_features, _ = common.make_inference(config, spec.layout)

    def init(key):
        key_encoder, key_probe = jax.random.split(key)
        variables = common.init_encoder(encoder, key_encoder, config, spec)
        probe = init_probe(key_probe, encoder.num_features, spec.num_classes)
        params = {"encoder": variables["params"], "probe": probe}
        return params, {"batch_stats": variables["batch_stats"]}

    def view(key, clip, length):
        clip, length, least = apply_prepare(prepare, clip, length, v.min_frames)
        return random_crop(key, clip, length, *v.crop, v.num_frames, least)

    def views(keys, batch):
        return (common.map_clips(view, keys[0], batch),)

    def loss(params, extra, views, key, step):
        [batch] = views
        _, features, batch_stats = common.forward(
            encoder, params["encoder"], extra["batch_stats"], batch, key
        )
        labels = batch["label"]
        value = probe_loss(params["probe"], features, labels, jnp.ones(len(labels)))
        return value, ({"batch_stats": batch_stats}, {})

    def encode(params, extra, batch):
        return encode_features(params["encoder"], extra, batch)

    return st.over_streams(Method(init, views, loss, encode), config.streams, spec.layout)


def step_flops(config: ml_collections.ConfigDict, spec: Spec) -> float:
    """Model FLOPs of one training step on a whole batch: forward, and backward twice as much."""
    return 3.0 * common.forward_flops(config, spec)
