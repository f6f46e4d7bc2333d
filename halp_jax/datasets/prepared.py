"""A prepared data set as the rest of the project sees it: labels, splits, and records by number.

The folder holds a tfds data set (TFRecord files, one split named "clips") and `halp_dataset.json`,
which carries all that is needed without TensorFlow: names, labels, lengths, the benchmarks' splits
and where each record lies. This module imports json and numpy alone. (`arrays` has the data set that
lies in memory instead.)
"""

import dataclasses
import functools
import json
import os
import struct
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import ml_collections
import numpy as np
from jaxtyping import Int

from halp_jax.errors import UserError
from halp_jax.skeletons.layout import Layout, describe_layout, restore_layout

METADATA = "halp_dataset.json"
FORMAT_VERSION = 1
_CHECKSUM = ', "checksum": '
# A TFRecord is a length (8 bytes, little endian), its checksum (4), the data, their checksum (4).
HEADER, FOOTER = 12, 4
USED = ("frames", "length", "label")  # leaves of a batch that a training step may read


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """What is known of the clips of a data set, wherever they lie. Clips are numbered from 0.

    Attributes:
        path: where it was read from.
        name: the format that it was made from, e.g. "ntu".
        layout: the skeleton of all clips.
        class_names: one name a label.
        labels: [clips] 0-based classes, -1 for a clip without one.
        lengths: [clips] frames of each clip, untruncated.
        names: the clips' names, each once.
        splits: benchmark -> {"train": clip numbers, "test": clip numbers}, some also with "val".
        metadata: all that was noted of it, with what was damaged and how it was normalised.
    """

    path: Path
    name: str
    layout: Layout
    class_names: tuple[str, ...]
    labels: Int[np.ndarray, " clips"]
    lengths: Int[np.ndarray, " clips"]
    names: tuple[str, ...]
    splits: dict[str, dict[str, np.ndarray]]
    metadata: dict[str, Any]

    unit: ClassVar[str] = "clips"  # what the data set is made of
    in_memory: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.names)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def up(self) -> str:
        """The axis that points up: "z" of normalised clips, "y" of raw ones, as a Kinect has it."""
        normalised = self.metadata["normalize"] != "none" or "normalised" in self.metadata["notes"]
        return "z" if normalised else "y"

    def choose_split(self, benchmark: str) -> str:
        """The benchmark's name; "" is the only one that the set has."""
        known = ", ".join(sorted(self.splits)) or "none"
        if not benchmark and len(self.splits) == 1:
            return known
        if benchmark not in self.splits:
            what = (
                f"no split {benchmark!r}; it has"
                if benchmark or not self.splits
                else "several splits"
            )
            raise UserError(
                f"{self.path} has {what}: {known}; choose with --config.data.split=NAME"
            )
        return benchmark

    def indices(self, benchmark: str, part: str) -> Int[np.ndarray, " chosen"]:
        """Clip numbers of one part ("train", "test" or "val") of a benchmark, e.g. "xsub"."""
        benchmark = self.choose_split(benchmark)
        if part not in self.splits[benchmark]:
            known = ", ".join(sorted(self.splits[benchmark]))
            raise UserError(f"split {benchmark} has no part {part!r}; it has: {known}")
        return self.splits[benchmark][part]

    def labelled(self, benchmark: str, part: str) -> Int[np.ndarray, " chosen"]:
        """Those of `indices` that have a label: the clips of which classes are compared."""
        chosen = self.indices(benchmark, part)
        return chosen[self.labels[chosen] >= 0]

    def describe(self) -> Any:
        """The layout, as JSON holds it."""
        return describe_layout(self.layout)

    def identity(self, normalize: str | None = None) -> tuple[Any, ...]:
        """What tells this data set from others of the same names and lengths.

        `normalize`: as if the clips were normalised by this. The layout shows the one spine that
        older runs knew, so that their fingerprints stay valid.
        """
        spine = self.layout.view_spine or self.layout.spine
        layout = dataclasses.replace(self.layout, spine=spine)
        return layout, normalize or self.metadata.get("normalize")

    def tell_cut(self, indices: np.ndarray, max_frames: int | None, part: str) -> str:
        """A line on what is cut off of these clips, "" if nothing is."""
        from halp_jax.datasets import pipeline  # which imports this module

        return pipeline.describe_cut(self.lengths[indices], max_frames, part)

    def training_batches(
        self,
        config: ml_collections.ConfigDict,
        indices: np.ndarray,
        *,
        start_step: int,
        keeps_rest: bool,
        process: tuple[int, int],
        num_devices: int,
    ) -> Iterator[dict[str, np.ndarray]]:
        """This process's share of every batch of a run, from `start_step` on.

        Args:
            keeps_rest: the last batch of an epoch comes, too, though it may be smaller.
            process: (its number, how many there are).
            num_devices: of all processes; a batch of clips divides over any number of rows.
        """
        from halp_jax.datasets import pipeline

        common = {
            "batch_size": config.train.batch_size, "seed": config.seed, "start_step": start_step,
            "max_frames": config.data.max_frames,
        }  # fmt: skip
        if keeps_rest:
            steps = -(-len(indices) // config.train.batch_size)
            total = config.train.epochs * (config.train.epoch_steps or steps)
            batches = pipeline.whole_epochs(self, indices, epochs=-(-total // steps), **common)
        else:
            common |= {"process_index": process[0], "process_count": process[1]}
            batches = pipeline.train_batches(self, indices, **common)
        for batch in batches:
            yield {name: batch[name] for name in USED}

    def test_on(self, benchmark: str, part: str) -> "Dataset":
        """The same clips with another part of the benchmark as its test part."""
        parts = {**self.splits[benchmark], "test": self.indices(benchmark, part)}
        return dataclasses.replace(self, splits={**self.splits, benchmark: parts})


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedDataset(Dataset):
    """What `prepare` wrote: `path` is its folder, `metadata` the whole of halp_dataset.json."""

    @functools.cached_property
    def _shard_files(self) -> list[int]:
        """File descriptors of the record files, open for as long as this object lives."""
        files: list[int] = []
        closer = weakref.finalize(self, lambda: [os.close(file) for file in files])
        closer.atexit = False  # readers of tf.data may still be at work then
        for shard in self.metadata["shards"]:
            files.append(os.open(self.path / shard["file"], os.O_RDONLY | os.O_CLOEXEC))
        return files

    @functools.cached_property
    def _records(self) -> tuple[np.ndarray, ...]:
        """For each clip: number of its file, start of its record, data bytes, their CRC-32 or -1 if untold."""
        shards = self.metadata["shards"]
        file = np.repeat(np.arange(len(shards)), [len(shard["records"]) for shard in shards])
        sizes = [np.asarray(shard["records"], np.int64) for shard in shards]
        starts = [np.cumsum(size + HEADER + FOOTER) - (size + HEADER + FOOTER) for size in sizes]
        checksums = [shard.get("crc32", [-1] * len(shard["records"])) for shard in shards]
        return file, np.concatenate(starts), np.concatenate(sizes), np.concatenate(checksums)

    def read_records(self, numbers: Sequence[int] | Int[np.ndarray, " chosen"]) -> list[bytes]:
        """The serialised examples of these clips. Reads only them; safe from several threads."""
        file, start, size, checksum = self._records
        records = []
        for number in numbers:
            length = int(size[number])
            data = os.pread(self._shard_files[file[number]], HEADER + length, int(start[number]))
            whole = len(data) == HEADER + length and struct.unpack("<Q", data[:8])[0] == length
            if not whole or checksum[number] not in (-1, zlib.crc32(memoryview(data)[HEADER:])):
                path = self.path / self.metadata["shards"][file[number]]["file"]
                raise UserError(
                    f"{path} is damaged at byte {start[number]}: run prepare again with --overwrite"
                )
            records.append(data[HEADER:])
        return records


def open_dataset(data_dir: str | os.PathLike[str]) -> PreparedDataset:
    """Opens what `prepare` wrote, after a check that it is whole. Needs no TensorFlow.

    Raises:
        UserError: the folder is missing, unfinished, of another version, or a file is damaged.
    """
    path = Path(data_dir).expanduser()
    try:
        metadata = _load(path / METADATA)
    except OSError as error:
        what, options = "does not exist", f"--out={path}"
        if path.exists():
            what, options = "is no prepared data set", f"--source={path} --out=FOLDER"
        raise UserError(
            f"{path} {what}: write one with python -m halp_jax.prepare {options}"
        ) from error
    except ValueError as error:
        raise UserError(f"{path / METADATA} is damaged ({error}): run prepare again") from error
    version = metadata.get("format_version") if isinstance(metadata, dict) else None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path / METADATA} has format version {version}, this program reads {FORMAT_VERSION}:"
            " run prepare again"
        )
    try:
        count = sum(len(shard["records"]) for shard in metadata["shards"])
        dataset = PreparedDataset(**read_fields(path, metadata, count))
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(
            f"{path / METADATA} is damaged ({type(error).__name__}: {error}): run prepare again"
        ) from error
    except Misfit as error:
        raise UserError(f"{path / METADATA} {error}: run prepare again") from error
    _check_whole(dataset)
    return dataset


def save_metadata(folder: Path, metadata: dict[str, Any]) -> None:
    """Writes halp_dataset.json; its last field is the CRC-32 of the JSON without it."""
    text = json.dumps(metadata)
    text = f"{text[:-1]}{_CHECKSUM}{zlib.crc32(text.encode())}}}"
    (folder / METADATA).write_text(text, encoding="utf-8")


def _load(file: Path) -> Any:
    """The JSON of `save_metadata`, or of a set from before it had a checksum."""
    text = file.read_text(encoding="utf-8")
    body, told, checksum = text.rpartition(_CHECKSUM)
    if told and checksum != f"{zlib.crc32(f'{body}}}'.encode())}}}":
        raise ValueError("its checksum is wrong; take this last field out if you changed the file")
    return json.loads(f"{body}}}" if told else text)


class Misfit(Exception):
    """The metadata of a data set do not fit its clips."""


def read_fields(
    path: Path, metadata: dict[str, Any], count: int, restore: Callable[[Any], Any] = restore_layout
) -> dict[str, Any]:
    """The fields of a Dataset of `count` clips, from what its JSON file holds.

    `restore`: makes the layout of what the file says of it.

    Raises:
        Misfit: there are more or fewer labels, names or lengths, or numbers beyond the clips.
        UserError: the layout is not known, or not sound.
        KeyError, TypeError, IndexError, AttributeError: the JSON is no data set's.
    """
    classes = len(metadata["class_names"])
    parts = [part for parts in metadata["splits"].values() for part in parts.values()]
    if (
        any(len(metadata[name]) != count for name in ("names", "labels", "lengths"))
        or not all(0 <= number < count for part in parts for number in part)
        or not all(-1 <= label < classes for label in metadata["labels"])
    ):
        raise Misfit(f"does not fit its {count} records")
    return {
        "path": path,
        "name": metadata["name"],
        "layout": restore(metadata["layout"]),
        "class_names": tuple(metadata["class_names"]),
        "labels": np.asarray(metadata["labels"], np.int32),
        "lengths": np.asarray(metadata["lengths"], np.int32),
        "names": tuple(metadata["names"]),
        "splits": {
            benchmark: {part: np.asarray(chosen, np.int32) for part, chosen in parts.items()}
            for benchmark, parts in metadata["splits"].items()
        },
        "metadata": metadata,
    }


def _check_whole(dataset: PreparedDataset) -> None:
    """Every record file is there and as long as it was."""
    for shard in dataset.metadata["shards"]:
        file, records = dataset.path / shard["file"], shard["records"]
        whole = sum(records) + len(records) * (HEADER + FOOTER)
        if file.parent != dataset.path or not file.is_file():
            raise UserError(f"{file} is missing: run prepare again")
        size = file.stat().st_size
        if size != whole:
            found = f"is truncated at byte {size} of" if size < whole else f"has {size} bytes, not"
            raise UserError(f"{file} {found} {whole}: run prepare again")
