"""Frozen features: what HaLP's downstream protocols see of an encoder.

A batch of clips goes to the device once; every crop of it is made and encoded there, the rows
shared among this process' devices. Released settings: last-layer GRU features before the head,
centre crop 0.95 for nearest neighbours and tests, random crops U(0.5, 1) to train a classifier.

An embedding is a function (variables, clips [batch, time, bodies, joints, 3]) -> [batch, features],
several streams' features side by side; the variables are an argument, so that one compiled program
serves every checkpoint of a run.
"""

import functools
import os
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.errors
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, PyTree

from halp_jax import methods
from halp_jax.datasets import pipeline
from halp_jax.errors import UserError
from halp_jax.evaluation.streams import with_streams
from halp_jax.methods import streams as st
from halp_jax.methods.base import Spec
from halp_jax.methods.common import find_lengths
from halp_jax.methods.prepare import apply_prepare, make_prepare
from halp_jax.progress import Progress
from halp_jax.skeletons import augment
from halp_jax.skeletons.layout import Layout
from halp_jax.training import cluster, parallel

Embedding = Callable[[PyTree, Array], Array]

ENCODERS = ("trained", "random", "raw")

_CROP_KEY = 17  # folded into the seed: these crops share no random number with training


class Features(NamedTuple):
    """Features of clips in the order of the batches; `index` is a clip's place in its data set."""

    values: Float[np.ndarray, "crops clips features"]
    labels: Int[np.ndarray, " clips"]
    index: Int[np.ndarray, " clips"]


def raw_features(
    config: ml_collections.ConfigDict,
    layout: Layout,
    clips: Float[Array, "batch time bodies joints xyz"],
) -> Float[Array, "streams batch features"]:
    """The normalised coordinates themselves, flattened: the row that every encoder must beat."""
    inputs = st.split_streams({"frames": clips}, config.streams, layout)["frames"]
    # In the order of the released code: joint, coordinate, body.
    return jnp.transpose(inputs, (0, 1, 2, 4, 5, 3)).reshape(*inputs.shape[:2], -1)


class Encoder(NamedTuple):
    """What a protocol evaluates: features of `streams`, side by side."""

    embed: Embedding
    variables: PyTree  # (params, batch_stats), or () for raw coordinates
    streams: tuple[str, ...]


def make_embedding(
    kind: str,
    config: ml_collections.ConfigDict,
    layout: Layout,
    streams: tuple[str, ...] = (),
    *,
    points: bool = False,
) -> Embedding:
    """The embedding of one of ENCODERS: variables = (params, batch_stats), or () for "raw".

    Only `streams` are encoded, of the variables' config.streams (default: their first).

    Args:
        points: behind the features their points on the sphere, too.

    Raises:
        UserError: the method has no points on a sphere.
    """
    names = tuple(config.streams)
    streams = streams or names[:1]
    chosen = with_streams(config, streams)
    places = np.array([names.index(stream) for stream in streams])
    method = None if kind == "raw" else methods.make_method(chosen, Spec(layout))
    if points and method.embed is None:
        raise UserError(f"the method {config.method} has no embeddings on a sphere, only features")

    def embed(variables, clips):
        if method is None:
            return jnp.concatenate(list(raw_features(chosen, layout, clips)), axis=-1)
        params, batch_stats = jax.tree.map(lambda leaf: leaf[places], variables)
        batch = {"frames": clips, "length": find_lengths(clips)}
        given = params, {"batch_stats": batch_stats}, batch
        found = list(method.encode(*given))
        if points:  # the same network: computed once
            found += list(method.embed(*given))
        return jnp.concatenate(found, axis=-1)

    return embed


def get_variables(state: Any) -> PyTree:
    """(params, batch_stats) of a state: what of it a frozen encoder needs."""
    return state.params, state.extra["batch_stats"]


