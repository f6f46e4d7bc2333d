"""What the benchmarks share: members timed in turn, rates of the machine, its name, peak memory.

Two programs are compared only within one run, in turn (A B A B ...), by their medians. Beside the
wall clock stand CPU seconds, summed over all threads: they tell a quiet machine from a shared one.
"""

import argparse
import contextlib
import datetime
import functools
import importlib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LOAD = os.getloadavg()[0]  # of the last minute, others' alone: members compile later


class Timing(NamedTuple):
    wall: float  # seconds a call, median
    cpu: float  # CPU seconds of this process a call, median
    low: float  # shortest and longest wall time
    high: float
    repeats: int


class Rates(NamedTuple):
    """What this machine does when nothing but that is asked of it."""

    flops: float  # float32 matrix product, FLOP/s, the better of jax and torch
    bandwidth: float  # copy, bytes/s, read and written bytes counted


def make_parser(doc: str) -> argparse.ArgumentParser:
    """Options that every benchmark has."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; the median is reported")
    parser.add_argument("--cores", type=int, default=0, help="CPU cores to use; 0: all")
    return parser


def parse(parser: argparse.ArgumentParser, quick: dict[str, Any]) -> argparse.Namespace:
    """The arguments; with --quick the defaults are those of `quick`. Keeps to --cores from here.

    Libraries start threads when they are imported, and those keep the cores that they were born
    with: so the program starts anew on the cores that it may use.
    """
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    args = parser.parse_args()
    mine = sorted(os.sched_getaffinity(0))
    if args.cores and args.cores < len(mine):
        os.sched_setaffinity(0, mine[: args.cores])
        for library in ("OMP", "OPENBLAS", "MKL"):
            os.environ[f"{library}_NUM_THREADS"] = str(args.cores)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    if torch := try_import("torch"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    return args


def try_import(name: str) -> ModuleType | None:
    """An optional peer, or None."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def prepare_torch(precision: str = "float32") -> tuple[str, Callable]:
    """(device, autocast()) of the torch programs, for products of this precision.

    torch's own default would let cuDNN round to TF32 where "float32" was asked for.
    """
    import torch

    device, full = "cuda" if torch.cuda.is_available() else "cpu", precision == "float32"
    torch.set_float32_matmul_precision("highest" if full else "high")
    torch.backends.cudnn.allow_tf32 = not full
    rounded = precision == "bfloat16"
    return device, functools.partial(torch.autocast, device, torch.bfloat16, enabled=rounded)


def note_missing(name: str) -> None:
    print(f"{name} cannot be imported: its rows are left out (pip install -e '.[bench]')")


def wait(result: Any) -> None:
    """Until the device has computed `result`, and torch all that it was asked for."""
    jax.block_until_ready(result)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()


def time_in_turn(
    members: dict[str, Callable[[], Any]],
    *,
    repeats: int = 5,
    warmups: int = 1,
    min_seconds: float = 0.0,
) -> dict[str, Timing]:
    """Times the members A B A B ...; a sample is as many calls as last `min_seconds`."""

    def sample(member: Callable[[], Any], calls: int) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            result = member()
        wait(result)
        return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls

    calls = {}
    for name, member in members.items():
        for _ in range(warmups):
            wait(member())
        once = sample(member, 1)[0] if min_seconds else math.inf
        calls[name] = max(1, math.ceil(min_seconds / once))
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in members}
    for _ in range(repeats):
        for name, member in members.items():
            samples[name].append(sample(member, calls[name]))

    def summarise(pairs: list[tuple[float, float]]) -> Timing:
        walls, cpus = zip(*pairs, strict=True)
        middle = statistics.median
        return Timing(middle(walls), middle(cpus), min(walls), max(walls), repeats)

    return {name: summarise(pairs) for name, pairs in samples.items()}


def measure_rates(quick: bool = False) -> Rates:
    """Rates of the default device; a few seconds."""
    on_cpu = jax.default_backend() == "cpu"
    size = (512 if quick else 2048) if on_cpu else 8192
    length = (2**22 if quick else 2**26) if on_cpu else 2**28  # of the copy, in float32
    x = jax.random.normal(jax.random.key(0), (size, size))
    product = jax.jit(jnp.matmul)
    members = {"jax": lambda: product(x, x)}
    if torch := try_import("torch"):
        y = torch.randn(size, size, device="cuda" if torch.cuda.is_available() else "cpu")
        members["torch"] = lambda: y @ y
    times = time_in_turn(members, repeats=5, min_seconds=0.05)
    flops = 2.0 * size**3 / min(timing.low for timing in times.values())

    vector = jnp.zeros(length)
    shift = jax.jit(lambda x: x + 1.0)
    members = {"jax": lambda: shift(vector)}
    if on_cpu:
        source, target = np.zeros(length, np.float32), np.ones(length, np.float32)
        members["numpy"] = lambda: np.copyto(target, source)
    times = time_in_turn(members, repeats=5)
    return Rates(flops, 8.0 * length / min(timing.low for timing in times.values()))


