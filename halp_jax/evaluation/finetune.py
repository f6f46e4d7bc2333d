"""Fine-tuning: all weights and a new linear layer, on all labels, on a few, or on another data set.

Three protocols of the field, one training. Released settings (CMD's and HaLP's code): SGD, rate 0.01,
batch 64, 80 epochs, x0.1 at 50 and 70, random crops U(0.5, 1), centre crop 0.95 to test.

    finetune    every labelled clip of the split
    semi        1, 5, 10, 20 % of them, several draws each; mean and spread
    transfer    finetune on another data set than the encoder was pre-trained on

`--encoder=random` trains from scratch with the same settings: the row to beat. The training itself is
evaluation/tune.py; with a folder `store` for them, runs that were stopped resume.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import Int

from halp_jax.errors import UserError
from halp_jax.evaluation import classifier, linear, result_files, tune
from halp_jax.evaluation import features as feats

DRAWS = ("plain", "balanced")


def draw_subset(
    labels: Int[np.ndarray, "clips"], fraction: float, draw: str, seed: int
) -> Int[np.ndarray, "chosen"]:
    """Places of the clips that keep their labels, in rising order.

    "plain" draws round(fraction * clips) of them all (the released code); "balanced" draws
    round(fraction * n) of the n clips of each class, at least one (AimCLR's).
    """
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(19,))))
    if draw == "plain":
        count = max(1, round(fraction * len(labels)))
        return np.sort(rng.permutation(len(labels))[:count])
    chosen = []
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        chosen.append(rng.permutation(own)[: max(1, round(fraction * len(own)))])
    return np.sort(np.concatenate(chosen))


def _make_runner(config, dataset, encoder: feats.Encoder, looks: Sequence[str], store: Path | None):
    """-> run(look, indices, seed, title, name, keep): {stream: Tuned} of the streams of this look.

    `name` is of the run among those of `store`; `keep`: as in `tune.make_trainer`.
    """
    if not encoder.variables:
        raise UserError("raw coordinates have no weights to fine-tune; use --encoder=random")
    for name in ("epochs", "batch_size", "eval_every"):
        if config.finetune[name] < 1:
            raise UserError(f"finetune.{name} is {config.finetune[name]}; it must be at least 1")
    for look in looks:
        if look in ("mean", "concat", "together"):
            raise UserError(f"--stream={look} is of frozen features; fine-tune streams or ensemble")
    make = functools.cache(functools.partial(tune.make_trainer, config, dataset))

    def run(look, indices, seed, title, name, keep):
        tuned = {}
        for stream in config.streams if look == "ensemble" else [look]:
            place = tuple(config.streams).index(stream)
            own = jax.tree.map(lambda leaf, place=place: leaf[place], encoder.variables)
            folder = store and store / f"{name}_{stream}"
            label = title if len(config.streams) == 1 else f"{title}, {stream}"
            tuned[stream] = make(stream)(own, indices, seed, label, folder, keep=keep)
        return tuned

    return run


def _shares(config, look):
    """The weight of each stream's scores in those of a look."""
    return config.linear.weights if look == "ensemble" else {look: 1.0}


def add_logits(
    config: ml_collections.ConfigDict, look: str, tuned: dict[str, tune.Tuned]
) -> np.ndarray:
    """Test logits [looks, queries, classes] of a look: of its stream, or the ensemble's sum."""
    return sum(_shares(config, look)[stream] * end.logits for stream, end in tuned.items())


def make_classifier(
    config: ml_collections.ConfigDict, dataset: Any, look: str, tuned: dict[str, tune.Tuned]
) -> classifier.Classifier:
    """The fine-tuned encoders with their linear layers."""
    ends = [end.state for end in tuned.values()]
    shares = _shares(config, look)
    return classifier.Classifier(
        parts=tuple(
            classifier.plain_part(stream, shares[stream], end.state[0]["probe"])
            for stream, end in tuned.items()
        ),
        class_names=tuple(dataset.class_names),
        crop=config.finetune.test_crop,
        num_frames=config.views.num_frames,
        streams=tuple(tuned),
        variables=jax.tree.map(
            lambda *leaves: np.stack(leaves), *[(weights["encoder"], s) for weights, s in ends]
        ),
        protocol="finetune",
    )


def evaluate(
    config: ml_collections.ConfigDict,
    dataset: Any,
    encoder: feats.Encoder,
    looks: Sequence[str] = (),
    *,
    store: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """finetune and transfer: look -> the figures of `linear.score`, clip counts and "classifier".

    The last is a Classifier, or None without `finetune.keep_weights`. `store`: see `tune.make_trainer`.
    """
    looks = looks or encoder.streams[:1]
    keep = config.finetune.keep_weights
    run = _make_runner(config, dataset, encoder, looks, store)
    indices = dataset.labelled(config.data.split, "train")
    labels = dataset.labels[dataset.labelled(config.data.split, "test")]
    counts = {"num_train": len(indices), "num_test": len(labels)}
    epochs = linear.look_epochs(config.finetune)
    results = {}
    for look in looks:
        tuned = run(look, indices, config.seed, "finetune", "all", keep)
        figures = linear.score(add_logits(config, look, tuned), labels, epochs) | counts
        found = make_classifier(config, dataset, look, tuned) if keep else None
        results[look] = figures | {"classifier": found}
    return results


def evaluate_semi(
    config: ml_collections.ConfigDict,
    dataset: Any,
    encoder: feats.Encoder,
    looks: Sequence[str] = (),
    *,
    store: Path | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """semi: look -> for each fraction of the labels the figures, mean over `semi.runs` draws.

    Besides those of one run: `fraction`, `top1_sd` (None for one draw), `top1_runs`. With a folder
    `store` a draw that is done, or begun, is there when the command is started again.
    """
    looks, semi = looks or encoder.streams[:1], config.semi
    if semi.draw not in DRAWS or semi.runs < 1 or not all(0 < f <= 1 for f in semi.fractions):
        raise UserError(
            f"semi: draw={semi.draw} must be {' or '.join(DRAWS)}, runs={semi.runs} at least 1, "
            f"fractions={tuple(semi.fractions)} in (0, 1]"
        )
    run = _make_runner(config, dataset, encoder, looks, store)
    split = config.data.split
    indices, test = dataset.labelled(split, "train"), dataset.labelled(split, "test")
    labels, epochs = dataset.labels[test], linear.look_epochs(config.finetune)

    def one_draw(look, fraction, number):
        seed = config.seed + number
        chosen = indices[draw_subset(dataset.labels[indices], fraction, semi.draw, seed)]
        title = f"{100 * fraction:g} % of the labels, draw {number + 1} of {semi.runs}"
        tuned = run(look, chosen, seed, title, f"{fraction}_{number}", False)
        return add_logits(config, look, tuned), len(chosen)

    def figures(look, fraction):
        draws = [one_draw(look, fraction, number) for number in range(semi.runs)]
        scores = [linear.score(logits, labels, epochs) for logits, _ in draws]
        top1 = [score["top1"] for score in scores]
        mean = {
            name: float(np.mean([score[name] for score in scores]))
            for name in ("top1", "top5", "best_top1")
        }
        confusion = sum(score["confusion"] for score in scores)
        return mean | {
            "fraction": fraction, "top1_runs": top1,
            "top1_sd": float(np.std(top1, ddof=1)) if len(top1) > 1 else None,
            "per_class": result_files.class_accuracies(confusion), "confusion": confusion,
            "num_train": draws[0][1], "num_test": len(labels),
        }  # fmt: skip

    return {look: [figures(look, fraction) for fraction in semi.fractions] for look in looks}
