"""The paper's other systems and ours on real clips: one preparation, one number of clips seen, one probe.

    python benchmarks/systems.py --sets=data/pku2p:xperf,data/nwucla:xview --seeds=0,1,2 --out=runs/systems
    python -m halp_jax.table runs/systems
    python benchmarks/systems.py --report        # of systems.jsonl, the table of RESULTS.md and the gains of HaLP;
                                                 # --record adds those of --out that it lacks
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 taskset -c 0 python benchmarks/systems.py --time
                                                 # a step of each on clips of noise, and its size

Each row is the `:small` of a config: 230,400 clips seen (64 in each of 3,600 steps; GL-Transformer takes
24), its features by 1-NN, by the linear probe of configs/small.py, and by the one that its authors released.
The budget is printed first. What is done is not done again; --rows=ascal,ms2l takes some of them. Raw
coordinates and untrained encoders stand beside.
"""

import argparse
import itertools
import json
from pathlib import Path

import _steps
import _timing
import pandas as pd
from scipy import stats

from halp_jax import evaluate, methods, sweep, table
from halp_jax.configs import aimclr
from halp_jax.evaluation import paper
from halp_jax.methods.base import Spec
from halp_jax.options import parse_config
from halp_jax.skeletons.layout import NTU25

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
RECORD = Path(__file__).with_name("systems.jsonl")
STEPS, PROBES = 3600, 120  # and what both evaluations take, about, in seconds
SMALL = aimclr.get_config("small")
SET_IN = SMALL.halp.start_epoch  # HaLP does, in this epoch of every small config
NARROW = ["encoder.name=stgcn"]
NARROW += [
    f"encoder.stgcn.{name}={SMALL.encoder.stgcn[name]}"
    for name in ("width", "last_width", "start_std", "dropout")
]
NARROW += [f"views.{name}={SMALL.views[name]}" for name in ("num_frames", "min_frames")]
# name: (config, variants, about how many seconds a step takes one core with two bodies of 25 joints,
# settings)
ROWS = {
    "moco": ("small", "moco,halp", 0.05, []),
    "predict": ("predict", "small", 0.12, []),
    "ms2l": ("ms2l", "small", 0.17, []),
    "ascal": ("ascal", "small,small+normalized,small+normalized+halp", 0.07, []),
    "gltransformer": ("gltransformer", "small", 0.15 * 64 / 24, []),
    "moco_stgcn": ("small", "moco,halp", 0.12, NARROW),
    "aimclr": ("aimclr", "small+skeletonclr,small,small+halp", 0.18, []),
    "isc": ("isc", "small,small+halp", 0.2, []),
    "crossclr_b": ("crossclr", "small+bigru,small+bigru+halp", 0.2, []),
    "crossclr": ("crossclr", "small", 0.2, []),
    "cmd": ("small", "cmd,halp_cmd", 0.15, []),
}