def make_view(
    crop: float | tuple[float, float],
    num_frames: int,
    min_frames: int,
    prepare: Callable[[Array], Array] | None,
) -> Callable[..., Array]:
    """-> view(seed, crop number, frames, length, data set index); the rest as `make_extractor` has it."""

    def view(seed, number, frames, length, index):
        frames, length, least = apply_prepare(prepare, frames, length, min_frames)
        if not isinstance(crop, tuple):
            return augment.centre_crop(frames, length, crop, num_frames)
        key = jax.random.fold_in(jax.random.key(seed), _CROP_KEY)
        clip_key = jax.random.fold_in(jax.random.fold_in(key, number), index)
        return augment.random_crop(clip_key, frames, length, *crop, num_frames, least)

    return view


def make_extractor(
    embed: Embedding,
    *,
    crop: float | tuple[float, float],
    num_frames: int = 64,
    min_frames: int = 64,
    num_crops: int = 1,
    seed: int = 0,
    prepare: Callable[[Array], Array] | None = None,
    devices: list[Any] | None = None,
) -> Callable[[PyTree, Iterable[dict[str, np.ndarray]], int], Features]:
    """Compiles `embed` once -> extract(variables, batches, num_clips) -> Features.

    A number as `crop` is the ratio of a centre crop; a pair the range of a random one, which keeps
    at least `min_frames`. The crop of a clip depends on (seed, crop number, data set index) alone:
    not on batches, order or devices (default: all of this process). `prepare`: of the whole clip, before
    it is cropped, see `methods.prepare`. Batches are those of
    `pipeline.eval_batches` or their like, all of one size; rows that are not valid are dropped.
    """
    devices = devices or jax.local_devices()
    mesh = Mesh(np.array(devices), ("data",))
    everywhere, rows = PartitionSpec(), PartitionSpec("data")
    view = functools.partial(make_view(crop, num_frames, min_frames, prepare), seed)

    def embed_crops(variables, frames, length, index):
        def one_crop(number):
            clips = jax.vmap(view, (None, 0, 0, 0))(number, frames, length, index)
            return embed(variables, clips)

        return jax.lax.map(one_crop, jnp.arange(num_crops))

    run = jax.jit(
        jax.shard_map(
            embed_crops,
            mesh=mesh,
            in_specs=(everywhere, rows, rows, rows),
            out_specs=PartitionSpec(None, "data"),
            check_vma=False,
        )
    )

    def put(batch):
        padding = -len(batch["index"]) % len(devices)
        leaves = (batch["frames"], batch["length"], batch["index"])
        if padding:
            leaves = [np.concatenate([leaf, leaf[:1].repeat(padding, 0)]) for leaf in leaves]
        return jax.device_put(tuple(leaves), NamedSharding(mesh, rows))

    def extract(variables, batches, num_clips):
        variables = jax.device_put(parallel.local_view(variables), NamedSharding(mesh, everywhere))
        values, labels, index = None, [], []

        def keep(features, batch):
            nonlocal values  # one array that is allocated once
            valid = np.flatnonzero(batch["valid"])
            features, done = np.asarray(features)[:, valid], sum(map(len, labels))
            if values is None:
                shape = (features.shape[0], num_clips, features.shape[2])
                memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
                check_memory(shape, memory, "of this machine")
                values = np.empty(shape, np.float32)
            values[:, done : done + len(valid)] = features
            labels.append(batch["label"][valid])
            index.append(batch["index"][valid])

        waiting = None  # the next batch is read and sent while the device works on this one
        for batch in batches:
            result = run(variables, *put(batch))
            if waiting:
                keep(*waiting)
            waiting = (result, batch)
        if waiting:
            keep(*waiting)
        if (found := sum(map(len, labels))) != num_clips:
            raise ValueError(f"expected {num_clips} clips, the batches held {found}")
        return Features(values, np.concatenate(labels), np.concatenate(index))

    return extract


def make_centre_extractor(
    config: ml_collections.ConfigDict,
    layout: Layout,
    embed: Embedding,
    crop: float | None = None,
    num_frames: int | None = None,
) -> Callable[[PyTree, Iterable[dict[str, np.ndarray]], int], Features]:
    """The same for one centre crop: by default of knn.crop, in views.num_frames frames."""
    return make_extractor(
        embed, crop=crop or config.knn.crop, num_frames=num_frames or config.views.num_frames,
        prepare=make_prepare(config, layout),
    )  # fmt: skip


