"""What the frame of a clip is worth: raw coordinates and a random encoder, `view` against `upright`.

    python benchmarks/frames.py --source=FOLDER --out=runs/frames

FOLDER holds the PYSKL annotation files of SETS. Each is prepared with both normalisations, and each
split evaluated by the package's own commands, 1-NN (cosine) and linear probe, as in real_clips.py;
started again it does only what is missing.
"""

import argparse
from pathlib import Path

import real_clips

from halp_jax.datasets import open_source
from halp_jax.datasets.builder import prepare_source

SETS = {
    "pku2p": ("pku_mmd_v1_two_person_3danno.pkl", ("xsub", "xview", "xperf")),
    "nwucla": ("nw_ucla_3danno.pkl", ("xview", "xsub")),
}
FRAMES = ("view", "upright")
ENCODERS = {"raw": "raw coordinates", "random": "random encoder"}


def prepare(source: Path, out: Path, normalize: str) -> None:
    """Writes the data set, once."""
    if not out.exists():
        prepare_source(open_source("pyskl", source), out, normalize=normalize)


def evaluate(out: Path, data: Path, name: str, split: str) -> None:
    """Both encoders by both protocols, at OUT/NAME/SPLIT/ENCODER."""
    options = [f"--config.data.dir={data}", f"--config.data.split={split}", "--config.seed=0"]
    for encoder in ENCODERS:
        for protocol in real_clips.PROTOCOLS:
            job = real_clips.evaluate_job(
                out / name / split / encoder,
                protocol,
                encoder,
                f"{real_clips.CONFIG}:baseline",
                options,
            )
            if not job.result.exists() and (status := real_clips.call(job)):
                raise SystemExit(status)


def report(out: Path) -> str:
    """A Markdown table, a row for each encoder and frame."""
    tasks = [f"{name} {split}" for name, (_, splits) in SETS.items() for split in splits]
    columns = [f"{task} {protocol}" for task in tasks for protocol in real_clips.PROTOCOLS]
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    for encoder, title in ENCODERS.items():
        for frame in FRAMES:
            found = {}
            for path in (out / frame).glob(f"*/*/{encoder}/eval/*.json"):
                result = real_clips.read_result(path)
                found[f"{result['task'].replace(':', ' ')} {result['protocol']}"] = result["top1"]
            cells = [f"{100 * found[c]:.1f}" if c in found else "-" for c in columns]
            lines.append(f"| {title}, {frame} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="folder of the annotation files")
    parser.add_argument("--out", default="runs/frames")
    args = parser.parse_args()
    out = Path(args.out)
    for frame in FRAMES:
        for name, (file, splits) in SETS.items():
            data = out / "data" / frame / name
            prepare(Path(args.source) / file, data, frame)
            for split in splits:
                evaluate(out / frame, data, name, split)
    print(report(out))


if __name__ == "__main__":
    main()
