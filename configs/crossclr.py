"""CrosSCLR at the released settings, in three streams or two; with HaLP on it; and a small one.

    python -m halp_jax.train --config=configs/crossclr.py:ntu60_xsub --workdir=runs/crossclr \\
        --config.data.dir=data/ntu60_raw
    python -m halp_jax.evaluate --workdir=runs/crossclr --protocol=linear --stream=together,joint

Variants and the prepared data set are those of configs/aimclr.py; behind a + stand bigru (CrosSCLR-B:
the BiGRU with heads of its own and keys that move) and halp, in this order.
`--config.streams="('joint','motion')"` trains two streams. --stream=together is the authors' probe.
Of CrosSCLR-B no settings were released: data set (prepare as for configs/cmd.py; small: for
configs/small.py), views, rates, epochs and protocols are those of CMD, on whose BiGRU its authors ran it;
the streams meet after half of the epochs, as CrosSCLR's do.
"""

from halp_jax.configs import aimclr, default, halp, small

SPLITS, OPTIONS = aimclr.SPLITS, ("bigru", "halp")


def get_config(variant: str = ""):
    name, options = default.split_variant(variant, SPLITS, OPTIONS)
    config = default.get_config("crossclr")
    config.data.split = SPLITS[name]
    config.streams = ("joint", "motion", "bone")
    if "bigru" in options:
        set_cmds(config, halp.PKU2 if name == "pku2_xsub" else halp.NTU)
        if name == "small":
            small.set_bigru(config)
    else:
        aimclr.set_released(config)
        if name == "small":
            aimclr.set_small(config)
            # Three streams take three times as long as one of AimCLR's 16.
            config.views.num_frames = config.views.min_frames = 10
    config.crossclr.start_epoch = config.train.epochs // 2
    if "halp" in options:
        config.halp.mu = 1.0
    return config


def set_cmds(config, released):
    """What CrosSCLR-B takes from configs/cmd.py."""
    halp.set_schedule(config, released)
    config.normal_view.kind, config.normal_view.prepare = "moco", "none"
    config.crossclr.shared_heads = config.crossclr.frozen_keys = False
    config.moco.queue_size = 16384
    config.linear.learning_rate = 0.1
