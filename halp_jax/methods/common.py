"""What methods of clips share: the views of the released code, and the encoder."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Array, Key

from halp_jax.core.sphere import normalize
from halp_jax.encoders import agcn, bigru, lstm, stgcn, transformer
from halp_jax.encoders.matmul import PRECISIONS
from halp_jax.methods import check
from halp_jax.methods.base import Batch, Spec, sample_keys
from halp_jax.skeletons.augment import STREAMS, find_length, random_view
from halp_jax.skeletons.layout import Layout

ENCODERS = ("bigru", "stgcn", "agcn", "lstm", "transformer")
MAX_FRAMES = 2**16  # half an hour of video
CHOICES = {
    "encoder.name": ENCODERS,
    "encoder.stgcn.graph": stgcn.GRAPHS,
    "encoder.direction": ("forward", "bidirectional"),
    "encoder.pooling": ("last", "mean"),
    "encoder.padding": bigru.PADDINGS,
    "train.precision": PRECISIONS,
}


def make_view(config: ml_collections.ConfigDict) -> Callable[[Key[Array, ""], Batch], Batch]:
    """-> view(key, batch): each clip cropped and corrupted at random, all its frames valid."""

    def view(key, batch):
        return map_clips(random_view, key, batch, config.views)

    return view


def map_clips(function: Callable, key: Key[Array, ""], batch: Batch, *settings) -> Batch:
    """The batch with function(key, frames, length, *settings) as frames, a key for each clip."""
    keys = sample_keys(key, len(batch["length"]))
    frames = jax.vmap(lambda *clip: function(*clip, *settings))(
        keys, batch["frames"], batch["length"]
    )
    return batch | {"frames": frames, "length": find_lengths(frames)}


def find_lengths(frames: Array) -> Array:
    """Lengths [batch] of clips that have zeros behind their ends, if anything."""
    return jax.vmap(find_length)(frames)


def make_encoder(
    config: ml_collections.ConfigDict, layout: Layout, axis_name: str | None = None
) -> bigru.BiGRU | stgcn.STGCN | agcn.AGCN | lstm.LSTM | transformer.MotionTransformer:
    """The encoder that config.encoder names; any serves any contrastive method.

    Args:
        axis_name: the mapped axis over which a batch is spread.
    """
    if config.encoder.name == "stgcn":
        return stgcn.make_encoder(config, layout.parents, axis_name)
    if config.encoder.name == "agcn":
        return agcn.make_encoder(config, layout.parents, axis_name)
    if config.encoder.name == "lstm":
        return lstm.make_encoder(config)
    if config.encoder.name == "transformer":
        return transformer.make_encoder(config, layout.bodies * layout.num_joints, layout.root)
    return bigru.make_encoder(config, axis_name)


def init_encoder(
    encoder: Any, key: Key[Array, ""], config: ml_collections.ConfigDict, spec: Spec
) -> dict[str, Any]:
    """The encoder's variables {"params", "batch_stats"} before the first step."""
    clip = (config.views.num_frames, spec.layout.bodies, spec.layout.num_joints, 3)
    return {"batch_stats": {}} | encoder.init(key, jnp.zeros((1, *clip)), train=False)


def forward(
    encoder: Any,
    params: Any,
    batch_stats: Any,
    batch: Batch,
    key: Key[Array, ""],
    drop: Callable[[Array], Array] | None = None,
) -> tuple[Any, ...]:
    """A batch in training: (embedding, not normalised; feature; new batch statistics).

    Args:
        key: of dropout, if the encoder has any.
        drop: as the encoder takes it; the embedding of the dropped map comes third, before the
            statistics.
    """
    # Statistics of an earlier view in the same loss: no gradient goes through them.
    variables = {"params": params, "batch_stats": jax.lax.stop_gradient(batch_stats)}
    found, new = encoder.apply(
        variables, batch["frames"], batch["length"], train=True, mutable=["batch_stats"],
        keys=sample_keys(key, len(batch["length"])), drop=drop,
    )  # fmt: skip
    return *found, new.get("batch_stats", {})


def dropout_keys(key: Key[Array, ""], count: int) -> Key[Array, " count"]:
    """Keys that share no random number with `sample_keys(key, ...)`."""
    return jax.random.split(jax.random.fold_in(key, 2**31), count)


