"""MS2L (Lin, Song, Yang, Liu, MM 2020): three tasks of one recurrent encoder, their losses added up.

* motion: the end of a clip is hidden; a decoder restores the whole clip from its frames' features.
* jigsaw: three segments of a clip are permuted; the network says which of the six orders it is.
* contrast: NT-Xent of the clip, the one with its end hidden and the permuted one, each with their mean.

Source: LanglandsLin/MS2L.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from halp_jax.core.contrast import nt_xent
from halp_jax.core.restore import squared_error
from halp_jax.core.sphere import normalize
from halp_jax.encoders.bigru import flatten_clips
from halp_jax.encoders.decoder import FrameDecoder
from halp_jax.encoders.heads import NormHead
from halp_jax.methods import check, common, optim, whole_view
from halp_jax.methods import streams as st
from halp_jax.methods.base import AXIS, Method, Spec, sample_keys
from halp_jax.skeletons.augment import hide_end, permute_segments

SHOWN = ("jigsaw_accuracy", "contrast_accuracy")
ADVICE = "a lower --config.optim.learning_rate or --config.adam.clip"
make_optimizer = functools.partial(optim.make_adam, clip_to=optim.clip_modules)

ORDERS = tuple(itertools.permutations(range(3)))  # of the jigsaw's segments


def default_config() -> ml_collections.ConfigDict:
    """The sections of a config that are this method's own."""
    ms2l = ml_collections.ConfigDict()
    ms2l.hidden = 0.3  # the share of a clip's frames, its last, that the decoder has to predict
    ms2l.temperature = 0.9  # of the contrast
    ms2l.head_width = 2048  # of the hidden layer of the heads of contrast and jigsaw
    ms2l.dim = 1024  # of the vectors that are contrasted
    config = ml_collections.ConfigDict({"ms2l": ms2l})
    config.update(whole_view.default_config("none"))
    config.update(optim.adam_config(clip=10.0))  # of the encoder and of each head
    return config


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    common.check_config(config, spec)
    whole_view.check_config(config)
    optim.check_adam(config)
    check.choices(config, {"encoder.name": ("bigru",)})
    check.shares(config, "ms2l.hidden")
    check.above_zero(config, "ms2l.temperature")
    check.at_least(config, 1, "ms2l.head_width", "ms2l.dim")


def make_heads(config: ml_collections.ConfigDict, spec: Spec) -> dict[str, NormHead | FrameDecoder]:
    """The three tasks' own networks on what the encoder gives."""
    c, inputs = config.ms2l, common.count_inputs(config, spec)
    return {
        "contrast": NormHead(c.head_width, c.dim, AXIS),
        "jigsaw": NormHead(c.head_width, len(ORDERS), AXIS),
        "decoder": FrameDecoder(inputs, config.train.precision),
    }


