"""The loop: a run that is stopped anywhere and started again is the run that was not stopped."""

import dataclasses
import io
import itertools
import json
import logging
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _runs import STEPS_PER_EPOCH, one_compiled_step, prepare, small_config

from halp_jax.datasets import open_dataset, pipeline
from halp_jax.errors import UserError
from halp_jax.methods import moco
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import checkpoint, checks, loop

TOTAL = 6 * STEPS_PER_EPOCH
RATES = {"clips_per_s", "model_tflops_per_s", "input_wait"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "set"
    prepare(path)
    return open_dataset(path)


@pytest.fixture(scope="module", autouse=True)
def compile_once():
    """All runs of this file have the same step: compiled once, and without optimisation."""
    with one_compiled_step():
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)


class Crash(Exception):
    pass


def toy_evaluator(state):
    return {"toy": float(jnp.sum(state.params["head"]["out"]["kernel"][0]))}


def run(
    dataset, workdir, *, at=None, do=None, evaluator=toy_evaluator, stream=None, **changes
):  # fmt: skip
    """One call of `train` -> (final state, numbers of the clips that were read).

    `do(batch)` is called as batch `at` (counted from the start of the whole run) is read.
    """
    config = small_config(dataset.path)
    config.streams, config.cmd.nu, config.cmd.topk = ("joint", "bone"), 1.0, 16  # HaLP+CMD
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (config[section] if section else config)[key] = value
    seen, real = [], pipeline.train_batches

    def train_batches(*args, start_step, **options):
        batches = real(*args, start_step=start_step, **options)
        for step, batch in zip(itertools.count(start_step), batches, strict=False):
            if step == at:
                do(batch)
            seen.append((step, batch["index"].tolist()))
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "train_batches", train_batches)
        try:
            state = loop.train(
                config,
                workdir,
                dataset=dataset,
                evaluators=[evaluator],
                stream=stream or io.StringIO(),
            )
        except Exception as error:
            error.seen = seen
            raise
    return state, seen


def crash(batch):
    raise Crash


def terminate(batch):
    os.kill(os.getpid(), signal.SIGTERM)


def spoil(batch):
    batch["frames"] = np.full_like(batch["frames"], np.nan)


def lines(workdir):
    """metrics.jsonl without what depends on the clock; no step may stand there twice."""
    records = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    steps = [record["step"] for record in records]
    assert steps == sorted(set(steps))
    return [{k: v for k, v in record.items() if k not in RATES} for record in records]


def assert_bitwise(state, other):
    assert jax.tree.structure(state) == jax.tree.structure(other)
    for leaf, reference in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(reference).tobytes()


def newest(workdir):
    return max(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def unbroken(dataset, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("unbroken")
    state, seen = run(dataset, workdir)
    return workdir, state, dict(seen)


def test_unbroken_run_writes_what_it_should(unbroken, dataset):
    workdir, state, seen = unbroken
    records = lines(workdir)
    assert [record["step"] for record in records] == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert [r["step"] for r in records if "toy" in r] == [0, 6, 12, 18]
    assert records[-1]["epoch"] == 6 and records[-1]["toy"] == toy_evaluator(state)["toy"]
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-2])
    assert last["clips_per_s"] > 0 and 0 <= last["input_wait"] <= 1
    assert records[1]["mu"] == 0 and records[-1]["mu"] == 1 and records[-1]["loss_halp"] != 0
    assert records[4]["learning_rate"] == pytest.approx(0.01)  # of the 8th step, in epoch 2
    assert records[5]["learning_rate"] == pytest.approx(0.001)  # of the 10th: after the milestone
    assert sorted(int(p.name) for p in (workdir / "checkpoints").iterdir()) == [12, 18]
    restored, step = checkpoint.restore_state(workdir)
    assert step == TOTAL == int(state.step)
    assert_bitwise(restored, state)
    epoch = np.concatenate([seen[step] for step in range(STEPS_PER_EPOCH)])
    assert len(set(epoch)) == 24 and set(epoch) <= set(dataset.indices("xsub", "train"))


@pytest.mark.parametrize("at", [4, 10])  # before the first checkpoint, and after it
def test_killed_run_goes_on_bitwise(unbroken, dataset, tmp_path, at):
    workdir, state, seen = unbroken
    with pytest.raises(Crash):
        run(dataset, tmp_path, at=at, do=crash)
    resumed, then = run(dataset, tmp_path)
    assert then[0][0] == (0 if at == 4 else 6)
    assert all(seen[step] == index for step, index in then if step in seen)
    assert_bitwise(resumed, state)
    assert lines(tmp_path) == lines(workdir)


