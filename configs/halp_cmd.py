"""HaLP+CMD, the best rows of the paper: CMD from the start, HaLP in each of its three streams later.

    python -m halp_jax.train --config=configs/halp_cmd.py:ntu60_xsub --workdir=runs/halp_cmd_ntu60_xsub \\
        --config.data.dir=data/ntu60

The data set, prepared with --normalize=released, and the variants are those of `configs/halp.py`. The
authors released a three-stream model with both losses but neither its training loop nor its schedule;
start epoch and mu are those of their single-stream HaLP, and so is k-means++ (that model's k-means starts
at random keys); the linear probe has CMD's rate. From a trained CMD:
`--config.init_from=runs/cmd_ntu60_xsub/checkpoints/STEP`.
"""

from halp_jax.configs import cmd, halp


def get_config(variant: str = ""):
    config = cmd.get_config(variant)
    config.halp.mu = halp.get_config(variant).halp.mu
    return config