def make_inference(config: ml_collections.ConfigDict, layout: Layout) -> tuple[Callable, Callable]:
    """(encode, embed) of a method that keeps its encoder's variables as params and batch_stats."""
    encoder = make_encoder(config, layout)

    def infer(params, extra, batch):
        variables = {"params": params, "batch_stats": extra["batch_stats"]}
        return encoder.apply(variables, batch["frames"], batch["length"], train=False)

    def encode(params, extra, batch):
        return infer(params, extra, batch)[1]

    def embed(params, extra, batch):
        return normalize(infer(params, extra, batch)[0])

    return encode, embed


def count_inputs(config: ml_collections.ConfigDict, spec: Spec) -> int:
    """Numbers of a frame that the BiGRU sees."""
    return (config.encoder.bodies or spec.layout.bodies) * spec.layout.num_joints * 3


def forward_flops(config: ml_collections.ConfigDict, spec: Spec) -> float:
    """Model FLOPs of one forward pass of the global batch through the encoders of all streams.

    XLA counts those of an encoder without loops; of a loop it counts the body once, so an encoder
    that has one counts for itself (`count_flops`).
    """
    layout = spec.layout
    encoder = make_encoder(config, layout)
    if hasattr(encoder, "count_flops"):
        clip = encoder.count_flops(config.views.num_frames, count_inputs(config, spec))
    else:
        clip = xla_flops(encoder, config.views.num_frames, layout.bodies, layout.num_joints)
    return len(config.streams) * config.train.batch_size * clip


def xla_flops(encoder: nn.Module, num_frames: int, bodies: int, joints: int) -> float:
    """What XLA counts for the forward pass of one clip, elementwise operations included."""
    clip = jax.ShapeDtypeStruct((1, num_frames, bodies, joints, 3), jnp.float32)
    infer = functools.partial(encoder.apply, train=False)
    init = functools.partial(encoder.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), clip)
    return jax.jit(infer).lower(variables, clip).cost_analysis()["flops"]


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for streams, views, encoder or optimiser that cannot work.

    Args:
        spec: of the data set, where it is known yet.
    """
    check.choices(config, CHOICES)
    check.at_least(
        config, 1, "data.max_frames", "views.num_frames", "views.min_frames", "encoder.width",
        "encoder.num_layers", "encoder.stgcn.width", "encoder.stgcn.last_width",
        "encoder.agcn.width", "encoder.lstm.width", "encoder.transformer.width",
        "encoder.transformer.heads", "encoder.transformer.blocks",
    )  # fmt: skip
    for field in ("data.max_frames", "views.num_frames", "views.min_frames"):
        if check.get(config, field) > MAX_FRAMES:
            check.refuse(config, field, f"it must not exceed {MAX_FRAMES}")
    check.at_least(
        config, 0, "views.shear", "views.num_corrupted_joints", "optim.learning_rate",
        "optim.weight_decay", "optim.factor", "optim.warmup_epochs", "encoder.dim", "encoder.bodies",
        "encoder.stgcn.start_std",
    )  # fmt: skip
    check.shares(config, "views.shear_probability", "optim.momentum")
    check.share_above_zero(config, "knn.crop")
    for field in ("stgcn.dropout", "transformer.dropout", "transformer.drop_path"):
        if not 0 <= check.get(config, f"encoder.{field}") < 1:
            check.refuse(config, f"encoder.{field}", "it must lie in [0, 1)")
    width = config.encoder.transformer.width
    if width % config.encoder.transformer.heads:
        advice = f"it must divide encoder.transformer.width={width}"
        check.refuse(config, "encoder.transformer.heads", advice)
    if config.encoder.agcn.width % agcn.MATCHED:
        check.refuse(config, "encoder.agcn.width", f"make it a multiple of {agcn.MATCHED}")
    if config.encoder.name == "lstm" and not config.encoder.lstm.head:
        width = config.encoder.lstm.width
        if config.encoder.dim != width:
            check.refuse(config, "encoder.dim", f"without a head it is encoder.lstm.width={width}")
    check.crop(config, "views.crop")
    check.rising(config, "optim.milestones")
    streams = tuple(config.streams)
    known = [each for each in STREAMS if each in streams]
    if not streams or len(known) < len(streams):
        check.refuse(config, "streams", f"give one or more of {', '.join(STREAMS)}, each once")
    if spec and config.encoder.bodies > spec.layout.bodies:
        check.refuse(config, "encoder.bodies", f"{spec.layout.name} has {spec.layout.bodies}")
    if spec and config.views.num_corrupted_joints > spec.layout.num_joints:
        advice = f"{spec.layout.name} has {spec.layout.num_joints} joints"
        check.refuse(config, "views.num_corrupted_joints", advice)
