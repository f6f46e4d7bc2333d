"""P&C, Predict & Cluster (Su, Liu, Shlizerman, CVPR 2020): an encoder whose code a weak decoder can use.

The code of a clip is the encoder's last state; from it the decoder restores the frames, and the loss is the
absolute error of a frame. Source: shlizee/Predict-Cluster, its TensorFlow notebooks. Its PyTorch code
differs in three places (`form`):

* fixed weights are not fixed: the decoder learns there, too;
* frames after the end of a clip are in the sum of the error, though not in the number it is divided by;
* fixed states are one frame off: the first output, which comes from frame 0, is to be frame 0 and not 1.
"""

import jax
import ml_collections

from halp_jax.core.restore import absolute_error
from halp_jax.encoders.bigru import flatten_clips
from halp_jax.encoders.decoder import CodeDecoder
from halp_jax.methods import check, common, optim, whole_view
from halp_jax.methods import streams as st
from halp_jax.methods.base import AXIS, Method, Spec

ADVICE = "a lower --config.optim.learning_rate or --config.adam.clip"
make_optimizer = optim.make_adam

CHOICES = {
    "predict.decoder": ("fixed_states", "fixed_weights", "plain"),
    "predict.form": ("tensorflow", "pytorch"), "encoder.name": ("bigru",),
}  # fmt: skip


def default_config() -> ml_collections.ConfigDict:
    """The sections of a config that are this method's own."""
    predict = ml_collections.ConfigDict()
    # What keeps the decoder weak. "fixed_states": its state is the code in every frame, its input the
    # last output; "fixed_weights": it does not learn, its inputs are 0; "plain": it learns, inputs 0.
    predict.decoder = "fixed_states"
    predict.form = "tensorflow"  # or "pytorch", with three quirks: halp_jax/methods/predict.py
    config = ml_collections.ConfigDict({"predict": predict})
    config.update(whole_view.default_config("minmax", "strided"))
    config.update(optim.adam_config(clip=25.0, decay_steps=1000))
    return config


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    common.check_config(config, spec)
    whole_view.check_config(config)
    optim.check_adam(config)
    check.choices(config, CHOICES)
    if is_fixed(config) and config.optim.weight_decay:
        check.refuse(
            config, "optim.weight_decay", "it would shrink weights that are to be fixed: set 0"
        )


def is_fixed(config: ml_collections.ConfigDict) -> bool:
    """Whether the decoder keeps its first weights."""
    return config.predict.decoder == "fixed_weights" and config.predict.form == "tensorflow"


def make(config: ml_collections.ConfigDict, spec: Spec) -> Method:
    """The method; a state's params are the encoder's and, beside them, those of `heads`."""
    encoder = common.make_encoder(config, spec.layout, AXIS)
    decoder = CodeDecoder(config.train.precision)
    view = whole_view.make_view(config, spec.layout)
    encode, _ = common.make_inference(config, spec.layout)
    form, fixed_states = config.predict.form, config.predict.decoder == "fixed_states"
    ahead = int(fixed_states and form == "tensorflow")  # frames that are given, not decoded

    def init(key):
        key_encoder, key_decoder = jax.random.split(key)
        variables = common.init_encoder(encoder, key_encoder, config, spec)
        code = jax.ShapeDtypeStruct((1, encoder.num_features), "float32")
        frame = jax.ShapeDtypeStruct((1, common.count_inputs(config, spec)), "float32")
        heads = {"decoder": decoder.lazy_init(key_decoder, code, frame, 1, True)["params"]}
        return variables["params"] | {"heads": heads}, {"batch_stats": variables["batch_stats"]}

    def views(keys, batch):
        return (view(batch),)

    def loss(params, extra, views, key, step):
        [batch] = views
        _, code, batch_stats = common.forward(encoder, params, extra["batch_stats"], batch, key)
        frames = flatten_clips(batch["frames"], config.encoder.bodies)
        weights = params["heads"]["decoder"]
        weights = jax.lax.stop_gradient(weights) if is_fixed(config) else weights
        target, length = frames[:, ahead:], batch["length"] - ahead
        decoded = decoder.apply(
            {"params": weights}, code, frames[:, 0], target.shape[1], fixed_states
        )
        value = absolute_error(decoded, target, length, everywhere=form == "pytorch")
        return value, ({"batch_stats": batch_stats}, {})

    one = Method(init, views, loss, encode)
    return st.over_streams(one, config.streams, spec.layout)


def step_flops(config: ml_collections.ConfigDict, spec: Spec) -> float:
    """Model FLOPs of one training step: encoder and decoder forward, and backward twice as much."""
    width = common.make_encoder(config, spec.layout).num_features
    clip = CodeDecoder().count_flops(
        config.views.num_frames, width, common.count_inputs(config, spec),
        config.predict.decoder == "fixed_states",
    )  # fmt: skip
    return 3.0 * (common.forward_flops(config, spec) + config.train.batch_size * clip)
