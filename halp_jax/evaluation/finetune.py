"""Fine-tuning: all weights and a new linear layer, on all labels, on a few, or on another data set.

Three protocols of the field, one training. Released settings (CMD's and HaLP's code): SGD, rate 0.01,
batch 64, 80 epochs, x0.1 at 50 and 70, random crops U(0.5, 1), centre crop 0.95 to test.

    finetune    every labelled clip of the split
    semi        1, 5, 10, 20 % of them, several draws each; mean and spread
    transfer    finetune on another data set than the encoder was pre-trained on

`--encoder=random` trains from scratch with the same settings: the row to beat. The training itself is
evaluation/finetune_run.py; with a folder `store` for them, runs that were stopped resume.
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
from halp_jax.evaluation import classifier, finetune_run, linear, result_files
from halp_jax.evaluation import features as feats
from halp_jax.methods import check

DRAWS = ("plain", "balanced")


def sample_subset(
    labels: Int[np.ndarray, " clips"], fraction: float, draw: str, seed: int
) -> Int[np.ndarray, " chosen"]:
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


def _make_runner(
    config, dataset, encoder: feats.Encoder, fusions: Sequence[str], store: Path | None
):
    """-> run(fusion, indices, seed, title, name, keep): {stream: FinetuneResult} of the streams of this fusion.

    `name` is of the run among those of `store`; `keep`: as in `finetune_run.make_trainer`.
    """
    if not encoder.variables:
        raise UserError("raw coordinates have no weights to fine-tune; use --encoder=random")
    linear.check_config(config, "finetune")
    check.at_least(config, 0, "finetune.save_minutes")
    for fusion in fusions:
        if fusion in ("mean", "concat", "together"):
            raise UserError(
                f"--stream={fusion} is of frozen features; fine-tune streams or ensemble"
            )
    make = functools.cache(functools.partial(finetune_run.make_trainer, config, dataset))

    def run(fusion, indices, seed, title, name, keep):
        tuned = {}
        for stream in config.streams if fusion == "ensemble" else [fusion]:
            place = tuple(config.streams).index(stream)
            own = jax.tree.map(lambda leaf, place=place: leaf[place], encoder.variables)
            folder = store and store / f"{name}_{stream}"
            label = title if len(config.streams) == 1 else f"{title}, {stream}"
            tuned[stream] = make(stream)(own, indices, seed, label, folder, keep=keep)
        return tuned

    return run


def _shares(config, fusion):
    """The weight of each stream's scores in those of a fusion."""
    return config.linear.weights if fusion == "ensemble" else {fusion: 1.0}


def add_logits(
    config: ml_collections.ConfigDict, fusion: str, tuned: dict[str, finetune_run.FinetuneResult]
) -> np.ndarray:
    """Test logits [evals, queries, classes] of a fusion: of its stream, or the ensemble's sum."""
    return sum(_shares(config, fusion)[stream] * end.logits for stream, end in tuned.items())


def make_classifier(
    config: ml_collections.ConfigDict,
    dataset: Any,
    fusion: str,
    tuned: dict[str, finetune_run.FinetuneResult],
) -> classifier.Classifier:
    """The fine-tuned encoders with their linear layers."""
    ends = [end.state for end in tuned.values()]
    shares = _shares(config, fusion)
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
    fusions: Sequence[str] = (),
    *,
    store: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """finetune and transfer: fusion -> the metrics of `linear.score`, clip counts and "classifier".

    The last is a Classifier, or None without `finetune.keep_weights`. `store`: see `finetune_run.make_trainer`.
    """
    fusions = fusions or encoder.streams[:1]
    keep = config.finetune.keep_weights
    run = _make_runner(config, dataset, encoder, fusions, store)
    indices = dataset.labelled(config.data.split, "train")
    labels = dataset.labels[dataset.labelled(config.data.split, "test")]
    counts = {"num_train": len(indices), "num_test": len(labels)}
    epochs = linear.eval_epochs(config.finetune)
    results = {}
    for fusion in fusions:
        tuned = run(fusion, indices, config.seed, "finetune", "all", keep)
        metrics = linear.score(add_logits(config, fusion, tuned), labels, epochs) | counts
        found = make_classifier(config, dataset, fusion, tuned) if keep else None
        results[fusion] = metrics | {"classifier": found}
    return results


def evaluate_semi(
    config: ml_collections.ConfigDict,
    dataset: Any,
    encoder: feats.Encoder,
    fusions: Sequence[str] = (),
    *,
    store: Path | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """semi: fusion -> for each fraction of the labels the metrics, mean over `semi.runs` draws.

    Besides those of one run: `fraction`, `top1_sd` (None for one draw), `top1_runs`. With a folder
    `store` a draw that is done, or begun, is there when the command is started again.
    """
    fusions, semi = fusions or encoder.streams[:1], config.semi
    shares = all(isinstance(f, int | float) and 0 < f <= 1 for f in semi.fractions)
    if semi.draw not in DRAWS or semi.runs < 1 or not semi.fractions or not shares:
        raise UserError(
            f"semi: draw={semi.draw} must be {' or '.join(DRAWS)}, runs={semi.runs} at least 1, "
            f"fractions={tuple(semi.fractions)} in (0, 1]"
        )
    run = _make_runner(config, dataset, encoder, fusions, store)
    split = config.data.split
    indices, test = dataset.labelled(split, "train"), dataset.labelled(split, "test")
    labels, epochs = dataset.labels[test], linear.eval_epochs(config.finetune)

    def one_draw(fusion, fraction, number):
        seed = config.seed + number
        chosen = indices[sample_subset(dataset.labels[indices], fraction, semi.draw, seed)]
        title = f"{100 * fraction:g} % of the labels, draw {number + 1} of {semi.runs}"
        tuned = run(fusion, chosen, seed, title, f"{fraction}_{number}", False)
        return add_logits(config, fusion, tuned), len(chosen)

    def metrics(fusion, fraction):
        draws = [one_draw(fusion, fraction, number) for number in range(semi.runs)]
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

    return {
        fusion: [metrics(fusion, fraction) for fraction in semi.fractions] for fusion in fusions
    }
