"""CrosSCLR at the released settings, in three streams or two; with HaLP on it; and a small one.

    python -m halp_jax.train --config=configs/crossclr.py:ntu60_xsub --workdir=runs/crossclr \\
        --config.data.dir=data/ntu60_raw
    python -m halp_jax.evaluate --workdir=runs/crossclr --protocol=linear --stream=concat,ensemble

Variants and the prepared data set are those of configs/aimclr.py; behind a + stand bigru (CrosSCLR-B:
the BiGRU with heads of its own and keys that move) and halp, in this order.
`--config.streams="('joint','motion')"` trains two streams. Of CrosSCLR-B no settings were released:
start, rates and epochs are those of the ST-GCN.
"""

import runpy
from pathlib import Path

aimclr = runpy.run_path(str(Path(__file__).with_name("aimclr.py")))
SPLITS, OPTIONS = aimclr["SPLITS"], ("bigru", "halp")


def get_config(variant: str = ""):
    name, options = aimclr["default"]["split_variant"](variant, SPLITS, OPTIONS)
    config = aimclr["default"]["get_config"]("crossclr")
    aimclr["set_released"](config)
    config.data.split = SPLITS[name]
    config.streams = ("joint", "motion", "bone")
    if name == "small":
        aimclr["set_small"](config)
        config.encoder.width, config.encoder.pooling = 64, "mean"  # of +bigru
        config.crossclr.start_epoch = 18
    if "bigru" in options:
        config.encoder.name = "bigru"
        config.crossclr.shared_heads = config.crossclr.frozen_keys = False
    if "halp" in options:
        config.halp.mu = 1.0
    return config
