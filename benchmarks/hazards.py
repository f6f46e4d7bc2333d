"""Provokes what goes wrong with real runs, one after the other, and shows what the command says.

    sudo python benchmarks/hazards.py        # root: mounts a small tmpfs and a read-only folder

Each hazard gets a copy of one workdir that was stopped half way (SIGTERM). The run must end in one
line that names it, with a status that is not 0; then the hazard is taken away, the same command is
typed again, and state and metrics must be those of a run that was left in peace, bit by bit.
The clock that jumps is Python's `time.time`. What this machine cannot provoke is left out and said.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import _timing
from reliability import (
    ROOT,
    Run,
    compare,
    is_bitwise,
    make_environment,
    open_folder,
    prepare,
    wait_for,
)

JUMPING = """import time
real, jumps = time.time, (0, -1e5, 1e8, -3600)
time.time = lambda: real() + jumps[int(2 * time.monotonic()) % 4]
"""


class Said(NamedTuple):
    status: int
    line: str  # the last, or all where there is more than one error


class Missing(Exception):
    """The machine cannot provoke this."""


def run_once(run: Run, *options: str, stderr: Any = subprocess.PIPE, **environment: str) -> Said:
    return call([*run.command, *options], stderr, environment)


def call(command: list[str], stderr: Any, environment: dict[str, str]) -> Said:
    done = subprocess.run(
        command, cwd=ROOT, env=make_environment(2) | environment, stdout=subprocess.DEVNULL,
        stderr=stderr, text=True, timeout=600,
    )  # fmt: skip
    lines = (done.stderr or "").splitlines()
    errors = [line for line in lines if line.startswith("error")]
    if (
        "Traceback" in (done.stderr or "") and not errors
    ):  # before a line of ours libraries may show theirs
        print(done.stderr)
        return Said(done.returncode, "TRACEBACK")
    damaged = [line for line in lines if "damaged" in line]
    return Said(done.returncode, " / ".join(errors or damaged or ["(nothing: it goes on)"]))


@contextlib.contextmanager
def mounted(path: Path, *arguments: str) -> Iterator[None]:
    if os.geteuid() != 0:
        raise Missing("mounting needs root")
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", *arguments, path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


# ------------------------------------------------------------------ a hazard each: -> what was said


@contextlib.contextmanager
def little_room(run: Run, left: int) -> Iterator[None]:
    """The workdir is a tmpfs in which `left` bytes are free; what it holds in the end stays."""
    kept = run.workdir.with_name("kept")
    run.workdir.rename(kept)
    room = int(1.3 * size_of(kept)) + 500_000
    with mounted(run.workdir, "-t", "tmpfs", "-o", f"size={room}", "tmpfs"):
        shutil.copytree(kept, run.workdir, dirs_exist_ok=True)
        with open(run.workdir / "filler", "wb") as file, contextlib.suppress(OSError):
            file.write(bytes(room))
        os.truncate(run.workdir / "filler", (run.workdir / "filler").stat().st_size - left)
        yield
        (run.workdir / "filler").unlink()
        shutil.rmtree(kept)
        shutil.copytree(run.workdir, kept)
    shutil.rmtree(run.workdir)
    kept.rename(run.workdir)


def disk_full(run: Run, args: Any) -> Said:
    """the disk is full (a small tmpfs)"""
    with little_room(run, 150_000):
        return run_once(run)


def disk_full_in_evaluate(run: Run, args: Any) -> Said:
    """the disk is full as `evaluate` writes"""
    options = [f"--workdir={run.workdir}", "--protocol=knn"]
    with little_room(run, 0):
        said = call([sys.executable, "-m", "halp_jax.evaluate", *options], subprocess.PIPE, {})
        assert not list((run.workdir / "eval").iterdir())
        return said


def log_full(run: Run, args: Any) -> Said:
    """the log is on a full disk, the workdir is not"""
    with open("/dev/full", "w") as full:
        return run_once(run, stderr=full)


def truncate(step: Path) -> None:
    for path in step.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            os.truncate(path, path.stat().st_size // 2)


def truncated_checkpoint(run: Run, args: Any) -> Said:
    """the newest checkpoint is truncated"""
    truncate(max((run.workdir / "checkpoints").iterdir(), key=lambda path: int(path.name)))
    return run_once(run)


def no_checkpoint_is_whole(run: Run, args: Any) -> Said:
    """all checkpoints are truncated"""
    kept = run.workdir.with_name("kept")
    shutil.copytree(run.workdir, kept)
    truncate(run.workdir / "checkpoints")
    said = run_once(run)
    shutil.rmtree(run.workdir)
    kept.rename(run.workdir)
    return said


def other_config(run: Run, args: Any) -> Said:
    """the workdir is of another config"""
    return run_once(run, "--config.encoder.width=24", "--config.train.batch_size=4")


def read_only(run: Run, args: Any) -> Said:
    """the workdir is read-only"""
    source = str(run.workdir)
    with mounted(run.workdir, "--bind", "-o", "ro", source):
        return run_once(run)


@contextlib.contextmanager
def other_data(args: Any) -> Iterator[Path]:
    """The data set is gone; yields where another one may be. Then it is there again."""
    kept = args.data.with_name("kept_data")
    args.data.rename(kept)
    try:
        yield kept
    finally:
        shutil.rmtree(args.data, ignore_errors=True)
        kept.rename(args.data)


def changed_data(run: Run, args: Any) -> Said:
    """the data set has changed under the run"""
    with other_data(args):
        prepare(args.data, "--seed=1")
        return run_once(run)


def lost_data(run: Run, args: Any) -> Said:
    """the data set is gone"""
    with other_data(args):
        return run_once(run)


def flipped_bit(run: Run, args: Any, names: str, place: Callable[[bytes], int]) -> Said:
    with other_data(args) as kept:
        shutil.copytree(kept, args.data)
        path = next(args.data.glob(names))
        data = bytearray(path.read_bytes())
        data[place(data)] ^= 1
        path.write_bytes(data)
        return run_once(run)


def flipped_record(run: Run, args: Any) -> Said:
    """a bit of a record of the data set has flipped"""
    return flipped_bit(run, args, "*.tfrecord-*", lambda data: len(data) // 3)


def flipped_label(run: Run, args: Any) -> Said:
    """a bit of a label in the data set's halp_dataset.json has flipped"""
    label = b'"labels": ['
    return flipped_bit(run, args, "halp_*.json", lambda data: data.index(label) + len(label))


