"""What must not cost a run anything: kills, a full disk, a clock that jumps."""

import gc
import io
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _files import little_room
from _runs import prepare, small_config

from halp_jax.datasets import open_dataset
from halp_jax.errors import UserError
from halp_jax.training import checkpoint, checkpoint_io, checks, loop, report
from halp_jax.training.checkpoint_io import make_template

ROOT = Path(__file__).parents[1]


@pytest.fixture
def lost_failures():
    """Of the leaves of a save that fails all but the first are freed unseen: here, not later."""
    yield
    gc.collect()


def ignore_lost(test):
    lost = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    return lost(pytest.mark.usefixtures("lost_failures")(test))


def make_state(step=0):
    weights = jax.random.normal(jax.random.key(step), (300, 70))
    return {"params": {"weights": weights}, "step": jnp.int32(step)}


def restore(workdir):
    with checkpoint.open_manager(workdir, small_config()) as manager:
        return checkpoint.restore_latest(manager, make_template(make_state))


@ignore_lost
def test_a_checkpoint_that_finds_no_room_is_one_line_and_the_last_one_stays(tmp_path):
    with checkpoint.open_manager(tmp_path, small_config()) as manager:
        checkpoint.save(manager, 10, make_state(10))
    with pytest.raises(UserError) as failed:
        with checkpoint.open_manager(tmp_path, small_config()) as manager, little_room(4000):
            checkpoint.save(manager, 20, make_state(20))
            while manager.is_saving_in_progress():
                checkpoint.check(manager)  # as every line of metrics does: says nothing yet
                time.sleep(0.01)
            checkpoint.check(manager)
    said = str(failed.value)
    assert re.search(r"cannot write a checkpoint to .*checkpoints \(.*File too large.*\)", said)
    assert "the newest good one is of step 10. Make room" in said and "\n" not in said
    time.sleep(0.5)  # threads of the save that failed clean up; a new process has none
    # One manager for both, as in a run: each removes what is half written, in a thread that only its own
    # next save waits for, and of two side by side one misses what the other has removed.
    with checkpoint.open_manager(tmp_path, small_config()) as manager:
        state, step, _ = checkpoint.restore_latest(manager, make_template(make_state))
        assert step == 10
        both = (each["params"]["weights"] for each in (state, make_state(10)))
        np.testing.assert_array_equal(*both)
        # Not 20: threads of the save that failed may still write there; a new process has none.
        checkpoint.save(manager, 30, make_state(30))
    assert restore(tmp_path)[1] == 30


@ignore_lost
def test_what_the_system_said_is_shown_of_a_long_error():
    said = "No space left on device [os_error_code='28']"
    error = ValueError(f"{'path/' * 60}: {said} [tensorstore_spec='{'x' * 300}']")
    assert checkpoint_io.one_line(error).endswith(said)
    assert checkpoint_io.one_line(MemoryError()) == "MemoryError"


def test_a_save_that_fails_at_the_very_end_is_told(tmp_path):
    """Nothing comes after it that would ask."""
    with pytest.raises(UserError, match="cannot write a checkpoint .*none is there yet"):
        with little_room(4000):
            with checkpoint.open_manager(tmp_path, small_config()) as manager:
                checkpoint.save(manager, 20, make_state(20))


def test_a_line_of_metrics_that_finds_no_room_is_told(tmp_path):
    with report.Journal(tmp_path, 0) as journal:
        journal.write(1, {"loss": 1.0})
        kept = (tmp_path / report.METRICS).read_text()
        (tmp_path / report.METRICS).unlink()
        (tmp_path / report.METRICS).symlink_to("/dev/full")
        with pytest.raises(UserError, match="metrics.jsonl .No space left.*the same command again"):
            journal.write(2, {"loss": 1.0})
    (tmp_path / report.METRICS).unlink()
    (tmp_path / report.METRICS).write_text(kept)
    with little_room(0), pytest.raises(UserError, match="cannot write .*metrics.jsonl .File too"):
        report.Journal(tmp_path, 1)
    assert (tmp_path / report.METRICS).read_text() == kept


