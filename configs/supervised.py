"""Learning from labels alone: the encoder and a linear layer, at the released settings of fine-tuning.

    python -m halp_jax.train --config=configs/supervised.py --workdir=runs/supervised \\
        --config.data.dir=data/ntu60 --config.data.split=xview

For an encoder that another method has trained use `evaluate --protocol=finetune`, which also reports the
accuracy on the test clips. Here kNN evaluates the features during training.
"""

from halp_jax.configs import default


def get_config():
    config = default.get_config("supervised")
    config.views.crop = (0.5, 1.0)
    config.optim.learning_rate, config.optim.weight_decay = 0.01, 0.0
    config.optim.milestones = (50, 70)
    config.train.epochs = 80
    return config
