"""The train command: what it refuses, that a killed run resumes; its reports and checks."""

import errno
import functools
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from _runs import pack_clips, prepare, small_config

from halp_jax import progress, train
from halp_jax.datasets import open_dataset
from halp_jax.errors import UserError
from halp_jax.methods.base import Spec
from halp_jax.methods.halp import find_collapse, warn_at_start
from halp_jax.methods.moco import step_flops
from halp_jax.options import run_command
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import checkpoint, checks, loop, report, shutdown

ROOT = Path(__file__).parents[1]
HALP, BASELINE = str(ROOT / "configs" / "halp.py"), str(ROOT / "configs" / "baseline.py")


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([f"--config={HALP}", "--workdir=w"], "unknown variant ''.*ntu60_xsub, ntu60_xview"),
        ([f"--config={HALP}:ntu", "--workdir=w"], "unknown variant 'ntu'"),
        ([f"--config={HALP}:ntu60_xsub"], "--workdir is missing"),
        (["--workdir=w"], "--config is missing"),
        (["--config=nowhere.py", "--workdir=w"], "nowhere.py"),
        ([f"--config={HALP}:ntu60_xsub", "--workdir=w", "--config.halp.nu=1"], "'nu'.*settings"),
        ([f"--config={HALP}:ntu60_xsub", "--workdir=w", "--config.isc.nu=1"], "'isc'.*settings"),
        ([f"--config={HALP}:ntu60_xsub", "--workdir=w", "--config.halp.mu=much"], "float.*much"),
        ([f"--config={HALP}:ntu60_xsub", "--workdir=w", "--lr=1"], "lr"),
        ([f"--config={HALP}:ntu60_xsub", "--workdir=w", "more"], "unknown argument 'more'"),
        ([f"--config={HALP}:ntu60_xsub", "--workdir=w"], "data.dir is not set"),
        (
            [f"--config={HALP}:ntu60_xsub", "--workdir=w", "--config.data.dir=nowhere"],
            "nowhere does not exist",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, said, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main(options) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(said, error), error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("streams", ("joint", "colour"), "joint, motion, bone"),
        ("streams", ("joint", "joint"), "each once"),
        ("halp.estimator", "expected", "solver=geodesic"),
        ("halp.solver", "plane", "pairwise, geodesic, sphere"),
        ("halp.num_prototypes", 1, "at least 2"),
        ("halp.num_prototypes", 300, "halp.queue_entries=32"),
        ("halp.queue_entries", 64, "moco.queue_size=32"),
        ("halp.lam", 1.5, r"\[0, 1\]"),
        ("moco.queue_size", 33, "multiple of train.batch_size=8"),
        ("moco.temperature", 0.0, "above 0"),
        ("train.parallel", "threads", "pmap, shard_map"),
        ("train.num_devices", 3, "does not divide over 3 devices"),
        ("train.epochs", 0, "at least 1"),
        ("optim.milestones", (5, 3), "rising"),
        ("optim.learning_rate", float("nan"), "0 or more"),
        ("optim.learning_rate", float("inf"), "finite"),
        ("optim.milestones", ("x",), "rising"),
        ("views.crop", (0.5, 0.1), "low <= high"),
        ("views.crop", ("a", "b"), "low, high"),
        ("knn.crop", 7.0, r"\(0, 1\]"),
        ("seed", 2**32, "2.32"),
        ("cmd.nu", 1.0, "two streams or more"),
        ("train.precision", "float16", "float32, tensorfloat32, bfloat16"),
    ],
)
def test_check_config_says_what_and_what_to_do(field, value, said):
    config = small_config()
    checks.check_config(config)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=said) as error:
        checks.check_config(config)
    assert field.rpartition(".")[2] in str(error.value)


def test_settings_of_halp_are_not_checked_where_it_is_off():
    config = small_config()
    config.halp.mu, config.halp.queue_entries, config.halp.num_prototypes = 0.0, 64, 300
    checks.check_config(config)


def test_released_settings():
    """HaLP has epochs 201 to 450 of theirs, which count from 0: it starts from a checkpoint after epoch 200."""
    from configs import baseline, halp

    config = halp.get_config("ntu120_xset")
    assert (config.data.split, config.train.epochs, config.halp.mu) == ("xset", 451, 2.0)
    assert config.optim.milestones == (351,) and config.halp.start_epoch == 201
    assert config.linear.learning_rate == 0.005
    config = halp.get_config("pku2_xsub")
    assert (config.data.split, config.train.epochs, config.halp.mu) == ("xsub", 1001, 1.0)
    assert config.optim.milestones == (801,) and config.halp.start_epoch == 501
    assert config.linear.learning_rate == 0.001
    for variant in halp.VARIANTS:
        config = halp.get_config(variant)
        config.data.dir = "data"
        checks.check_config(config)
        without = baseline.get_config(variant)
        assert without.halp.mu == 0
        changes = checks.check_same_run(without, config, "w")
        assert [change.split(":")[0] for change in changes] == ["data.dir", "halp.mu"]


