"""GL-Transformer (Kim et al., ECCV 2022): from every frame, where each joint came from and how far it has come.

A transformer (encoders/transformer.py) sees a clip whose joints are relative to the body's root, and the root's
own way. Linear layers on a frame's feature tell direction and length of each joint's displacement over several
intervals, as classes (core/displace.py):

    L = L_direction + L_length + w (L_direction of the way + L_length of the way)

Source: model/ and learn_PTmodel.py of Boeun-Kim/GL-Transformer.
"""

import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Float

from halp_jax.core import displace
from halp_jax.encoders.transformer import Linear
from halp_jax.methods import check, common, optim, relative_view
from halp_jax.methods import streams as st
from halp_jax.methods.base import AXIS, Method, Spec, sample_keys

SHOWN = ("direction_accuracy", "length_accuracy")
ADVICE = "a lower --config.optim.learning_rate or --config.adam.clip=1.0"
make_optimizer = optim.make_adam
CLASSES = {"direction": displace.DIRECTIONS, "length": displace.LENGTHS}


def default_config() -> ml_collections.ConfigDict:
    """The sections of a config that are this method's own."""
    gltransformer = ml_collections.ConfigDict()
    gltransformer.intervals = (1, 5, 10)  # frames between a joint's two places
    gltransformer.step = 0.01  # of the 14 classes of length, in units of the clips
    gltransformer.way_weight = 0.05  # of the losses of the root's way over the first interval
    config = ml_collections.ConfigDict({"gltransformer": gltransformer})
    config.update(relative_view.default_config())
    config.update(optim.adam_config())
    return config


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    common.check_config(config, spec)
    relative_view.check_config(config)
    optim.check_adam(config)
    check.choices(config, {"encoder.name": ("transformer",)})
    check.rising(config, "gltransformer.intervals", "frames")
    if not config.gltransformer.intervals:
        check.refuse(config, "gltransformer.intervals", "give one or more")
    check.above_zero(config, "gltransformer.step")
    check.at_least(config, 0, "gltransformer.way_weight")


def make(config: ml_collections.ConfigDict, spec: Spec) -> Method:
    """The method; a state's params are the encoder's and, beside them, those of `heads`."""
    c, layout = config.gltransformer, spec.layout
    encoder = common.make_encoder(config, layout, AXIS)
    heads = make_heads(config, spec)
    view = relative_view.make_view(config, layout)
    encode, _ = common.make_inference(config, layout)

    def init(key):
        key_encoder, *keys = jax.random.split(key, 1 + len(heads))
        variables = common.init_encoder(encoder, key_encoder, config, spec)
        frame = jnp.zeros((1, encoder.num_features))
        params = {
            name: jax.vmap(lambda key, head=head: head.init(key, frame)["params"])(
                jax.random.split(own, len(c.intervals))
            )
            for own, (name, head) in zip(keys, heads.items(), strict=True)
        }
        return variables["params"] | {"heads": params}, {"batch_stats": {}}

    def views(keys, batch):
        return (view(keys[0], batch),)

    def loss(params, extra, views, key, step):
        [batch] = views
        clips, length = batch["frames"], batch["length"]
        _, kept = encoder.apply(
            {"params": params}, clips, length, train=True, mutable=["intermediates"],
            keys=sample_keys(key, len(clips)),
        )  # fmt: skip
        frames = kept["intermediates"]["frames"][0]
        there = jnp.arange(clips.shape[1]) < length[:, None]
        count = jax.lax.pmean(jnp.sum(there, dtype=jnp.float32), AXIS)
        targets = jax.vmap(lambda clip: displace.classify(clip, c.intervals, c.step))(clips)
        value, metrics = 0.0, {}
        for (name, head), classes in zip(heads.items(), targets, strict=True):
            logits = tell(head, params["heads"][name], frames)
            logits = logits.reshape(*classes.shape, -1)
            joints, way, told = displace.cross_entropies(logits, classes, there, layout.root, count)
            value += joints + c.way_weight * way
            metrics |= {f"loss_{name}": joints, f"loss_{name}_way": way, f"{name}_accuracy": told}
        return value, (extra, metrics)

    return st.over_streams(Method(init, views, loss, encode), config.streams, layout)


def make_heads(config: ml_collections.ConfigDict, spec: Spec) -> dict[str, Linear]:
    """What tells the classes of all joints over one interval, from a frame's feature."""
    nodes = spec.layout.num_joints * spec.layout.bodies
    return {name: Linear(nodes * count, config.train.precision) for name, count in CLASSES.items()}


def tell(
    head: Linear, params: dict, frames: Float[Array, "batch time features"]
) -> Float[Array, "batch time intervals classes"]:
    """The logits of all joints, each interval by weights of its own."""
    return jax.vmap(lambda own: head.apply({"params": own}, frames), out_axes=2)(params)


def step_flops(config: ml_collections.ConfigDict, spec: Spec) -> float:
    """Model FLOPs of one training step: encoder and heads forward, and backward twice as much."""
    classes = sum(head.outputs for head in make_heads(config, spec).values())
    features = common.make_encoder(config, spec.layout).num_features
    frames = config.train.batch_size * config.views.num_frames
    told = 2.0 * frames * features * classes * len(config.gltransformer.intervals)
    return 3.0 * (common.forward_flops(config, spec) + told)
