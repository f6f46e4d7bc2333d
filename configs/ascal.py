"""AS-CAL at the released settings; normalised, and HaLP on that; and a small one.

    python -m halp_jax.prepare --format=ntu --source=nturgb+d_skeletons --out=data/ntu60_raw \\
        --normalize=none --bodies=first
    python -m halp_jax.train --config=configs/ascal.py:ntu60_xview --workdir=runs/ascal \\
        --config.data.dir=data/ntu60_raw

Variants: ntu60_xsub, ntu60_xview, ntu120_xsub, ntu120_xset, and small, for sets of about a thousand
clips in the default frame, which resamples the whole clip to 32 frames. Behind a +, in this order:
normalized (unit vectors) and halp, which needs it.

Nobody has released AS-CAL on unit vectors, nor HaLP on it: weight and start are our choice. So are the
settings of `small`.
"""

from halp_jax.configs import default, predict, small

SPLITS = {
    "ntu60_xsub": "xsub", "ntu60_xview": "xview", "ntu120_xsub": "xsub", "ntu120_xset": "xset",
    "small": "",
}  # fmt: skip
OPTIONS = ("normalized", "halp")


def get_config(variant: str = ""):
    name, options = default.split_variant(variant, SPLITS, OPTIONS)
    config = default.get_config("ascal")
    config.data.split = SPLITS[name]
    config.encoder.name, config.encoder.lstm.head = "lstm", False
    config.encoder.dim = config.encoder.lstm.width
    set_small(config) if name == "small" else set_released(config)
    predict.see_whole_clips(config)
    config.ascal.normalize = bool(options)
    if name == "small" and not options:
        # Raw vectors grow: at 0.1 NW-UCLA's run fell apart after 2,700 steps.
        config.optim.learning_rate = 0.01
    if "halp" in options:
        config.halp.mu = 1.0
    return config


def set_released(config):
    config.data.max_frames = config.views.num_frames = 150
    config.moco.temperature = 0.06
    config.optim.milestones = (30,)
    config.train.batch_size = 32
    config.train.epochs = 60
    config.halp.start_epoch = 30
    config.linear.update(
        optimizer="nesterov", learning_rate=1.0, batch_size=32, epochs=90,
        milestones=(15, 35, 60, 75), factor=0.5,
    )  # fmt: skip


def set_small(config):
    small.set_pace(config)
    small.set_contrast(config)
    config.ascal_view.frames, config.ascal_view.shear = "resampled", 0.3
    config.ascal_view.cut_frames = (10, 20)
    config.encoder.dim = config.encoder.lstm.width = 128