def check_fit(encoder: Encoder, config: ml_collections.ConfigDict, layout: Layout) -> None:
    """Raises UserError when the encoder does not take clips of this layout, or not this config."""
    shape = (1, config.views.num_frames, layout.bodies, layout.num_joints, 3)
    try:
        clips = jax.ShapeDtypeStruct(shape, jnp.float32)
        jax.eval_shape(encoder.embed, encoder.variables, clips)
    except UserError:
        raise
    except (TypeError, ValueError, flax.errors.FlaxError) as error:
        raise UserError(
            f"the encoder does not fit clips of layout {layout.name} {shape[1:]}; evaluate it on "
            "the layout of its training"
        ) from error


def extract_clips(
    config: ml_collections.ConfigDict,
    dataset: Any,
    extract: Callable[[PyTree, Iterable[dict[str, np.ndarray]], int], Features],
    variables: PyTree,
    numbers: Int[np.ndarray, " n"] | None = None,
) -> Features:
    """Features of the clips of these numbers, or of all."""
    numbers = np.arange(len(dataset), dtype=np.int32) if numbers is None else numbers
    batches = pipeline.eval_batches(
        dataset, numbers,
        batch_size=min(config.knn.batch_size, len(numbers)), max_frames=config.data.max_frames,
    )  # fmt: skip
    return extract(variables, batches, len(numbers))


def extract_split(
    config: ml_collections.ConfigDict,
    dataset: Any,
    part: str,
    extract: Callable[[PyTree, Iterable[dict[str, np.ndarray]], int], Features],
    variables: PyTree,
    *,
    progress: bool = False,
    labelled: bool = True,
) -> Features:
    """Features of the "train" or "test" part of config.data.split, through the data pipeline.

    Clips without a label are left out unless `labelled` is false. Of several processes each encodes a
    share of the clips; all of them get the features of all.
    """
    split = config.data.split
    choose = dataset.labelled if labelled else dataset.indices
    indices = {name: choose(split, name) for name in ("train", "test")}
    count = len(indices[part])
    if count == 0:
        what = f"no {part} clips" + (" with a label" if len(dataset.indices(split, part)) else "")
        raise UserError(f"split {split!r} has {what}; choose another --config.data.split")
    # One batch size for both parts, so that a crop is compiled once, and no larger than needed.
    batch_size = min(config.knn.batch_size, max(map(len, indices.values())))
    share = cluster.local_shard(indices[part])
    batches = pipeline.eval_batches(
        dataset, share, batch_size=batch_size, max_frames=config.data.max_frames
    )
    if progress and cluster.is_first():
        batches = _report(batches, len(share), part)
    values, labels, index = extract(variables, batches, len(share))
    if jax.process_count() > 1:  # crop by crop, for they are large
        whole = np.empty((len(values), count, values.shape[2]), values.dtype)
        for crop, own in zip(whole, values, strict=True):
            crop[:] = cluster.gather(own, count)
        values = whole
    return Features(values, cluster.gather(labels, count), cluster.gather(index, count))


def _report(batches: Iterable[dict[str, np.ndarray]], count: int, part: str):
    with Progress(count, f"{part} features", unit="clips") as progress:
        for batch in batches:
            yield batch
            progress.update(int(batch["valid"].sum()))


def check_memory(shape: tuple[int, ...], available: int, owner: str) -> None:
    """Raises UserError when float32 features [crops, clips, features] exceed `available` bytes."""
    needed = 4 * int(np.prod(shape, dtype=np.int64))
    if needed > 0.8 * available:
        raise UserError(
            f"{shape[0]} crops of {shape[1]} clips take {needed / 1e9:.1f} GB of the "
            f"{available / 1e9:.1f} GB {owner}; lower --config.linear.num_crops"
        )
