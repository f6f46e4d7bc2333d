"""The paper's width, rate and epochs on a set of about a thousand clips: minutes on one large GPU.

    python -m halp_jax.train --config=configs/released_small.py:moco --workdir=runs/moco \\
        --config.data.dir=pku2p.npz --config.data.split=xview
    python -m halp_jax.train --config=configs/released_small.py:halp --workdir=runs/halp \\
        --config.data.dir=pku2p.npz --config.data.split=xview \\
        --config.init_from=runs/moco/checkpoints/STEP

pku2p.npz is packed from a data set prepared with --normalize=released. STEP = 200 * steps an epoch,
which is kept. `benchmarks/gpu_real_clips.py` types them. All is as in `configs/halp.py:ntu60_xview`
but the queue, and the probe, which is that of `configs/small.py` so that both tables can be read side
by side.
"""

import runpy
from pathlib import Path

here = Path(__file__).parent
released = runpy.run_path(str(here / "halp.py"))
small = runpy.run_path(str(here / "small.py"))

VARIANTS = ("moco", "halp")


def get_config(variant: str = ""):
    small["default"]["split_variant"](variant, VARIANTS)
    config = released["get_config"]("ntu60_xview")
    # The released queue of 16,384 would hold each of a thousand clips 15 times, as a negative of
    # itself. 1,024 keys are fewer than the clips of an epoch: hardly a clip is there twice, and no
    # key is older than the last epoch.
    config.moco.queue_size = 1024
    config.data.max_frames = 256  # no clip of PKU-MMD's two-person actions is longer
    config.train.log_every = 100
    config.checkpoint.every_epochs = 100
    config.checkpoint.keep = 1
    config.checkpoint.keep_every_epochs = config.halp.start_epoch  # where MoCo and HaLP part
    config.knn.every_epochs = 100
    config.linear = small["get_config"]().linear
    if variant == "moco":
        config.halp.mu = 0.0
    return config