# The config whose linear protocol is the row's own. P&C's own is 1-NN.
OWN = {
    "moco": "halp.py:ntu60_xsub", "moco_stgcn": "halp.py:ntu60_xsub", "ms2l": "ms2l.py",
    "ascal": "ascal.py:ntu60_xsub", "isc": "isc.py:ntu60_xsub",
    "gltransformer": "gltransformer.py", "aimclr": "aimclr.py:ntu60_xsub", "crossclr": "crossclr.py:ntu60_xsub",
    "crossclr_b": "crossclr.py:ntu60_xsub+bigru", "cmd": "cmd.py:ntu60_xsub",
}  # fmt: skip
# A row as tables call it, and as evaluation/paper.py does.
LABELS = {
    "raw": ("raw joints", ""), "random moco": ("untrained BiGRU", ""),
    "moco:moco": ("MoCo, BiGRU", "baseline"), "moco:halp": ("MoCo + HaLP, BiGRU", "HaLP"),
    "cmd:cmd": ("CMD", "CMD"), "cmd:halp_cmd": ("CMD + HaLP", "HaLP+CMD"),
    "random moco_stgcn": ("untrained ST-GCN", ""), "moco_stgcn:moco": ("MoCo, ST-GCN", ""),
    "moco_stgcn:halp": ("MoCo + HaLP, ST-GCN", ""),
    "random aimclr": ("untrained ST-GCN, AimCLR's preparation", ""),
    "aimclr:small+skeletonclr": ("SkeletonCLR", ""), "aimclr:small": ("AimCLR", "aimclr"),
    "aimclr:small+halp": ("AimCLR + HaLP", "aimclr+HaLP"),
    "crossclr:small": ("CrosSCLR, ST-GCN", ""),
    "crossclr_b:small+bigru": ("CrosSCLR-B", "crossclr"),
    "crossclr_b:small+bigru+halp": ("CrosSCLR-B + HaLP", ""),
    "isc:small": ("ISC", "isc"), "isc:small+halp": ("ISC + HaLP", ""),
    "random ascal": ("untrained LSTM", ""), "ascal:small": ("AS-CAL", "ascal"),
    "ascal:small+normalized": ("AS-CAL, normalised", ""),
    "ascal:small+normalized+halp": ("AS-CAL + HaLP, normalised", ""),
    "ascal:small+normalized+halp, draw=slide, lam=0": ("the same without a walk", ""),
    "random predict": ("untrained, P&C's preparation", ""), "predict:small": ("P&C", "predict"),
    "random ms2l": ("untrained, MS2L's BiGRU", ""), "ms2l:small": ("MS2L", "ms2l"),
    "random gltransformer": ("untrained transformer", ""),
    "gltransformer:small": ("GL-Transformer", "gltransformer"),
}  # fmt: skip
STATED = "NTU-60 xsub linear, as stated"
# Differences that are asked for: of HaLP and its host, of hosts, of HaLP and the same pull without a walk.
PAIRS = (
    ("moco:halp", "moco:moco"), ("moco_stgcn:halp", "moco_stgcn:moco"), ("aimclr:small+halp", "aimclr:small"),
    ("cmd:halp_cmd", "cmd:cmd"), ("isc:small+halp", "isc:small"),
    ("crossclr_b:small+bigru+halp", "crossclr_b:small+bigru"),
    ("ascal:small+normalized+halp", "ascal:small+normalized"),
    ("ascal:small+normalized+halp", "ascal:small+normalized+halp, draw=slide, lam=0"),
    ("aimclr:small", "aimclr:small+skeletonclr"), ("aimclr:small", "moco:moco"),
    ("moco_stgcn:moco", "moco:moco"),
)  # fmt: skip


def find_config(name: str) -> str:
    return f"{CONFIGS / ROWS[name][0]}.py"


def find_host(variant: str) -> str:
    """What the variant is without HaLP."""
    return {"halp": "moco", "halp_cmd": "cmd"}.get(variant, variant.removesuffix("+halp"))


def make_options(name: str) -> list[str]:
    """What a row changes of its config; and one stream, as the others have but CrosSCLR and CMD."""
    config, *_, more = ROWS[name]
    one = ["--config.streams=('joint',)"] if config == "small" and name != "cmd" else []
    return [*(f"--config.{setting}" for setting in more), *one]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--sets", help="FOLDER_OR_FILE:SPLIT, with commas between")
    parser.add_argument("--record", action="store_true", help="keep what lies in --out")
    parser.add_argument("--report", action="store_true", help="the table of what is recorded")
    about = "train nothing; processor seconds of a step and parameters of each config"
    parser.add_argument("--time", action="store_true", help=about)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--out", type=Path, default=Path("runs/systems"))
    args = parser.parse_args()
    if not (args.sets or args.record or args.report or args.time):
        parser.error("give --sets=FOLDER:SPLIT, --record, --report or --time")
    return args


