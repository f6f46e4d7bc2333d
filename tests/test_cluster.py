"""Several processes are one run: the same losses, one workdir, one end. Real processes, over gloo."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from _cluster_worker import STREAMS, choose_members, make_run
from _runs import prepare, small_config
from test_parallel import by_vmap

from halp_jax.datasets import open_dataset
from halp_jax.errors import UserError
from halp_jax.evaluation.knn import make_knn_evaluator
from halp_jax.training import checks, cluster, loop, report, shutdown

ROOT = Path(__file__).parents[1]
LIMIT = 600  # seconds for what takes 30 when the machine is quiet


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(count, devices, *program):
    """`count` processes of so many CPU devices each, which find one another."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}", "JAX_NUM_PROCESSES": str(count),
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *map(str, program)], cwd=ROOT, text=True,
            env=environment | {"JAX_PROCESS_ID": str(number)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )
        for number in range(count)
    ]  # fmt: skip


def finish(processes):
    """(exit status, what it said) of each; none outlives the test."""
    try:
        return [
            (p.returncode, said) for p in processes for said in [p.communicate(timeout=LIMIT)[1]]
        ]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def write_config(path, config):
    path.write_text(
        f"from ml_collections import ConfigDict\n"
        f"def get_config(): return ConfigDict({config.to_dict()!r})\n"
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "set"
    prepare(path)
    return path


def command_config():
    config = small_config()
    config.halp.mu = 0.0  # compiles sooner; the worker has it
    config.train.num_devices, config.train.log_every = 0, 1
    return config


def reference(method, num_steps):
    """The run of one process: four shares of the batch on one device."""
    step, state, batches = make_run(method, num_steps)
    run, losses = by_vmap(step, 4), []
    for batch in batches:
        state, metrics = run(state, batch)
        losses.append([float(metrics["loss"]), float(metrics["loss_halp"])])
    return losses, np.asarray(state.extra["prototypes"])


def run_workers(data, out, count, num_steps):
    """What each process has seen, and how it ended."""
    (out / "file").write_text("a file in the place of the folder")
    write_config(out / "config.py", command_config())
    worker = ROOT / "tests" / "_cluster_worker.py"
    with checks.lock_workdir(out / "locked"):
        ends = finish(start(count, 4 // count, worker, data, out, num_steps))
    files = [out / f"{number}.json" for number in range(count)]
    assert all(file.exists() for file in files), ends
    return [json.loads(file.read_text()) for file in files], ends


def check_steps(seen, num_steps, tolerance):
    for method in STREAMS:
        losses, prototypes = reference(method, num_steps)
        assert len(losses) == num_steps and losses[0] != losses[-1]
        for driver in (driver for name, driver in choose_members(num_steps) if name == method):
            runs = [process[f"{method} {driver}"] for process in seen]
            assert all(run["losses"] == runs[0]["losses"] for run in runs)
            assert len({held for run in runs for held in run["held"]}) == 1, "prototypes differ"
            np.testing.assert_allclose(runs[0]["losses"], losses, tolerance, tolerance)
            np.testing.assert_allclose(runs[0]["prototypes"], prototypes, 0, 100 * tolerance)


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("pair")
    return *run_workers(data, out, 2, 4), out


@pytest.mark.long
def test_two_processes_take_the_steps_of_one(pair):
    check_steps(pair[0], 4, 1e-5)


@pytest.mark.long
def test_processes_share_and_agree(pair):
    seen = [process["exchange"] for process in pair[0]]
    assert [s["share"] for s in seen] == [[0, 1, 2, 3], [4, 5, 6, 6]]
    half = np.array([0.1]).astype(jax.numpy.bfloat16).tobytes().hex()
    for s in seen:
        assert s["gathered"] == list(range(7)) and s["kind"] == "int64"
        assert s["pairs"] == [[i, -i] for i in range(7)]
        assert s["exchanged"][0] == "näh 0 "
        assert s["exchanged"][1].startswith("näh 1 näh 1") and len(s["exchanged"][1]) > 800
        assert s["first"] == 5 and all(s["shapes"])
        assert s["from_first"] == {
            "zero": ["0000008000000000", "float32"], "half": [half, "bfloat16"],
            "flag": ["01", "bool"], "none": ["", "float32"], "count": ["07000000", "int32"],
        }  # fmt: skip
        assert s["alike"] is None and s["together"] is None
        assert s["not alike"][0] == "AgreedError"
        assert "process 1 has another colour than process 0" in s["not alike"][1]
        assert s["one failed"][0] == "AgreedError"
    assert [s["one failed"][1] for s in seen] == ["process 1: broken here", "broken here"]


@pytest.mark.long
def test_what_one_process_cannot_do_is_refused_by_all_in_one_line(pair):
    seen, _, out = pair
    for what, said in {
        "locked": f"another run (process {os.getpid()}) is at work in {out / 'locked'}",
        "file": f"cannot write to {out / 'file'}",
        "differ": "process 1 has another config than process 0; start all of them alike",
    }.items():
        for number, process in enumerate(seen):
            status, error = process[what]
            assert status == 1 and error.count("\n") == 1, error
            known = "" if number == 0 or what == "differ" else "process 0: "
            assert error.startswith(f"error: {known}{said}")
    assert not (out / "new").exists()


@pytest.mark.long
def test_a_process_that_fails_alone_ends_all_with_one_line(pair):
    """The other one waits for it in a sum; it is not left to wait."""
    first, second = pair[1]
    lines = [line for line in first[1].splitlines() if "rror" in line]
    assert (first[0], second[0]) == (1, 1)
    assert lines[-1] == "error: process 1: the roof is on fire"


def metrics(workdir):
    timing = {"clips_per_s", "model_tflops_per_s", "input_wait"}
    records = report.read_metrics(workdir)
    assert [r["step"] for r in records] == sorted({r["step"] for r in records})
    return {r["step"]: {k: v for k, v in r.items() if k not in timing} for r in records}


def run_here(data, workdir, num_devices, config):
    config.train.num_devices, config.data.dir = num_devices, str(data)
    dataset = open_dataset(data)
    evaluator = make_knn_evaluator(config, dataset)
    return loop.train(
        config, workdir, dataset=dataset, evaluators=[evaluator], stream=io.StringIO()
    )


@pytest.mark.long
def test_run_of_two_stopped_in_one_process_goes_on_in_one(data, tmp_path):
    """SIGTERM to one of them; both save the same step; one process with other devices ends it."""
    config = command_config()
    config.train.epochs, config.knn.every_epochs, config.checkpoint.every_epochs = 50, 25, 25
    write_config(tmp_path / "config.py", config)
    workdir = tmp_path / "broken"
    processes = start(
        2, 2, "-m", "halp_jax.train", f"--config={tmp_path / 'config.py'}",
        f"--config.data.dir={data}", f"--workdir={workdir}",
    )  # fmt: skip
    deadline = time.monotonic() + LIMIT
    while not any(r["step"] >= 10 for r in report.read_metrics(workdir)):
        assert all(p.poll() is None for p in processes) and time.monotonic() < deadline
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGTERM)
    ends = finish(processes)
    step = max(metrics(workdir))
    assert [status for status, _ in ends] == [143, 143], ends
    assert all(f"SIGTERM: saved step {step} in {workdir}" in said for _, said in ends)
    assert 10 <= step < 150 and (workdir / "checkpoints" / str(step)).is_dir()

    run_here(data, workdir, 1, config)
    run_here(data, tmp_path / "whole", 4, config)
    check_same_run(metrics(workdir), metrics(tmp_path / "whole"), 150)


def check_same_run(found, expected, last_step):
    """The same lines, but for the order in which devices add up."""
    assert found.keys() == expected.keys() and max(expected) == last_step
    for number, record in expected.items():
        assert found[number].keys() == record.keys()
        for name in {"loss", "contrast_accuracy", "knn_top1", "epoch"} & record.keys():
            value = found[number][name]
            assert value == pytest.approx(record[name], rel=1e-3, abs=1e-3), (number, name)


@pytest.mark.slow
def test_a_run_on_eight_devices_goes_on_on_four_and_ends_on_one(data, tmp_path):
    config = command_config()
    config.checkpoint.every_epochs, config.knn.every_epochs = 3, 3
    write_config(tmp_path / "config.py", config)
    command = ("-m", "halp_jax.train", f"--config={tmp_path / 'config.py'}")
    command += (f"--config.data.dir={data}",)
    parts = {"broken": ((8, 3), (4, 6), (1, 9)), "whole": ((1, 9),)}
    for workdir, legs in parts.items():
        for devices, epochs in legs:
            options = (f"--workdir={tmp_path / workdir}", f"--config.train.epochs={epochs}")
            ((status, said),) = finish(start(1, devices, *command, *options))
            assert status == 0, said
    check_same_run(metrics(tmp_path / "broken"), metrics(tmp_path / "whole"), 27)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_twenty_steps_of_two_and_of_four_processes(data, tmp_path, count):
    seen, ends = run_workers(data, tmp_path, count, 20)
    assert [status for status, _ in ends] == [1] * count
    check_steps(seen, 20, 1e-4)


@pytest.mark.parametrize(
    ("fields", "environment", "expected"),
    [
        ({}, {}, None),
        ({}, {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"}, None),
        ({}, {"SLURM_STEP_NUM_TASKS": ""}, None),
        ({}, {"SLURM_STEP_NUM_TASKS": "4"}, {"cluster_detection_method": "slurm"}),
        ({}, {"OMPI_COMM_WORLD_SIZE": "2"}, {"cluster_detection_method": "ompi"}),
        ({}, {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        ({}, {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({"coordinator": "auto"}, {"SLURM_STEP_NUM_TASKS": "4"}, {}),
        ({"coordinator": "h:1", "num_processes": 2, "process_id": 0}, {}, ("h:1", 2, 0)),
        ({}, ("h:1", "2", "1"), ("h:1", 2, 1)),
        ({}, ("h:1", "1", "0"), ("h:1", 1, 0)),
        ({"process_id": 1}, ("h:1", "2", "0"), ("h:1", 2, 1)),  # the config comes first
        ({"num_processes": 2, "process_id": 0}, ("[::1]:80", "", ""), ("[::1]:80", 2, 0)),
        ({"process_id": 1}, {}, "without coordinator: set --config.cluster.coordinator or JAX_COO"),
        ({}, ("h:1", "2", ""), "without process_id: .*JAX_PROCESS_ID"),
        ({}, ("", "2", "1"), "without coordinator"),
        ({}, ("h:1", "2", "2"), "process 2 of 2"),
        ({}, ("h:1", "2", "-3"), "process -3 of 2"),
        ({}, ("h:1", "two", "1"), "'two' processes.*whole numbers"),
        ({}, ("h", "2", "1"), "HOST:PORT"),
        ({}, ("h:port", "2", "1"), "HOST:PORT"),
    ],
)
def test_the_cluster_is_found(fields, environment, expected):
    if isinstance(environment, tuple):
        environment = dict(zip(cluster.VARIABLES.values(), environment, strict=True))
    config = small_config().cluster
    config.update(fields)
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            cluster.find_cluster(config, environment)
        return
    found = cluster.find_cluster(config, environment)
    if isinstance(expected, tuple):
        names = ("coordinator_address", "num_processes", "process_id")
        assert tuple(found[name] for name in names) == expected
        assert found["cluster_detection_method"] == "deactivate"
    else:
        assert found == expected


def test_a_process_on_its_own_agrees_with_itself():
    rows = np.arange(5)
    assert cluster.local_shard(rows).tolist() == cluster.gather(rows, 5).tolist() == rows.tolist()
    assert cluster.exchange("x" * 2000) == ["x" * 2000] and cluster.broadcast_scalar(3) == 3
    cluster.assert_same_on_all("thing", object)
    with pytest.raises(UserError, match="^mine$") as error:
        with cluster.fail_together():
            raise UserError("mine")
    assert shutdown.leave(error.value) == 1 and not isinstance(error.value, cluster.AgreedError)
    with cluster.interrupts():  # alone, Ctrl-C is the loop's
        assert signal.getsignal(signal.SIGINT) is not None


def test_any_error_is_told_in_one_line(monkeypatch):
    lost = jax.errors.JaxRuntimeError("UNKNOWN: Gloo failed:\nConnection closed by peer")
    assert (
        shutdown.describe(lost)
        == "JaxRuntimeError: UNKNOWN: Gloo failed: Connection closed by peer"
    )
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    assert "the same command, started in all of them, resumes" in shutdown.describe(lost)
    assert shutdown.describe(UserError("as it is")) == "as it is"
    assert shutdown.describe(MemoryError()) == "MemoryError"


def test_process_0_prepares_for_all_and_they_end_alike(tmp_path):
    command = ["-m", "halp_jax.prepare", "--format=synthetic", "--clips=20", "--workers=0"]
    said = finish(start(2, 1, *command, f"--out={tmp_path / 'set'}"))
    assert [status for status, _ in said] == [0, 0] and (tmp_path / "set").is_dir()
    said = finish(start(2, 1, *command, f"--out={tmp_path / 'set'}"))
    assert [status for status, _ in said] == [1, 1]
    for _, text in said:
        (line,) = [line for line in text.splitlines() if line.startswith("error")]
        assert "--overwrite" in line
