"""Clips of any source -> a data set on disk, written once and then only read.

It is a folder that tfds opens, too, or a packed file, for which no TensorFlow is needed. The files hold
the clips in the order of the source, so they do not depend on the number of processes that read them,
and are whole or do not open (`atomic_write`): so it is for a run that is stopped or killed.
"""

import contextlib
import os
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from halp_jax.datasets import beam, packed, prepared, read_pool
from halp_jax.datasets.atomic_write import claim_folder, write_named
from halp_jax.datasets.clip import Clip
from halp_jax.datasets.pipeline import import_tensorflow
from halp_jax.datasets.preview import PICTURE, check_skeleton, choose_clips, save_picture
from halp_jax.datasets.source import Source, count_overlap, number_splits
from halp_jax.errors import UserError
from halp_jax.progress import Progress
from halp_jax.skeletons.common import describe_conversion
from halp_jax.skeletons.layout import Layout, describe_layout

TFDS_NAME, TFDS_VERSION, TFDS_SPLIT = "halp_clips", "1.0.0", "clips"
RECORDS = f"{TFDS_NAME}-{TFDS_SPLIT}.tfrecord-"
CLIPS_PER_FILE = 2048  # about 120 MB of NTU clips
CLIPS_PER_WRITE = 128  # tfds writes its metadata anew each time


def prepare_source(
    source: Source,
    out_dir: str | os.PathLike[str],
    *,
    workers: int = 0,
    normalize: str | None = None,
    as_layout: Layout | None = None,
    strict: bool = False,
    overwrite: bool = False,
    repair: read_pool.Repair = read_pool.USUAL_REPAIR,
    beam_runner: str = "",
    beam_options: Sequence[str] = (),
) -> prepared.Dataset:
    """Reads every item of `source` and writes the prepared data set `out_dir`.

    Args:
        source: what `halp_jax.datasets.open_source` gives.
        out_dir: a folder that does not exist yet (or see `overwrite`), or a file NAME.npz: that is
            written from memory, without a picture, and needs no TensorFlow.
        workers: reader processes; with 0 or 1 everything happens in this one.
        normalize: "upright" for the view-invariant normalisation, "view" for the older one that
            did not always stand people upright, "released" for that of the released code, "none" for
            coordinates as they are (see `skeletons.normalize`). None stands for "upright", or for
            "none" where the source is normalised already, which is noted as "upright" if it is.
        as_layout: the layout that clips are taken to before they are normalised, see
            `skeletons.common`. None stands for the one that they have.
        strict: stop at the first damaged clip instead of leaving it out.
        overwrite: replace a data set that is there, at the very end.
        repair: how gaps of lost joints are filled, and the frame rate.
        beam_runner, beam_options: Apache Beam's runner that does it all in place of `workers`.

    Returns:
        The data set, open. Damaged clips are named on standard error and in `metadata["damaged"]`.

    Raises:
        UserError: no clip is left, the folder exists, the source's joints cannot be taken to
            `as_layout`, its clips are not those of the layout that was guessed, the frame rate of a
            clip that is to be resampled is not known or, with `strict`, a clip is damaged.
    """
    layout = as_layout or source.layout
    if normalize is None:
        # Upright clips stand on another layout's spine after another turn, which loses nothing.
        again = source.normalized == "upright" and layout.joints != source.layout.joints
        normalize = "none" if source.normalized and not again else "upright"
    kept = source.normalized if normalize == "none" else ""
    read_pool.check_normalize(normalize)
    if not source.items:
        raise UserError(f"the {source.format} source has no files to read; check its path")
    converted = describe_conversion(source.layout, layout)  # before any work: it may be impossible
    out = Path(out_dir).expanduser().resolve()
    in_one = out.suffix == packed.SUFFIX and not out.is_dir()
    if in_one and beam_runner:
        raise UserError(f"--beam writes a folder; give one in place of {out}")
    reading = read_pool.Reading(
        source.read, source.layout, len(source.class_names), normalize, layout, repair
    )
    with (
        write_named(out, out.suffix, overwrite) if in_one else claim_folder(out, overwrite) as place
    ):
        told = check_skeleton(source, reading)
        frames: list[np.ndarray] = []
        if beam_runner:
            tfds, info = _tfds_info(place, source, layout)
            given = (reading, source.items, beam_runner, beam_options)
            written = beam.write_clips(tfds.core, info, TFDS_SPLIT, *given, _example, strict)
        else:
            keep = contextlib.nullcontext(lambda clip: frames.append(clip.frames))
            with keep if in_one else _open_records(place, source, layout) as write:
                results = read_pool.read_items(reading, source.items, workers)
                written = _write_clips(write, results, source, strict)
        infos, lengths, rates, damaged, remarks = written
        if not infos:
            raise UserError(
                f"the {source.format} source has no sound clip, {len(damaged)} are damaged"
                + (f", the first: {damaged[0]['reason']}" if damaged else "; check its options")
            )
        splits, absent = number_splits(source.splits(infos), [info.name for info in infos])
        fps, rate_notes = read_pool.describe_rates(rates)
        found = remarks | rate_notes | count_overlap(splits, len(infos))
        metadata = {
            "format_version": prepared.FORMAT_VERSION,
            "name": source.format,
            "layout": describe_layout(layout),
            **converted,
            "class_names": source.class_names,
            "normalize": kept if kept not in ("", "view") else normalize,
            "fps": fps,
            "notes": source.notes | told | found,
            "damaged": damaged,
            "absent_from_splits": absent,
            "splits": splits,
            "names": [info.name for info in infos],
            "labels": [int(info.label) for info in infos],
            "lengths": lengths,
        }
        if in_one:
            packed.save(place, metadata, np.concatenate(frames))
        else:
            metadata["shards"] = [
                _describe_records(file) for file in sorted(place.glob(f"{RECORDS}*"))
            ]
            prepared.save_metadata(place, metadata)
            dataset = prepared.open_dataset(place)
            save_picture(dataset, choose_clips(dataset), place / PICTURE)
    return packed.open_dataset(out)