def test_a_config_that_finds_no_room_leaves_the_old_one(tmp_path):
    config = small_config()
    checkpoint.save_config(tmp_path, config)
    config.seed = 7
    with little_room(100), pytest.raises(UserError, match="cannot write .*config.json"):
        checkpoint.save_config(tmp_path, config)
    assert checkpoint.load_config(tmp_path).seed == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


def test_the_lock_needs_no_room(tmp_path):
    with little_room(0), checks.lock_workdir(tmp_path):
        with pytest.raises(UserError, match="another run .process unknown. is at work"):
            with checks.lock_workdir(tmp_path):
                pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "set"
    prepare(path)
    return open_dataset(path)


@pytest.fixture(autouse=True, scope="module")
def compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def train(dataset, workdir):
    """Nine epochs of three steps, each saved, none evaluated; lines at the saves and between."""
    config = small_config(dataset.path)
    config.halp.mu, config.train.num_devices, config.train.epochs = 0.0, 1, 9  # compiles sooner
    config.checkpoint.every_epochs = 1
    return loop.train(config, workdir, dataset=dataset, stream=io.StringIO())


def lines(workdir):
    timing = {"clips_per_s", "model_tflops_per_s", "input_wait"}
    text = (workdir / report.METRICS).read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in timing} for line in text]


def assert_bitwise(state, other):
    for leaf, reference in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(reference).tobytes()


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    return train(dataset, workdir), lines(workdir)


@pytest.mark.long
def test_a_kill_between_a_save_and_its_line_costs_no_line(dataset, tmp_path, whole, monkeypatch):
    """The figures lie in the checkpoint; an epoch that is not evaluated has a line, too."""
    write = report.Journal.write

    class Kill(Exception):
        pass

    def kill(journal, step, values):
        if step == 15:
            raise Kill
        write(journal, step, values)

    with monkeypatch.context() as patch, pytest.raises(Kill):
        patch.setattr(report.Journal, "write", kill)
        train(dataset, tmp_path)
    assert (tmp_path / "checkpoints" / "15").is_dir() and lines(tmp_path)[-1]["step"] == 14
    state, expected = whole
    assert_bitwise(train(dataset, tmp_path), state)
    assert lines(tmp_path) == expected


@pytest.mark.slow  # under pytest-xdist a fake time.time has once ended the worker itself
def test_a_clock_that_jumps_changes_nothing(dataset, tmp_path, whole, monkeypatch):
    """Back by hours, forward by years, at every look at it."""
    rng, real = random.Random(0), time.time
    monkeypatch.setattr(time, "time", lambda: real() + rng.choice([-1e5, -3600, 0, 1e8]))
    state, expected = whole
    assert_bitwise(train(dataset, tmp_path), state)
    assert lines(tmp_path) == expected
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept == [24, 27]  # the newest by their steps
    assert restored_step(tmp_path) == 27


def restored_step(workdir):
    return checkpoint.restore_state(workdir)[1]


def test_nothing_looks_at_the_time_of_day():
    """Durations come from clocks that never run backwards."""
    for path in (ROOT / "halp_jax").rglob("*.py"):
        found = re.search(r"\btime\.time\(|\.now\(|\butcnow\b|\btoday\(", path.read_text())
        assert not found, f"{path}: {found}"


@pytest.mark.slow  # one kill stays in `make test`: test_train.py, by SIGKILL, bitwise
def test_killed_five_times_and_the_run_is_the_unbroken_one():
    program = [sys.executable, ROOT / "benchmarks" / "reliability.py", "--quick"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["bitwise_equal"] and found["kills"] >= 4 and found["kills_in_a_save"] >= 1
    assert found["lines"] == 1 + 60 * 3 and found["leaves"] > 10