def make(config: ml_collections.ConfigDict, spec: Spec) -> Method:
    """The method; a state's params are the encoder's and, beside them, those of `heads`."""
    c, encoder = config.ms2l, common.make_encoder(config, spec.layout, AXIS)
    heads, view = make_heads(config, spec), whole_view.make_view(config, spec.layout)
    encode, _ = common.make_inference(config, spec.layout)

    def init(key):
        key_encoder, *keys = jax.random.split(key, 1 + len(heads))
        variables = common.init_encoder(encoder, key_encoder, config, spec)
        given = jax.ShapeDtypeStruct((1, encoder.num_features), "float32")
        frames = jax.ShapeDtypeStruct((1, *given.shape), "float32")
        params = {
            name: head.lazy_init(key, frames if name == "decoder" else given)["params"]
            for key, (name, head) in zip(keys, heads.items(), strict=True)
        }
        return variables["params"] | {"heads": params}, {"batch_stats": variables["batch_stats"]}

    def views(keys, batch):
        clip = view(batch)
        given = clip["frames"], clip["length"]
        hidden = jax.vmap(lambda *clip: hide_end(*clip, c.hidden))(*given)
        drawn = jax.vmap(lambda key: jax.random.randint(key, (), 0, len(ORDERS)))
        label = drawn(sample_keys(keys[0], len(given[1])))
        permuted = jax.vmap(permute_segments)(*given, jnp.array(ORDERS)[label])
        return clip, clip | {"frames": hidden}, clip | {"frames": permuted, "order": label}

    def loss(params, extra, views, key, step):
        clip, hidden, permuted = views
        weights, length = params["heads"], clip["length"]
        frames, features, batch_stats = encode_views(params, extra, views)
        restored = heads["decoder"].apply({"params": weights["decoder"]}, frames[1])
        target = flatten_clips(clip["frames"], config.encoder.bodies)
        motion = squared_error(restored, target, length)
        logits = apply_head(heads["jigsaw"], weights["jigsaw"], features[2])
        jigsaw, told = tell_order(logits, permuted["order"])
        project = functools.partial(apply_head, heads["contrast"], weights["contrast"])
        points = jax.vmap(project)(features)  # its batch norm sees one view at a time
        contrast, closest = contrast_with_mean(points, c.temperature)
        metrics = {
            "loss_motion": motion, "loss_jigsaw": jigsaw, "loss_contrast": contrast,
            "jigsaw_accuracy": told, "contrast_accuracy": closest,
        }  # fmt: skip
        return motion + jigsaw + contrast, ({"batch_stats": batch_stats}, metrics)

    def encode_views(params, extra, views):
        """Each view's features of frames [time, batch, features]; of clips [view, batch, features]."""
        clips = {name: jnp.concatenate([v[name] for v in views]) for name in ("frames", "length")}
        (_, feature), new = encoder.apply(
            {"params": params, "batch_stats": extra["batch_stats"]}, clips["frames"],
            clips["length"], train=True, mutable=["batch_stats", "intermediates"],
        )  # fmt: skip
        frames = jnp.split(new["intermediates"]["frames"][0], len(views), axis=1)
        features = feature.reshape(len(views), -1, feature.shape[1])
        return frames, features, new.get("batch_stats", {})

    return st.over_streams(Method(init, views, loss, encode), config.streams, spec.layout)


def apply_head(head: NormHead, params: dict, features: Float[Array, "batch features"]) -> Array:
    """One batch through a head; the running statistics of its batch norm are never asked for."""
    return head.apply({"params": params}, features, mutable=["batch_stats"])[0]


def tell_order(logits: Float[Array, "batch orders"], order: Array) -> tuple[Array, Array]:
    """The cross entropy of the predicted orders, and the share that is right."""
    likely = jnp.take_along_axis(jax.nn.log_softmax(logits), order[:, None], axis=1)
    return -jnp.mean(likely), jnp.mean(jnp.argmax(logits, axis=1) == order)


def contrast_with_mean(
    points: Float[Array, "views batch dim"], temperature: float
) -> tuple[Array, Array]:
    """NT-Xent of each view's points with the mean of all views', its mean over views."""
    count = points.shape[1]
    mean = jnp.broadcast_to(jnp.mean(points, axis=0), points.shape)
    z = normalize(jnp.stack([points, mean], axis=1))
    others = jax.lax.all_gather(z, AXIS, axis=2, tiled=True)
    rows = jax.lax.axis_index(AXIS) * count + jnp.arange(count)
    both = jnp.concatenate([rows, rows + others.shape[2]])

    def one(pair, others):
        flat = (x.reshape(-1, x.shape[-1]) for x in (pair, others))
        return nt_xent(*flat, both, jnp.roll(both, count), temperature)

    return jax.tree.map(jnp.mean, jax.vmap(one)(z, others))


def step_flops(config: ml_collections.ConfigDict, spec: Spec) -> float:
    """Model FLOPs of one training step: three views forward, and backward twice as much."""
    c, width = config.ms2l, common.make_encoder(config, spec.layout).num_features
    decoded = make_heads(config, spec)["decoder"].count_flops(config.views.num_frames, width)
    hidden = 4 * width + 3 * c.dim + len(ORDERS)  # numbers that each hidden unit of a head meets
    clip = decoded + 2.0 * c.head_width * hidden
    return 3.0 * (3 * common.forward_flops(config, spec) + config.train.batch_size * clip)
