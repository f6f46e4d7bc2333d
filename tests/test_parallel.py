"""One step, any number of devices, either driver: the same run, and the one-device gradient."""

import ctypes
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _runs import small_config
from _steps import change, create_state, make_train_step

from halp_jax.errors import UserError
from halp_jax.training import parallel


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def toy_step(state, batch):
    """A gradient step on a loss that is not linear in the data, and the rows every device saw."""

    def loss(w):
        return jnp.mean(jnp.sin(batch["x"] @ w) ** 2)

    value, gradient = jax.value_and_grad(loss)(state["w"])
    gradient = jax.lax.pmean(gradient, parallel.AXIS)
    rows = jax.lax.all_gather(batch["x"], parallel.AXIS, axis=0, tiled=True)
    state = {"w": state["w"] - gradient, "rows": rows, "step": state["step"] + 1}
    return state, {"loss": jax.lax.pmean(value, parallel.AXIS)}


@pytest.fixture
def toy():
    rng = np.random.default_rng(0)
    state = {
        "w": rng.normal(size=(5,)).astype(np.float32),
        "rows": np.zeros((8, 5), np.float32),
        "step": np.int32(0),
    }
    return state, {"x": rng.normal(size=(8, 5)).astype(np.float32)}


def assert_close(tree, other, tolerance):
    leaves, others = jax.tree.leaves_with_path(tree), jax.tree.leaves(other)
    for (path, leaf), reference in zip(leaves, others, strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(leaf, reference, tolerance, tolerance, err_msg=name)


def by_vmap(step, count):
    """The step on `count` shares of the batch at once, all devices played by one."""
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0), axis_name=parallel.AXIS))

    def run(state, batch):
        shares = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
        state, metrics = mapped(state, shares)
        for leaf in jax.tree.leaves((state, metrics)):  # every device has the same state
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        return jax.tree.map(lambda x: x[0], (state, metrics))

    return run


