"""The encoders of ISC and AS-CAL against the authors' code, and their published sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _released import clips, relative_error
from _systems import AGCN, GRU, LSTM, STATISTICS, read, write

from halp_jax.encoders import agcn, bigru, lstm
from halp_jax.skeletons.layout import NTU25


def test_the_graph_is_the_released_one(golden):
    wanted = golden("systems/isc")["adjacency"]
    np.testing.assert_allclose(agcn.make_adjacency(NTU25.parents), wanted, atol=1e-7)


def test_features_of_the_agcn_are_the_released_ones(golden):
    g = golden("systems/isc")
    params, stats = (read(g, "before/encoder_r/", places) for places in (AGCN, STATISTICS))
    encoder = agcn.AGCN(NTU25.parents, 8, 16)
    apply = jax.jit(lambda v, x: encoder.apply(v, x, train=False, mutable=["intermediates"]))
    (z, feature), seen = apply({"params": params, "batch_stats": stats}, clips(g["view1"]))
    block = np.asarray(seen["intermediates"]["maps"][0])[:2].transpose(0, 3, 2, 1)
    assert relative_error(block, g["eval/graph_block1"]) < 1e-5
    assert relative_error(feature, g["eval/graph_feature"]) < 1e-5
    assert relative_error(z, g["eval/graph_embedding"]) < 1e-5
    written = write(params, "before/encoder_r/", AGCN)
    assert all(np.array_equal(array, g[name]) for name, array in written.items())


def test_features_of_the_gru_without_input_norm_are_the_released_ones(golden):
    g = golden("systems/isc")
    encoder = bigru.BiGRU(16, 3, dim=16, input_norm=False)
    variables = {"params": read(g, "before/encoder_q/", GRU)}
    z, feature = encoder.apply(variables, clips(g["view1"]), train=False)
    assert relative_error(feature, g["eval/seq_feature"]) < 1e-5
    assert relative_error(z, g["eval/seq_embedding"]) < 1e-5


@pytest.mark.parametrize(
    ("which", "view", "wanted"), [("encoder", "view1", "q"), ("momentum_encoder", "view2", "k")]
)
def test_features_of_the_lstm_are_the_released_ones(golden, which, view, wanted):
    g = golden("systems/ascal")
    variables = {"params": read(g, f"before/{which}/", LSTM)}
    z, feature = lstm.LSTM(16, head=False).apply(variables, clips(g[view]), train=False)
    assert relative_error(z, g[wanted]) < 1e-5
    assert np.array_equal(z, feature)


@pytest.mark.parametrize(
    ("encoder", "count"),
    [
        (bigru.BiGRU(input_norm=False), 44_998_656), (agcn.AGCN(NTU25.parents), 3_454_090),
        (lstm.LSTM(head=False), 417_792),
    ],
)  # fmt: skip
def test_number_of_parameters_is_the_published_one(encoder, count):
    x = jnp.zeros((1, 64, 2, 25, 3))
    shapes = jax.eval_shape(lambda: encoder.init(jax.random.key(0), x, train=False))["params"]
    kept = {name: tree for name, tree in shapes.items() if name != "head"}
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(kept)) == count
