"""HaLP at the released settings: MoCo first, HaLP from `halp.start_epoch` on, in one run.

    python -m halp_jax.prepare --format=ntu --source=nturgb+d_skeletons --out=data/ntu60 \\
        --normalize=released --bodies=slot
    python -m halp_jax.train --config=configs/halp.py:ntu60_xsub --workdir=runs/halp_ntu60_xsub \\
        --config.data.dir=data/ntu60

Variants: ntu60_xsub, ntu60_xview, ntu120_xsub, ntu120_xset, pku2_xsub. The numbers are those of the
authors' scripts: NTU trains 451 epochs and PKU-MMD II 1001. `configs/baseline.py` has the same
variants without HaLP. From a trained baseline, as the authors did it:

    ... --config.init_from=runs/baseline_ntu60_xsub/checkpoints/STEP

with STEP = 200 * steps an epoch (500 for PKU-MMD II), kept by `checkpoint.keep_every_epochs`. HaLP comes
on after one more: the authors' checkpoint_0200 is of 201 epochs. Theirs then waits until 2K + 1 keys
are seen once more, 513 steps (6 epochs of PKU-MMD II); ours has counted those before the checkpoint.
"""

from halp_jax.configs import default

NTU = {
    "epochs": 451, "milestones": (351,), "start_epoch": 201, "mu": 2.0, "linear_rate": 0.005,
}  # fmt: skip
PKU2 = {
    "epochs": 1001, "milestones": (801,), "start_epoch": 501, "mu": 1.0, "linear_rate": 0.001,
}  # fmt: skip
VARIANTS = {
    "ntu60_xsub": ("xsub", NTU),
    "ntu60_xview": ("xview", NTU),
    "ntu120_xsub": ("xsub", NTU),
    "ntu120_xset": ("xset", NTU),
    "pku2_xsub": ("xsub", PKU2),
}


def get_config(variant: str = ""):
    default.split_variant(variant, VARIANTS)
    split, released = VARIANTS[variant]
    config = default.get_config()
    config.data.split = split
    config.halp.mu = released["mu"]
    config.linear.learning_rate = released["linear_rate"]
    set_schedule(config, released)
    return config


def set_schedule(config, released):
    config.halp.start_epoch = released["start_epoch"]
    config.optim.milestones = released["milestones"]
    config.train.epochs = released["epochs"]
