"""A data set as one file that travels: compressed, read into memory whole, without TensorFlow.

The file is a .npz of two arrays: the frames of all clips, one clip after the other, and the JSON of
everything else as bytes. No array holds Python objects, and nothing in the file is executed.
"""

import json
import math
import os
import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from halp_jax.datasets import graphs, pipeline, prepared
from halp_jax.datasets.arrays import ArrayDataset
from halp_jax.datasets.atomic_write import write_named
from halp_jax.datasets.npy import ZIP_DAMAGE
from halp_jax.datasets.prepared import Dataset, Misfit, read_fields
from halp_jax.errors import UserError

SUFFIX = ".npz"
FORMAT, FORMAT_VERSION = "halp_jax packed clips", 1
VERSIONS = {FORMAT: FORMAT_VERSION, graphs.FORMAT: graphs.FORMAT_VERSION}
# What is unpacked before it is known to fit: a file of some MB can be made to hold GB.
_MOST_PACKED, _SPARE = 100, 2**20
# What zipfile, zlib, numpy and json say of a file that is cut short, changed, or something else.
DAMAGE = (
    *ZIP_DAMAGE, KeyError, TypeError, IndexError, AttributeError, struct.error, MemoryError, Misfit,
)  # fmt: skip


def pack(
    dataset: Dataset,
    file: str | os.PathLike[str],
    *,
    half: bool = False,
    overwrite: bool = False,
) -> Path:
    """Writes a data set, of a folder or in memory, to one file; it appears when it is whole.

    Args:
        file: its name ends in .npz, which is how `open_dataset` knows it.
        half: float16, which halves the file and rounds: coordinates below 2 m by at most 0.5 mm,
            below 4 m by 1 mm. Sensors are off by centimetres.
        overwrite: replace a file that is there, at the very end.

    Raises:
        UserError: the file is there or cannot be written, or a coordinate is too large for float16.
    """
    with write_named(file, SUFFIX, overwrite) as stream:
        frames = load_frames(dataset)
        if half:
            if not np.abs(frames).max() <= np.finfo(np.float16).max:
                raise UserError(f"{dataset.path} has coordinates beyond float16; leave out half")
            frames = frames.astype(np.float16)
        metadata = {name: value for name, value in dataset.metadata.items() if name != "shards"}
        save(stream, metadata, frames)
    return Path(file).expanduser()


def save(stream: IO[bytes], metadata: dict[str, Any], frames: np.ndarray) -> None:
    """Writes what `pack` does: the metadata of a data set, the frames of all clips one after the other."""
    metadata = metadata | {"format": FORMAT, "format_version": FORMAT_VERSION}
    text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    np.savez_compressed(stream, metadata=text, frames=frames)


def load_frames(dataset: Dataset) -> np.ndarray:
    """[frames, bodies, joints, 3] float32: all clips of a data set, one after the other."""
    if isinstance(dataset, ArrayDataset):
        return dataset.frames
    shape = (int(dataset.lengths.sum()), dataset.layout.bodies, dataset.layout.num_joints, 3)
    frames, end = np.empty(shape, np.float32), 0
    for _, clip in pipeline.iterate_clips(dataset, np.arange(len(dataset)), "pack"):
        frames[end : end + len(clip)] = clip
        end += len(clip)
    return frames


def load(file: str | os.PathLike[str]) -> ArrayDataset | graphs.GraphDataset:
    """Reads what `pack`, or `graphs.save`, wrote.

    Raises:
        UserError: the file is missing, damaged, something else, or of another version.
    """
    path = Path(file).expanduser()
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            size = {member.filename: member.file_size for member in arrays.zip.infolist()}
            frames_size = size.pop("frames.npy", 0)
            if sum(size.values()) > _SPARE + _MOST_PACKED * path.stat().st_size:
                raise Misfit("its arrays are far larger than the file")
            metadata = json.loads(arrays["metadata"].tobytes())
            if not isinstance(metadata, dict) or metadata.get("format") not in VERSIONS:
                raise Misfit("its metadata are of something else")
            version, known = metadata.get("format_version"), VERSIONS[metadata["format"]]
            if version != known:
                raise UserError(
                    f"{path} has format version {version}, this program reads {known}: pack it again"
                )
            if metadata["format"] == graphs.FORMAT:
                return graphs.read(path, metadata, arrays)
            fields = read_fields(path, metadata, len(metadata["names"]))
            layout, lengths = fields["layout"], fields["lengths"]
            count = int(lengths.sum(dtype=np.int64))
            shape = (max(count, 0), layout.bodies, layout.num_joints, 3)
            if frames_size > _SPARE + 4 * math.prod(shape):
                raise Misfit("its frames are more than its clips have")
            frames = arrays["frames"]
        if frames.dtype not in (np.float16, np.float32):
            raise Misfit(f"its frames are {frames.dtype}")
        if not len(lengths) or lengths.min() < 1 or frames.shape != shape:
            raise Misfit(f"its frames are {list(frames.shape)}, its clips have {list(shape)}")
        if not np.isfinite(frames).all():
            raise Misfit("coordinates are NaN or infinite")
    except UserError:
        raise
    except OSError as error:
        what = "does not exist" if not path.exists() else f"cannot be read ({error})"
        raise UserError(
            f"{path} {what}: write it with python -m halp_jax.export --out={path}"
        ) from error
    except DAMAGE as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{path} is damaged or no packed data set ({reason}): pack it again"
        ) from error
    return ArrayDataset(**fields, frames=frames.astype(np.float32, copy=False))


def open_dataset(data_dir: str | os.PathLike[str]) -> Dataset:
    """Opens a folder that `prepare` wrote, or a file NAME.npz that `pack` wrote. No TensorFlow.

    Raises:
        UserError: it is missing, unfinished, damaged or of another version.
    """
    path = Path(data_dir).expanduser()
    if path.suffix == SUFFIX and not path.is_dir():
        return load(path)
    if (path / graphs.FILE).exists():
        return load(path / graphs.FILE)
    return prepared.open_dataset(path)


def is_dataset(path: str | os.PathLike[str]) -> bool:
    """Whether `open_dataset` is for this folder or file, which may still be damaged."""
    path = Path(path).expanduser()
    if path.suffix != SUFFIX or not zipfile.is_zipfile(path):
        return (path / prepared.METADATA).exists() or (path / graphs.FILE).exists()
    with zipfile.ZipFile(path) as file:
        return "metadata.npy" in file.namelist()