def test_sigterm_saves_at_once_and_the_run_goes_on_bitwise(unbroken, dataset, tmp_path):
    workdir, state, _ = unbroken
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(loop.Stopped, match="SIGTERM: saved step") as stopped:
        run(dataset, tmp_path, at=9, do=terminate)
    assert stopped.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before
    step = newest(tmp_path)
    assert 6 < step < 9 and lines(tmp_path)[-1]["step"] == step
    resumed, then = run(dataset, tmp_path)
    assert then[0][0] == step
    assert_bitwise(resumed, state)
    lines(tmp_path)


def test_stopped_in_an_evaluation_repeats_it(unbroken, dataset, tmp_path):
    """Also where that epoch's end is no checkpoint's: it is saved for the purpose."""
    workdir, state, _ = unbroken
    calls = []

    def evaluator(state):
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the signal should have ended the evaluation")
        return toy_evaluator(state)

    with pytest.raises(loop.Stopped) as stopped:
        run(dataset, tmp_path, evaluator=evaluator, checkpoint__every_epochs=5)
    assert stopped.value.exit_code == 130 and newest(tmp_path) == 6
    assert lines(tmp_path)[-1]["step"] == 4
    resumed, _ = run(dataset, tmp_path)
    assert_bitwise(resumed, state)
    assert lines(tmp_path) == lines(workdir)


def test_nan_ends_the_run_and_keeps_the_last_good_checkpoint(dataset, tmp_path):
    with pytest.raises(UserError, match="not finite at step 9; last good checkpoint: .*/6. Try"):
        run(dataset, tmp_path, at=8, do=spoil)
    assert newest(tmp_path) == 6
    assert [record["step"] for record in lines(tmp_path)][-1] == 10
    assert loop._is_finite(checkpoint.restore_state(tmp_path)[0])


def test_nan_in_the_state_alone_is_not_saved(dataset, tmp_path):
    """The loss of a step is that of the weights before it: it may be the last finite one."""
    assert loop._is_finite({"a": jnp.ones(3), "n": jnp.int32(1)})
    assert not loop._is_finite({"a": jnp.ones(3), "b": jnp.array([0, jnp.inf])})
    with pytest.raises(UserError, match="state is not finite at step 6; .* none was saved yet"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "_is_finite", lambda state: False)
            run(dataset, tmp_path)
    assert not checkpoint.has_checkpoint(tmp_path)


def test_longer_run_goes_on_and_says_so(unbroken, dataset, tmp_path, caplog):
    _, state, _ = unbroken
    run(dataset, tmp_path, train__epochs=4)
    with caplog.at_level(logging.INFO, "halp_jax"):
        longer, then = run(dataset, tmp_path)
    assert then[0][0] == 12 and "train.epochs: 4 -> 6" in caplog.text
    assert_bitwise(longer, state)
    again, then = run(dataset, tmp_path, knn__k=(3,))  # nothing left to do
    assert not then
    saved = (tmp_path / "config.json").read_text()
    with pytest.raises(UserError, match="holds a finished run with another halp.mu: 1.0 -> 2.0"):
        run(dataset, tmp_path, halp__mu=2.0)
    assert (tmp_path / "config.json").read_text() == saved
    assert_bitwise(again, state)