def find_own_probe(name: str) -> list[str]:
    """Options that make the linear protocol the one that the row's authors released."""
    if name not in OWN:
        return []
    own = parse_config([f"--config={CONFIGS}/{OWN[name]}"]).linear
    house = parse_config([f"--config={find_config(name)}:{ROWS[name][1].split(',')[0]}"]).linear
    return [f"--config.linear.{k}={v}" for k, v in own.items() if v != house[k]]


def read_protocol(result: dict) -> str:
    """ "linear" is the house's probe, the only one that standardises features; others are the authors'."""
    own = result["protocol"] == "linear" and not result["config"]["linear"]["standardize"]
    return "linear, own" if own else result["protocol"]


def record(out: Path) -> None:
    """Adds the evaluations below the folder `out` to RECORD, those that it does not have."""
    lines = list(map(json.loads, RECORD.read_text().splitlines()))
    there = [line | {"top1": None} for line in lines]
    for path in sorted(out.glob("*/*/*/*/eval/*.json")):
        data, split, row, run = path.parts[-6:-2]
        found = json.loads(path.read_text())
        variant, _, seed = run.rpartition("_")  # VARIANT_SEED, or the encoder
        line = {"data": f"{data} {split}", "row": f"{row}:{variant}" if variant else row}
        line |= {"encoder": found["encoder"], "seed": int(seed) if variant else 0}
        line |= {"protocol": read_protocol(found), "top1": None}
        if line not in there:
            lines.append(line | {"top1": round(found["top1"], 4)})
    RECORD.write_text("".join(json.dumps(line) + "\n" for line in lines))


def report() -> str:
    """Markdown: a line a row, as halp_jax.table writes it; paired differences with their intervals of 95 %."""
    frame = pd.read_json(RECORD, lines=True)
    data = frame.data.replace({"nwucla": "NW-UCLA", "pku2p": "PKU"}, regex=True)
    frame["protocol"] = data + " " + frame.protocol.replace("knn", "1-NN")
    frame["row"] = frame.row.mask(frame.encoder == "random", "random " + frame.row)
    frame["row"] = frame.row.mask(frame.encoder == "raw", "raw")
    frame = frame[frame.row.isin(LABELS)]
    cells = frame.groupby(["row", "protocol"]).top1.agg(["mean", "std", "size"]).reset_index()
    cells = cells.rename(columns={"std": "sd", "size": "count"})
    stated = cells.groupby("row", as_index=False)["count"].max()
    numbers = stated.row.map(lambda row: paper.LINEAR.get(LABELS[row][1], (None,))[0]) / 100
    stated = stated.assign(mean=numbers, protocol=STATED).dropna()
    cells = pd.concat([cells, stated]).assign(paper=None, draws=0, measure="top1")
    cells["sd_over"] = cells.sd.notna().map({True: "seeds", False: ""})
    cells["order"] = cells.protocol == STATED
    place = cells.row.map(list(LABELS).index)
    cells = cells.assign(row=cells.row.map(lambda row: LABELS[row][0]), place=place)
    cells = cells.sort_values(["place", "order", "protocol"], ignore_index=True)
    seeds = frame.pivot(index="row", columns=["protocol", "seed"], values="top1") * 100
    pairs = [pair for pair in PAIRS if {*pair} <= {*seeds.index}]
    gains = pd.DataFrame({
        f"{LABELS[one][0]} - {LABELS[other][0]}": (seeds.loc[one] - seeds.loc[other])
        .dropna().groupby(level=0).apply(_tell_interval)
        for one, other in pairs
    }).fillna("").T  # fmt: skip
    lines = [("", *gains.columns), ("---", *["---:"] * len(gains.columns)), *gains.itertuples()]
    lines = ["| " + " | ".join(line) + " |" for line in lines]
    return table.format_markdown(cells, []) + "\n" + "\n".join(lines)


