"""The demo: the embedded data set and a small BiGRU, minutes on two cores.

    python -m halp_jax.prepare --format=synthetic --clips=1200 --out=runs/demo/data
    python -m halp_jax.train --config=configs/demo.py:moco --workdir=runs/demo/moco \\
        --config.data.dir=runs/demo/data
    python -m halp_jax.train --config=configs/demo.py --workdir=runs/demo \\
        --config.data.dir=runs/demo/data --config.init_from=runs/demo/moco/checkpoints/360

`make demo` runs these, evaluates and draws: MoCo for 60 epochs, and HaLP for the last 20 of them, from
the same state, on the motion stream, with the mean over frames as feature. Variant `halp_cmd` (`make
demo VARIANT=halp_cmd`) trains joint, motion and bone together, CMD from the start and HaLP from epoch
40, and takes about three times as long. The rates fit a run of some hundred steps, not the paper's
280,000: a larger learning rate and a faster key encoder than in configs/halp.py.
"""

from halp_jax.configs import default

VARIANTS = ("halp", "moco", "halp_cmd")
HALP_FROM, EPOCHS = 40, 60


def get_config(variant: str = "halp"):
    default.split_variant(variant, VARIANTS)
    config = default.get_config()
    config.data.split = "xsub"
    config.data.max_frames = 160
    config.views.num_frames = 32
    config.views.min_frames = 32
    config.views.crop = (0.5, 1.0)
    config.views.shear = 0.3
    config.views.num_corrupted_joints = 8
    config.streams = ("motion",)
    config.encoder.width = 64
    config.encoder.pooling = "mean"
    config.moco.queue_size = 1024
    config.moco.momentum = 0.99
    config.moco.temperature = 0.1
    config.halp.mu = 1.0
    config.halp.start_epoch = HALP_FROM
    config.halp.ramp_epochs = 4
    config.halp.kmeans_mean = "frechet"
    config.halp.solver = "geodesic"
    config.halp.estimator = "expected"
    config.optim.learning_rate = 0.1
    config.optim.milestones = (50,)
    config.train.epochs = EPOCHS
    config.train.log_every = 9
    config.checkpoint.every_epochs = 20
    config.checkpoint.keep_every_epochs = HALP_FROM
    config.knn.every_epochs = 20
    config.linear.learning_rate = 0.02
    config.linear.num_crops = 4
    config.linear.epochs = 40
    config.linear.milestones = (25, 35)
    config.linear.standardize = True  # the same probe for coordinates in metres and for features
    if variant == "moco":
        config.halp.mu = 0.0
    if variant == "halp_cmd":
        config.streams = ("joint", "motion", "bone")
        config.cmd.nu = 1.0
        config.cmd.topk = config.moco.queue_size // 2  # released: 8192 of 16384
    return config
