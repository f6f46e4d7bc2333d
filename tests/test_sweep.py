"""The command `sweep`: its runs, what it skips, resumes and names, and its table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from halp_jax import sweep, table

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
CONFIG = Path(__file__).parents[1] / "configs" / "small.py"


def plan(tmp_path, *options):
    options = [f"--config={CONFIG}", f"--workdir={tmp_path}", *options]
    return sweep.plan(*sweep.parse_args(options))


def call(tmp_path, *options):
    return sweep.main([f"--config={CONFIG}", f"--workdir={tmp_path}", *options])


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """The commands, noted instead of run; those that hold a text of `typed.failing` fail."""

    class Typed(list):
        pass

    found = Typed()
    found.failing = {}  # text -> exit status
    found.tables = []

    def run(self, run, command):
        found.append((run.workdir.name, command[0], *command[-1:]))
        status = next((s for text, s in found.failing.items() if text in " ".join(command)), 0)
        if command[0] == "evaluate" and not status:
            (run.workdir / "eval").mkdir(parents=True, exist_ok=True)
            (run.workdir / "eval" / "knn.json").write_text("{}")
        return status

    monkeypatch.setattr(sweep.Caller, "run", run)
    monkeypatch.setattr(table, "main", lambda folders: found.tables.append(folders) or 0)
    for name in (*sweep.PROCESS, *sweep.PROCESSES, "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_members_are_variants_times_seeds(tmp_path):
    runs = plan(
        tmp_path, "--variants=moco,halp", "--seeds=3,7", "--evaluate=knn,linear",
        "--stream=mean", "--config.train.epochs=40",
    )  # fmt: skip
    assert [m.workdir.name for m in runs] == ["moco_3", "moco_7", "halp_3", "halp_7"]
    assert [m.number for m in runs] == [0, 1, 2, 3]
    trained, *evaluated = runs[3].commands
    assert trained == [
        "train", f"--config={CONFIG}:halp", f"--workdir={tmp_path / 'halp_7'}", "--config.seed=7",
        "--config.train.epochs=40",
    ]  # fmt: skip
    assert [command[2:] for command in evaluated] == [
        ["--protocol=knn", "--stream=mean"], ["--protocol=linear", "--stream=mean"],
    ]  # fmt: skip
    assert plan(tmp_path)[0].workdir.name == "small_0"  # a config without variants


@pytest.mark.parametrize(
    "options, said",
    [
        (["--seeds=0,x"], "whole numbers"),
        (["--seeds="], "whole numbers"),
        (["--seeds=1,1"], "twice"),
        (["--evaluate=knn,nn"], "no protocol 'nn'"),
        (["--config.seed=4"], "--seeds"),
        (["--config.train.epoch=4"], "bad option"),
        (["--variants=none"], "unknown variant"),
        (["--run=2"], "there are 0 to 0"),
        (["--evaluate=transfer"], "no protocol 'transfer'"),
        (["--stream=conact"], "no stream 'conact'"),
        (["--stream=ensemble"], "--stream=mean or concat, not ensemble"),
        (["--evaluate=finetune", "--stream=mean"], "fine-tune streams or ensemble"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(tmp_path, capsys, typed, options, said):
    assert call(tmp_path, *options) == 1
    assert said in capsys.readouterr().err
    assert not typed


def test_a_sweep_runs_all_and_then_nothing(tmp_path, capsys, typed):
    options = ["--variants=moco,halp", "--seeds=0,1", "--evaluate=knn"]
    assert call(tmp_path, *options) == 0
    names = ["moco_0", "moco_1", "halp_0", "halp_1"]
    assert [line[:2] for line in typed] == [
        (name, command) for name in names for command in ("train", "evaluate")
    ]
    assert typed.tables == [[str(tmp_path / name) for name in names]]
    typed.clear()
    assert call(tmp_path, *options) == 0
    assert not typed and len(typed.tables) == 2
    capsys.readouterr()
    assert call(tmp_path, *options, "--list") == 0
    assert capsys.readouterr().out.count(": done\n") == 4 and len(typed.tables) == 2
    # One evaluation more is all that is to do; another setting is to do all.
    assert call(tmp_path, *options[:2], "--evaluate=knn,linear") == 0
    assert [line[1:] for line in typed] == [("evaluate", "--protocol=linear")] * 4
    typed.clear()
    assert call(tmp_path, *options, "--config.train.epochs=50", "--run=3") == 0
    assert [line[:2] for line in typed] == [("halp_1", "train"), ("halp_1", "evaluate")]


def test_a_failed_member_is_named_and_run_alone(tmp_path, capsys, typed):
    options = ["--seeds=0,1,2", "--evaluate=knn"]
    typed.failing[f"workdir={tmp_path}/small_1 --protocol"] = 7
    assert call(tmp_path, *options) == 1
    assert [line[0] for line in typed].count("small_2") == 2  # the others are run all the same
    captured = capsys.readouterr()
    assert f"error: small_1 failed with exit status 7, see {tmp_path}/small_1" in captured.err
    assert "--member=1 runs it alone" in captured.err
    assert "1  small_1: failed, exit status 7" in captured.out
    typed.clear()
    assert call(tmp_path, *options, "--run=1") == 7
    typed.failing.clear()
    assert call(tmp_path, *options, "--run=1") == 0
    assert [line[1] for line in typed] == ["evaluate", "evaluate"]  # it had been trained
    assert "1  small_1: done" in capsys.readouterr().out


def test_a_stopped_sweep_goes_on(tmp_path, capsys, typed):
    options = ["--seeds=0,1", "--evaluate=knn"]
    typed.failing["seed=0"] = 143
    assert call(tmp_path, *options) == 143
    assert len(typed) == 1 and "resumes" in capsys.readouterr().err
    assert call(tmp_path, *options, "--list") == 0
    assert "failed" not in capsys.readouterr().out
    typed.failing.clear()
    assert call(tmp_path, *options) == 0 and len(typed) == 5


def test_a_crash_has_the_exit_status_that_starts_a_job_again(tmp_path, typed):
    typed.failing["seed"] = 134
    assert call(tmp_path, "--run=0") == 134


def test_a_damaged_record_costs_looking_again(tmp_path, typed):
    assert call(tmp_path, "--evaluate=knn") == 0
    for text in ("", "[]", '{"done": 3, "failed": null}', '{"done": [1]}'):
        (tmp_path / "small_0" / sweep.RECORD).write_text(text)
        typed.clear()
        assert call(tmp_path, "--evaluate=knn") == 0
        assert len(typed) == 2


def test_of_several_processes_the_first_evaluates_when_all_are_trained(
    tmp_path, typed, monkeypatch
):
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "1")
    assert call(tmp_path, "--seeds=0,1", "--evaluate=knn") == 0
    assert [line[:2] for line in typed] == [("small_0", "train"), ("small_1", "train")]
    assert not typed.tables and not list(tmp_path.rglob(sweep.RECORD))
    typed.clear()
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    assert call(tmp_path, "--seeds=0,1", "--evaluate=knn") == 0
    assert [line[1] for line in typed] == ["train", "train", "evaluate", "evaluate"]


@pytest.mark.parametrize(
    "environment, place",
    [
        ({}, (0, False)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, (3, True)),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, (0, False)),
        ({"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"}, (1, True)),
    ],
)
def test_a_process_knows_its_place(environment, place):
    assert sweep.find_place(environment) == place


def test_commands_are_typed_logged_and_stopped(tmp_path, monkeypatch):
    """Real processes: a command that fails by itself, and SIGTERM to the sweep, passed on."""
    run = sweep.Run(0, tmp_path / "m", [["train"]])
    with sweep.Caller(0, show=False) as caller:
        assert caller.run(run, ["train", "--config=none.py", f"--workdir={tmp_path}"]) == 1
    shown = tmp_path / "shown"
    shown.write_text("#!/bin/sh\nenv | grep -E 'JAX_|TPU_|SLURM_' | sort\n")
    shown.chmod(0o755)
    for name in ("JAX_NUM_PROCESSES", "JAX_COORDINATOR_ADDRESS", "SLURM_PROCID"):
        monkeypatch.setenv(name, "2")
    monkeypatch.setattr(sweep.sys, "executable", str(shown))
    with sweep.Caller(0, show=False) as caller:  # an evaluation waits for no other process
        for command in ("train", "evaluate"):
            assert caller.run(sweep.Run(0, tmp_path / command, []), [command]) == 0
    told = [(tmp_path / c / sweep.LOG).read_text() for c in ("train", "evaluate")]
    assert "JAX_NUM_PROCESSES=2" in told[0] and "_NUM_PROCESSES" not in told[1]
    assert "COORDINATOR" not in told[1] and "SLURM_PROCID" not in told[1]
    monkeypatch.undo()
    log = (tmp_path / "m" / sweep.LOG).read_text()
    assert "$ python -m halp_jax.train --config=none.py" in log and "error: " in log

    program = (
        "import sys; from halp_jax import sweep\n"
        "sweep.sys.executable = sys.argv[1]\n"
        "sys.exit(sweep.main(sys.argv[2:]))"
    )
    fake = tmp_path / "python"  # stands for a training that runs until it is stopped, and saves
    fake.write_text("#!/bin/sh\ntrap 'echo saved; exit 143' TERM\ntouch begun\nsleep 60 & wait\n")
    fake.chmod(0o755)
    process = subprocess.Popen(
        [sys.executable, "-c", program, fake, f"--config={CONFIG}", "--workdir=w", "--seeds=0,1"],
        cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": str(CONFIG.parents[1])},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert "resumes" in process.communicate(timeout=30)[1]
    assert process.returncode == 143
    assert "saved" in (tmp_path / "w" / "small_0" / sweep.LOG).read_text()
    assert not (tmp_path / "w" / "small_1").exists()
    record = json.loads((tmp_path / "w" / "small_0" / sweep.RECORD).read_text())
    assert record == {"done": [], "failed": None}


@pytest.mark.parametrize("place", ["file", "full"])
def test_a_run_that_cannot_be_written_is_one_line(tmp_path, capsys, place):
    (tmp_path / "file").touch()
    (tmp_path / "full" / "small_0").mkdir(parents=True)
    (tmp_path / "full" / "small_0" / sweep.LOG).symlink_to("/dev/full")
    assert call(tmp_path / place) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"error: cannot write {tmp_path / place}/small_0 (N"
    )  # no folder, no space
