"""Bad input, typed at the commands: each must end in one line, with its status, and leave nothing behind.

    sudo python benchmarks/refusals.py       # root: mounts a small tmpfs
    python benchmarks/refusals.py --only=seed,knn

Beside hazards.py, which lets things go wrong under a run that is half done. A tiny data set and run are
made first. Each row types one command in a shell, with its time and memory limited (a minute, 8 GB), and looks
for a status and for words in the last line. `--only`: rows of which the command has one of these words.
"""

import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import _timing
import numpy as np
from reliability import ROOT, make_environment, open_folder

TINY = """import runpy
def get_config():
    c = runpy.run_path("configs/small.py")["get_config"]("halp")
    c.encoder.width, c.encoder.num_layers, c.encoder.dim = 8, 1, 8
    c.moco.queue_size, c.halp.queue_entries, c.halp.num_prototypes = 32, 32, 4
    c.train.batch_size, c.train.epochs, c.train.epoch_steps, c.knn.every_epochs = 8, 2, 2, 0
    c.halp.start_epoch, c.optim.milestones = 1, (2,)
    c.linear.epochs, c.finetune.epochs, c.data.split = 2, 2, "xsub"
    return c
"""
TRAIN = (
    "{python} -m halp_jax.train --config={t}/tiny.py --config.data.dir={t}/data --workdir={t}/new"
)
EVALUATE = "{python} -m halp_jax.evaluate --workdir={t}/run --protocol="
PREPARE = "{python} -m halp_jax.prepare --format=synthetic --clips=60 "

# (command, status, words of its last line); {small} is a disk of 100 kB.
COMMANDS: tuple[tuple[str, int, str], ...] = (
    (PREPARE + "--out={t}/closed >&-", 0, ""),
    ("{python} -m halp_jax.table {t}/run >&-", 0, ""),
    (EVALUATE + "knn --config.knn.k=3 >&-", 0, ""),
    ("{python} -m halp_jax.table {t}/run >/dev/full", 1, "No space left"),
    ("{python} -m halp_jax.table {t}/run 2>/dev/full", 0, ""),
    ("PYTHONIOENCODING=ascii {python} -m halp_jax.table {t}/run", 0, ""),
    (PREPARE + "--out={small}/data", 1, "No space left"),
    ("{python} -m halp_jax.export --data={t}/data --out={small}/set.npz", 1, "No space left"),
    (PREPARE + "--out={t}/data", 1, "exists"),
    (PREPARE + "--out={t}/there", 1, "exists"),
    (TRAIN + " --config.seed=4294967296", 1, "seed"),
    (TRAIN + " --config.optim.milestones=", 1, "milestones"),
    (TRAIN + " --config.optim.milestones=20,x", 1, "milestones"),
    (TRAIN + " '--config.optim.milestones=(3,x)'", 1, "milestones"),
    (TRAIN + " --config.views.num_frames=99999999999", 1, "num_frames"),
    (TRAIN + " --config.data.max_frames=99999999999999999999", 1, "max_frames"),
    (TRAIN + " --config.nothing=1", 1, "nothing"),
    ("JAX_PLATFORMS=cuda " + TRAIN, 1, "cuda"),
    ("JAX_ENABLE_X64=1 " + TRAIN.replace("new", "x64"), 0, ""),
    (TRAIN.replace("tiny.py", "bad.py"), 1, "bad.py"),
    (TRAIN.replace("data ", "nowhere "), 1, "does not exist"),
    (EVALUATE + "linear --config.linear.learning_rate=nan", 1, "learning_rate"),
    (EVALUATE + "linear --config.linear.learning_rate=-1", 1, "learning_rate"),
    (EVALUATE + "knn --config.knn.crop=7", 1, "crop"),
    (EVALUATE + "linear '--config.linear.crop=(2,3)'", 1, "crop"),
    (EVALUATE + "semi '--config.semi.fractions=()'", 1, "fractions"),
    (EVALUATE + "nothing", 1, "nothing"),
    ("cd / && PYTHONPATH={root} " + EVALUATE + "knn --config.knn.k=7", 0, ""),
    ("{python} -m halp_jax.convert --from={t}/garbage.pt --workdir={t}/imported", 1, "garbage.pt"),
    ("{python} -m halp_jax.prepare --format=pyskl --source={t}/shared.pkl --out={t}/o1", 1, "shared.pkl"),
    ("{python} -m halp_jax.prepare --format=pyskl --source={t}/evil.pkl --out={t}/o2", 1, "evil.pkl"),
    ("{python} -m halp_jax.prepare --format=npy --source={t}/nan.npy --out={t}/o3", 1, ""),
    ("launch/local.sh 99999999999999999999 true", 2, "number of processes"),
    ("launch/local.sh 0 true", 2, "number of processes"),
)  # fmt: skip