@pytest.mark.parametrize("driver", (*parallel.DRIVERS, "vmap"))
@pytest.mark.parametrize("count", [1, 2, 4])
def test_toy_step_is_that_of_the_global_batch(toy, driver, count):
    state, batch = toy
    reference = jax.grad(lambda w: jnp.mean(jnp.sin(batch["x"] @ w) ** 2))(state["w"])
    if driver == "vmap":
        new, metrics = by_vmap(toy_step, count)(state, batch)
    else:
        run = parallel.compile_step(toy_step, driver=driver, num_devices=count)
        new, metrics = run(parallel.replicate(state, count), batch)
    np.testing.assert_allclose(new["w"], state["w"] - reference, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(new["rows"], batch["x"])  # shares keep the order of the batch
    expected = np.mean(np.sin(batch["x"] @ state["w"]) ** 2)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert new["w"].shape == (5,)
    if driver != "vmap":
        assert new["w"].is_fully_replicated and len(new["w"].sharding.device_set) == count


@pytest.mark.parametrize("driver", parallel.DRIVERS)
def test_step_is_traced_once_and_takes_over_the_state_memory(toy, driver, monkeypatch):
    state, batch = toy
    traces, trims = [], []
    monkeypatch.setattr(parallel, "trim_memory", lambda: trims.append(len(traces)))

    def step(state, batch):
        traces.append(1)
        return toy_step(state, batch)

    run = parallel.compile_step(step, driver=driver, num_devices=4)
    place = parallel.make_placer(driver=driver, num_devices=4)
    state = parallel.replicate(state, 4)
    for placed in parallel.prefetch([batch] * 3, place):
        old = state
        state, _ = run(state, placed)
        assert old["w"].is_deleted()
    assert int(state["step"]) == 3 and len(traces) == 1
    assert trims == [1]  # once, after it was compiled
    np.testing.assert_array_equal(parallel.local_view(state)["w"], state["w"])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_what_was_freed_goes_back_to_the_system():
    def held():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    blocks = [b"%d" % i * 5_000 for i in range(5_000)]
    blocks[:-1] = []  # the last one holds the others' place
    before = held()
    parallel.trim_memory()
    assert held() < before - 50_000_000


def test_replicated_state_shares_no_memory(toy):
    """A state that holds an array twice may be donated all the same."""
    shared = jnp.ones((5,))
    run = parallel.compile_step(lambda s, b: (s, {}), num_devices=2)
    new, _ = run(parallel.replicate({"a": shared, "b": shared}, 2), {"x": np.ones(2)})
    np.testing.assert_array_equal(new["a"], new["b"])
    assert not shared.is_deleted()


def test_prefetch_keeps_order_and_runs_ahead():
    placed = []
    batches = parallel.prefetch(iter(range(6)), lambda b: placed.append(b) or b, size=2)
    assert next(batches) == 0 and placed == [0, 1, 2]
    assert list(batches) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("driver", parallel.DRIVERS)
def test_a_smaller_batch_runs_on_as_many_devices_as_it_divides_over(toy, driver):
    assert parallel.count_devices(6, 4) == 3 and parallel.count_devices(8, 3) == 2
    assert parallel.count_devices(7, 4) == 1 and parallel.count_devices(3, 4) == 3
    state, batch = toy

    def step(state, batch):
        total = jax.lax.psum(jnp.sum(batch["x"]), parallel.AXIS)
        return state | {"w": state["w"] + total}, {}

    run = parallel.compile_step(step, driver=driver, num_devices=4)
    place = parallel.make_placer(driver=driver, num_devices=4)
    now = parallel.replicate(state, 4)
    for rows, count in ((8, 4), (6, 3), (8, 4)):
        before = np.array(now["w"])
        now, _ = run(now, place({"x": batch["x"][:rows]}))
        assert len(now["w"].sharding.device_set) == count
        np.testing.assert_allclose(now["w"], before + batch["x"][:rows].sum(), rtol=1e-5)


def test_what_does_not_divide_or_exist_is_refused():
    with pytest.raises(UserError, match="batch_size=6 does not divide over 4 devices"):
        parallel.check_batch_size(6, 4)
    with pytest.raises(UserError, match="jax sees 4 cpu"):
        parallel.get_devices(5)


def test_halp_and_cmd_are_the_same_run_on_any_devices():
    """Gradients too: at learning rate 1 without momentum the step is the gradient."""
    config = small_config()
    config.streams = streams = ("joint", "motion", "bone")
    config.cmd.nu, config.cmd.topk = 1.0, 16
    config.halp.mu, config.halp.start_epoch, config.halp.update_every = 2.0, 0, 2
    config.optim.learning_rate, config.optim.momentum, config.optim.weight_decay = 1.0, 0.0, 0.0
    rng = np.random.default_rng(0)
    batches = [
        {
            "frames": rng.normal(size=(8, 12, 2, 25, 3)).astype(np.float32),
            "length": rng.integers(5, 13, 8).astype(np.int32),
        }
        for _ in range(3)
    ]
    state = create_state(config)
    state = change(  # HaLP is on from the first step
        state,
        prototypes=state.extra["queue"].keys[:, :4],
        queue=state.extra["queue"]._replace(pushed=jnp.full(len(streams), 100)),
    )
    leaves, structure = jax.tree.flatten(state)
    kept = [np.array(leaf) for leaf in leaves]

    def start():
        return jax.tree.unflatten(structure, [jnp.array(leaf) for leaf in kept])

    step = make_train_step(config, 3)
    runs = {
        "vmap 1": by_vmap(step, 1),  # the global batch on one device
        "shard_map 2": parallel.compile_step(step, driver="shard_map", num_devices=2),
        "pmap 4": parallel.compile_step(step, driver="pmap", num_devices=4),
    }
    results = {}
    for name, run in runs.items():
        count = int(name[-1])
        now = start() if "vmap" in name else parallel.replicate(start(), count)
        results[name] = []
        for batch in batches:
            now, metrics = run(now, batch)
            results[name].append((jax.tree.map(jnp.array, now), metrics))

    reference = results.pop("vmap 1")
    first, metrics = reference[0]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), first.params, state.params)
    assert min(jax.tree.leaves(moved)) > 1e-4 and metrics["loss_halp"] != 0 and metrics["mu"] == 2
    assert np.abs(reference[1][0].extra["prototypes"] - state.extra["prototypes"]).max() > 0.01
    for result in results.values():
        for (now, figures), (expected, wanted) in zip(result, reference, strict=True):
            assert_close(now, expected, 2e-4)
            for figure in figures:
                np.testing.assert_allclose(figures[figure], wanted[figure], 2e-4, 2e-4, figure)
        gradient = jax.tree.map(lambda a, b: a - b, result[0][0].params, state.params)
        wanted = jax.tree.map(lambda a, b: a - b, first.params, state.params)
        assert_close(gradient, wanted, 1e-5)
