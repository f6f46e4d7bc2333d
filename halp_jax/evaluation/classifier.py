"""Classifiers that `evaluate` keeps beside its metrics, and `embed` uses: linear layers on features.

WORKDIR/eval/PROTOCOL.npz, without pickles: `info` (JSON, below), for each part i the arrays
`i/weight` [features, classes], `i/bias`, `i/mean` and `i/scale` [features], and of fine-tuning the
fine-tuned encoders as `encoder/NAME`, with a leading axis of streams. A classifier's scores are

    sum over parts of  share * (((features - mean) / scale) @ weight + bias),    then a softmax

with one part, or of an ensemble one for each of its streams.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError
from halp_jax.evaluation.streams import parse_fusions
from halp_jax.methods.probe import Probe
from halp_jax.training.checkpoint_io import flatten

PROTOCOLS = ("linear", "finetune", "transfer")
_FORMAT = 1
_MAX_BYTES = 2**32  # larger files are none of ours


class Part(NamedTuple):
    """One linear layer: on the features of `fusion`, a stream, "mean" or "concat" of streams."""

    fusion: str
    share: float
    probe: Probe
    mean: Any  # [features], subtracted from them before the layer
    scale: Any  # [features], they are divided by it


class Classifier(NamedTuple):
    """What the file holds. `step` and `encoder_id` are of the frozen encoder it stands on."""

    parts: tuple[Part, ...]
    class_names: tuple[str, ...]
    crop: float  # centre crop of the clips
    num_frames: int
    streams: tuple[str, ...]  # of the encoder
    variables: Any = None  # (params, batch_stats) of `streams` after fine-tuning, or None
    protocol: str = "linear"
    normalize: str | None = None  # normalisation of the clips, where it is known
    step: int | None = None
    encoder_id: str = ""  # `finetune_store.fingerprint` of the frozen encoder


_TEXT = ("class_names", "crop", "num_frames", "streams", "protocol", "normalize", "step")
_TEXT += ("encoder_id",)


def plain_part(fusion: str, share: float, probe: Any) -> Part:
    """A part on features as they are."""
    size = len(probe.weight)
    return Part(fusion, share, probe, np.zeros(size, np.float32), np.ones(size, np.float32))


def save(path: Path, found: Classifier) -> Path:
    """Writes the file, whole or not at all."""
    info = {"format": _FORMAT} | {name: getattr(found, name) for name in _TEXT}
    info["parts"] = [[part.fusion, part.share] for part in found.parts]
    table = {"info": np.array(json.dumps(info))}
    for number, part in enumerate(found.parts):
        own = {**part.probe._asdict(), "mean": part.mean, "scale": part.scale}
        table |= {f"{number}/{name}": np.asarray(leaf) for name, leaf in own.items()}
    if found.variables is not None:
        leaves = flatten(found.variables)
        table |= {f"encoder/{name}": np.asarray(leaf) for name, leaf in leaves.items()}
    with atomic_write(path, "evaluate again with another --workdir") as stream:
        np.savez(stream, **table)
    return path


def replace(path: Path, found: Classifier | None) -> None:
    """Writes the file; with None removes the one there, which was of other metrics."""
    if found is None:
        path.unlink(missing_ok=True)
    else:
        save(path, found)


def load(path: Path, advice: str) -> Classifier:
    """The classifier of a file. Raises UserError, ending with `advice`, if there is none in it."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            table = dict(arrays)
        info = json.loads(str(table.pop("info")))
        if info["format"] != _FORMAT:
            raise ValueError(f"its format is {info['format']}, not {_FORMAT}")
        parts = []
        for number, (fusion, share) in enumerate(info["parts"]):
            weight, bias, mean, scale = (
                table[f"{number}/{name}"] for name in ("weight", "bias", "mean", "scale")
            )
            if weight.shape != mean.shape + bias.shape or len(bias) != len(info["class_names"]):
                raise ValueError(f"its layer has shape {weight.shape}")
            parse_fusions(fusion, info["streams"])
            parts.append(Part(fusion, float(share), Probe(weight, bias), mean, scale))
        if not (parts and 0 < info["crop"] <= 1 <= info["num_frames"]):
            raise ValueError("it has no layer, or looks at no frame")
        text = {name: info[name] for name in _TEXT}
        text |= {name: tuple(info[name]) for name in ("class_names", "streams")}
        variables = _nest(table)
    except FileNotFoundError:
        raise UserError(f"there is no {path}: {advice}") from None
    except Exception as error:  # of many kinds: zipfile, zlib, json, numpy's header
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} cannot be read ({reason}): {advice}") from error
    return Classifier(tuple(parts), variables=variables, **text)


def _nest(table: dict[str, np.ndarray]) -> Any:
    """(params, batch_stats) of the arrays "encoder/0/..." and "encoder/1/...", None without any."""
    trees: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for name, leaf in table.items():
        folder, _, path = name.partition("/")
        if folder == "encoder":
            place, *inner, last = path.split("/")
            tree = trees[int(place)]
            for key in inner:
                tree = tree.setdefault(key, {})
            tree[last] = leaf
    return trees if trees[0] else None


def find(
    workdir: str | Path,
    name: str,
    fusion: str,
    names: Sequence[str],
    options: Sequence[str] = (),
) -> tuple[Path, str]:
    """(its file, the advice to make it or to take another) of a look at a run with the streams `names`.

    Args:
        name: a protocol, or the name of one of its files: linear_1a2b3c is of other settings.
        options: more of the command that makes it, as --join=DIR.
    """
    protocol, options = name.split("_")[0], [*options]
    if name == protocol and fusion != names[0]:
        name, options = f"{name}_{fusion}", [*options, f"--stream={fusion}"]
    path = Path(workdir).expanduser() / "eval" / f"{name}.npz"
    words = [f"run evaluate --workdir={workdir} --protocol={protocol}", *options]
    others = sorted(p.stem for p in path.parent.glob(f"{protocol}*.npz") if p != path)
    return path, " ".join(words) + "".join(f", or give --classifier={other}" for other in others)
