"""Nearest neighbours: against the released code's accuracies, scikit-learn and the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _clips import FakeDataset, make_state, patch_pipeline, tiny_config
from sklearn.neighbors import KNeighborsClassifier

from halp_jax import train
from halp_jax.errors import UserError
from halp_jax.evaluation import features, knn
from halp_jax.options import parse_config


@pytest.mark.parametrize("k, name", [(1, "acc1"), (9, "acc9")])
def test_matches_released_accuracies(golden, k, name):
    arrays = {key[4:]: value for key, value in golden("downstream").items() if key[:4] == "knn/"}
    figures = knn.score(
        arrays["train"],
        arrays["label_train"],
        arrays["eval"],
        arrays["label_eval"],
        num_classes=int(arrays["label_train"].max()) + 1,
        ks=(k,),
    )[0]
    assert figures["top1"] == float(arrays[name])


@pytest.mark.parametrize("k", [1, 4, 37])
def test_predicts_as_sklearn_in_any_blocks(k):
    rng = np.random.default_rng(k)
    train, test = rng.normal(size=(37, 6)), rng.normal(size=(23, 6))
    labels = rng.integers(0, 4, 37)
    expected = KNeighborsClassifier(k, metric="cosine").fit(train, labels).predict(test)
    for blocks in ((8192, 1024), (5, 4), (36, 1)):
        found, similarity = knn.nearest(jnp.float32(train), jnp.float32(test), k, *blocks)
        votes = knn.vote(jnp.asarray(labels[found], jnp.int32), similarity, 4)
        np.testing.assert_array_equal(knn.rank(votes)[:, 0], expected)


def test_nearest_are_sorted_by_cosine_and_not_by_length():
    train = np.float32([[10, 0], [0.1, 0.1], [0, 5], [-1, 0], [0, 0]])
    found, similarity = knn.nearest(train, np.float32([[1, 0.1]]), 5, train_block=2)
    assert list(similarity[0]) == sorted(similarity[0], reverse=True) and similarity[0, 3] == 0
    np.testing.assert_array_equal(found, [[0, 1, 2, 4, 3]])  # the zero vector is at cosine 0


def test_the_lower_index_comes_first_among_equals_across_blocks():
    train = np.float32([[0, 1], [1, 0], [1, 0], [1, 0], [0, 1]])
    for block in (1, 2, 3, 5):
        found, _ = knn.nearest(train, np.float32([[1, 0]]), 4, train_block=block)
        np.testing.assert_array_equal(found, [[1, 2, 3, 0]])


def test_vote_prefers_the_smallest_of_equally_frequent_labels():
    labels = jnp.array([[3, 1, 3, 1, 0], [2, 2, 0, 0, 0], [4, 3, 2, 1, 0]])
    votes = knn.vote(labels, jnp.zeros(labels.shape), 5)
    np.testing.assert_array_equal(knn.rank(votes)[:, 0], [1, 0, 0])


def test_with_a_temperature_near_neighbours_outvote_more_that_are_far():
    labels, cosine = jnp.array([[1, 0, 0]]), jnp.array([[0.9, 0.5, 0.5]])
    for temperature, winner in ((0.0, 0), (0.07, 1), (10.0, 0), (1e-6, 1)):
        votes = knn.vote(labels, cosine, 2, temperature)
        assert int(knn.rank(votes)[0, 0]) == winner
    ratio = knn.vote(labels, cosine, 2, 0.07)
    np.testing.assert_allclose(ratio[0, 1] / ratio[0, 0], np.exp(0.4 / 0.07) / 2, rtol=1e-5)


def test_several_k_are_each_what_they_are_alone():
    rng = np.random.default_rng(0)
    train, test = (rng.normal(size=(n, 3)).astype(np.float32) for n in (30, 20))
    data = train, rng.integers(0, 3, 30), test, rng.integers(0, 3, 20)
    together = knn.score(*data, num_classes=3, ks=(1, 5, 20), temperature=0.1)
    assert [each["k"] for each in together] == [1, 5, 20]
    for each in together:
        alone = knn.score(*data, num_classes=3, ks=(each["k"],), temperature=0.1)[0]
        np.testing.assert_equal(each, alone)


@pytest.mark.parametrize("k, top5", [(1, 0.0), (5, 0.5), (6, 0.5), (7, 0.5), (12, 0.5)])
def test_top5_counts_the_five_classes_with_most_votes(k, top5):
    angles = np.deg2rad(np.arange(12))
    train = np.float32(np.stack([np.cos(angles), np.sin(angles)], 1))
    test = np.repeat(train[:1], 2, 0)
    labels = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 0])  # one vote alone for 5
    figures = knn.score(train, labels, test, np.array([4, 5]), num_classes=6, ks=(k,))[0]
    assert figures["top1"] == 0.0
    assert figures["top5"] == top5


def test_refuses_more_neighbours_than_clips():
    data = np.eye(3, dtype=np.float32)
    for ks in ((0,), (4,), (1, 4), (), (2, 2)):
        with pytest.raises(UserError, match="from 1 to 3"):
            knn.score(data, np.arange(3), data, np.arange(3), num_classes=3, ks=ks)


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
        knn.make_knn_evaluator(tiny_config(knn__k=(15,)), dataset)
    seeing, chance = evaluator(state), evaluator(blind)
    assert set(seeing) == {"knn_top1"} and type(seeing["knn_top1"]) is float
    assert seeing["knn_top1"] > 0.7
    labels = dataset.labels[dataset.indices("xsub", "test")]
    assert chance["knn_top1"] == np.mean(labels == 0)  # all features equal: the first clip wins


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_several_streams_are_written_with_or_without_brackets():
    for text in ("joint,bone", "('joint','bone')"):
        config = parse_config(
            ["--config=demo", f"--config.streams={text}", "--config.knn.k=1,5,20"]
        )
        assert config.streams == ("joint", "bone") and config.knn.k == (1, 5, 20)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_a_config_may_stand_behind_a_blank_and_a_path_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/her")
    assert parse_config(["--config", "demo:halp_cmd", "--config.seed=3"]).seed == 3
    args, config = train.parse_args(["--config", "demo", "--workdir=~/runs/x"])
    assert args.workdir == "/home/her/runs/x"
    for fusion in ("ensemble", "together"):  # of classifiers, which neighbours are none
        with pytest.raises(UserError, match=f"--stream=mean or concat, not {fusion}"):
            knn.evaluate(config, None, features.Encoder(None, (), ("joint",)), (fusion,))


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_a_config_file_that_is_no_python_is_one_line(tmp_path):
    (tmp_path / "bad.py").write_text("def get_config(:")
    with pytest.raises(UserError, match="^bad option: .*bad.py"):
        parse_config([f"--config={tmp_path / 'bad.py'}"])