def foreign_checkpoint(run: Run, args: Any) -> Said:
    """another program's checkpoint, a newer one, lies beside the run's"""
    foreign = run.workdir / "checkpoints" / "999999"
    (foreign / "default").mkdir(parents=True)
    said = run_once(run)
    shutil.rmtree(foreign)  # it has stayed
    return said


def second_run(run: Run, args: Any) -> Said:
    """a second run is started in the workdir"""
    before = run.last_step()
    run.start()
    wait_for(run, lambda: run.last_step() > before, 0.01)
    for process in run.running:
        process.send_signal(signal.SIGSTOP)
    said = run_once(run)
    for process in run.running:
        process.send_signal(signal.SIGCONT)
    run.finish()
    return said


def ask_to_stop(run: Run, signum: int) -> Said:
    before = run.last_step()
    run.start()
    wait_for(run, lambda: run.last_step() > before, 0.01)
    run.running[0].send_signal(signum)
    status = run.running[0].wait(60)
    return Said(status, run.log.read_text().splitlines()[-1])


def sigterm(run: Run, args: Any) -> Said:
    """SIGTERM (preemption)"""
    return ask_to_stop(run, signal.SIGTERM)


def sighup(run: Run, args: Any) -> Said:
    """SIGHUP (the terminal is closed)"""
    return ask_to_stop(run, signal.SIGHUP)


def clock_jumps(run: Run, args: Any) -> Said:
    """the clock jumps twice a second, back by hours, forward by years"""
    folder = run.workdir.with_suffix(".clock")
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(JUMPING)
    return run_once(run, PYTHONPATH=str(folder))


def too_few_processes(run: Run, args: Any) -> Said:
    """two processes are expected, one comes"""
    return run_once(run, "--config.cluster.timeout_seconds=10", **as_member(0, 2, 12356))


def wrong_number(run: Run, args: Any) -> Said:
    """a process has a number that cannot be"""
    return run_once(run, **as_member(5, 2, 12357))


def as_member(number: int, count: int, port: int) -> dict[str, str]:
    return {
        "JAX_PROCESS_ID": str(number), "JAX_NUM_PROCESSES": str(count),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
    }  # fmt: skip


HAZARDS: tuple[Callable[[Run, Any], Said], ...] = (
    disk_full, disk_full_in_evaluate, log_full, truncated_checkpoint, no_checkpoint_is_whole,
    foreign_checkpoint, other_config, read_only, changed_data, lost_data, flipped_record,
    flipped_label, second_run, sigterm, sighup, clock_jumps, too_few_processes, wrong_number,
)  # fmt: skip


def provoke(hazard: Callable[[Run, Any], Said], half: Run, whole: Run, args: Any) -> dict[str, Any]:
    """One row of the table."""
    run = Run(half.workdir.with_name(hazard.__name__), args.data, args)
    shutil.copytree(half.workdir, run.workdir)
    row = {"what happens": hazard.__doc__}
    try:
        said = hazard(run, args)
    except Missing as error:
        return row | {"status": "-", "what it says": f"not provoked: {error}", "afterwards": "-"}
    again = run_once(run)
    found = compare(run.workdir, whole.workdir)
    alike = again.status == 0 and is_bitwise(found)
    line = said.line.replace(str(run.workdir.parent), "runs")
    return row | {
        "status": str(said.status),
        "what it says": line.replace("|", "\\|"),
        "afterwards": "bitwise the unbroken run" if alike else f"DIFFERS: {again} {found}",
    }


def main() -> int:
    parser = _timing.make_parser(__doc__)
    parser.add_argument("--epochs", type=int, default=40, help="of 3 steps")
    parser.add_argument("--halp", type=int, default=1, help="weight of HaLP; 0 compiles sooner")
    parser.add_argument("--only", default="", help="names of hazards, with commas")
    args = _timing.parse(parser, {"halp": 0})
    args.processes, names = 1, [name for name in args.only.split(",") if name]
    machine, rows = _timing.describe_machine(), []
    with open_folder("") as folder:
        args.data = folder / "data"
        prepare(args.data)
        whole, half = (Run(folder / name, args.data, args) for name in ("whole", "half"))
        whole.start()
        whole.finish()
        half.start()
        wait_for(half, lambda: half.last_step() >= whole.last_step() // 2, 0.01)
        half.running[0].terminate()
        assert half.running[0].wait(60) == 143
        for hazard in HAZARDS:
            if not names or hazard.__name__ in names:
                rows.append(provoke(hazard, half, whole, args))
                print(" | ".join(rows[-1].values()), flush=True)
    print()
    _timing.print_table(rows)
    _timing.print_json("hazards", machine=machine, rows=rows)
    return any("DIFFERS" in row["afterwards"] or "TRACEBACK" in row["what it says"] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