def _describe_records(file: Path) -> dict[str, Any]:
    """The name of a TFRecord file, and bytes and CRC-32 of each record's data.

    TFRecords have a checksum of their own, a CRC-32C, which takes TensorFlow to look at.

    Raises:
        UserError: the last record does not end where the file does.
    """
    sizes, checksums, position, end = [], [], 0, file.stat().st_size
    with open(file, "rb") as stream:
        while position < end:
            header = stream.read(prepared.HEADER)
            size = struct.unpack("<Q", header[:8])[0] if len(header) == prepared.HEADER else end
            position += prepared.HEADER + size + prepared.FOOTER
            if position > end:
                raise UserError(f"{file} is truncated at byte {end}: run prepare again")
            sizes.append(size)
            checksums.append(zlib.crc32(stream.read(size)))
            stream.seek(position)
    return {"file": file.name, "records": sizes, "crc32": checksums}


def _write_clips(
    write: Callable[[Clip], None],
    results: Iterator[read_pool.ItemResult],
    source: Source,
    strict: bool,
) -> read_pool.Written:
    """Writes all sound clips, one after the other."""
    written, seen = read_pool.Written([], [], [], [], Counter()), set()
    with (
        contextlib.closing(results),
        Progress(len(source.items), "prepare", unit=f"{source.format} items") as progress,
    ):
        for clips, broken in results:
            for clip in clips:
                if clip.name in seen:
                    reason = beam.SAME_NAME.format(clip.name)
                    broken.append({"item": clip.name, "reason": reason})
                    continue
                seen.add(clip.name)
                written.add(clip.info, len(clip.frames), clip.fps, clip.remarks)
                write(clip)
            for entry in broken:
                if strict:
                    raise UserError(entry["reason"])
                progress.note(f"damaged, left out: {entry['reason']}")
            written.damaged.extend(broken)
            progress.update(clips=len(written.infos), damaged=len(written.damaged))
    return written


@contextlib.contextmanager
def _open_records(folder: Path, source: Source, layout: Layout) -> Iterator[Callable[[Clip], None]]:
    """What writes a clip to the tfds data set in `folder`."""
    tfds, info = _tfds_info(folder, source, layout)
    writer = tfds.core.SequentialWriter(info, max_examples_per_shard=CLIPS_PER_FILE)
    writer.initialize_splits([TFDS_SPLIT])
    waiting: list[dict[str, Any]] = []

    def flush() -> None:
        writer.add_examples({TFDS_SPLIT: waiting})
        waiting.clear()

    def write(clip: Clip) -> None:
        waiting.append(_example(clip))
        if len(waiting) >= CLIPS_PER_WRITE:
            flush()

    try:
        yield write
        flush()
        writer.close_all()
    except import_tensorflow().errors.OpError as error:  # a full disk, which is no OSError there
        raise OSError(0, error.message) from error


def _example(clip: Clip) -> dict[str, Any]:
    return {"frames": clip.frames, "length": len(clip.frames), **vars(clip.info)}


def _tfds_info(folder: Path, source: Source, layout: Layout) -> tuple[Any, Any]:
    """tfds, and its description of the data set that is written into `folder`."""
    import_tensorflow()
    import tensorflow_datasets as tfds

    names = list(source.class_names)
    features = tfds.features.FeaturesDict(
        {
            "frames": tfds.features.Tensor(
                shape=(None, layout.bodies, layout.num_joints, 3), dtype=np.float32
            ),
            # tfds wants names, and that they differ; the class is a number either way.
            "label": tfds.features.ClassLabel(names=names)
            if names and len(set(names)) == len(names)
            else tfds.features.Scalar(np.int64),
            "name": tfds.features.Text(),
            **{
                field: tfds.features.Scalar(np.int32)
                for field in ("length", "subject", "camera", "setup", "performance")
            },
        }
    )
    identity = tfds.core.dataset_info.DatasetIdentity(
        name=TFDS_NAME,
        version=tfds.core.Version(TFDS_VERSION),
        data_dir=os.fspath(folder),
        module_name=__name__,
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description=f"Skeleton clips ({layout.name}), prepared from {source.format} files.",
        features=features,
        disable_shuffling=True,
    )
    return tfds, info
