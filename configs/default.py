"""Every setting of a pre-training run and of its evaluation, at the released code's values.

The other configs import this one as halp_jax.configs.default: where halp_jax is installed from a wheel, that is
the installed file, not a copy beside them. Usage:

    python -m halp_jax.train --config=configs/halp.py:ntu60_xsub --workdir=runs/halp --config.data.dir=data/ntu60

A field is overridden on the command line with `--config.section.field=value`; an unknown field or a
value of another type is refused. "Released" means the settings of the authors' PyTorch code.
"""

import ml_collections
from ml_collections import config_dict

from halp_jax.methods import find_method


def get_config(method: str = "moco") -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    config.method = method  # whose sections stand beside these: halp_jax/methods
    config.seed = 0  # every random number of the run follows from it
    config.streams = ("joint",)  # encoders trained side by side: "joint", "motion", "bone"
    # Start from the last checkpoint of this workdir; "" starts anew. What is taken over: "all" (weights,
    # optimiser, queue, prototypes and the step: the run resumes, the paper's warm start) or "encoder".
    config.init_from = ""
    config.init_what = "all"

    config.data = data = ml_collections.ConfigDict()
    # The folder that `python -m halp_jax.prepare --out=...` wrote.
    data.dir = config_dict.placeholder(str)
    # A benchmark: xsub, xview, xset, xperf ... `prepare` prints those it found. "": the only one.
    data.split = "xsub"
    data.max_frames = 300  # longer clips keep their first max_frames frames (released: 300)

    config.views = views = ml_collections.ConfigDict()  # the two augmented views of a clip
    views.num_frames = 64  # frames an encoder sees
    views.crop = (0.1, 1.0)  # temporal crop: range of the share of valid frames that is kept
    views.min_frames = 64  # ... but at least so many frames, where the clip has them
    views.shear_probability = 0.5  # otherwise 15 joints are zeroed or shaken, half and half
    views.shear = 1.0  # off-diagonal entries of the shear ~ U(-shear, shear)
    views.num_corrupted_joints = 15  # joints that are zeroed or shaken (25-joint layouts)

    config.encoder = encoder = ml_collections.ConfigDict()
    # Or "stgcn", "agcn", "lstm", "transformer"; the next seven are the BiGRU's.
    encoder.name = "bigru"
    encoder.width = 1024  # GRU width; features are 2 * width
    encoder.num_layers = 3
    encoder.direction = "forward"  # both streams, as released; or "bidirectional", the textbook's
    encoder.pooling = "last"  # feature: the last frame (released), or the "mean" over frames
    encoder.input_norm = True  # batch norm of the input
    encoder.bodies = 0  # it looks at the first so many of a clip; 0: at all
    # What leaves out the frames after a clip's end: "none" (views have no such frames), "pooling", or
    # "everywhere" (the backward stream, too).
    encoder.padding = "none"
    encoder.dim = 128  # of the embedding that the contrastive loss sees; 0: no head
    encoder.stgcn = stgcn = ml_collections.ConfigDict()  # of the encoder stgcn alone
    stgcn.width = 16  # channels of the first four blocks; three blocks have 2, two 4 times as many
    stgcn.last_width = 256  # channels of the tenth block: the size of the feature
    # How neighbours are told apart: "released" takes all joints beyond the root's own neighbours for
    # equally far away, as the released code's graph does; "distance": by their distance to the root.
    stgcn.graph = "released"
    stgcn.dropout = 0.5
    stgcn.start_std = 0.02  # of the first weights, as released; 0: by their number of inputs (He)
    stgcn.remat = False  # compute blocks again in the backward pass: less memory, more time
    encoder.agcn = agcn = ml_collections.ConfigDict()  # of the encoder agcn alone
    agcn.width = 64  # channels of the first four blocks; three have 2, three 4 times as many
    encoder.lstm = lstm = ml_collections.ConfigDict()  # of the encoder lstm alone
    lstm.width = 256  # of the state: the size of the feature
    lstm.head = True  # without one the feature is the embedding, and encoder.dim its size
    # Of the encoder transformer alone.
    encoder.transformer = transformer = ml_collections.ConfigDict()
    transformer.width = 48  # numbers of a joint of a body; a feature has those of all of them
    transformer.heads = 8  # of either attention
    transformer.blocks = 4
    transformer.dropout = 0.1
    transformer.drop_path = 0.1  # parts of the last block left out at random; of the first none

    config.optim = optim = ml_collections.ConfigDict()  # SGD as torch.optim.SGD
    optim.learning_rate = 0.01
    optim.momentum = 0.9
    optim.weight_decay = 1e-4  # on all parameters, biases and batch norm too
    optim.milestones = (351,)  # epochs at which the rate falls ...
    optim.factor = 0.1  # ... by this factor
    optim.warmup_epochs = 0  # linear from 0 (released: none)

    config.train = train = ml_collections.ConfigDict()
    train.batch_size = 64  # global: split over all devices
    train.epochs = 451
    train.epoch_steps = 0  # steps that all settings call an epoch; 0: a pass over the clips
    # Of the matrix products of encoders and decoders. Sums stay float32, but for the convolution over time
    # of ST-GCN and AGCN in bfloat16. "tensorfloat32" and "bfloat16" are for accelerators.
    train.precision = "float32"
    train.parallel = "pmap"  # or "shard_map": the same step, the other driver
    train.num_devices = 0  # 0: all of them
    train.log_every = 20  # steps between two lines of metrics.jsonl
    train.tensorboard = False  # also write TensorBoard events (pip install tensorboardX)
    train.wandb = False  # also log to Weights & Biases (pip install wandb)

    # Of a run of many processes, where JAX does not find them itself (launch/README.md). Not saved.
    config.cluster = cluster = ml_collections.ConfigDict()
    cluster.coordinator = ""  # HOST:PORT of process 0; "auto": as jax.distributed finds it
    cluster.num_processes = 0
    cluster.process_id = -1  # from 0 on
    cluster.timeout_seconds = 300  # to wait for the others at the start
    cluster.heartbeat_seconds = 100  # after so long without a sign a process counts as lost

    config.checkpoint = checkpoint = ml_collections.ConfigDict()
    checkpoint.every_epochs = 10
    checkpoint.every_minutes = 0.0  # and after so many minutes of one process; 0: not by the clock
    checkpoint.keep = 2  # newest ones kept
    checkpoint.keep_every_epochs = 100  # and each at a multiple, for warm starts; 0: none

    # Nearest neighbours, cosine, on encoder features.
    config.knn = knn = ml_collections.ConfigDict()
    knn.every_epochs = 10  # during training; 0: never
    knn.k = (1,)  # neighbours; several, as 1,5,20, are evaluated one by one
    knn.temperature = 0.0  # 0: a vote each; above: exp(cosine / temperature), DINO's has 0.07
    knn.crop = 0.95  # centre crop, training and test clips
    knn.batch_size = 256

    config.linear = linear = ml_collections.ConfigDict()  # linear probe on the frozen encoder
    linear.optimizer = "sgd"  # or "nesterov", "adam"
    linear.learning_rate = 0.005  # released: NTU 0.005, PKU-II 0.001; CMD's code: 0.1
    linear.momentum = 0.9
    linear.weight_decay = 0.0
    linear.batch_size = 64
    linear.epochs = 80
    linear.milestones = (50, 70)
    linear.factor = 0.1
    linear.crop = (0.5, 1.0)  # random temporal crop of training clips
    linear.test_crop = 0.95  # centre crop of test clips
    # Distinct random crops a clip; 80 = a new one every epoch (released), fewer are reused.
    linear.num_crops = 80
    linear.start_std = 0.01  # of the first weights
    linear.keep_rest = True  # train on the last, smaller batch of an epoch
    # Features to zero mean, unit variance of the training set (released: no).
    linear.standardize = False
    linear.weights = ml_collections.ConfigDict(  # of the streams' scores in --stream=ensemble
        {"joint": 0.6, "motion": 0.4, "bone": 0.6}  # AimCLR's
    )
    linear.eval_every = 5  # epochs between two evaluations on the test set

    # All weights and a linear layer: protocols finetune, transfer (another data set) and semi.
    config.finetune = finetune = ml_collections.ConfigDict()
    finetune.learning_rate = 0.01
    finetune.momentum = 0.9
    finetune.weight_decay = 0.0
    finetune.batch_size = 64  # fewer where there are fewer clips
    finetune.epochs = 80
    finetune.milestones = (50, 70)
    finetune.factor = 0.1
    finetune.crop = (0.5, 1.0)  # random temporal crop of training clips
    finetune.test_crop = 0.95  # centre crop of test clips
    finetune.eval_every = 5  # epochs between two evaluations on the test set
    finetune.save_minutes = 5.0  # between two saves of a run that is not done; 0: only when stopped
    # finetune, transfer: write the fine-tuned encoder beside the result.
    finetune.keep_weights = True

    config.semi = semi = ml_collections.ConfigDict()  # finetune on a share of the labels
    semi.fractions = (0.01, 0.05, 0.1, 0.2)
    semi.runs = 5  # draws of each fraction
    semi.draw = "plain"  # of all clips (released), or "balanced" over the classes

    config.update(find_method(config).default_config())
    return config


def split_variant(variant, names, options=()):
    """ "name+option+option" -> (name, options); options stand in the order in which they are known.

    Raises:
        ValueError: a name or an option is none of these; the line says which there are.
    """
    name, *chosen = variant.split("+")
    if name not in names or chosen != [option for option in options if option in chosen]:
        more = f", each with {' and '.join('+' + option for option in options)}" if options else ""
        raise ValueError(
            f"unknown variant {variant!r} in --config=FILE:VARIANT: there are {', '.join(names)}{more}"
        )
    return name, chosen