def test_released_settings_of_three_streams():
    from configs import cmd, halp, halp_cmd

    for variant in halp.VARIANTS:
        both, alone, single = (m.get_config(variant) for m in (halp_cmd, cmd, halp))
        for config in (both, alone):
            config.data.dir = "data"
            checks.check_config(config)
            assert config.streams == ("joint", "motion", "bone")
            assert (config.cmd.nu, config.cmd.topk) == (1.0, 8192)
            assert (config.cmd.teacher_temperature, config.cmd.student_temperature) == (0.05, 0.1)
            assert config.train.epochs == single.train.epochs
            assert config.linear.learning_rate == 0.1
        assert (alone.halp.mu, both.halp.mu) == (0.0, single.halp.mu)
        with both.unlocked():
            both.cmd.topk = 16385
        with pytest.raises(UserError, match="cmd.topk=16385: it must not exceed moco.queue_size"):
            checks.check_config(both)


def test_a_step_costs_what_the_paper_size_does():
    """64 clips, three layers of 2 x 1024: 1.47 TFLOP with the head and the queue left out."""
    from configs import halp

    config = halp.get_config("ntu60_xsub")
    config.moco.queue_size = 0
    cost = step_flops(config, Spec(NTU25))
    assert cost == pytest.approx(1.47e12, rel=0.01)
    config.streams = ("joint", "motion", "bone")
    assert step_flops(config, Spec(NTU25)) == 3 * cost
    config.moco.queue_size = 16384
    more = step_flops(config, Spec(NTU25)) - 3 * cost  # logits and their gradient
    assert more == 3 * 64 * 2 * (2 * 16384 * 128)


def test_journal_forgets_what_a_resumed_run_writes_again(tmp_path):
    with report.Journal(tmp_path, 0) as journal:
        for step in (2, 4, 6):
            journal.write(step, {"loss": step / 2, "bad": float("nan")})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": null}\n"of no run"\n')
        file.write('{"step": 8, "lo')  # the run was killed as it wrote
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b"\xff\n")
    with report.Journal(tmp_path, 4) as journal:
        assert [record["step"] for record in journal.records] == [2, 4]
        assert journal.has(4) and not journal.has(6)
        journal.write(6, {"loss": 7.0})
    text = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in text] == [
        {"step": 2, "loss": 1.0, "bad": None},
        {"step": 4, "loss": 2.0, "bad": None},
        {"step": 6, "loss": 7.0},
    ]


def test_tensorboard_without_its_package_says_which(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match="pip install tensorboardX"):
        report.Journal(tmp_path, 0, tensorboard=True)


def test_wandb_without_its_package_says_which(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        report.Journal(tmp_path, 0, wandb=True)


def test_wandb_gets_the_same_figures_and_goes_on_in_the_same_run(tmp_path, monkeypatch):
    calls = []

    class Run:
        def log(self, values, step):
            calls.append((values, step))

        def finish(self):
            calls.append("finished")

    package = type(sys)("wandb")
    package.init = lambda **given: calls.append(given) or Run()
    monkeypatch.setitem(sys.modules, "wandb", package)
    (tmp_path / "config.json").write_text('{"seed": 3}')
    for step in (4, 6):
        with report.Journal(tmp_path, step - 1, wandb=True) as journal:
            journal.write(step, {"loss": 7.0})
    first, second = calls[0], calls[3]
    assert first["config"] == {"seed": 3} and first["name"] == tmp_path.name
    assert first["id"] == second["id"] and second["resume"] == "allow"
    assert calls[1:3] == [({"loss": 7.0}, 4), "finished"]


def test_tensorboard_gets_the_same_figures(tmp_path, monkeypatch):
    class Writer:
        def __init__(self, folder, purge_step):
            self.calls = [(folder, purge_step)]
            writers.append(self)

        def add_scalar(self, *call):
            self.calls.append(call)

        def flush(self):
            pass

        def close(self):
            self.calls.append("closed")

    writers = []
    package = type(sys)("tensorboardX")
    package.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "tensorboardX", package)
    with report.Journal(tmp_path, 4, tensorboard=True) as journal:
        journal.write(6, {"loss": 7.0})
    assert writers[0].calls == [(str(tmp_path / "tensorboard"), 5), ("loss", 7.0, 6), "closed"]


