"""The paper's baseline: MoCo alone, at the settings of `configs/halp.py` with mu = 0.

    python -m halp_jax.train --config=configs/baseline.py:ntu60_xsub \\
        --workdir=runs/baseline_ntu60_xsub --config.data.dir=data/ntu60

The data set, prepared with --normalize=released, and the variants are those of `configs/halp.py`. A
checkpoint every 100 epochs is kept: HaLP may start from it.
"""

from halp_jax.configs import halp


def get_config(variant: str = ""):
    config = halp.get_config(variant)
    config.halp.mu = 0.0
    return config
