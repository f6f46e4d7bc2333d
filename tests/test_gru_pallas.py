"""The Pallas recurrence against the scan: interpreted here, and lowered for the TPUs it is meant for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental.pallas import tpu as pltpu

from benchmarks import gru_pallas
from halp_jax.encoders.gru import scan_gru
from halp_jax.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


SIZES = [(1, 3, 5), (7, 8, 128), (4, 13, 130), (3, 300, 20)]  # time, batch, width


def random_recurrence(time, batch, width, *streams):
    """projected, w_hh, b_hh and the gradient of the output."""
    rng = np.random.default_rng(0)
    bound = width**-0.5
    shapes = {(time, batch, 3 * width): 1, (width, 3 * width): bound, (3 * width,): bound}
    shapes |= {(time, batch, width): 1}
    return [
        jnp.asarray(s * rng.normal(size=(*streams, *x)), jnp.float32) for x, s in shapes.items()
    ]


def with_gradients(recurrence, precision="float32"):
    """-> f(*random_recurrence(...)): the states and the gradient of every input."""

    def run(*inputs):
        *inputs, direction = inputs
        hiddens, pull = jax.vjp(lambda *x: recurrence(*x, precision), *inputs)
        return hiddens, *pull(direction)

    return run


interpreted = functools.partial(gru_pallas.pallas_gru, interpret=True)


def assert_equal(ours, wanted):
    """To 1e-6 of the largest number of each array."""
    for a, b in zip(ours, wanted, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.parametrize(
    ("size", "precision"), [(s, "float32") for s in SIZES] + [(s, "bfloat16") for s in SIZES[:3:2]]
)
def test_states_and_gradients_are_the_scans(size, precision):
    inputs = random_recurrence(*size)
    ours = jax.jit(with_gradients(interpreted, precision))(*inputs)
    wanted = jax.jit(with_gradients(scan_gru, precision))(*inputs)
    assert_equal(ours, wanted)
    alone = interpreted(*inputs[:3], precision)  # the kernel that keeps nothing for a gradient
    np.testing.assert_array_equal(alone, ours[0])


def test_on_an_imitated_tpu():
    """Memory that nothing has written is NaN there, and two copies at once of one place a race."""
    inputs = random_recurrence(3, 150, 10)
    tpu = pltpu.InterpretParams(uninitialized_memory="nan", detect_races=True)
    imitated = functools.partial(gru_pallas.pallas_gru, interpret=tpu)
    assert_equal(with_gradients(imitated)(*inputs), with_gradients(scan_gru)(*inputs))


def test_streams_of_a_vmap_have_their_own_state_and_weights():
    inputs = random_recurrence(4, 150, 10, 3)  # two blocks of clips: every grid has three axes
    ours = jax.jit(jax.vmap(with_gradients(interpreted)))(*inputs)
    wanted = [with_gradients(scan_gru)(*(x[i] for x in inputs)) for i in range(3)]
    assert_equal(ours, [jnp.stack(leaves) for leaves in zip(*wanted, strict=True)])


def lower_for_tpu(run, inputs):
    """The program of a TPU, made on this machine: Mosaic refuses blocks and operations it has not."""
    shapes = [jax.ShapeDtypeStruct(x, jnp.float32) for x in inputs]
    return export.export(jax.jit(run), platforms=["tpu"])(*shapes).mlir_module()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("size", [(64, 300, 1024), (5, 13, 20)])
def test_lowers_for_tpus(size, precision):
    time, batch, width = size
    shapes = [(time, batch, 3 * width), (width, 3 * width), (3 * width,), (time, batch, width)]
    run = with_gradients(gru_pallas.pallas_gru, precision)
    assert lower_for_tpu(run, shapes).count("tpu_custom_call") == 2


def test_the_chip_holds_the_weights_once_and_in_the_precision_of_the_product(monkeypatch):
    calls, pallas_call = [], gru_pallas.pl.pallas_call
    monkeypatch.setattr(
        gru_pallas.pl,
        "pallas_call",
        lambda *x, **given: calls.append(given) or pallas_call(*x, **given),
    )
    shapes = (2, 300, 3072), (1024, 3072), (3072,)
    inputs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    for precision, weights in (("float32", 12 * 2**20), ("bfloat16", 6 * 2**20)):
        jax.eval_shape(functools.partial(gru_pallas.pallas_gru, precision=precision), *inputs)
        call = calls.pop()
        blocks, frames = call["grid"]
        assert (blocks, frames) == (3, 2)  # blocks of 104 clips
        spec = call["in_specs"][1]
        assert spec.pipeline_mode.buffer_count == 1
        assert {spec.index_map(i, t) for i in range(blocks) for t in range(frames)} == {(0, 0)}
        frame = 104 * 4 * 1024 * 4  # the projected frame and the state that comes of it
        limit = call["compiler_params"].vmem_limit_bytes
        assert weights + 2 * frame < limit < weights + 8 * frame


def test_what_does_not_fit_is_refused_in_one_line():
    projected, w_hh, b_hh, _ = random_recurrence(2, 3, 4)
    with pytest.raises(UserError, match=r"w_hh \(4, 9\) and b_hh \(9,\) do not fit") as error:
        gru_pallas.pallas_gru(projected[..., :9], w_hh[:, :9], b_hh[:9])
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="do not fit"):
        gru_pallas.pallas_gru(projected[:0], w_hh, b_hh)
    wide = [jax.ShapeDtypeStruct(x, jnp.float32) for x in ((2, 8, 12288), (4096, 12288), (12288,))]
    with pytest.raises(UserError, match="MiB of a TPU's VMEM at width 4096"):
        jax.eval_shape(gru_pallas.pallas_gru, *wide)
