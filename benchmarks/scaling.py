"""The same global batch on 1, 2, 4 and 8 devices, and in 1, 2 and 4 processes: the overhead that is ours.

    python benchmarks/scaling.py                    (fake CPU devices: they share the same cores)
    python benchmarks/scaling.py --real             (the devices that jax sees)

Each member is a process of its own, or several of one device each (gloo on 127.0.0.1), that waits
for its turn. Fake devices have no more cores than one of them, so the ideal is the time of one
device; with real devices it is a share of that time. Beside it stands one device with the share of
the batch that each of N has, all cores to itself: N of those are what smaller products, and an
optimiser and a k-means on every device, cost without any splitting. What a step takes above them is
reducing and waiting for one another.
"""

import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from typing import Any, NamedTuple

import _steps
import _timing

QUICK = {"width": 32, "batch": 16, "frames": 16, "queue": 256, "repeats": 2, "devices": "1,2"}
QUICK |= {"drivers": "pmap", "layers": 1, "processes": "2"}


class Member(NamedTuple):
    driver: str
    processes: int
    devices: int  # of all processes together
    shares: int = 1  # of the batch; above 1 one device takes one of them, alone

    def __str__(self) -> str:
        if self.shares > 1:
            return f"{self.driver}, {self.shares} x a share alone"
        return f"{self.driver}, {self.devices} devices, {self.processes} processes"


def serve(args) -> None:
    """In a process of one member: a step for each line of standard input."""
    import jax

    from halp_jax.training import cluster

    config = _steps.make_config(args, "halp")
    cluster.join(config)
    batch = {name: cluster.local_shard(rows) for name, rows in _steps.make_batch(config).items()}
    holder = _steps.Holder(_steps.make_state(config), args.serve if jax.process_count() == 1 else 0)
    run = holder.member(_steps.step_from_clips(config), batch, args.drivers)
    _timing.wait(run())
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        _timing.wait(run(0, args.steps))
        seconds = [time.perf_counter() - wall, time.process_time() - cpu]
        print(json.dumps([x / args.steps for x in seconds]), flush=True)


def spawn(args, member: Member) -> list[subprocess.Popen]:
    environment = dict(os.environ, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    if not args.real:
        flags = os.environ.get("XLA_FLAGS", "")
        each = member.devices // member.processes
        environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={each}"
        environment["JAX_PLATFORMS"] = "cpu"
    if member.processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environment["JAX_COORDINATOR_ADDRESS"] = f"127.0.0.1:{free.getsockname()[1]}"
        environment["JAX_NUM_PROCESSES"] = str(member.processes)
    options = [f"--serve={member.devices}", f"--drivers={member.driver}", f"--steps={args.steps}"]
    command = [sys.executable, __file__, *options, *_steps.size_options(args)]
    command.append(f"--batch={args.batch // member.shares}")

    def start(number: int) -> subprocess.Popen:
        own = {"JAX_PROCESS_ID": str(number)} if member.processes > 1 else {}
        return subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment | own
        )

    return [start(number) for number in range(member.processes)]


def ask(processes: list[subprocess.Popen], question: str = "") -> list[str]:
    """Asks all at once -> their answers."""
    for process in processes if question else ():
        process.stdin.write(question)
        process.stdin.flush()

    def read(stream) -> str:
        line = stream.readline()
        while line.startswith("[Gloo]"):  # it talks on standard output
            line = stream.readline()
        return line

    answers = [read(process.stdout) for process in processes]
    if not all(answers):
        raise SystemExit(f"a process of {__file__} has ended: {processes[0].args}")
    return answers


def time_steps(processes: list[subprocess.Popen]) -> tuple[float, float]:
    """(seconds of the slowest, CPU seconds of all) a step."""
    walls, cpus = zip(*map(json.loads, ask(processes, "step\n")), strict=True)
    return max(walls), sum(cpus)


def main() -> None:
    parser = _timing.make_parser(__doc__)
    _steps.add_size(parser)
    parser.set_defaults(width=256)
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--processes", default="2,4", help="of one device each; not with --real")
    parser.add_argument("--drivers", default="pmap,shard_map")
    parser.add_argument("--real", action="store_true", help="the machine's devices, not fake ones")
    parser.add_argument("--steps", type=int, default=4, help="a sample")
    parser.add_argument("--serve", type=int, default=0, help="for internal use")
    args = _timing.parse(parser, QUICK)
    if args.serve:
        return serve(args)
    samples: dict[Member, list] = {}
    for driver in args.drivers.split(","):
        samples |= time_members(args, make_members(args, driver))
    # Only now does this process start its own devices, which it needs for the rates.
    machine, rates = _timing.start("devices", args)
    report(args, samples, machine, rates)


def make_members(args, driver: str) -> list[Member]:
    counts = [int(count) for count in args.devices.split(",")]
    several = [int(count) for count in args.processes.split(",") if not args.real]
    members = [Member(driver, 1, count) for count in counts]
    members += [Member(driver, count, count) for count in several]
    return members + [Member(driver, 1, 1, count) for count in counts if count > 1]


def time_members(args, members: list[Member]) -> dict[Member, list[tuple[float, float]]]:
    """(wall, CPU) seconds of a step, a sample a round, all members in turn. Each process holds 1 GB."""
    processes: dict[Member, list[subprocess.Popen]] = {}
    try:
        for member in members:
            processes[member] = spawn(args, member)
            ask(processes[member])  # one after the other: they compile
        samples: dict[Member, list] = {member: [] for member in members}
        for _ in range(args.repeats):
            for member in members:
                samples[member].append(time_steps(processes[member]))
    finally:
        for process in (each for group in processes.values() for each in group):
            with contextlib.suppress(BrokenPipeError):  # it has ended, and said why
                process.stdin.close()
        for process in (each for group in processes.values() for each in group):
            process.wait()
    return samples


def report(args, samples, machine: dict[str, Any], rates: _timing.Rates) -> None:
    from halp_jax.methods.base import Spec
    from halp_jax.methods.moco import step_flops
    from halp_jax.skeletons.layout import NTU25

    config = _steps.make_config(args, "halp")
    floor = _timing.floor_seconds(step_flops(config, Spec(NTU25)), _steps.step_bytes(config), rates)
    medians = {
        member: [statistics.median(x) for x in zip(*times, strict=True)]
        for member, times in samples.items()
    }
    first = next(iter(medians))
    rows = []
    for member, (wall, cpu) in medians.items():
        # Of fake devices each has a share of the cores, of real ones each has its own.
        count, times = member.devices, 1 if args.real else member.shares
        ideal = medians[first][0]
        if args.real:
            ideal *= first.devices / (count * member.shares)
        alone = medians.get(Member(member.driver, 1, 1, count)) if count > 1 else None
        rows.append({
            "member": str(member), "ms": 1e3 * wall * times, "cpu_ms": 1e3 * cpu * times,
            "over_ideal": wall * times / ideal,
            "over_alone": wall / alone[0] / (1 if args.real else count) if alone else None,
            "floor_ms": 1e3 * floor / (count * member.shares if args.real else 1),
        })  # fmt: skip
    _timing.print_table(rows)
    size = {name: getattr(args, name) for name in ("width", "layers", "batch", "frames", "queue")}
    _timing.print_json(
        "scaling", machine=machine, size=size, real=args.real, repeats=args.repeats,
        steps_a_sample=args.steps, rows=rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