def test_trouble_is_told_once(dataset, tmp_path, monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr(moco, "find_trouble", lambda records: "it learns nothing")
    run(dataset, tmp_path, stream=said, train__epochs=2)
    assert said.getvalue().count("warning: it learns nothing") == 1


def test_another_run_in_the_same_workdir_is_refused(unbroken, dataset):
    workdir, _, _ = unbroken
    saved = (workdir / "config.json").read_text()
    for changes, match in (
        (
            {"seed": 1, "encoder__width": 16},
            "has encoder.width=16, seed=1: .*--config.encoder.width=8 --config.seed=0 to resume",
        ),
        ({"train__batch_size": 4}, "train.batch_size=8, this config has train.batch_size=4"),
        ({"seed": 1}, "seed=0, this config has seed=1"),
        ({"encoder__width": 16}, "encoder.width=8, this config has encoder.width=16"),
    ):
        with pytest.raises(UserError, match=match):
            run(dataset, workdir, **changes)
    assert (workdir / "config.json").read_text() == saved


def test_two_runs_at_once_are_refused(dataset, tmp_path):
    with checks.lock_workdir(tmp_path):
        with pytest.raises(UserError, match=f"another run .process {os.getpid()}. is at work"):
            run(dataset, tmp_path)
    with checks.lock_workdir(tmp_path):
        pass


def test_warm_start_from_a_checkpoint_is_the_rest_of_that_run(unbroken, dataset, tmp_path):
    workdir, state, _ = unbroken
    warm, then = run(dataset, tmp_path, init_from=str(workdir / "checkpoints" / "12"))
    assert then[0][0] == 12
    assert_bitwise(warm, state)
    assert lines(tmp_path) == [line for line in lines(workdir) if line["step"] >= 12]


def test_warm_start_at_the_end_of_all_epochs_says_what_to_pass(unbroken, dataset, tmp_path):
    with pytest.raises(UserError, match="is at step 18.*end at step 18: give more"):
        run(dataset, tmp_path, init_from=str(unbroken[0]))


def test_encoder_alone_starts_a_new_run(unbroken, dataset, tmp_path, caplog):
    workdir, state, _ = unbroken
    evaluated = []

    def evaluator(now):
        evaluated.append(jax.tree.map(np.array, now.params))
        return {}

    options = {"init_from": str(workdir), "init_what": "encoder", "train__epochs": 1}
    options["encoder__pooling"] = "mean"
    final, then = run(dataset, tmp_path, evaluator=evaluator, **options)
    assert f"{workdir} has another encoder.pooling: last -> mean" in caplog.text
    assert then[0][0] == 0 and int(final.step) == STEPS_PER_EPOCH
    assert_bitwise(evaluated[0], state.params)
    other = dataclasses.replace(NTU25, joints=NTU25.joints[::-1])  # as many, in another order
    with pytest.raises(UserError, match="the encoder was trained on ntu25 and these clips are"):
        run(dataclasses.replace(dataset, layout=other), tmp_path / "other", **options)


def test_data_set_of_another_size_is_refused(dataset, tmp_path, monkeypatch):
    run(dataset, tmp_path, train__epochs=2)
    smaller = {"xsub": {"train": np.arange(25), "test": np.arange(26, 32)}}
    monkeypatch.setitem(dataset.splits, "xsub", smaller["xsub"])
    with pytest.raises(UserError, match="clips=26, this data set has 25"):
        run(dataset, tmp_path)
    monkeypatch.setitem(dataset.splits, "xsub", {"train": np.arange(5), "test": np.arange(3)})
    with pytest.raises(UserError, match="5 training clips, fewer than train.batch_size=8"):
        run(dataset, tmp_path)
    monkeypatch.setitem(dataset.splits, "xsub", smaller["xsub"])
    with pytest.raises(UserError, match="has 25: use --config.init_what=encoder"):
        run(dataset, tmp_path / "new", init_from=str(tmp_path))


@pytest.mark.long
def test_clips_of_another_normalisation_are_refused(unbroken, dataset, tmp_path, monkeypatch):
    workdir, _, _ = unbroken
    assert checkpoint.load_info(workdir)["normalize"] == "none"
    monkeypatch.setitem(dataset.metadata, "normalize", "view")
    line = f"is normalised by view, but the encoder of {workdir} was trained on clips normalised by none"
    with pytest.raises(UserError, match=line):
        run(dataset, workdir)
    warm = {"init_from": str(workdir / "checkpoints" / "12"), "init_what": "encoder"}
    with pytest.raises(UserError, match=line):
        run(dataset, tmp_path, **warm)


def test_half_a_run_in_the_old_order_of_packed_clips_is_refused(dataset, tmp_path):
    config, packed = small_config(dataset.path), type("Packed", (), {"in_memory": True})
    checks.check_order(config, {}, dataset, "runs/x/checkpoints/5")  # a folder's order stays
    checks.check_order(config, {"order": "shuffled"}, packed, "runs/x/checkpoints/5")
    with pytest.raises(UserError, match="runs/x/checkpoints/5 is from before packed clips came in"):
        checks.check_order(config, {}, packed, "runs/x/checkpoints/5")


def test_what_will_not_do_is_warned_of_at_the_start(dataset, tmp_path, caplog):
    with pytest.raises(Crash):
        run(dataset, tmp_path, at=1, do=crash, halp__start_epoch=0)
    assert "without a trained MoCo: expect no learning" in caplog.text
    assert "8 of 26 training clips are longer than data.max_frames=12" in caplog.text
