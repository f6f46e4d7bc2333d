"""What a run is of, clips or graphs: whether they fit its encoder, where they lie on the sphere."""

import os
from typing import Any

import ml_collections
import numpy as np
from jaxtyping import Float, Int

from halp_jax import methods
from halp_jax.datasets import pipeline
from halp_jax.datasets.prepared import Dataset
from halp_jax.evaluation import features, graphs, load
from halp_jax.methods.base import Spec
from halp_jax.methods.prepare import make_prepare
from halp_jax.training import normalization


def check(dataset: Dataset, workdir: str | os.PathLike[str], step: int) -> None:
    """Raises UserError when the data set is not of the kind that a run was trained on."""
    if dataset.unit == "graphs":
        graphs.check_nodes(dataset, workdir, step)
    else:
        normalized = normalization.of_dataset(dataset.metadata)
        load.check_clips(dataset.layout, normalized, dataset.path, workdir, step)


def read_prototypes(state: Any, stream: int) -> Float[np.ndarray, "m dim"]:
    """Those of one stream of a state; none where its method keeps none. Graphs have one stream."""
    if (prototypes := state.extra.get("prototypes")) is None:
        return np.zeros((0, 0), np.float32)
    return np.asarray(prototypes if prototypes.ndim == 2 else prototypes[stream])


def embed(
    config: ml_collections.ConfigDict,
    stream: str,
    dataset: Dataset,
    numbers: Int[np.ndarray, " n"],
    variables: Any,
) -> Float[np.ndarray, "n dim"]:
    """Unit vectors of these clips or graphs. `variables`: (params, batch_stats) of all streams."""
    if dataset.unit == "graphs":
        method = methods.make_method(config, Spec(dataset.layout))
        encode = graphs.make_encode(method, dataset.layout, points=True)
        return graphs.extract(config, dataset, numbers, encode, variables)
    network = features.make_embedding("trained", config, dataset.layout, (stream,), points=True)
    extract = features.make_extractor(
        network, crop=config.knn.crop, num_frames=config.views.num_frames,
        prepare=make_prepare(config, dataset.layout),
    )  # fmt: skip
    batches = pipeline.eval_batches(
        dataset, numbers,
        batch_size=min(config.knn.batch_size, len(numbers)), max_frames=config.data.max_frames,
    )  # fmt: skip
    return extract(variables, batches, len(numbers)).values[0, :, -config.encoder.dim :]
