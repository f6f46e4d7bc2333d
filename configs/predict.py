"""P&C (Predict & Cluster) at the released settings of NTU RGB+D; and small ones.

    python -m halp_jax.prepare --format=ntu --source=nturgb+d_skeletons --out=data/ntu60_raw \\
        --normalize=none
    python -m halp_jax.train --config=configs/predict.py --workdir=runs/predict \\
        --config.data.dir=data/ntu60_raw --config.data.split=xview
    python -m halp_jax.evaluate --workdir=runs/predict --protocol=knn

Variants: full, at the notebook's settings (15,000 steps), and small, for sets of about a thousand clips.
--config.predict.decoder=fixed_weights is the paper's other form.
"""

from halp_jax.configs import default, small

VARIANTS = ("full", "small")


def get_config(variant: str = "full"):
    default.split_variant(variant, VARIANTS)
    config = default.get_config("predict")
    config.views.num_frames = 50
    config.encoder.update(
        direction="bidirectional", input_norm=False, bodies=1, padding="everywhere", dim=0
    )
    config.optim.update(learning_rate=1e-4, weight_decay=0.0, milestones=(), factor=0.95)
    config.train.batch_size = 256
    config.train.epochs, config.train.epoch_steps = 150, 100  # 15,000 steps of any set
    see_whole_clips(config)
    if variant == "small":
        small.set_pace(config)
        config.whole_view.downsample = "linear"
        config.encoder.width = 64
        config.optim.update(learning_rate=1e-3, milestones=())  # adam.decay_steps instead
        config.adam.decay_steps = 100
    return config


def see_whole_clips(config):
    """Evaluation as training: of whole clips, which are not cropped."""
    config.knn.crop = config.linear.test_crop = config.finetune.test_crop = 1.0
    config.linear.crop = config.finetune.crop = (1.0, 1.0)
    config.linear.num_crops = 1
