"""AimCLR and its baseline SkeletonCLR at the released settings, with HaLP on either; and small ones.

    python -m halp_jax.prepare --format=ntu --source=nturgb+d_skeletons --out=data/ntu60_raw \\
        --normalize=none --bodies=first
    python -m halp_jax.train --config=configs/aimclr.py:ntu60_xsub --workdir=runs/aimclr \\
        --config.data.dir=data/ntu60_raw
    python -m halp_jax.evaluate --workdir=runs/aimclr --protocol=linear

Variants: ntu60_xsub, ntu60_xview, ntu120_xsub, ntu120_xset, pku1_xsub, pku2_xsub, and small, for sets of
about a thousand clips in the default frame. Behind a +, in this order: skeletonclr (two views instead of
three) and halp. Motion and bone are runs of their own, --config.streams="('bone',)"; the three together:

    python -m halp_jax.evaluate --workdir=runs/aimclr --join=runs/motion --join=runs/bone \\
        --protocol=linear --stream=ensemble

Nobody has released HaLP on AimCLR: its weight and start are our choice. So are those of `small`. Not as
released: every epoch draws new views, where the authors' workers repeat theirs, and of clips of PKU-MMD
longer than 300 frames the first 300 are taken, not the middle ones.
"""

from halp_jax.configs import default, small

SPLITS = {
    "ntu60_xsub": "xsub", "ntu60_xview": "xview", "ntu120_xsub": "xsub", "ntu120_xset": "xset",
    "pku1_xsub": "xsub", "pku2_xsub": "xsub", "small": "",
}  # fmt: skip
OPTIONS = ("skeletonclr", "halp")


def get_config(variant: str = ""):
    name, options = default.split_variant(variant, SPLITS, OPTIONS)
    config = default.get_config("aimclr")
    set_released(config)
    config.data.split = SPLITS[name]
    if name == "small":
        set_small(config)
        config.aimclr.mine_epoch = 18
    if "skeletonclr" in options:
        config.aimclr.extreme_views = False
    if "halp" in options:
        config.halp.mu = 1.0
    return config


def set_released(config):
    """What AimCLR and CrosSCLR have alike."""
    config.encoder.name = "stgcn"
    config.views.num_frames = 50
    config.optim.learning_rate = 0.1
    config.optim.milestones = (250,)
    config.train.batch_size = 128
    config.train.epochs = 300
    config.knn.crop = 1.0
    config.linear.update(
        learning_rate=3.0, batch_size=128, epochs=100, milestones=(80,), crop=(1.0, 1.0),
        test_crop=1.0, num_crops=1, start_std=0.02, keep_rest=False,
    )  # fmt: skip
    config.finetune.crop, config.finetune.test_crop = (1.0, 1.0), 1.0


def set_small(config):
    """A quarter of the width, and the pace of configs/small.py, but half of its 32 frames: half the time."""
    small.set_pace(config)
    small.set_contrast(config)
    config.views.num_frames = config.views.min_frames = 16
    config.normal_view.up = "z"
    config.encoder.stgcn.width, config.encoder.stgcn.last_width = 4, 64
    # For layers so narrow a spread of 0.02 is far too little, and half of their values too much to drop.
    config.encoder.stgcn.start_std = config.encoder.stgcn.dropout = 0.0
    config.linear.num_crops = 1
