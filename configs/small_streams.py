"""Joint, motion and bone together on sets of about a thousand clips (settings of configs/small.py).

    python -m halp_jax.train --config=configs/small_streams.py:baseline --workdir=runs/moco3 \\
        --config.data.dir=data/pku2p --config.data.split=xview
    python -m halp_jax.train --config=configs/small_streams.py:halp_cmd --workdir=runs/halp_cmd \\
        --config.data.dir=data/pku2p --config.data.split=xview --config.init_from=runs/moco3

Variants: baseline (MoCo for 20 epochs), and from such a baseline, by --config.init_from, 10 epochs
more of moco_longer, halp, cmd or halp_cmd. So short a run has no time to distill from its start, as
the paper's does: all four resume from encoders that MoCo has taught something.
"""

import runpy
from pathlib import Path

small = runpy.run_path(str(Path(__file__).with_name("small.py")))

BASELINE_EPOCHS, MORE_EPOCHS = 20, 10
VARIANTS = ("baseline", "moco_longer", "halp", "cmd", "halp_cmd")


def get_config(variant: str = "baseline"):
    small["default"]["split_variant"](variant, VARIANTS)
    config = small["get_config"]("baseline")
    config.streams = ("joint", "motion", "bone")
    config.optim.milestones = (25,)
    config.train.epochs = BASELINE_EPOCHS
    if variant != "baseline":
        config.train.epochs += MORE_EPOCHS
    if "halp" in variant:
        config.halp.mu = 1.0
        config.halp.start_epoch = BASELINE_EPOCHS
    if "cmd" in variant:
        config.cmd.nu = 1.0
        config.cmd.topk = config.moco.queue_size // 2  # released: 8192 of 16384
    return config
