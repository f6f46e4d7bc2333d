"""Checkpoint files of the released PyTorch code and safetensors, read and written.

torch and safetensors are optional and imported only here, when a file needs them. torch loads with
weights_only: a pickle that would call anything is refused, not executed. A file that is written
appears when it is whole.
"""

import contextlib
import io
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from halp_jax.datasets.atomic_write import atomic_write
from halp_jax.errors import UserError, import_optional
from halp_jax.methods.torch_names import strip_prefix

SAFETENSORS = ".safetensors"  # ending of such a file; any other is torch's
_UNFOLDED = 4  # times the file: what its tensors may amount to
OURS = "halp_jax"  # key of what the released layout has no place for
# What files that are cut short, crafted or something else make the libraries below us say.
DAMAGE = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, EOFError, RuntimeError, MemoryError,
    OverflowError, OSError,
)  # fmt: skip


class Content(NamedTuple):
    """What a file holds, tensors as numpy arrays."""

    arrays: dict[str, np.ndarray]  # the state dict
    optimizer: Any = None
    epoch: int | None = None
    ours: dict[str, str] = {}  # "config" and "run", JSON, where we wrote the file
    bare: bool = False  # torch's file is the state dict and nothing else


def read_file(path: Path) -> Content:
    """Reads either kind of file. Raises UserError where it cannot be read or is something else."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; give the checkpoint file as --from=FILE")
    return _read_safetensors(path) if path.suffix == SAFETENSORS else _read_torch(path)


def write_file(path: Path, content: Content) -> None:
    """Writes the kind of file that its name says; safetensors without the optimiser."""
    if path.suffix == SAFETENSORS:
        library = import_optional("safetensors.numpy", "safetensors", str(path))
        data = library.save(content.arrays, metadata={"format": "pt", **content.ours})
    else:
        torch = import_optional("torch", "torch", str(path))
        plain = {
            "epoch": content.epoch,
            "state_dict": content.arrays,
            "optimizer": content.optimizer,
        }
        whole = content.arrays if content.bare else plain | {OURS: content.ours}
        torch.save(_map_leaves(whole, np.ndarray, torch.tensor), buffer := io.BytesIO())
        data = buffer.getvalue()
    # Written here: the libraries' own files are for their owner alone, their full disks riddles.
    with atomic_write(path, "make room, or choose another place", overwrite=False) as stream:
        stream.write(data)


def _read_torch(path: Path) -> Content:
    torch = import_optional("torch", "torch", str(path))

    left = _UNFOLDED * path.stat().st_size + 2**20

    def to_numpy(tensor):
        nonlocal left
        left -= tensor.numel() * tensor.element_size()
        if left < 0:  # one number can be expanded to any shape
            raise ValueError("its tensors are larger than the file")
        tensor = tensor.detach()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()

    with naming(path, "is damaged, or no checkpoint that can be loaded without executing it"):
        try:
            with warnings.catch_warnings(action="ignore"):  # of old pickles, before they fail
                content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # of many kinds, with advice on how to be less careful
            text = str(error).split("WeightsUnpickler error:")[-1].strip()
            refused = re.search(r"GLOBAL ([\w.]+)", text)
            reason = text.split("\n")[0].split(". ")[0]
            raise ValueError(f"it would call {refused[1]}" if refused else reason) from error
        content = _map_leaves(content, torch.Tensor, to_numpy)
        arrays = content.get("state_dict", content)
        arrays = {
            name: array for name, array in arrays.items()
            if isinstance(name, str) and isinstance(array, np.ndarray)
        }  # fmt: skip
        check_numbers(arrays)
        epoch = content.get("epoch")
        ours = {n: text for n, text in content.get(OURS, {}).items() if isinstance(text, str)}
        optimizer = content.get("optimizer")
    epoch = epoch if isinstance(epoch, int) and epoch >= 0 else None
    return Content(strip_prefix(arrays), optimizer, epoch, ours)


def _read_safetensors(path: Path) -> Content:
    library = import_optional("safetensors", "safetensors", str(path))
    with naming(path, "is damaged or no safetensors file"):
        try:
            with library.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in list(file.keys())}
            check_numbers(arrays)
        except Exception as error:
            raise ValueError(str(error)) from error
    ours = {name: metadata[name] for name in ("config", "run") if name in metadata}
    return Content(strip_prefix(arrays), ours=ours)


def check_numbers(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for weights that are no real numbers; counters, of one element, may be whole."""
    for name, array in arrays.items():
        if array.dtype.kind not in ("f" if array.size > 1 else "fiu"):
            raise ValueError(f"{name} is {array.dtype}, not floating-point")


def _map_leaves(
    tree: Any, kind: type, change: Callable[[Any], Any], done: dict[int, Any] | None = None
) -> Any:
    """The tree with its leaves changed, a part that stands in many places once."""
    done = {} if done is None else done
    if id(tree) not in done:
        if isinstance(tree, dict):
            new = {key: _map_leaves(value, kind, change, done) for key, value in tree.items()}
        elif isinstance(tree, list | tuple):
            new = [_map_leaves(value, kind, change, done) for value in tree]
        else:
            new = change(tree) if isinstance(tree, kind) else tree
        done[id(tree)] = new
    return done[id(tree)]


@contextlib.contextmanager
def naming(path: Path, what: str = "is damaged") -> Iterator[None]:
    """What goes wrong with a file, in one line with its name."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} {what} ({reason}): fetch it again, or give another") from error


@contextlib.contextmanager
def appear(path: Path) -> Iterator[Path]:
    """A place for a folder that becomes `path` when all went well, and goes if not."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose another place") from error
    try:
        yield folder / path.name
        os.replace(folder / path.name, path)
    except OSError as error:
        raise UserError(
            f"cannot write {path} ({error.strerror}): make room, or choose another"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
