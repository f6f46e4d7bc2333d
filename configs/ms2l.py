"""MS2L at the released settings of NTU RGB+D; and small ones.

    python -m halp_jax.train --config=configs/ms2l.py --workdir=runs/ms2l --config.data.dir=data/ntu60
    python -m halp_jax.evaluate --workdir=runs/ms2l --protocol=linear

Variants: full, as released, and small, for sets of about a thousand clips.
"""

from halp_jax.configs import default, predict, small

VARIANTS = ("full", "small")


def get_config(variant: str = "full"):
    default.split_variant(variant, VARIANTS)
    config = default.get_config("ms2l")
    config.views.num_frames = 300
    config.encoder.update(
        width=300, num_layers=2, direction="bidirectional", pooling="mean", input_norm=False,
        padding="pooling", dim=0,
    )  # fmt: skip
    config.optim.update(learning_rate=1e-3, weight_decay=0.0, milestones=(30,))
    config.train.batch_size = 256
    config.train.epochs = 60
    predict.see_whole_clips(config)
    config.linear.update(
        optimizer="adam", learning_rate=1e-3, batch_size=256, epochs=60, milestones=(30,)
    )
    if variant == "small":
        small.set_pace(config)
        config.encoder.update(width=48, padding="everywhere")
        config.ms2l.update(head_width=128, dim=64)
    return config
