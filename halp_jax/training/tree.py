"""A state as a flat table with names: what checkpoints store, compare and check."""

import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np


class Template(NamedTuple):
    """What a state looks like, without its memory: structure, and shape and dtype of each leaf."""

    structure: Any
    leaves: dict[str, jax.ShapeDtypeStruct]


def make_template(create: Callable[[], Any]) -> Template:
    """The template of the state that `create()` would make; nothing is computed."""
    structures, names = [], []

    def leaves() -> list[Any]:
        state = create()
        structures.append(jax.tree.structure(state))
        names.extend(flatten(state))
        return jax.tree.leaves(state)

    shapes = jax.eval_shape(leaves)
    return Template(structures[0], dict(zip(names, shapes, strict=True)))


def flatten(tree: Any) -> dict[str, Any]:
    """Any pytree as {"params/layer0/kernel": leaf}, in jax's order of leaves."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def checksum(leaf: np.ndarray) -> list[Any]:
    """[CRC-32 of the bytes, dtype, shape], as JSON holds them."""
    array = np.ascontiguousarray(leaf)
    return [zlib.crc32(array.reshape(-1).view(np.uint8)), str(leaf.dtype), list(leaf.shape)]
