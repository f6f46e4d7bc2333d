"""The same global batch on 1, 2, 4 and 8 devices: the overhead that is ours.

    python benchmarks/scaling.py                    (fake CPU devices: they share the same cores)
    python benchmarks/scaling.py --real             (the devices that jax sees)

Each count of devices is a process of its own that waits for its turn. Fake devices have no more
cores than one of them, so the ideal is the time of one device; what is above it is splitting,
reducing and waiting for one another. With real devices the ideal is a share of that time.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import _steps
import _timing

QUICK = {"width": 32, "batch": 16, "frames": 16, "queue": 256, "repeats": 2, "devices": "1,2"}
QUICK |= {"drivers": "pmap", "layers": 1}


def serve(args) -> None:
    """In the process of one count of devices: a step for each line of standard input."""
    config = _steps.make_config(args, "halp")
    holder = _steps.Holder(config, args.serve)
    run = holder.member(_steps.step_from_clips(config), _steps.make_batch(config), args.drivers)
    _timing.wait(run())
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        _timing.wait(run(0, args.steps))
        seconds = [time.perf_counter() - wall, time.process_time() - cpu]
        print(json.dumps([x / args.steps for x in seconds]), flush=True)


def spawn(args, driver: str, count: int) -> subprocess.Popen:
    environment = dict(os.environ, XLA_PYTHON_CLIENT_PREALLOCATE="false")
    if not args.real:
        flags = os.environ.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}"
        environment["JAX_PLATFORMS"] = "cpu"
    options = [f"--serve={count}", f"--drivers={driver}", f"--steps={args.steps}"]
    return subprocess.Popen(
        [sys.executable, __file__, *options, *_steps.size_options(args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )


def ask(process: subprocess.Popen, question: str = "") -> str:
    if question:
        process.stdin.write(question)
        process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit(f"a process of {__file__} has ended: {process.args}")
    return answer


def main() -> None:
    parser = _timing.make_parser(__doc__)
    _steps.add_size(parser)
    parser.set_defaults(width=256)
    parser.add_argument("--devices", default="1,2,4,8")
    parser.add_argument("--drivers", default="pmap,shard_map")
    parser.add_argument("--real", action="store_true", help="the machine's devices, not fake ones")
    parser.add_argument("--steps", type=int, default=4, help="a sample")
    parser.add_argument("--serve", type=int, default=0, help="for internal use")
    args = _timing.parse(parser, QUICK)
    if args.serve:
        return serve(args)
    counts = [int(count) for count in args.devices.split(",")]
    members = [(driver, count) for driver in args.drivers.split(",") for count in counts]
    processes: dict[tuple[str, int], subprocess.Popen] = {}
    try:
        for member in members:
            processes[member] = spawn(args, *member)
            ask(processes[member])  # one after the other: they compile
        # Only now does this process start its own devices, which it needs for the rates.
        machine, rates = _timing.start("devices", args)
        samples: dict[tuple[str, int], list] = {member: [] for member in members}
        for _ in range(args.repeats):
            for member in members:
                samples[member].append(json.loads(ask(processes[member], "step\n")))
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    report(args, members, samples, machine, rates)


def report(args, members, samples, machine: dict[str, Any], rates: _timing.Rates) -> None:
    from halp_jax.skeletons.layout import NTU25
    from halp_jax.training.report import step_flops

    config = _steps.make_config(args, "halp")
    floor = _timing.floor_seconds(step_flops(config, NTU25), _steps.step_bytes(config), rates)
    rows = []
    one = statistics.median(wall for wall, _ in samples[members[0]])
    for driver, count in members:
        wall, cpu = (statistics.median(x) for x in zip(*samples[driver, count], strict=True))
        # Of fake devices each has a share of the cores, of real ones each has its own.
        ideal = one * members[0][1] / count if args.real else one
        rows.append({
            "member": f"{driver} {count}", "ms": 1e3 * wall, "cpu_ms": 1e3 * cpu,
            "over_ideal": wall / ideal,
            "floor_ms": 1e3 * floor / (count if args.real else 1),
        })  # fmt: skip
    _timing.print_table(rows)
    size = {name: getattr(args, name) for name in ("width", "layers", "batch", "frames", "queue")}
    _timing.print_json(
        "scaling", machine=machine, size=size, real=args.real, repeats=args.repeats,
        steps_a_sample=args.steps, rows=rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
