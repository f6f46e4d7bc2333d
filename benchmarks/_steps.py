"""Our training step at any size, ready to be timed: configs, states, batches, and counts on paper."""

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from halp_jax import methods
from halp_jax.configs import default
from halp_jax.core.sphere import normalize
from halp_jax.encoders.matmul import PRECISIONS
from halp_jax.methods import base, moco
from halp_jax.methods.base import Spec, TrainState
from halp_jax.skeletons.layout import NTU25
from halp_jax.training import parallel

STREAMS = ("joint", "motion", "bone")
METHODS = {  # streams, mu, nu
    "baseline": (STREAMS[:1], 0.0, 0.0),
    "halp": (STREAMS[:1], 2.0, 0.0),
    "cmd": (STREAMS, 0.0, 1.0),
    "halp_cmd": (STREAMS, 2.0, 1.0),
}
STEPS_PER_EPOCH = 1000


def add_size(parser: argparse.ArgumentParser) -> None:
    """Options of the model's size; the defaults are the paper's."""
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--queue", type=int, default=16384)
    about = "of the recurrent layers' products, ours and the peers'"
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help=about)


def size_options(args: argparse.Namespace) -> list[str]:
    """`add_size`'s options again, for a child process."""
    names = ("width", "layers", "batch", "frames", "queue", "precision", "cores")
    return [f"--{name}={getattr(args, name)}" for name in names]


def make_config(args: argparse.Namespace, method: str) -> ml_collections.ConfigDict:
    config = default.get_config()
    config.streams, config.halp.mu, config.cmd.nu = METHODS[method]
    config.halp.start_epoch = 0  # `make_state` is ready for it
    config.encoder.width, config.encoder.num_layers = args.width, args.layers
    config.views.num_frames = config.views.min_frames = args.frames
    config.train.batch_size, config.moco.queue_size = args.batch, args.queue
    config.train.precision = args.precision
    config.cmd.topk = args.queue // 2
    return config


def make_state(config: ml_collections.ConfigDict) -> TrainState:
    """A state in the midst of training: the queue is full of real keys, there are prototypes."""
    state = methods.create_state(config, Spec(NTU25))
    queue, shape = state.extra["queue"], state.extra["prototypes"].shape
    prototypes = normalize(jax.random.normal(jax.random.key(1), shape))
    pushed = jnp.full_like(queue.pushed, 2 * config.moco.queue_size + 1)
    kept = {"prototypes": prototypes, "queue": queue._replace(pushed=pushed)}
    return state.replace(extra=state.extra | kept)


def make_batch(config: ml_collections.ConfigDict, seed: int = 0) -> dict[str, np.ndarray]:
    """Clips as the pipeline gives them, of NTU's lengths and of noise."""
    rng = np.random.default_rng(seed)
    time, batch = config.data.max_frames, config.train.batch_size
    lengths = rng.integers(min(40, time), min(150, time) + 1, batch).astype(np.int32)
    frames = rng.normal(size=(batch, time, NTU25.bodies, NTU25.num_joints, 3)).astype(np.float32)
    frames *= (np.arange(time) < lengths[:, None])[..., None, None, None]
    return {"frames": frames, "length": lengths}


def make_views(config: ml_collections.ConfigDict, seed: int = 0) -> dict[str, np.ndarray]:
    """Two views of noise, [batch, streams, time, features] each."""
    rng = np.random.default_rng(seed)
    features = NTU25.bodies * NTU25.num_joints * 3
    shape = (config.train.batch_size, len(config.streams), config.views.num_frames, features)
    return {name: rng.normal(size=shape).astype(np.float32) for name in ("x_q", "x_k")}


def step_from_clips(config: ml_collections.ConfigDict) -> Callable:
    """The step of a run, views included."""
    return methods.make_train_step(config, Spec(NTU25, STEPS_PER_EPOCH))


def step_from_views(config: ml_collections.ConfigDict) -> Callable:
    """The step on ready views, which is what the peers are given."""
    method = moco.make(config, Spec(NTU25, STEPS_PER_EPOCH))
    update = base.make_update(method, *moco.make_optimizer(config, STEPS_PER_EPOCH))

    def step(state, views):
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        return update(state, tuple(_to_clips(views[name]) for name in ("x_q", "x_k")), key)

    return step


def _to_clips(x):
    """The peers' features [batch, streams, time, joints * xyz * bodies] as a view of ours."""
    frames = x.reshape(*x.shape[:3], NTU25.num_joints, 3, NTU25.bodies)
    frames = jnp.moveaxis(jnp.swapaxes(frames, 0, 1), -1, 3)
    return {"frames": frames, "length": jnp.full(frames.shape[:2], frames.shape[2], jnp.int32)}


class Holder:
    """A state that several compiled steps pass on to one another; each of them uses up the last."""

    def __init__(self, state: TrainState, num_devices: int = 1):
        self.state = parallel.replicate(state, num_devices)
        self.num_devices = num_devices

    def member(
        self, step: Callable, batch: dict[str, np.ndarray], driver: str = "pmap"
    ) -> Callable[..., Any]:
        """-> `run(first=0, count=1)`: `count` steps as the training loop does them, from `first` on."""
        options = {"driver": driver, "num_devices": self.num_devices}
        compiled, place = parallel.compile_step(step, **options), parallel.make_placer(**options)

        def run(first: int = 0, count: int = 1) -> Any:
            number = parallel.replicate(np.int32(first), self.num_devices)
            state = self.state.replace(step=number)
            for placed in parallel.prefetch(itertools.repeat(batch, count), place):
                state, metrics = compiled(state, placed)
            self.state = state
            return state.step, metrics

        return run


def count_parameters(config: ml_collections.ConfigDict) -> int:
    """Of one encoder and its head."""
    shapes = jax.eval_shape(lambda: methods.create_state(config, Spec(NTU25))).params
    return sum(int(np.prod(leaf.shape[1:])) for leaf in jax.tree.leaves(shapes))


def count_activations(config: ml_collections.ConfigDict) -> int:
    """Numbers that the backward pass of one stream needs from the forward pass.

    Each GRU keeps its state and what r, z, n and the hidden part of n were in every frame; the
    first layer also its input. The head's are few.
    """
    e, clips = config.encoder, config.train.batch_size
    features = NTU25.bodies * NTU25.num_joints * 3
    return clips * config.views.num_frames * (features + e.num_layers * 2 * 5 * e.width)


def minimum_memory(config: ml_collections.ConfigDict) -> float:
    """Bytes that a step cannot do without: both encoders, gradient, momentum, queue, activations."""
    queue = config.moco.queue_size * config.encoder.dim
    numbers = 4 * count_parameters(config) + queue + count_activations(config)
    return 4.0 * len(config.streams) * numbers


def step_bytes(config: ml_collections.ConfigDict) -> float:
    """Bytes to and from memory at the least, where a chip holds a layer's weights for the whole clip.

    Parameters: the query's are read by forward, backward and update and written by it, the key's
    read, written and read, gradient and momentum written and read: 11 times. The queue is read for
    the logits and for their gradient, activations are written and read.
    """
    queue = config.moco.queue_size * config.encoder.dim
    numbers = 11 * count_parameters(config) + 2 * queue + 2 * count_activations(config)
    return 4.0 * len(config.streams) * numbers
