"""Nearest neighbours on frozen features, by cosine similarity: the kNN protocol of HaLP and CMD.

Released settings: k = 1, last-layer features, centre crop 0.95 of training and of test clips.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Array, Float, Int

from halp_jax.core.sphere import normalize
from halp_jax.errors import UserError
from halp_jax.evaluation import features as feats
from halp_jax.evaluation import result_files, streams
from halp_jax.methods import check


@functools.partial(jax.jit, static_argnames=("k", "train_block", "test_block"))
def nearest(
    train: Float[Array, "clips features"],
    test: Float[Array, "queries features"],
    k: int,
    train_block: int = 8192,
    test_block: int = 1024,
) -> tuple[Int[Array, "queries k"], Float[Array, "queries k"]]:
    """(indices, cosines) of the k most similar training clips of each test clip, the nearest first.

    Similarities exist for test_block x train_block pairs at a time; each block's best are merged
    with the best so far. Of equally similar clips the one with the lower index comes first.
    """
    count, queries = len(train), len(test)
    train_block, test_block = min(train_block, count), min(test_block, queries)
    train = _in_blocks(normalize(train), train_block)
    test = _in_blocks(normalize(test), test_block)
    starts = jnp.arange(train.shape[0], dtype=jnp.int32) * train_block

    def search(queries):
        def merge(best, block):
            best_similarity, best_index = best
            keys, start = block
            # The full float32 product: on some devices the default one has 10 bits of mantissa.
            similarity = jnp.matmul(queries, keys.T, precision="highest")
            padding = start + jnp.arange(train_block) >= count
            similarity = jnp.where(padding, -jnp.inf, similarity)
            candidates = jnp.concatenate([best_similarity, similarity], axis=1)
            similarity, place = jax.lax.top_k(candidates, k)
            known = jnp.take_along_axis(best_index, jnp.minimum(place, k - 1), axis=1)
            return (similarity, jnp.where(place < k, known, start + place - k)), None

        nobody = (
            jnp.full((test_block, k), -jnp.inf, train.dtype),
            jnp.zeros((test_block, k), jnp.int32),
        )
        similarity, index = jax.lax.scan(merge, nobody, (train, starts))[0]
        return index, similarity

    found = jax.lax.map(search, test)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, k)[:queries], found)


def _in_blocks(rows: Float[Array, "rows dim"], size: int) -> Float[Array, "blocks size dim"]:
    """The rows in blocks of `size`, the last one filled up with zeros."""
    return jnp.pad(rows, ((0, -len(rows) % size), (0, 0))).reshape(-1, size, rows.shape[1])


def vote(
    labels: Int[Array, "queries k"],
    similarity: Float[Array, "queries k"],
    num_classes: int,
    temperature: float = 0.0,
) -> Float[Array, "queries classes"]:
    """The votes for each class: one of each neighbour, or exp(similarity / temperature) of each.

    The latter are those of DINO (Caron et al. 2021, its kNN evaluation), up to a factor of each row.
    """
    best = similarity[:, :1]  # taken off, so that no exponential overflows
    weights = jnp.exp((similarity - best) / temperature) if temperature else jnp.ones(labels.shape)
    votes = jax.nn.one_hot(labels, num_classes) * weights[..., None]
    return jnp.sum(votes, axis=1)


def rank(votes: Float[Array, "queries classes"]) -> Int[Array, "queries classes"]:
    """All classes by their votes, most first; of equally many the smaller label."""
    return jnp.argsort(-votes, axis=1, stable=True)


def score(
    train: Float[np.ndarray, "clips features"],
    train_labels: Int[np.ndarray, " clips"],
    test: Float[np.ndarray, "queries features"],
    test_labels: Int[np.ndarray, " queries"],
    *,
    num_classes: int,
    ks: Sequence[int] = (1,),
    temperature: float = 0.0,
) -> list[dict[str, Any]]:
    """Classifies `test` by its neighbours in `train` -> for each k the metrics of `result_files.summarize`.

    top5 is the share of test clips of which the right label is among the 5 with most votes; a label
    without a vote is not. So at k = 1 it is top1. Raises UserError when there are fewer than k neighbours.
    """
    check_k(ks, len(train))
    indices, similarity = nearest(train, test, max(ks))
    labels = train_labels.astype(np.int32)[np.asarray(indices)]

    def judge(k):
        votes = vote(jnp.asarray(labels[:, :k]), similarity[:, :k], num_classes, temperature)
        ranked = np.asarray(rank(votes))
        among = np.any(ranked[:, :5] == test_labels[:, None], axis=1)
        voted = np.any(labels[:, :k] == test_labels[:, None], axis=1)
        top5 = float(np.mean(among & voted))
        return {"k": k} | result_files.summarize(ranked[:, 0], test_labels, num_classes, top5=top5)

    return [judge(k) for k in ks]


def check_k(ks: Sequence[Any], count: int) -> None:
    """Raises UserError for numbers of neighbours that are none, of `count` clips or graphs."""
    whole = all(isinstance(k, int) and 1 <= k <= count for k in ks)
    if not ks or not whole or len(set(ks)) < len(ks):
        raise UserError(
            f"knn.k is {', '.join(map(str, ks))}; choose it, or several, from 1 to {count}, the number of "
            "training clips"
        )


def _make_look(config, dataset, embed: feats.Embedding, encoded: Sequence[str], progress=False):
    """-> look(variables, fusions): fusion -> for each k the metrics of `score` and clip counts."""
    check.share_above_zero(config, "knn.crop")
    check.at_least(config, 1, "knn.batch_size")
    check.at_least(config, 0, "knn.temperature")
    check_k(config.knn.k, len(dataset.labelled(config.data.split, "train")))
    extract = feats.make_centre_extractor(config, dataset.layout, embed)
    split = functools.partial(feats.extract_split, config, dataset, progress=progress)

    def look(variables, fusions):
        train, test = split("train", extract, variables), split("test", extract, variables)
        counts = {"num_train": len(train.labels), "num_test": len(test.labels)}
        found = {}
        for fusion in fusions:
            scores = score(
                streams.select(train.values[0], fusion, encoded), train.labels,
                streams.select(test.values[0], fusion, encoded), test.labels,
                num_classes=dataset.num_classes, ks=config.knn.k, temperature=config.knn.temperature,
            )  # fmt: skip
            found[fusion] = [each | counts | {"best_top1": each["top1"]} for each in scores]
        return found

    return look


def evaluate(
    config: ml_collections.ConfigDict,
    dataset: Any,
    encoder: feats.Encoder,
    fusions: Sequence[str] = (),
) -> dict[str, list[dict[str, Any]]]:
    """The kNN protocol: fusion -> for each k the metrics of `score`, best_top1 (as top1), clip counts.

    `fusions`: streams of the encoder, "mean" or "concat"; the encoder's first stream if empty.
    """
    streams.check_fusions("knn", fusions)
    look = _make_look(config, dataset, encoder.embed, encoder.streams, progress=True)
    return look(encoder.variables, fusions or encoder.streams[:1])


def make_knn_evaluator(
    config: ml_collections.ConfigDict, dataset: Any
) -> Callable[[Any], dict[str, float]]:
    """An evaluator for the training loop: state -> {"knn_top1": share right in [0, 1]}.

    Of several streams and of several k it looks at the first. The encoder is compiled once, on the first
    call.
    """
    first = tuple(config.streams[:1])
    embed = feats.make_embedding("trained", config, dataset.layout, first)
    look = _make_look(config, dataset, embed, first)

    def evaluate_state(state: Any) -> dict[str, float]:
        return {"knn_top1": look(feats.get_variables(state), first)[first[0]][0]["top1"]}

    return evaluate_state
