"""GraphCL on graphs, and HaLP on top of it: the settings of the released unsupervised_TU.

    python -m halp_jax.prepare --format=tu --source=MUTAG.zip --out=data/mutag
    python -m halp_jax.train --config=configs/graphcl.py:MUTAG --workdir=runs/mutag --config.data.dir=data/mutag
    python -m halp_jax.evaluate --workdir=runs/mutag --protocol=svm

Variants: MUTAG, PROTEINS, NCI1, DD, own (your own graphs), and each with HaLP: MUTAG+halp and so on.
"""

import ml_collections

from halp_jax.configs import default

VARIANTS = ("MUTAG", "PROTEINS", "NCI1", "DD", "own")


def get_config(variant: str = "own"):
    name, options = default.split_variant(variant, VARIANTS, ("halp",))
    config = default.get_config("graphcl")
    for section in ("views", "finetune", "semi"):  # of clips
        del config[section]
    del config.data.max_frames, config.knn.crop, config.linear.crop, config.linear.test_crop
    config.streams = ("graph",)
    config.data.split = "all"
    config.encoder = ml_collections.ConfigDict({"width": 32, "num_layers": 3})
    config.optim = ml_collections.ConfigDict({"learning_rate": 0.01})  # of Adam
    config.train.batch_size = 128
    config.train.epochs = 20
    config.checkpoint.every_epochs = 20
    config.checkpoint.keep_every_epochs = 0
    config.knn.every_epochs = 0  # kNN is of ten folds here: see halp_jax.evaluate
    config.svm = svm = ml_collections.ConfigDict()  # 10 folds, C by 5 folds in each, gamma "scale"
    svm.draws = 1 if name in ("NCI1", "DD") else 3  # of the folds, averaged
    config.linear.learning_rate = 0.1
    config.linear.epochs, config.linear.milestones = 60, (40, 50)
    config.linear.num_crops = 1
    config.linear.standardize = True
    # HaLP from the first step on: GraphCL's anchors are apart from the start.
    config.halp.start_epoch = 0
    config.halp.kmeans_mean = "chordal"
    config.halp.update_every = 1  # of prototypes of a bank
    config.halp.mu = 0.5 if options else 0.0
    return config
