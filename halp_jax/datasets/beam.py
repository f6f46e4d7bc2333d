"""The reading and writing of `prepare` as an Apache Beam pipeline: for data sets of millions of clips.

Every item of the source is read, checked and normalised by whichever worker of the runner (Flink,
Spark, Dataflow, or processes of this machine) has it; tfds' BeamWriter puts the clips back into the
order of the source and writes the records. Workers see the source's files and the folder that is
written under the paths of this machine, and have this package installed. Apache Beam is optional,
requirements-beam.txt; the tfds modules come from the builder, where TensorFlow is imported.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from halp_jax.datasets.clip import Clip, ClipInfo
from halp_jax.datasets.read_pool import Reading, Written, read_item
from halp_jax.datasets.source import Item
from halp_jax.errors import UserError

CLIPS_PER_ITEM = 2**20  # at most: a clip's key is item * CLIPS_PER_ITEM + its place there
FOUND, DAMAGED, LINES = "found", "damaged", ".jsonl"
SAME_NAME = "clip {}: an earlier clip has this name; rename or remove one"


def import_beam() -> Any:
    try:
        import apache_beam
    except ImportError as error:
        raise UserError(
            "--beam needs Apache Beam: pip install -r requirements-beam.txt, in an environment of "
            "its own, or leave it out to read with the processes of this machine"
        ) from error
    return apache_beam


def write_clips(
    tfds_core: Any,
    info: Any,
    split: str,
    reading: Reading,
    items: Sequence[Item],
    runner: str,
    options: Sequence[str],
    make_example: Callable[[Clip], dict[str, Any]],
    strict: bool,
) -> Written:
    """Runs the pipeline, which fills the folder of the tfds data set `info` with its one split.

    Raises:
        UserError: Beam is not there, the pipeline failed or, with `strict`, a clip is damaged.
    """
    beam = import_beam()
    folder, features = Path(info.data_dir), info.features
    names = tfds_core.naming.ShardedFileTemplate(
        data_dir=folder, dataset_name=info.name, split=split, filetype_suffix="tfrecord"
    )
    records = tfds_core.writer.BeamWriter(
        tfds_core.example_serializer.ExampleSerializer(features.get_serialized_info()),
        names, hash_salt="", disable_shuffling=True,
        example_writer=tfds_core.writer.ExampleWriter(tfds_core.file_adapters.FileFormat.TFRECORD),
    )  # fmt: skip
    settings = beam.options.pipeline_options.PipelineOptions(list(options))
    # Outputs of one step are of different types, which Beam's check does not take.
    settings.view_as(beam.options.pipeline_options.TypeOptions).pipeline_type_check = False

    def write_lines(name: str) -> Any:
        return f"Write {name}" >> beam.io.WriteToText(str(folder / name), LINES)

    try:
        with beam.Pipeline(runner=runner, options=settings) as pipeline:
            items = pipeline | "Items" >> beam.Create(list(enumerate(items)), reshuffle=True)
            read = items | "Read" >> beam.FlatMap(_read, reading).with_outputs(DAMAGED, main=FOUND)
            named = read[FOUND] | "Name" >> beam.Map(_name)
            later = named | "Same name" >> beam.GroupByKey() | beam.FlatMapTuple(_find_later)
            first = read[FOUND] | "First" >> beam.Filter(_is_first, beam.pvalue.AsDict(later))
            examples = first | "Encode" >> beam.Map(_encode, features, make_example)
            records.write_from_pcollection(examples)
            _ = first | "Note" >> beam.MapTuple(_note) | write_lines(FOUND)
            broken = (read[DAMAGED], later | "Tell" >> beam.MapTuple(_tell_later))
            _ = broken | beam.Flatten() | "Line" >> beam.Map(json.dumps) | write_lines(DAMAGED)
        lengths, size = records.finalize()
    except Exception as error:  # of the runner's own kinds
        reason = " ".join(str(error).split())
        if "should be >0" not in reason:  # as tfds says where no clip is left
            raise UserError(f"the Beam pipeline on {runner} failed: {reason[:300]}") from error
        lengths, size = [], 0
    if lengths:
        written = tfds_core.splits.SplitInfo(
            name=split, shard_lengths=lengths, num_bytes=size, filename_template=names
        )
        info.set_splits(tfds_core.splits.SplitDict([written]))
        info.write_to_directory(folder)
    notes = sorted(_take_lines(folder, FOUND))
    lines = sorted(_take_lines(folder, DAMAGED), key=lambda line: line[:2])
    damaged = [entry for _, _, entry in lines]
    for entry in damaged:
        if strict:
            raise UserError(entry["reason"])
        print(f"damaged, left out: {entry['reason']}", file=sys.stderr)
    written = Written([], [], [], damaged, Counter())
    for _, fields, length, fps, remarks in notes:
        written.add(ClipInfo(**fields), length, fps, remarks)
    return written


def _read(numbered: tuple[int, Item], reading: Reading) -> Iterator[Any]:
    """(key, clip) of each sound clip; [item, place, entry] of each damaged one, on the side."""
    from apache_beam.pvalue import TaggedOutput

    number, item = numbered
    result = read_item(reading, item)
    for place, clip in enumerate(result.clips):
        yield number * CLIPS_PER_ITEM + place, clip
    for place, entry in enumerate(result.damaged):
        yield TaggedOutput(DAMAGED, [number, place, entry])


def _name(keyed: tuple[int, Clip]) -> tuple[str, int]:
    key, clip = keyed
    return clip.name, key


def _find_later(name: str, keys: Iterable[int]) -> Iterator[tuple[int, str]]:
    """The clips that bear a name which an earlier one has."""
    for key in sorted(keys)[1:]:
        yield key, name


def _is_first(keyed: tuple[int, Clip], later: dict[int, str]) -> bool:
    return keyed[0] not in later


def _tell_later(key: int, name: str) -> list[Any]:
    number, place = divmod(key, CLIPS_PER_ITEM)
    return [number, CLIPS_PER_ITEM + place, {"item": name, "reason": SAME_NAME.format(name)}]


def _encode(keyed: tuple[int, Clip], features: Any, make_example: Any) -> tuple[int, Any]:
    key, clip = keyed
    return key, features.encode_example(make_example(clip))


def _note(key: int, clip: Clip) -> str:
    fields = {k: v if isinstance(v, str) else int(v) for k, v in vars(clip.info).items()}
    return json.dumps([key, fields, len(clip.frames), clip.fps, clip.remarks])


def _take_lines(folder: Path, name: str) -> Iterator[list[Any]]:
    """The lines that all workers have written; their files go."""
    for path in folder.glob(f"{name}-*{LINES}"):
        with open(path, encoding="utf-8") as lines:
            yield from map(json.loads, lines)
        path.unlink()
