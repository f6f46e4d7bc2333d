"""Sets of about a thousand clips: settings found on PKU-MMD's two-person actions, results in RESULTS.md.

    python -m halp_jax.train --config=configs/small.py --workdir=runs/mine --config.data.dir=data/mine
    python -m halp_jax.evaluate --workdir=runs/mine --protocol=knn --stream=concat

A run trains joint, motion and bone side by side, with the mean over frames as feature, for 3,600 steps
whatever the size of the set: MoCo alone for the first 1,200, then HaLP (ten minutes on one core). An
epoch is 100 steps. Variants: halp (the default), moco, cmd, halp_cmd; cmd distils from the first step,
as CMD's authors do.

What the paper's run of 280,000 steps can afford (a slow key encoder, hard views, a small rate, a low
temperature) keeps a short one from learning.
"""

from halp_jax.configs import default

VARIANTS = ("halp", "moco", "cmd", "halp_cmd")


def get_config(variant: str = "halp"):
    default.split_variant(variant, VARIANTS)
    config = default.get_config()
    set_bigru(config)
    config.streams = ("joint", "motion", "bone")
    config.halp.mu = 1.0 if "halp" in variant else 0.0
    config.cmd.nu = 1.0 if "cmd" in variant else 0.0
    config.cmd.topk = config.moco.queue_size // 2  # released: 8192 of 16384
    return config


def set_bigru(config):
    """The small BiGRU in a run of contrast."""
    set_pace(config)
    set_contrast(config)
    config.encoder.width, config.encoder.pooling = 64, "mean"


def set_pace(config):
    """3,600 steps whatever the size of the set, told as 36 epochs, and one probe: for any method."""
    config.data.split = ""
    config.data.max_frames = 256
    config.views.num_frames = config.views.min_frames = 32
    config.optim.milestones = (30,)
    config.train.batch_size = 64
    config.train.epoch_steps = 100
    config.train.epochs = 36
    config.train.log_every = 10
    config.checkpoint.every_epochs = 6
    config.checkpoint.keep_every_epochs = 0
    config.knn.every_epochs = 0
    config.linear.update(
        optimizer="sgd", learning_rate=0.05, batch_size=64, epochs=60, milestones=(40, 50), start_std=0.01,
        keep_rest=True, standardize=True,  # so that raw coordinates can stand beside features
    )  # fmt: skip


def set_contrast(config):
    """What so short a run asks of views, queue and key encoder; HaLP from step 1,200 on."""
    config.views.crop = (0.5, 1.0)
    config.views.shear = 0.3
    config.views.num_corrupted_joints = 8
    config.moco.queue_size = 1024
    config.moco.momentum = 0.99
    config.moco.temperature = 0.1
    config.optim.learning_rate = 0.1
    config.halp.start_epoch = 12
    config.halp.kmeans_mean = "frechet"
    config.linear.num_crops = 2
