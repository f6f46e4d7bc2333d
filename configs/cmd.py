"""CMD: joint, motion and bone trained together, each learning its neighbours from the others.

    python -m halp_jax.train --config=configs/cmd.py:ntu60_xsub --workdir=runs/cmd_ntu60_xsub \\
        --config.data.dir=data/ntu60
    python -m halp_jax.evaluate --workdir=runs/cmd_ntu60_xsub --protocol=linear --stream=joint,ensemble

The data set, prepared with --normalize=released, and the variants are those of `configs/halp.py`,
with its epochs and rates, which are CMD's too. Top-k 8192 and the temperatures are those of CMD's
released code, distillation is on from the first step, and the linear probe has CMD's rate of 0.1.
`--config.streams="('joint','bone')"` trains two streams.
"""

from halp_jax.configs import halp


def get_config(variant: str = ""):
    config = halp.get_config(variant)
    config.streams = ("joint", "motion", "bone")
    config.halp.mu = 0.0
    config.cmd.nu = 1.0
    config.linear.learning_rate = 0.1
    return config
