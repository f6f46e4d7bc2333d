"""launch/: checked by the tools of their kinds, and run as far as one machine can."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / "launch"
ROOT = LAUNCH.parent
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
MANIFESTS = sorted((LAUNCH / "kubernetes").glob("*.yaml"))
# A shell cannot trap a signal that came ignored to it, as Ctrl-C does where tests run in the background.
HEED = """import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])"""
CHECKED = ("1.31", "1.34", "1.37")  # versions of Kubernetes


def run_tool(name, *arguments):
    """A tool of requirements-dev.txt, beside the Python of the tests."""
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed: pip install -r requirements-dev.txt")
    return subprocess.run([path, *arguments], capture_output=True, text=True)


def read_manifest(path):
    yaml = pytest.importorskip("yaml")
    return list(yaml.safe_load_all(path.read_text()))


def run_local(*command, **environment):
    """launch/local.sh; its Python is that of the tests."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.Popen(
        [sys.executable, "-c", HEED, LAUNCH / "local.sh", *map(str, command)], text=True, cwd=ROOT,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"PATH": path} | environment,
    )  # fmt: skip


def make_program(tmp_path, text):
    program = tmp_path / "program.sh"
    program.write_text(f"#!/usr/bin/env bash\ncd '{tmp_path}'\n{text}\n")
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_pass_shellcheck(path):
    result = run_tool("shellcheck", path)
    assert result.returncode == 0, result.stdout
    assert os.access(path, os.X_OK)


@pytest.mark.long
def test_the_dockerfile_passes_hadolint():
    result = run_tool("hadolint", LAUNCH / "Dockerfile")
    assert result.returncode == 0, result.stdout


def test_the_dockerfile_copies_what_is_there():
    text = (LAUNCH / "Dockerfile").read_text()
    kept = (LAUNCH / "Dockerfile.dockerignore").read_text().split()
    for sources in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert any(Path(source).match(keep[1:]) for keep in kept if keep[0] == "!"), source
    for name in re.findall(r"-r (\S+)", text):
        assert (ROOT / name).exists()


