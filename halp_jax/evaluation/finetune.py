"""Fine-tuning: all weights and a new linear layer, on all labels, on a few, or on another data set.

Three protocols of the field, one training. Released settings (CMD's and HaLP's code): SGD, rate 0.01,
batch 64, 80 epochs, x0.1 at 50 and 70, random crops U(0.5, 1), centre crop 0.95 to test.

    finetune    every labelled clip of the split
    semi        1, 5, 10, 20 % of them, several draws each; mean and spread
    transfer    finetune on another data set than the encoder was pre-trained on

`--encoder=random` trains from scratch with the same settings: the row to beat. The training itself is
evaluation/finetune_run.py. A command's runs lie in WORKDIR/eval/unfinished/PROTOCOL_DIGEST/, a folder a run:
one that was stopped resumes. When the results are written the folder goes; one that is not wanted any
more can go, too.
"""

import contextlib
import functools
import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from jaxtyping import Int

from halp_jax import methods
from halp_jax.errors import UserError
from halp_jax.evaluation import classifier, finetune_run, linear, result_files, streams
from halp_jax.evaluation import features as feats
from halp_jax.methods import check, prepare
from halp_jax.training import checks

DRAWS = ("plain", "balanced")
# Sections of the config that a run of fine-tuning depends on; of others it is a field, below.
SECTIONS = ("seed", "streams", "data", "views", "encoder", "finetune")


def sample_subset(
    labels: Int[np.ndarray, " clips"], fraction: float, draw: str, seed: int
) -> Int[np.ndarray, " chosen"]:
    """Places of the clips that keep their labels, in rising order.

    "plain" draws round(fraction * clips) of them all (the released code rounds down); "balanced" draws
    round(fraction * n) of the n clips of each class, at least one (AimCLR's may draw none).
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
    """-> run(fusion, indices, seed, title, name, keep) -> (test logits [evals, queries, classes] of this fusion,
    {stream: (share of its logits in them, FinetuneResult)}).

    `name` is of the run among those of `store`; `keep`: as in `finetune_run.make_trainer`.
    """
    if not encoder.variables:
        raise UserError("raw coordinates have no weights to fine-tune; use --encoder=random")
    linear.check_config(config, "finetune")
    check.at_least(config, 0, "finetune.save_minutes")
    streams.check_fusions("finetune", fusions)
    make = functools.cache(functools.partial(finetune_run.make_trainer, config, dataset))

    def run(fusion, indices, seed, title, name, keep):
        tuned = {}
        shares = config.linear.weights if fusion == "ensemble" else {fusion: 1.0}
        for stream in config.streams if fusion == "ensemble" else [fusion]:
            place = tuple(config.streams).index(stream)
            own = jax.tree.map(lambda leaf, place=place: leaf[place], encoder.variables)
            folder = store and store / f"{name}_{stream}"
            label = title if len(config.streams) == 1 else f"{title}, {stream}"
            end = make(stream)(own, indices, seed, label, folder, keep=keep)
            tuned[stream] = shares[stream], end
        return sum(share * end.logits for share, end in tuned.values()), tuned

    return run


def make_classifier(
    config: ml_collections.ConfigDict,
    dataset: Any,
    tuned: dict[str, tuple[float, finetune_run.FinetuneResult]],
) -> classifier.Classifier:
    """The fine-tuned encoders with their linear layers."""
    ends = [end.state for _, end in tuned.values()]
    return classifier.Classifier(
        parts=tuple(
            classifier.plain_part(stream, share, end.state[0]["probe"])
            for stream, (share, end) in tuned.items()
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

    The last is a Classifier, or None without `finetune.keep_weights`. `store`: the folder of
    `find_folder`, where runs that are stopped resume; None keeps nothing.
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
        logits, tuned = run(fusion, indices, config.seed, "finetune", "all", keep)
        found = make_classifier(config, dataset, tuned) if keep else None
        metrics = linear.score(logits, labels, epochs)
        results[fusion] = metrics | counts | {"classifier": found}
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
        logits, _ = run(fusion, chosen, seed, title, f"{fraction}_{number}", False)
        return linear.score(logits, labels, epochs), len(chosen)

    def metrics(fusion, fraction):
        draws = [one_draw(fusion, fraction, number) for number in range(semi.runs)]
        scores = [score for score, _ in draws]
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


def find_folder(
    workdir: str | Path,
    protocol: str,
    config: ml_collections.ConfigDict,
    dataset: Any,
    variables: Any,
    fusions: Sequence[str],
) -> Path:
    """The folder of this command's runs; nothing is made yet.

    Its name is of all that the result depends on, weights of the encoder and clips included; so what does
    not fit is never resumed.
    """
    given = json.loads(config.to_json())
    settings = {name: given[name] for name in (*SECTIONS, *prepare.SECTIONS) if name in given}
    settings["finetune"].pop("save_minutes", None)
    settings |= {"draw": given["semi"]["draw"], "precision": given["train"].get("precision")}
    settings |= {"batch": given["knn"]["batch_size"]}  # of the test clips: of other sums
    split = config.data.split
    chosen = [dataset.indices(split, part) for part in ("train", "test")]
    parts = [classifier.fingerprint(variables, [dataset.labels, *chosen])]
    parts += [checks.fingerprint(dataset, numbers) for numbers in chosen]
    parts += [json.dumps(settings, sort_keys=True), *fusions]
    if side := methods.find_method(config).find_side(config)[0]:
        parts.append(side)
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Path(workdir).expanduser() / "eval" / "unfinished" / f"{protocol}_{digest}"


def remove_folder(folder: Path) -> None:
    """Removes a command's records, and the folder above when it held no others."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # of other commands, or never made
        folder.parent.rmdir()
