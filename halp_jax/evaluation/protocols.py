"""The protocols as functions of a config and a workdir: what `halp_jax.evaluate` types.

Results, classifiers and what a stopped command resumes from lie in WORKDIR/eval/. Of several
processes each encodes a share of the clips, all come to the same result, and the first one writes.
"""

import functools
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_collections
import numpy as np

from halp_jax import datasets
from halp_jax.datasets import pipeline
from halp_jax.errors import UserError
from halp_jax.evaluation import (
    classifier,
    features,
    finetune,
    graphs,
    knn,
    linear,
    load,
    result_files,
    streams,
)  # fmt: skip
from halp_jax.methods import check, common
from halp_jax.training import checkpoint, checks, cluster, normalization
from halp_jax.training.checkpoint_io import CHECKPOINTS, list_steps

log = logging.getLogger("halp_jax")

PROTOCOLS = {
    "knn": knn.evaluate, "linear": linear.evaluate, "finetune": finetune.evaluate,
    "transfer": finetune.evaluate, "semi": finetune.evaluate_semi,
}  # fmt: skip
NAMES = (*PROTOCOLS, *(name for name in graphs.PROTOCOLS if name not in PROTOCOLS))


def run(
    config: ml_collections.ConfigDict,
    workdir: str | os.PathLike[str],
    protocol: str = "knn",
    *,
    encoder: str = "trained",
    stream: str = "",
    join: Sequence[str] = (),
    step: int | None = None,
    part: str = "test",
) -> list[tuple[dict[str, Any], Path]]:
    """Evaluates one protocol -> (result, its JSON file) for each stream and fraction of the labels.

    Args:
        config: of the run, perhaps with other settings of the evaluation.
        workdir: folder of the training run, and of the results.
        encoder: "trained", "random" or "raw".
        stream: fusions, separated by commas; default: the run's first stream.
        join: workdirs whose streams stand beside this run's.
        step: of the checkpoint; default: the last.
        part: of the split, what to test on.

    Raises:
        UserError: something does not fit; nothing is written then.
        errors.Stopped: fine-tuning was asked to stop; the same call resumes.
    """
    written = []
    if not config.data.dir:
        raise UserError("data.dir is not set; give the prepared folder as --config.data.dir=DIR")
    check.seed(config)
    workdir = Path(workdir).expanduser()
    place = workdir.absolute() / "eval"
    there = next(folder for folder in (place, *place.parents) if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise UserError(f"cannot write to {there}: make it writable, or choose another --workdir")
    dataset = datasets.open_dataset(config.data.dir)
    checks.check_unit(config, dataset)
    config.data.split = dataset.choose_split(config.data.split)
    if dataset.unit == "graphs":
        given = {"stream": stream, "join": join, "part": part != "test"}
        for name in (name for name, value in given.items() if value):
            raise UserError(f"--{name} means nothing to graphs; leave it out")
        found = [(graphs.evaluate(config, workdir, protocol, dataset, encoder, step), None)]
    elif protocol not in PROTOCOLS:
        raise UserError(f"--protocol={protocol} is for graphs; {config.data.dir} holds clips")
    else:
        found = _evaluate(
            config, workdir, protocol, dataset, encoder, stream, list(join), step, part
        )
    older = False
    if step is not None and encoder == "trained":
        older = step < max(list_steps(workdir / CHECKPOINTS), default=step)
    keeps = protocol in classifier.PROTOCOLS and encoder == "trained"
    for result, own in found:
        path = result_files.result_path(workdir, result, older)
        if cluster.is_first():
            beside = [functools.partial(classifier.save, found=own)] if keeps else []
            result_files.write_result(workdir, result, older, *beside)
        written.append((result, path))
    return written


def _evaluate(
    config, workdir, protocol, dataset, encoder, stream, join, step, part
) -> Iterator[tuple[dict[str, Any], classifier.Classifier | None]]:
    start = time.perf_counter()
    common.check_config(config)
    if part != "test":
        dataset = dataset.test_on(config.data.split, part)
    both = [dataset.indices(config.data.split, name) for name in ("train", "test")]
    for name, clips in zip(("train", part), both, strict=True):
        if not np.any(dataset.labels[clips] >= 0):
            raise UserError(
                f"{config.data.dir}, split {config.data.split} has no {name} clips with a label: label "
                "them and prepare again, or give another --config.data.split"
            )
    unlabelled = int((dataset.labels[np.concatenate(both)] < 0).sum())
    normalized = normalization.of_dataset(dataset.metadata)
    config, variables, step = load.load_encoder(
        encoder, config, dataset.layout, workdir, step=step, joined=join, normalized=normalized
    )
    fusions = streams.parse_fusions(stream, config.streams)
    needed = streams.find_needed(fusions, config.streams)
    embed = features.make_embedding(encoder, config, dataset.layout, needed)
    made = features.Encoder(embed, variables, needed)
    features.check_fit(made, config, dataset.layout)
    for name, clips in zip(("train", "test"), both, strict=True):
        cut = pipeline.describe_cut(dataset.lengths[clips], config.data.max_frames, name)
        if cut and cluster.is_first():
            log.warning(cut)
    if (shared := len(np.intersect1d(*both))) and cluster.is_first():
        log.warning("%d clips are in train and in %s: accuracies will be too high", shared, part)
    options = {}
    if protocol == "transfer" and encoder == "trained":
        source = checkpoint.load_config(workdir).data.dir
        if Path(source).resolve() == Path(config.data.dir).resolve():
            raise UserError(
                f"the encoder was pre-trained on {source} itself: give another data set as "
                "--config.data.dir=DIR, or use --protocol=finetune"
            )
    if protocol in streams.TUNING:  # may take hours: its runs are kept until all are done
        options["store"] = finetune.find_folder(
            workdir, protocol, config, dataset, variables, fusions
        )
    results = PROTOCOLS[protocol](config, dataset, made, fusions, **options)
    origin = {
        "protocol": protocol, "step": step, "encoder_id": classifier.fingerprint(variables),
        "normalize": normalized,
    }  # fmt: skip
    for fusion, found in results.items():
        for metrics in found if isinstance(found, list) else [found]:
            own = metrics.pop("classifier", None)
            result = {
                "protocol": protocol, "encoder": encoder, "stream": fusion,
                "split": config.data.split, "part": part, "unlabelled": unlabelled,
                **result_files.name_classes(metrics, dataset.class_names),
                "step": step, "seed": config.seed,
                "joined": [os.path.relpath(os.path.expanduser(run), workdir) for run in join],
                "seconds": round(time.perf_counter() - start, 3), "config": config.to_dict(),
            }  # fmt: skip
            if "k" in metrics:  # a result is of one
                result["config"]["knn"]["k"] = result.pop("k")
            yield result, own and own._replace(**origin)
    if "store" in options and cluster.is_first():  # all is written
        finetune.remove_folder(options["store"])
