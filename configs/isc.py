"""ISC at the released settings, sequence against graph; with HaLP on it; and a small one.

    python -m halp_jax.train --config=configs/isc.py:ntu60_xsub --workdir=runs/isc --config.data.dir=data/ntu60
    python -m halp_jax.evaluate --workdir=runs/isc --protocol=linear

Variants: ntu60_xsub, ntu60_xview, ntu120_xsub, ntu120_xset, pku2_xsub on the data set of configs/halp.py,
and small, for sets of about a thousand clips in the default frame; behind a +, halp. The sequence encoder
is evaluated, as in the released scripts; --config.isc.feature=graph takes the graph's, both puts them
side by side.

Nobody has released ISC on PKU-MMD II, whose epochs are HaLP's, nor HaLP on ISC: its weight and start are
our choice. So are the settings of `small`: see docs/systems.md.
"""

from halp_jax.configs import default, halp, small

NTU60, NTU120 = (451, (351,)), (351, (251,))  # epochs, milestones
VARIANTS = {
    "ntu60_xsub": NTU60, "ntu60_xview": NTU60, "ntu120_xsub": NTU120, "ntu120_xset": NTU120,
    "pku2_xsub": (halp.PKU2["epochs"], halp.PKU2["milestones"]), "small": None,
}  # fmt: skip
OPTIONS = ("halp",)


def get_config(variant: str = ""):
    name, options = default.split_variant(variant, VARIANTS, OPTIONS)
    config = default.get_config("isc")
    config.encoder.input_norm = False
    config.linear.learning_rate = 0.1
    if name == "small":
        small.set_bigru(config)
        config.encoder.agcn.width = 8
        config.views.num_frames = config.views.min_frames = 12  # two encoders take longer than one
        # Two encoders that know nothing of each other find the newest key before they find the clip: keys
        # drift, and the positive is the newest. A warm-up and a short queue leave little to go by age.
        config.moco.queue_size = 256
        config.optim.warmup_epochs = 6
        config.encoder.input_norm = True
    else:
        config.data.split = name.split("_")[1]
        config.train.epochs, config.optim.milestones = VARIANTS[name]
    if "halp" in options:
        config.halp.mu = 1.0
    return config
