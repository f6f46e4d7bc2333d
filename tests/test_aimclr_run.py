"""What every run needs: any encoder under any method, the same on several devices, refusals, the table."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _aimclr import QUICKLY, load

from halp_jax import methods
from halp_jax.encoders.attention_drop import drop_by_attention
from halp_jax.errors import UserError
from halp_jax.evaluation import table
from halp_jax.methods import common, normal_view
from halp_jax.methods.base import AXIS, Spec
from halp_jax.methods.prepare import make_prepare
from halp_jax.skeletons.layout import KINECT20, NTU25


def tiny(name, variant):
    c = load(name)(variant)
    c.data.dir = "data"
    c.views.num_frames, c.views.min_frames = 6, 4
    c.encoder.width, c.encoder.num_layers, c.encoder.dim = 8, 1, 8
    c.encoder.stgcn.width, c.encoder.stgcn.last_width = 2, 4
    c.moco.queue_size, c.train.batch_size = 16, 4
    c.halp.num_prototypes, c.halp.queue_entries, c.halp.num_positives = 4, 16, 4
    c.halp.start_epoch = 0
    return c


def make_batch(layout, batch=4):
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(batch, 9, layout.bodies, layout.num_joints, 3))
    return {"frames": jnp.asarray(frames, jnp.float32), "length": jnp.full(batch, 9, jnp.int32)}


def zeros(c, spec):
    """A state of small numbers, without the seconds that drawing one takes to compile."""
    shapes = jax.eval_shape(lambda: methods.create_state(c, spec))
    rng = np.random.default_rng(1)

    def fill(leaf):
        if leaf.dtype == jnp.float32:
            return jnp.asarray(0.3 * rng.normal(size=leaf.shape) ** 2 + 0.1, jnp.float32)
        return jnp.zeros(leaf.shape, leaf.dtype)

    return jax.tree.map(fill, shapes)


@pytest.mark.long
def test_two_devices_see_and_encode_what_one_does():
    """Views, dropout, the attention drop's shares: all are counted in the global batch."""
    c, spec = tiny("aimclr", "small"), Spec(KINECT20, 1)
    state, batch = zeros(c, spec), make_batch(KINECT20)
    encoder = common.make_encoder(c, KINECT20, AXIS)
    _, extreme = normal_view.make_views(c, KINECT20)
    drop = functools.partial(drop_by_attention, axis_name=AXIS)

    def encode(batch):
        params, stats = jax.tree.map(lambda x: x[0], (state.params, state.extra["batch_stats"]))
        seen = extreme(jax.random.key(0), batch)
        z, _, dropped, stats = common.forward(encoder, params, stats, seen, jax.random.key(1), drop)
        return (seen["frames"], z, dropped), stats

    def on(devices):
        mapped = jax.jit(jax.vmap(encode, axis_name=AXIS, axis_size=devices))
        parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), batch)
        rows, stats = mapped.lower(parts).compile(QUICKLY)(parts)
        return jax.tree.map(jnp.concatenate, rows), jax.tree.map(lambda x: x[0], stats)

    for (path, a), b in zip(jax.tree.leaves_with_path(on(1)), jax.tree.leaves(on(2)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5, err_msg=str(path))


@pytest.mark.parametrize(
    ("name", "variant", "encoder"),
    [
        ("small", "halp", "agcn"), ("small", "halp", "lstm"), ("small", "halp", "transformer"),
        pytest.param("small", "halp", "stgcn", marks=pytest.mark.long),
        pytest.param("small", "halp_cmd", "stgcn", marks=pytest.mark.long),
        pytest.param("aimclr", "small+halp", "bigru", marks=pytest.mark.long),
        pytest.param("crossclr", "small+bigru+halp", "bigru", marks=pytest.mark.long),
    ],
)  # fmt: skip
def test_any_encoder_serves_any_method(name, variant, encoder):
    """Traced, not compiled: shapes and types of a whole step."""
    c, spec = tiny(name, variant), Spec(KINECT20, 1)
    c.encoder.name = encoder
    if "cmd" in c:
        c.cmd.topk = 8
    methods.find_method(c).check_config(c)
    state = jax.eval_shape(lambda: methods.create_state(c, spec))
    batch = jax.tree.map(lambda x: x[None], make_batch(KINECT20))
    step = jax.vmap(methods.make_train_step(c, spec), (None, 0), axis_name=AXIS, axis_size=1)
    after, metrics = jax.eval_shape(step, state, batch)
    assert metrics["loss_halp"].shape == (1,)
    assert jax.tree.map(lambda x: x.shape[1:], after) == jax.tree.map(lambda x: x.shape, state)
    assert methods.find_method(c).step_flops(c, spec) > 0


def test_an_encoder_of_other_joints_is_refused():
    c = tiny("aimclr", "small")
    method = methods.make_method(c, Spec(NTU25))
    state = jax.eval_shape(lambda: methods.create_state(c, Spec(NTU25)))
    batch = make_batch(KINECT20)
    with pytest.raises(ValueError, match="25 joints cannot take 20"):
        jax.eval_shape(
            method.encode, state.params, {"batch_stats": state.extra["batch_stats"]}, batch
        )


@pytest.mark.parametrize("name", ["aimclr", "crossclr"])
def test_redraw_keys_draws_the_key_encoder_anew_as_released(name):
    c = tiny(name, "small")
    for redrawn in (False, True):
        c[name].redraw_keys = redrawn
        state = methods.create_state(c, Spec(NTU25))
        leaves = map(jax.tree.leaves, (state.params, state.extra["key_params"]))
        drawn = [(q, k) for q, k in zip(*leaves, strict=True) if q.size > 100 and q.std() > 0]
        assert drawn and all(np.array_equal(q, k) != redrawn for q, k in drawn)
        assert all(float(q.std()) == pytest.approx(float(k.std()), rel=0.3) for q, k in drawn)


def test_crossclr_needs_two_streams_and_joint_for_its_head():
    c = tiny("crossclr", "small")
    for streams, message in ((("joint",), "two streams"), (("motion", "bone"), "stream joint")):
        c.streams = streams
        with pytest.raises(UserError, match=message):
            methods.find_method(c).check_config(c)


def test_crossclr_b_sees_the_views_of_moco():
    c, batch = tiny("crossclr", "small+bigru"), make_batch(KINECT20)
    c.views.num_corrupted_joints = 4
    view, _ = normal_view.make_views(c, KINECT20)

    def by(view):
        return jax.vmap(lambda batch: view(jax.random.key(3), batch), axis_name=AXIS)(batch)

    batch = jax.tree.map(lambda x: x[None], batch)
    np.testing.assert_array_equal(by(view)["frames"], by(common.make_view(c))["frames"])
    assert make_prepare(c, KINECT20) is None
    c.normal_view.prepare = "released"
    with pytest.raises(
        UserError, match="normal_view.prepare.*with normal_view.kind=moco it is none"
    ):
        methods.find_method(c).check_config(c)


def test_variants_of_the_configs():
    full = load("aimclr")("ntu60_xview+halp")
    assert (full.data.split, full.halp.mu, full.moco.queue_size) == ("xview", 1.0, 32768)
    assert not load("aimclr")("small+skeletonclr").aimclr.extreme_views
    for variant in ("", "ntu60", "small+halp+skeletonclr"):
        with pytest.raises(ValueError, match="unknown variant"):
            load("aimclr")(variant)
    assert not load("crossclr")("small+bigru").crossclr.frozen_keys
    starts = {"ntu60_xsub": 150, "small": 18, "ntu60_xsub+bigru": 225, "small+bigru": 18}
    for variant, start in starts.items():
        assert load("crossclr")(variant).crossclr.start_epoch == start


def test_the_systems_of_the_papers_pku_mmd_ii_column_have_its_schedule():
    released = load("cmd")("pku2_xsub")
    for name, variant in (("isc", "pku2_xsub"), ("crossclr", "pku2_xsub+bigru")):
        c = load(name)(variant)
        c.data.dir = "data"
        methods.find_method(c).check_config(c)
        assert c.data.split == "xsub" and c.train.epochs == released.train.epochs == 1001
        assert c.optim.milestones == released.optim.milestones
        assert c.linear.learning_rate == released.linear.learning_rate
    assert c.crossclr.start_epoch == 500


def test_the_table_tells_halp_on_aimclr_from_aimclr():
    found = [
        table.name_method(load("aimclr")(v).to_dict()) for v in ("ntu60_xsub", "ntu60_xsub+halp")
    ]
    assert found == ["aimclr", "aimclr+HaLP"]


def test_views_of_a_config_are_prepared_as_its_evaluation_is():
    c = tiny("aimclr", "small")
    prepare = normal_view.make_prepare(c, NTU25)
    clip = make_batch(NTU25)["frames"][0]
    assert prepare(clip).shape == (6, 2, 25, 3)
    c.normal_view.prepare = "none"
    assert normal_view.make_prepare(c, NTU25) is None
    assert make_prepare(load("small")("moco"), NTU25) is None