@pytest.mark.long
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path):
    """The claim as it is; JobSet is no part of Kubernetes, but what it holds is a Job."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    claim, jobset = read_manifest(path)
    assert jobset["kind"] == "JobSet" and claim["kind"] == "PersistentVolumeClaim"
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": replicated["name"]}}
    for version in CHECKED:
        kubernetes_validate.validate(claim, version, strict=True)
        kubernetes_validate.validate(job | replicated["template"], version, strict=True)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_the_parts_of_a_manifest_fit(path):
    claim, jobset = read_manifest(path)
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    pods = job["parallelism"]
    assert job["completions"] == pods and job["completionMode"] == "Indexed"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    assert volumes["halp"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (mount,) = [m["mountPath"] for m in container["volumeMounts"] if m["name"] == "halp"]
    assert mount != "/halp"  # would hide the image's code
    for name in ("--workdir=", "--config.data.dir="):
        (given,) = [x for x in container["args"] if x.startswith(name)]
        assert given.startswith(f"{name}{mount}/")
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["values"] == [1]  # errors; 143 and crashes start again
    assert rule["onExitCodes"]["containerName"] == container["name"]
    variables = {variable["name"]: variable for variable in container.get("env", [])}
    if variables:
        name, port = variables["JAX_COORDINATOR_ADDRESS"]["value"].split(":")
        jobset_name = jobset["metadata"]["name"]
        assert name == f"{jobset_name}-{replicated['name']}-0-0.{jobset_name}"
        assert int(port) in [p["containerPort"] for p in container["ports"]]
        assert int(variables["JAX_NUM_PROCESSES"]["value"]) == pods * replicated["replicas"]
    else:
        chips = container["resources"]["limits"]["google.com/tpu"] * pods
        x, y = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
        assert int(x) * int(y) == chips
        assert "--config.cluster.coordinator=auto" in container["args"]


def test_local_starts_processes_that_find_one_another(tmp_path):
    program = (  # one write: Gloo prints its own lines in pieces, between anybody's
        "import jax, ml_collections, os; from halp_jax.training import cluster\n"
        "cluster.join(ml_collections.ConfigDict())\n"
        "heard = cluster.exchange(f'process {jax.process_index()}')\n"
        "os.write(1, f'\\nheard {heard}\\n'.encode())"
    )
    process = run_local(2, sys.executable, "-c", program)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    said = re.findall(r"(\[1\] )?heard (\[.*?\])", out)
    assert sorted(said) == [(number, "['process 0', 'process 1']") for number in ("", "[1] ")]


@pytest.mark.parametrize(
    "text, restarts, status, starts",
    [
        ("exit 0", 3, 0, 1),
        ("exit $JAX_PROCESS_ID", 3, 1, 1),  # an error: never again
        ("exit 143", 2, 143, 3),  # saved, and nobody here had asked for it
        ("[[ -e again ]] && exit 0; sleep 0.5; touch again; exit 143", 3, 0, 2),
        # One is killed; what comes of it in the other is not what counts.
        ("if ((JAX_PROCESS_ID)); then kill -9 $$; fi; sleep 1; exit 1", 1, 137, 2),
        # An error of one, a crash of the other that notices.
        ("((JAX_PROCESS_ID)) && exit 1; sleep 1; exit 134", 3, 1, 1),
        # One that does not notice.
        ("((JAX_PROCESS_ID)) && exit 1; trap '' TERM; exec sleep 60", 3, 1, 1),
    ],
)
def test_local_starts_again_what_may_go_on(tmp_path, text, restarts, status, starts):
    program = make_program(tmp_path, f"echo x >> started.$JAX_PROCESS_ID\n{text}")
    process = run_local(2, program, RESTARTS=str(restarts), GRACE="2")
    _, err = process.communicate(timeout=60)
    assert process.returncode == status, err
    assert err.count("again") == starts - 1
    for number in (0, 1):
        assert len((tmp_path / f"started.{number}").read_text().split()) == starts


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_on(tmp_path, signum):
    text = "trap 'touch saved.$JAX_PROCESS_ID; exit 143' TERM\ntouch begun.$JAX_PROCESS_ID\n"
    process = run_local(2, make_program(tmp_path, f"{text}while sleep 0.1; do :; done"))
    deadline = time.monotonic() + 30
    while len(list(tmp_path.glob("begun.*"))) < 2:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signum)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and "again" not in err
    assert len(list(tmp_path.glob("saved.*"))) == 2


def test_local_deals_devices_out(tmp_path):
    program = make_program(tmp_path, 'echo "$JAX_PROCESS_ID has $CUDA_VISIBLE_DEVICES"')
    out, _ = run_local(2, program, CUDA_VISIBLE_DEVICES="5,7").communicate(timeout=30)
    assert sorted(out.splitlines()) == ["0 has 5", "[1] 1 has 7"]
    process = run_local(3, program, CUDA_VISIBLE_DEVICES="5,7")
    assert "3 processes for the 2 devices" in process.communicate(timeout=30)[1]
    assert process.returncode == 2
    for count in ("two", "1000", "9" * 20):
        assert "launch/local.sh 2 python" in run_local(count, "true").communicate(timeout=30)[1]


def test_tpu_pod_types_commands_that_the_hosts_can_run(tmp_path):
    """With a gcloud that notes its arguments; what goes to the hosts is looked at by bash."""
    (tmp_path / "gcloud").write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" > "$0.said"\necho >> "$0.said"\ncase "$*" in '
        '*describe*) echo x >> "$0.looks"; [ $(wc -l < "$0.looks") -gt 1 ] && echo ACTIVE '
        "|| echo PROVISIONING;; esac\n"
    )
    (tmp_path / "gcloud").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ZONE": "z", "POLL": "0.1"}
    environment |= {"TYPE": "v5litepod-16", "RUNTIME": "r", "BUCKET": "b"}

    def type_out(*arguments, **more):
        result = subprocess.run(
            [LAUNCH / "tpu_pod.sh", *arguments], env=os.environ | environment | more,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        said = (tmp_path / "gcloud.said").read_text() if result.returncode == 0 else ""
        return result, said

    result, said = type_out("create", "halp")
    assert result.stdout.splitlines() == ["halp: PROVISIONING", "halp: ACTIVE"]
    _, said = type_out("run", "halp", "python", "-m", "halp_jax.train", "--config.a=it's two")
    command = said.split("--command=")[1]
    assert "--node=all\n--worker=all" in said
    assert subprocess.run(["bash", "-n", "-c", command]).returncode == 0
    (tmp_path / "halp").mkdir()
    (tmp_path / "sudo").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "sudo").chmod(0o755)
    typed = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=os.environ | environment,
        capture_output=True, text=True,
    ).stdout.splitlines()  # fmt: skip
    assert typed[typed.index("--") + 1 :] == [
        "python",
        "-m",
        "halp_jax.train",
        "--config.a=it's two",
    ]
    assert "RestartPreventExitStatus=1" in typed
    assert "delete\nhalp\n" in type_out("delete", "halp")[1]
    assert "export ZONE" in type_out("log", "halp", ZONE="")[0].stderr
    assert "launch/tpu_pod.sh create" in type_out("begin", "halp")[0].stderr


@pytest.mark.slow
def test_local_trains_with_two_processes(tmp_path):
    data = tmp_path / "data"
    prepare = ["-m", "halp_jax.prepare", "--format=synthetic", "--clips=200", f"--out={data}"]
    subprocess.run([sys.executable, *prepare], check=True, cwd=ROOT)
    options = [
        "--config=configs/demo.py", f"--config.data.dir={data}", "--config.encoder.width=16",
        "--config.encoder.num_layers=1", "--config.moco.queue_size=256",
        "--config.train.batch_size=32", "--config.train.epochs=2", "--config.knn.every_epochs=0",
    ]  # fmt: skip
    process = run_local(
        2, sys.executable, "-m", "halp_jax.train", f"--workdir={tmp_path / 'run'}", *options
    )
    _, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    assert '"epoch": 2.0' in (tmp_path / "run" / "metrics.jsonl").read_text()