def test_meter_averages_and_times_training_alone():
    now = [0.0]
    measure = report.Meter(8, 1e12, clock=lambda: now[0], newest=("mu",))
    now[0] = 100.0  # compilation
    measure.pause()
    for step in range(4):
        now[0] += 0.5
        measure.add({"loss": np.float32(step), "mu": np.float32(step)}, 0.5 if step == 3 else 1.0)
    figures, bad = measure.flush()
    assert figures == {
        "loss": 1.5, "mu": 3.0, "clips_per_s": 14.0, "model_tflops_per_s": 1.75, "input_wait": 0.0,
    }  # fmt: skip
    assert bad is None
    for value in (1.0, np.inf, 1.0, 1.0):
        measure.add({"loss": np.float32(value), "grad_norm": np.float32(1)})
    assert measure.flush()[1] == 2


def curve(before, during, mu=1.0):
    """Lines of metrics.jsonl: contrast accuracies without and with HaLP."""
    values = [(a, 0.0) for a in before] + [(a, mu) for a in during]
    return [{"step": 10 * i, "contrast_accuracy": a, "mu": m} for i, (a, m) in enumerate(values)]


def test_a_run_that_ends_before_halp_begins_is_warned_of():
    config = small_config()  # six epochs, HaLP from the second on
    assert warn_at_start(config) is None
    config.halp.start_epoch = 6
    for start in ("", "runs/moco"):
        config.init_from = start
        assert "never comes on: the run ends at train.epochs=6" in warn_at_start(config)
    config.halp.start_epoch = 0
    assert warn_at_start(config) is None  # from a trained MoCo
    config.init_from = ""
    assert "without a trained MoCo" in warn_at_start(config)
    config.halp.mu = 0.0
    assert warn_at_start(config) is None


def test_collapse_is_seen_and_health_is_not_blamed():
    assert "fell from 60.0% before HaLP came on (step 100) to 20.0%" in find_collapse(
        curve([0.6] * 10, [0.2] * 10)
    )
    assert "has not learnt enough" in find_collapse(curve([0.02] * 4, [0.015] * 12))
    slow = find_collapse(curve([0.6], [0.6, *[0.1] * 20]))
    assert "later --config.halp.start_epoch" in slow
    assert find_collapse(curve([0.6] * 10, [0.5] * 30)) is None
    assert find_collapse(curve([0.6] * 10, [0.2] * 3)) is None  # too early to say
    assert find_collapse(curve([0.6, 0.1] * 10, [])) is None
    assert find_collapse([{"step": 0, "knn_top1": 0.1}]) is None


def test_a_hangup_is_a_wish_to_stop_unless_the_command_is_to_ignore_it():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
        with shutdown.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with shutdown.StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received == signal.SIGHUP
    finally:
        signal.signal(signal.SIGHUP, before)


def test_commands_compute_in_single_precision_whatever_jax_is_told():
    jax.config.update("jax_enable_x64", True)  # JAX_ENABLE_X64=1
    try:
        assert run_command("train", lambda arguments: jax.config.jax_enable_x64, []) == 0
    finally:
        jax.config.update("jax_enable_x64", False)


def test_a_log_that_is_full_or_closed_ends_no_run():
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    for stream in (Full(), None):
        lines = progress.Lines(stream)
        lines.write("train 8/144 clips")
        lines.flush()


def test_second_signal_acts_at_once(request):
    # A shell's background job ignores Ctrl-C; this test needs Python's own handler.
    request.addfinalizer(
        functools.partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT))
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with shutdown.StopRequest() as stop:
        assert stop.received is None
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
        with pytest.raises(shutdown.Interrupted):
            with stop.interruptible():
                raise AssertionError("must not begin")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)


