"""Where the notebooks stand, and the small run that they look at: made once, in two minutes.

Importing it makes the root of the clone the current folder, so paths in a notebook are those of the
README. 01_quickstart types out what `train` here does.
"""

import os
from pathlib import Path

from halp_jax import datasets, train
from halp_jax.skeletons import synthetic

ROOT = Path(__file__).resolve().parents[1]
RUN = Path("runs/notebooks")
DATA = RUN / "clips.npz"
CLIPS = 640
SETTINGS = {
    "data.dir": DATA, "train.epochs": 60, "train.num_devices": 1, "moco.queue_size": 512,
    "halp.start_epoch": 42, "halp.ramp_epochs": 6, "optim.milestones": (52,), "train.log_every": 5,
    "checkpoint.every_epochs": 6, "checkpoint.keep": 10, "knn.every_epochs": 20,
}  # fmt: skip
os.chdir(ROOT)


def make_clips(seed: int = 0, count: int = CLIPS) -> datasets.ArrayDataset:
    """`count` synthetic clips of twenty actions; people of odd numbers train, the others test."""
    frames = [synthetic.make_clip(seed, index) for index in range(count)]
    facts = [synthetic.clip_facts(index) for index in range(count)]
    split = {"train": [], "test": []}
    for index, (_, subject, *_) in enumerate(facts):
        split["train" if subject % 2 else "test"].append(index)
    labels = [label for label, *_ in facts]
    names = synthetic.CLASS_NAMES
    return datasets.from_arrays(
        frames, labels, layout="ntu25", class_names=names, splits={"xsub": split}
    )


def settings(**changes) -> list[str]:
    """SETTINGS as options of a command."""
    return [f"--config.{name}={value}" for name, value in (SETTINGS | changes).items()]


def make_data() -> None:
    """Packs the clips into DATA, once."""
    if not DATA.exists():
        DATA.parent.mkdir(parents=True, exist_ok=True)
        datasets.pack(make_clips(), DATA)


def make() -> Path:
    """The workdir of the small run; trains it where it is not there yet, and resumes where it stopped."""
    make_data()
    if train.main(["--config=configs/demo.py", f"--workdir={RUN}", *settings()]):
        raise SystemExit("the small run did not train; see the message above")
    return RUN
