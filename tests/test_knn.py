"""Nearest neighbours: against the released code's accuracies, scikit-learn and the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _clips import FakeDataset, make_state, patch_pipeline, tiny_config
from sklearn.neighbors import KNeighborsClassifier

from halp_jax.errors import UserError
from halp_jax.evaluation import knn


@pytest.mark.parametrize("k, name", [(1, "acc1"), (9, "acc9")])
def test_matches_released_accuracies(golden, k, name):
    arrays = {key[4:]: value for key, value in golden("downstream").items() if key[:4] == "knn/"}
    figures = knn.score(
        arrays["train"],
        arrays["label_train"],
        arrays["eval"],
        arrays["label_eval"],
        num_classes=int(arrays["label_train"].max()) + 1,
        k=k,
    )
    assert figures["top1"] == float(arrays[name])


@pytest.mark.parametrize("k", [1, 4, 37])
def test_predicts_as_sklearn_in_any_blocks(k):
    rng = np.random.default_rng(k)
    train, test = rng.normal(size=(37, 6)), rng.normal(size=(23, 6))
    labels = rng.integers(0, 4, 37)
    expected = KNeighborsClassifier(k, metric="cosine").fit(train, labels).predict(test)
    for blocks in ((8192, 1024), (5, 4), (36, 1)):
        found = knn.nearest(jnp.float32(train), jnp.float32(test), k, *blocks)
        votes = knn.vote(jnp.asarray(labels[found], jnp.int32), 4)
        np.testing.assert_array_equal(votes, expected)


def test_nearest_are_sorted_by_cosine_and_not_by_length():
    train = np.float32([[10, 0], [0.1, 0.1], [0, 5], [-1, 0], [0, 0]])
    found = knn.nearest(train, np.float32([[1, 0.1]]), 5, train_block=2)
    np.testing.assert_array_equal(found, [[0, 1, 2, 4, 3]])  # the zero vector is at cosine 0


def test_the_lower_index_comes_first_among_equals_across_blocks():
    train = np.float32([[0, 1], [1, 0], [1, 0], [1, 0], [0, 1]])
    for block in (1, 2, 3, 5):
        found = knn.nearest(train, np.float32([[1, 0]]), 4, train_block=block)
        np.testing.assert_array_equal(found, [[1, 2, 3, 0]])


def test_vote_prefers_the_smallest_of_equally_frequent_labels():
    labels = jnp.array([[3, 1, 3, 1, 0], [2, 2, 0, 0, 0], [4, 3, 2, 1, 0]])
    np.testing.assert_array_equal(knn.vote(labels, 5), [1, 0, 0])


@pytest.mark.parametrize("k, top5", [(1, 0.0), (5, 0.5), (6, 0.5), (7, 0.5), (12, 0.5)])
def test_top5_counts_the_five_classes_with_most_votes(k, top5):
    angles = np.deg2rad(np.arange(12))
    train = np.float32(np.stack([np.cos(angles), np.sin(angles)], 1))
    test = np.repeat(train[:1], 2, 0)
    labels = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 0])  # one vote alone for 5
    figures = knn.score(train, labels, test, np.array([4, 5]), num_classes=6, k=k)
    assert figures["top1"] == 0.0
    assert figures["top5"] == top5


def test_refuses_more_neighbours_than_clips():
    data = np.eye(3, dtype=np.float32)
    for k in (0, 4):
        with pytest.raises(UserError, match="from 1 to 3"):
            knn.score(data, np.arange(3), data, np.arange(3), num_classes=3, k=k)


def test_no_array_grows_with_the_product_of_the_sets():
    train, test, blocks = jnp.zeros((4000, 2)), jnp.zeros((3000, 2)), (64, 32)
    program = jax.make_jaxpr(lambda a, b: knn.nearest(a, b, 3, *blocks))(train, test)

    def sizes(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.size for variable in equation.outvars)
            for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns")):
                inner = getattr(value, "jaxpr", value)
                if hasattr(inner, "eqns"):
                    yield from sizes(inner)

    found = list(sizes(program.jaxpr))
    assert len(found) > 30 and 64 * 32 in found  # the walk has reached the inner loop
    assert max(found) < 3 * 4100  # one padded copy of the features, the neighbours


def test_evaluator_of_a_state_follows_its_weights(monkeypatch):
    patch_pipeline(monkeypatch)
    config, dataset = tiny_config(), FakeDataset()
    evaluator = knn.make_knn_evaluator(config, dataset)
    state = make_state(config, dataset.layout)
    blind = state.replace(params=jax.tree.map(jnp.zeros_like, state.params))
    with pytest.raises(UserError, match="from 1 to 14"):  # before any training, not after
        knn.make_knn_evaluator(tiny_config(knn__k=15), dataset)
    seeing, chance = evaluator(state), evaluator(blind)
    assert set(seeing) == {"knn_top1"} and type(seeing["knn_top1"]) is float
    assert seeing["knn_top1"] > 0.7
    labels = dataset.labels[dataset.indices("xsub", "test")]
    assert chance["knn_top1"] == np.mean(labels == 0)  # all features equal: the first clip wins