def lay_out(t: Path) -> None:
    """The tiny data set and run, and the bad files."""
    (t / "tiny.py").write_text(TINY)
    (t / "bad.py").write_text("def get_config(:\n")
    (t / "garbage.pt").write_bytes(os.urandom(1000))
    np.save(t / "nan.npy", np.full((4, 5, 1, 25, 3), np.nan, np.float32))
    (t / "there").mkdir()
    (t / "there" / "thesis.tex").write_text("mine")
    shared: Any = "joints"
    for _ in range(100):
        shared = [shared, shared]
    (t / "shared.pkl").write_bytes(pickle.dumps({"split": {}, "annotations": shared}))
    (t / "evil.pkl").write_bytes(b"cos\nsystem\n(S'touch evil'\ntR.")
    for command in (PREPARE + "--out={t}/data", TRAIN.replace("new", "run"), EVALUATE + "knn"):
        done = type_in(command, t)
        assert done.returncode == 0, done.stderr


def type_in(command: str, t: Path) -> subprocess.CompletedProcess[str]:
    text = command.format(python=sys.executable, t=t, root=ROOT, small=t / "small")
    return subprocess.run(
        ["bash", "-c", f"ulimit -v 16000000; {text}"], cwd=ROOT, env=make_environment(1),
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def judge(command: str, status: int, words: str, t: Path) -> dict[str, str]:
    begin = time.perf_counter()
    done = type_in(command, t)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines and status else ""
    right = done.returncode == status and words in last
    if status:  # a traceback is ours if no line of ours comes after it
        right = right and bool(re.match("error|usage", last))
    shown = re.sub(r"\{python\} -m halp_jax\.|\{t\}/|PYTHONPATH=\{root\} ", "", command)
    return {
        "command": shown.replace("|", "\\|"), "status": str(done.returncode),
        "s": f"{time.perf_counter() - begin:.0f}",
        "its last line": last.replace(str(t), "T").replace("|", "\\|")[:240],
        "": "" if right else "WRONG",
    }  # fmt: skip


def main() -> int:
    parser = _timing.make_parser(__doc__)
    parser.add_argument("--only", default="", help="words of commands, with commas")
    args = _timing.parse(parser, {})
    words, rows = [word for word in args.only.split(",") if word], []
    with open_folder("") as t:
        lay_out(t)
        small = t / "small"
        small.mkdir()
        root = os.geteuid() == 0
        if root:
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", small], check=True)
        try:
            for row in COMMANDS:
                asked = not words or any(word in row[0] for word in words)
                if asked and (root or "{small}" not in row[0]):
                    rows.append(judge(*row, t))
                    print(" | ".join(rows[-1].values()), flush=True)
            kept = (t / "there" / "thesis.tex").read_text() == "mine" and not (
                ROOT / "evil"
            ).exists()
        finally:
            if root:
                subprocess.run(["umount", small], check=True)
    print()
    _timing.print_table(rows)
    print("nothing was lost and nothing executed" if kept else "WRONG: a file was lost or executed")
    return not kept or any(row[""] for row in rows)


if __name__ == "__main__":
    sys.exit(main())
