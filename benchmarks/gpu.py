"""Everything that an accelerator can tell about speed, in under ten minutes, into one folder.

    python benchmarks/gpu.py --out=gpu_results [--minutes=9]

Runs the other scripts one after the other, the most important first, each within what is left of
the time; their tables and JSON lines go to OUT/NAME.txt. What did not fit is named at the end, and
the exit status is then 1. Scripts share JAX's compilation cache in OUT.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
# name -> script, options; in the order of what one wants to know first.
RUNS = {
    "step_bf16": ("step", "--precision=bfloat16 --methods=baseline,halp --memory=halp"),
    "step_f32": ("step", "--precision=float32 --methods=baseline,halp --memory=none"),
    "step_tf32": ("step", "--precision=tensorfloat32 --methods=baseline --memory=none"),
    "step_cmd": (
        "step",
        "--precision=bfloat16 --methods=cmd,halp_cmd --members=views,sequence --memory=none",
    ),
    "recurrence": ("recurrence", ""),
    "hallucination": ("hallucination", ""),
    "kmeans": ("kmeans", ""),
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", default="gpu_results")
    parser.add_argument("--minutes", type=float, default=9.0, help="the time there is")
    parser.add_argument("--only", default=",".join(RUNS), help=f"of {', '.join(RUNS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: does it run?")
    args = parser.parse_args()
    if unknown := set(args.only.split(",")) - RUNS.keys():
        parser.error(f"--only={','.join(sorted(unknown))}: give some of {', '.join(RUNS)}")
    end = time.monotonic() + 60 * args.minutes
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")]),
        "JAX_COMPILATION_CACHE_DIR": str((out / "cache").resolve()),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # torch and jax share the card
    }
    missed = []
    for name in args.only.split(","):
        script, options = RUNS[name]
        left, begin = end - time.monotonic(), time.monotonic()
        command = [sys.executable, str(HERE / f"{script}.py"), *options.split()]
        command += ["--quick"] if args.quick else []
        if left < 5:
            missed.append(f"{name} (no time left)")
            continue
        print(f"\n$ {' '.join(command)}", flush=True)
        try:
            done = subprocess.run(
                command, env=environment, timeout=left, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            text, failed = done.stdout, done.returncode
        except subprocess.TimeoutExpired as stopped:
            text, failed = (stopped.stdout or b"").decode(), "stopped: the time was over"
        (out / f"{name}.txt").write_text(text)
        print(text, f"({time.monotonic() - begin:.0f} s)", flush=True)
        if failed:
            missed.append(f"{name} ({failed})")
    if missed:
        print(f"not measured: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