def test_a_run_told_in_steps_is_as_long_on_any_set_and_resumes(tmp_path):
    """Epochs of two steps, on clips that make a pass of three: all settings follow them."""
    dataset = open_dataset(pack_clips(tmp_path / "set.npz"))  # 14 clips to learn from
    config = small_config("set")
    config.train.batch_size, config.train.epoch_steps, config.train.log_every = 4, 2, 1
    config.optim.milestones, config.checkpoint.keep_every_epochs = (3,), 2
    config.checkpoint.every_epochs = config.checkpoint.keep = 1
    config.knn.every_epochs, config.halp.start_epoch = 2, 3
    config.moco.queue_size = config.halp.queue_entries = 8
    config.halp.update_every = 1
    heard = {}
    for name, epochs in (("whole", (4,)), ("parts", (2, 4))):
        for config.train.epochs in epochs:
            heard[name] = io.StringIO()
            options = {"evaluators": [lambda state: {"seen": float(state.step)}]}
            loop.train(config, tmp_path / name, dataset=dataset, stream=heard[name], **options)
    records = [report.read_metrics(tmp_path / name) for name in heard]
    timing = {"clips_per_s", "model_tflops_per_s", "input_wait"}
    whole, parts = ([{k: r[k] for k in r.keys() - timing} for r in rs] for rs in records)
    assert parts == whole
    assert [r["step"] for r in whole] == list(range(9))
    assert [r["mu"] for r in whole[1:]] == 6 * [0] + 2 * [1]
    rates = [r["learning_rate"] for r in whole[1:]]
    np.testing.assert_allclose(rates, 6 * [0.01] + 2 * [0.001], rtol=1e-6)
    assert [r["step"] for r in whole if "seen" in r] == [0, 4, 8]
    assert whole[-1]["epoch"] == 4.0
    kept = sorted(int(path.name) for path in (tmp_path / "whole" / "checkpoints").iterdir())
    assert kept == [4, 8]
    assert "8 steps: 2.7 passes over 12 clips" in heard["whole"].getvalue()


def test_a_run_keeps_the_name_of_the_split_that_it_took(tmp_path, monkeypatch):
    pack_clips(tmp_path / "set.npz")
    monkeypatch.setattr(train, "train", lambda config, workdir, **_: seen.append(config.data.split))
    config, seen = small_config(str(tmp_path / "set.npz")), []
    config.knn.every_epochs = 0
    for config.data.split in ("", "xsub"):
        train.run(config, tmp_path / "run")
    assert seen == ["xsub", "xsub"]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_the_data_set_of_a_run_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = ["--config=small", "--workdir=run", "--config.data.dir=data/set"]
    assert train.parse_args(typed)[1].data.dir == str(tmp_path / "data/set")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
def test_run_killed_with_sigkill_goes_on_bitwise(tmp_path, capfd, request):
    """The command itself: a whole run; another process that is killed, and its run ended here."""
    request.addfinalizer(lambda: jax.config.update("jax_disable_most_optimizations", False))
    jax.config.update("jax_disable_most_optimizations", True)
    config = small_config()
    config.halp.mu = 0.0  # compiles sooner; tests/test_loop.py has it
    data = tmp_path / "set"
    prepare(data)
    (tmp_path / "config.py").write_text(
        f"from ml_collections import ConfigDict\n"
        f"def get_config(): return ConfigDict({config.to_dict()!r})\n"
    )
    options = [
        f"--config={tmp_path / 'config.py'}", f"--config.data.dir={data}",
        "--config.train.epochs=100", "--config.train.log_every=5",
        "--config.checkpoint.every_epochs=5", "--config.knn.every_epochs=50",
    ]  # fmt: skip

    assert train.main([*options, f"--workdir={tmp_path / 'whole'}"]) == 0
    killed = subprocess.Popen(
        [sys.executable, "-m", "halp_jax.train", *options, f"--workdir={tmp_path / 'killed'}"],
        cwd=ROOT, env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with killed:
        deadline = time.monotonic() + 120
        while not any(r["step"] >= 35 for r in report.read_metrics(tmp_path / "killed")):
            assert killed.poll() is None and time.monotonic() < deadline, killed.stderr.read()
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    assert max(r["step"] for r in report.read_metrics(tmp_path / "killed")) < 300
    assert train.main([*options, f"--workdir={tmp_path / 'killed'}"]) == 0
    assert "resuming from step" in capfd.readouterr().err

    state, step = checkpoint.restore_state(tmp_path / "killed")
    other, _ = checkpoint.restore_state(tmp_path / "whole")
    assert step == 300
    for leaf, reference in zip(jax.tree.leaves(state), jax.tree.leaves(other), strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(reference).tobytes()
    records = [report.read_metrics(tmp_path / workdir) for workdir in ("killed", "whole")]
    assert len({record["step"] for record in records[0]}) == len(records[0])
    knn = [[r["knn_top1"] for r in lines if "knn_top1" in r] for lines in records]
    assert knn[0] == knn[1] and len(knn[0]) == 3