def _tell_interval(gain: pd.Series) -> str:
    if len(gain) < 3:
        return f"{gain.mean():+.1f} ({len(gain)})"
    half = stats.sem(gain) * stats.t.ppf(0.975, len(gain) - 1)
    return (
        f"{gain.mean():+.1f} [{gain.mean() - half:+.1f}, {gain.mean() + half:+.1f}] ({len(gain)})"
    )


def time_steps(names: list[str]) -> None:
    """Prints a line a config: two bodies of 25 joints, HaLP not on yet, the middle of six steps."""
    for name in names:
        for variant in ROWS[name][1].split(","):
            if find_host(variant) != variant:
                continue
            options = [f"--config={find_config(name)}:{variant}", *make_options(name)]
            config, spec = parse_config(options), Spec(NTU25, 100)
            holder = _steps.Holder(methods.create_state(config, spec))
            step = methods.make_train_step(config, spec)
            run = holder.member(step, _steps.make_batch(config))
            seconds = _timing.time_in_turn({"step": run}, repeats=6)["step"].cpu
            size = len(config.streams) * _steps.count_parameters(config)
            print(
                f"{name + ':' + variant:30}{config.train.batch_size:4} clips{size:10,} parameters "
                f"{seconds:.3f} s",
                flush=True,
            )


def main() -> None:
    args = parse_args()
    if args.time:
        time_steps(args.rows.split(","))
    if args.sets:
        run(args)
    if args.record:
        record(args.out)
    if args.report:
        print(report())


def run(args: argparse.Namespace) -> None:
    """Trains and evaluates what is not done yet, and shows the table."""
    rows = {name: ROWS[name] for name in args.rows.split(",")}
    tasks = [task.rsplit(":", 1) for task in args.sets.split(",")]
    seeds = args.seeds.split(",")
    hours = {
        name: len(tasks) * len(seeds) * len(variants.split(",")) * (STEPS * step + PROBES) / 3600
        for name, (_, variants, step, _) in rows.items()
    }
    each = ", ".join(f"{name} {h:.1f}" for name, h in hours.items())
    print(f"about {sum(hours.values()):.1f} hours of one core: {each}", flush=True)
    for name, (_, variants, _, _) in rows.items():
        for data, split in tasks:
            out = args.out / Path(data).stem / split
            options = [f"--config.data.dir={data}", f"--config.data.split={split}"]
            options += make_options(name)
            file = find_config(name)
            for variant, seed in itertools.product(variants.split(","), seeds):
                runs = [f"--variants={variant}", f"--seeds={seed}", f"--workdir={out / name}"]
                start = [f"--config.checkpoint.keep_every_epochs={SET_IN}"]
                if find_host(variant) != variant:
                    host = out / name / f"{find_host(variant)}_{seed}"
                    start = [
                        f"--config.init_from={host}/checkpoints/{SET_IN * SMALL.train.epoch_steps}"
                    ]
                if status := sweep.main([f"--config={file}", *runs, *options, *start]):
                    raise SystemExit(status)
                evaluate_by_own_probe(name, out / name / f"{variant}_{seed}")
            first = f"--config={file}:{variants.split(',')[0]}"
            for encoder in ("raw", "random") if name == "moco" else ("random",):
                for protocol in ("knn", "linear"):
                    workdir = out / name / encoder
                    if (workdir / "eval" / f"{protocol}_{encoder}.json").exists():
                        continue
                    command = [f"--workdir={workdir}", f"--protocol={protocol}", first, *options]
                    if status := evaluate.main([*command, f"--encoder={encoder}"]):
                        raise SystemExit(status)
    table.main([str(args.out)])


def evaluate_by_own_probe(name: str, workdir: Path) -> None:
    there = map(json.loads, map(Path.read_text, (workdir / "eval").glob("linear*.json")))
    own = find_own_probe(name)
    if not own or "linear, own" in map(read_protocol, there):
        return
    if status := evaluate.main([f"--workdir={workdir}", "--protocol=linear", *own]):
        raise SystemExit(status)


if __name__ == "__main__":
    main()
