"""A small data set in memory, for tests of what comes after the pipeline."""

from dataclasses import dataclass, field

import jax
import ml_collections
import numpy as np

from configs import default
from halp_jax import methods
from halp_jax.datasets import pipeline
from halp_jax.datasets.prepared import Dataset
from halp_jax.methods.base import Spec
from halp_jax.skeletons.layout import NTU25


def tiny_config(**changes) -> ml_collections.ConfigDict:
    """The default config with an encoder of a few numbers; `changes` like linear__epochs=3."""
    config = default.get_config()
    config.data.dir = "fake"
    config.data.max_frames = 12
    config.views.num_frames = 6
    config.views.min_frames = 4
    config.encoder.width = 8
    config.encoder.num_layers = 1
    config.encoder.dim = 4
    config.moco.queue_size = 8
    config.halp.num_prototypes = 2
    config.knn.batch_size = 8
    config.linear.num_crops = 3
    config.linear.epochs = 12
    config.linear.milestones = (10,)
    config.linear.learning_rate = 0.1
    for name, value in changes.items():
        section, _, key = name.rpartition("__")
        (config[section] if section else config)[key] = value
    return config


def make_state(config: ml_collections.ConfigDict, layout, step=0):
    """methods.create_state as one program that is hardly optimised: compiling it takes the time."""
    quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    state = jax.jit(lambda: methods.create_state(config, Spec(layout)), compiler_options=quick)()
    return state.replace(step=state.step + step)


@dataclass
class FakeDataset:
    """What evaluation uses of a PreparedDataset; each class has a motion."""

    num_clips: int = 22
    num_classes: int = 3
    max_frames: int = 12
    layout: object = NTU25
    name: str = "fake"
    hidden = ()  # clips whose label is not known
    splits = ("xsub",)
    unit, in_memory = Dataset.unit, Dataset.in_memory
    describe, identity = Dataset.describe, Dataset.identity
    choose_split = Dataset.choose_split
    tell_cut, training_batches = Dataset.tell_cut, Dataset.training_batches
    path: str = "fake"
    metadata: dict = field(default_factory=dict)
    frames: np.ndarray = field(init=False)

    def __post_init__(self):
        rng = np.random.default_rng(0)
        self.names = tuple(f"clip {number}" for number in range(self.num_clips))
        self.labels = np.arange(self.num_clips, dtype=np.int32) % self.num_classes
        self.classes = self.labels.copy()
        self.labels[list(self.hidden)] = -1
        self.lengths = rng.integers(5, self.max_frames + 1, self.num_clips).astype(np.int32)
        self.class_names = tuple(f"class {c}" for c in range(self.num_classes))
        shape = (self.num_clips, self.max_frames, self.layout.bodies, self.layout.num_joints, 3)
        moves = rng.normal(size=(self.num_classes, 1, *shape[2:]))
        time = np.linspace(0, 1, self.max_frames)[:, None, None, None]
        frames = moves[self.classes] * time + 0.1 * rng.normal(size=shape)
        valid = np.arange(self.max_frames) < self.lengths[:, None]
        self.frames = np.where(valid[..., None, None, None], frames, 0).astype(np.float32)

    def indices(self, benchmark, part):
        assert benchmark == "xsub"
        middle = 2 * self.num_clips // 3
        return np.arange(middle) if part == "train" else np.arange(middle, self.num_clips)

    def labelled(self, benchmark, part):
        return np.setdiff1d(self.indices(benchmark, part), self.hidden)

    def batches(self, indices, batch_size):
        """As pipeline.eval_batches: in order, the last batch filled up with its last clip."""
        for start in range(0, len(indices), batch_size):
            place = start + np.arange(batch_size)
            index = np.asarray(indices)[np.minimum(place, len(indices) - 1)].astype(np.int32)
            yield {
                "frames": self.frames[index],
                "length": self.lengths[index],
                "label": self.labels[index],
                "index": index,
                "valid": place < len(indices),
            }


def patch_pipeline(monkeypatch):
    """Makes evaluation read FakeDatasets without TensorFlow."""

    def eval_batches(dataset, indices, *, batch_size, max_frames):
        assert max_frames == dataset.max_frames
        return dataset.batches(indices, batch_size)

    monkeypatch.setattr(pipeline, "eval_batches", eval_batches)
