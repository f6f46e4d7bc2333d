"""One run of fine-tuning: a stream's encoder and a linear layer, by methods/supervised.py.

It goes through the training loop like any run, in a folder of its own: a run that is stopped resumes
from its checkpoint and ends, to the bit, where it would have. Of several processes each does the same.
"""

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float

from halp_jax import methods
from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError
from halp_jax.evaluation import features as feats
from halp_jax.evaluation import linear
from halp_jax.evaluation.streams import with_streams
from halp_jax.methods.probe import Probe, apply_probe
from halp_jax.training import cluster, parallel
from halp_jax.training.checkpoint_io import CHECKPOINTS
from halp_jax.training.loop import train

ADVICE = "fine-tuning resumes from what was saved before, if anything"


class FinetuneResult(NamedTuple):
    """The end of a run: test logits after each of `linear.eval_epochs`, and the last weights.

    `state` is ({"encoder": params, "probe": Probe}, batch_stats), None of a run whose folder kept
    the logits alone.
    """

    logits: Float[np.ndarray, "evals queries classes"]
    state: Any


def make_config(
    config: ml_collections.ConfigDict, stream: str, num_clips: int, seed: int
) -> ml_collections.ConfigDict:
    """The config of one run: the section `finetune` in the place of the pre-training's settings."""
    s, own = config.finetune, config.copy_and_resolve_references()  # sections too are copies
    with own.unlocked():
        own.method, own.streams, own.seed = "supervised", (stream,), seed
        own.init_from, own.views.crop = "", s.crop
        for name in ("learning_rate", "momentum", "weight_decay", "milestones", "factor"):
            own.optim[name] = s[name]
        own.optim.warmup_epochs = 0
        own.train.update(
            batch_size=min(s.batch_size, num_clips), epochs=s.epochs, epoch_steps=0, num_devices=0,
            tensorboard=False, wandb=False,
        )  # fmt: skip
        own.checkpoint.update(
            every_epochs=s.epochs, every_minutes=s.save_minutes, keep=1, keep_every_epochs=0
        )
        own.knn.every_epochs = s.eval_every
    return own


def make_trainer(config: ml_collections.ConfigDict, dataset: Any, stream: str):
    """-> train(variables, indices, seed, title, folder, keep=True) -> FinetuneResult, of one stream.

    `variables` are (params, batch_stats) of that stream, without the stream axis. In `folder` a run
    is saved when it is asked to stop, then raising Stopped, and resumes; without one nothing is kept.
    `keep`: the folder of a finished run keeps its weights.
    """
    side, one = methods.find_method(config).find_side(config)

    def take(tree):
        return tree[side] if side else tree

    def put(tree, part):
        """With the others as they were: what the method's own `encode` takes."""
        if not side:
            return part
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree) | {side: part}

    embed = feats.make_embedding("trained", with_streams(config, (stream,)), dataset.layout)
    crop = config.finetune.test_crop
    extract = feats.make_centre_extractor(config, dataset.layout, embed, crop)
    epochs_seen = linear.eval_epochs(config.finetune)
    programs = {}  # draws of one size share what is compiled

    def run(variables, indices, seed, title, folder: Path | None = None, *, keep=True):
        own = make_config(one, stream, len(indices), seed)
        steps = -(-len(indices) // own.train.batch_size)

        def place(state):
            tuned = state.params["encoder"], state.extra["batch_stats"]
            return tuple(map(put, variables, tuned))

        def file(epoch):
            return folder / f"logits_{epoch}.npy"

        def evaluate(state):
            epoch = int(state.step) // steps
            if not epoch:
                return {}
            test = feats.extract_split(config, dataset, "test", extract, place(state))
            probe = Probe(*(leaf[0] for leaf in state.params["probe"]))
            logits = np.asarray(apply_probe(probe, jnp.asarray(test.values[0])))
            linear.check_finite(logits, "finetune")
            if cluster.is_first():
                with atomic_write(file(epoch), ADVICE) as stream:
                    np.save(stream, logits)
            seen[epoch] = logits
            return {"test_top1": float(np.mean(logits.argmax(-1) == test.labels))}

        def start(state):
            given = tuple(map(take, variables))
            params, batch_stats = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], given)
            if not set(state.params["encoder"]) <= set(params):
                raise UserError(
                    f"{config.method} keeps {', '.join(sorted(params))}, not the one encoder that fine-tuning "
                    "trains: evaluate it with --protocol=linear or knn"
                )
            # A method may keep layers beside its encoder's own, which nothing of here looks at.
            params = {name: params[name] for name in state.params["encoder"]}
            params = state.params | {"encoder": params}
            return state.replace(params=params, extra={"batch_stats": batch_stats})

        with contextlib.ExitStack() as stack:
            if folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            seen = {epoch: np.load(file(epoch)) for epoch in epochs_seen if file(epoch).exists()}
            if not keep and len(seen) == len(epochs_seen):
                return FinetuneResult(np.stack([seen[epoch] for epoch in epochs_seen]), None)
            state = train(
                own, folder, dataset=dataset, evaluators=[evaluate], indices=np.asarray(indices),
                prepare=start, title=title, local=True, programs=programs,
            )  # fmt: skip
            if not keep and cluster.is_first():
                shutil.rmtree(folder / CHECKPOINTS)
        state = parallel.local_view(state)
        encoder, batch_stats = place(state)
        weights = {"encoder": encoder, "probe": state.params["probe"]}
        weights, batch_stats = jax.tree.map(lambda x: np.asarray(x)[0], (weights, batch_stats))
        return FinetuneResult(
            np.stack([seen[epoch] for epoch in epochs_seen]), (weights, batch_stats)
        )

    return run