def floor_seconds(flops: float, num_bytes: float, rates: Rates) -> float:
    """No program can be faster: all FLOPs at the matrix rate, all bytes at the copy's bandwidth."""
    return max(flops / rates.flops, num_bytes / rates.bandwidth)


def describe_machine() -> dict[str, Any]:
    device, torch = jax.devices()[0], try_import("torch")
    cpu = open("/proc/cpuinfo", encoding="utf-8").read().splitlines()
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "cpu": next(
            (x.split(":")[1].strip() for x in cpu if x.startswith("model name")), "unknown"
        ),
        "cores": len(os.sched_getaffinity(0)),
        "device": f"{len(jax.devices())} x {device.device_kind} ({device.platform})",
        "load": round(LOAD, 2),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": torch.__version__ if torch else None,
    }


def read_peak() -> int:
    """The most memory this process has held, bytes.

    Not ru_maxrss: of a program that was started by another that includes the other's.
    """
    lines = open("/proc/self/status", encoding="utf-8").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def reset_peak() -> None:
    """Lets `read_peak` start anew from what is held now, where the kernel can do that."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def report_memory(build: Callable[[], Callable[[], Any]], steps: int = 2) -> None:
    """For a fresh process: builds one member, calls it, prints its memory (bytes) as JSON.

    `steps` is the peak while it runs once it has been compiled, without what the imports hold.
    """
    imported = read_peak()
    member = build()
    wait(member())
    reset_peak()
    for _ in range(steps):
        wait(member())
    found = {"steps": read_peak() - imported, "imports": imported}
    stats = jax.devices()[0].memory_stats()
    if stats and stats.get("peak_bytes_in_use"):
        found["device"] = stats["peak_bytes_in_use"]
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        found["device"] = max(torch.cuda.max_memory_allocated(), found.get("device", 0))
    print(json.dumps(found))


def run_child(arguments: Iterable[str], **environment: str) -> dict[str, Any]:
    """A fresh Python process; -> the JSON of its last line. What it complains of is shown."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | environment,
    )
    return json.loads(done.stdout.splitlines()[-1])


def print_table(rows: list[dict[str, Any]]) -> None:
    """Rows with the same keys as a Markdown table; floats to three digits, None as a dash."""
    head = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_format(row.get(key)) for key in head] for row in rows]
    widths = [max(len(x[i]) for x in [head, *cells]) for i in range(len(head))]
    # The first column holds names, the others figures.
    for line in [head, ["-" * width for width in widths], *cells]:
        first, *rest = line
        padded = [first.ljust(widths[0])] + [
            x.rjust(w) for x, w in zip(rest, widths[1:], strict=True)
        ]
        print("| " + " | ".join(padded) + " |")


def _format(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def print_json(benchmark: str, **fields: Any) -> None:
    """The run as one line of JSON."""
    print(json.dumps({"benchmark": benchmark, **fields}))


def start(title: str, args: argparse.Namespace) -> tuple[dict[str, Any], Rates]:
    """Prints what runs where; -> the machine's description and its rates."""
    machine, rates = describe_machine(), measure_rates(args.quick)
    print(f"{title}: {machine['date']}, {machine['cpu']}, {machine['cores']} core(s), ", end="")
    print(f"{machine['device']}, jax {machine['jax']}, torch {machine['torch']}")
    print(
        f"medians of {args.repeats} in turn; matrix product {rates.flops / 1e9:.0f} GFLOP/s, "
        f"copy {rates.bandwidth / 1e9:.1f} GB/s"
    )
    if machine["load"] > 0.5:
        print(f"NOT QUIET: load {machine['load']} before the start")
    if not machine["torch"]:
        note_missing("torch")
    print()
    machine |= {"gflops": round(rates.flops / 1e9, 1), "gbps": round(rates.bandwidth / 1e9, 2)}
    return machine, rates
