"""What clips were normalised by, and their skeleton, held against what an encoder was trained on.

A run notes the normalisation of its data set beside each checkpoint. For older runs the fingerprint
of their clips tells it, as long as their data set, or one prepared anew from the same
files, is there. Where one of the two is not known, nothing is refused.
"""

from collections.abc import Mapping
from typing import Any

from halp_jax import datasets
from halp_jax.datasets.graphs import GraphLayout
from halp_jax.datasets.read_pool import NORMALIZERS
from halp_jax.errors import UserError
from halp_jax.skeletons.common import match_joints, name_option
from halp_jax.skeletons.layout import Layout, restore_layout
from halp_jax.training import checkpoint, checks
from halp_jax.training.checkpoint_io import PathLike

# Coordinates that somebody else normalised and `prepare` kept: the arrays of 2s-AGCN and exports of
# `view` look alike.
KEPT = "view or released"


def of_dataset(metadata: Mapping[str, Any]) -> str | None:
    """One of NORMALIZERS, KEPT, or what a format is of ("aimclr"); None if they do not tell."""
    own = metadata.get("normalize")
    return KEPT if own == "none" and "normalised" in metadata.get("notes", {}) else own


def of_run(workdir: PathLike, info: Mapping[str, Any]) -> str | None:
    """The same of the clips that a run was trained on. `info`: what lies beside its checkpoint."""
    if "normalize" in info:
        return info["normalize"]
    try:
        data = checkpoint.load_config(workdir).data
        dataset = datasets.open_dataset(data.dir or "")
        indices = dataset.indices(data.split, "train")
    except UserError:
        return None
    if "data" not in info:
        return of_dataset(dataset.metadata)
    for name in NORMALIZERS:
        if checks.fingerprint(dataset, indices, name) == info["data"]:
            return of_dataset(dataset.metadata | {"normalize": name})
    return None


def agree(own: str | None, trained: str | None) -> bool:
    """Whether clips may go to an encoder: not if both are known and differ."""
    if own is None or trained is None:
        return True
    return bool(set(own.split(" or ")) & set(trained.split(" or ")))


def to_apply(trained: str) -> str:
    """The one of NORMALIZERS that makes raw clips what the encoder knows."""
    return trained.split(" or ")[-1]


def choose(asked: str | None, workdir: PathLike, trained: str | None) -> str | None:
    """What to normalise raw clips by for the encoder of `workdir`; None if nothing is known.

    Raises:
        UserError: `asked` for another normalisation than that of the training. "none" is none: the
            clips are what they should be.
    """
    if asked not in (None, "none") and not agree(asked, trained):
        raise UserError(
            f"--normalize={asked}, but the encoder of {workdir} was trained on clips normalised by "
            f"{trained}: leave --normalize out"
        )
    return asked or trained


def check_files(found: str, where: object, to_apply: str) -> None:
    """Raises UserError where raw clips are wanted and those of the files are normalised: `found`.

    `upright` brings clips to the same frame, turned before or not. Where clips are wanted as they are
    ("none") nobody knows better.
    """
    rigid = to_apply == "upright" and found in ("upright", "view")
    if found and to_apply != "none" and not rigid:
        raise UserError(
            f"{where} is normalised already ({found}) and the encoder takes {to_apply}: give raw clips, "
            "or --normalize=none if these are what it was trained on"
        )


def check(own: str | None, where: object, workdir: PathLike, info: Mapping[str, Any]) -> None:
    """Raises UserError when the clips of `where` are normalised by another than the run's."""
    trained = of_run(workdir, info)
    if not agree(own, trained):
        known = to_apply(trained) in NORMALIZERS
        advice = (
            f"prepare the data set with --normalize={to_apply(trained)}" if known else "give such"
        )
        raise UserError(
            f"{where} is normalised by {own}, but the encoder of {workdir} was trained on clips "
            f"normalised by {trained}: {advice}"
        )


def check_layout(layout: Layout | GraphLayout, info: Mapping[str, Any]) -> None:
    """Raises UserError when clips of `layout` are not what the encoder of a checkpoint takes.

    Joints of other names in the same number may well be the same; of the same names in another
    order they are not, which shapes would not tell.
    """
    if not isinstance(layout, Layout):
        return
    trained = restore_layout(info["layout"])
    same_shape = (layout.bodies, layout.num_joints) == (trained.bodies, trained.num_joints)
    try:
        joints = match_joints(layout, trained)
    except UserError as error:
        if same_shape:
            return
        raise UserError(f"the encoder was trained on {trained.name}: {error}") from error
    if not same_shape or joints != tuple(range(trained.num_joints)):
        raise UserError(
            f"the encoder was trained on {trained.name} and these clips are {layout.name}: prepare"
            f" them again with {name_option(trained)}"
        )
