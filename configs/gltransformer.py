"""GL-Transformer at the released settings of NTU RGB+D; and small ones.

    python -m halp_jax.prepare --format=ntu --source=nturgb+d_skeletons --out=data/ntu60_raw \\
        --normalize=none --bodies=first
    python -m halp_jax.train --config=configs/gltransformer.py --workdir=runs/gltransformer \\
        --config.data.dir=data/ntu60_raw
    python -m halp_jax.evaluate --workdir=runs/gltransformer --protocol=linear

Variants: full, as released (199 million parameters, for accelerators), and small, for sets of about a
thousand clips in the default frame.
"""

from halp_jax.configs import default, predict, small

VARIANTS = ("full", "small")


def get_config(variant: str = "full"):
    default.split_variant(variant, VARIANTS)
    config = default.get_config("gltransformer")
    config.views.num_frames = 300
    config.encoder.name, config.encoder.dim = "transformer", 0
    config.train.batch_size = 128
    config.train.epochs = 120
    config.optim.update(learning_rate=5e-5, weight_decay=0.1, factor=0.99)
    config.optim.milestones = tuple(range(1, config.train.epochs))  # every epoch
    predict.see_whole_clips(config)
    config.linear.update(
        optimizer="adam", learning_rate=3e-3, batch_size=1024, epochs=120, milestones=(), keep_rest=False,
    )  # fmt: skip
    if variant == "small":
        small.set_pace(config)
        config.train.batch_size, config.train.epochs = 24, 96  # as many clips as 36 of 64 a step
        config.views.num_frames = 16
        config.relative_view.up = "z"
        config.encoder.transformer.update(width=2, heads=1, blocks=2, dropout=0.0, drop_path=0.0)
        config.gltransformer.intervals = (1, 5)
        config.optim.update(learning_rate=1e-3, milestones=(80,), factor=0.1)
    return config
