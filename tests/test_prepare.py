"""Preparing a data set: what is written, what is left out, and what a broken run leaves."""

import dataclasses
import functools
import io
import json
import multiprocessing
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from _files import annotation, write_pyskl
from _formats import write_nwucla

from halp_jax import prepare
from halp_jax.datasets import open_source, pipeline
from halp_jax.datasets.atomic_write import UNFINISHED
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import Clip, DamagedClip
from halp_jax.datasets.pipeline import describe_cut
from halp_jax.datasets.prepared import METADATA, open_dataset
from halp_jax.datasets.read_pool import EMPTY_END, LOST_JOINTS, Repair
from halp_jax.datasets.source import Item, Source
from halp_jax.errors import UserError
from halp_jax.options import run_command
from halp_jax.progress import Progress, duration
from halp_jax.skeletons.layout import NTU25
from halp_jax.skeletons.normalize import normalize_clip

ROOT = Path(__file__).parent.parent


def make_clip(number: int, bodies: int = 2) -> Clip:
    """A clip of 5 to 11 frames whose content follows from its number."""
    rng = np.random.default_rng(number)
    frames = rng.normal(size=(5 + number % 7, bodies, 25, 3)).astype(np.float32)
    return Clip(frames, number % 3, f"clip{number:03d}", subject=number % 4, camera=1)


def read_fake(item: Item) -> list[Clip]:
    """The payload says what the item is: a number for a sound clip, else a kind of damage."""
    kind, number = item.payload
    clip = make_clip(number)
    if kind == "unreadable":
        raise DamagedClip(f"{item.id}: not a skeleton\nfile; download it again")
    if kind == "gone":
        raise OSError(5, "Input/output error", item.id)
    if kind == "inf":
        clip.frames[2, 0, 3, 1] = np.inf
    if kind == "twin":
        return [clip, make_clip(number + 100)]
    if kind == "interrupt":
        raise KeyboardInterrupt
    return [make_clip(number, bodies=1) if kind == "single" else clip]


def read_slowly(item: Item, folder: str) -> list[Clip]:
    """Leaves word of the process that reads, and takes forever there from the fifth clip on."""
    if multiprocessing.parent_process() is None:
        return read_fake(item)  # the look at the first clips
    (Path(folder) / f"reader{os.getpid()}").touch()
    if item.payload[1] >= 5:
        time.sleep(600)
    return read_fake(item)


def split_by_subject(infos):
    return {
        "xsub": {
            "train": [info.name for info in infos if info.subject < 2],
            "test": [info.name for info in infos if info.subject >= 2] + ["never there"],
        }
    }


def make_source(kinds: dict[int, str] | None = None, count: int = 20) -> Source:
    kinds = kinds or {}
    items = tuple(Item(f"file{i}", (kinds.get(i, "clip"), i)) for i in range(count))
    return Source("fake", NTU25, ("a", "b", "c"), items, read_fake, split_by_subject, {"left": 7})


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return prepare_source(make_source(), tmp_path_factory.mktemp("small") / "set")


# --- what is written ------------------------------------------------------------------------------


def test_metadata_holds_labels_lengths_names_and_splits(small):
    assert small.names == tuple(f"clip{i:03d}" for i in range(20))
    np.testing.assert_array_equal(small.labels, [i % 3 for i in range(20)])
    np.testing.assert_array_equal(small.lengths, [5 + i % 7 for i in range(20)])
    np.testing.assert_array_equal(
        small.indices("xsub", "test"), [i for i in range(20) if i % 4 >= 2]
    )
    assert (small.name, small.layout, small.num_classes, len(small)) == ("fake", NTU25, 3, 20)
    assert small.metadata["normalize"] == "upright"
    assert small.metadata["absent_from_splits"] == {"xsub": 1}
    with pytest.raises(UserError, match="no split 'xview'; it has: xsub"):
        small.indices("xview", "train")


def test_splits_that_fit_no_clip_are_refused_and_what_is_odd_is_said(tmp_path):
    def write(**parts):
        source = dataclasses.replace(make_source(count=4), splits=lambda _: {"mine": parts})
        return prepare_source(source, tmp_path / "set", overwrite=True)

    with pytest.raises(UserError, match="split mine: none of its 3 names .*'other 1'.*clip000"):
        write(train=["other 1"], test=["other 2", "other 3"])
    assert not (tmp_path / "set").exists()
    dataset = write(train=["clip000", "clip001"], test=["clip001"], val=["clip002"])
    assert dataset.indices("mine", "val").tolist() == [2]
    told = prepare.summary(dataset)
    assert "split mine: 1 clips are in train and in test: accuracies will be too high" in told
    assert "split mine: 1 clips are in no part of it" in told
    told = prepare.summary(write(train=["clip000"], test=["other 1", "other 2"]))
    assert "1 train" in told and "0 test" in told and "mine: 2 clips of the official split" in told


def read_unlabelled(item):
    return [dataclasses.replace(clip, label=-1) for clip in read_fake(item)]


def test_clips_without_any_label(tmp_path):
    source = dataclasses.replace(make_source(count=4), read=read_unlabelled, class_names=())
    dataset = prepare_source(source, tmp_path / "set")
    assert dataset.labels.tolist() == [-1] * 4 and dataset.num_classes == 0
    assert len(dataset.labelled("xsub", "train")) == 0 and len(dataset.indices("xsub", "train"))
    (batch,) = pipeline.eval_batches(dataset, np.arange(4), batch_size=4, max_frames=5)
    assert batch["label"].tolist() == [-1] * 4
    alone = dataclasses.replace(dataset, labels=np.zeros(4, int), class_names=("clips",))
    for each, told in ((dataset, "no labels"), (alone, "one class")):
        assert f"{told}: enough to train on" in prepare.summary(each)


def test_tfds_opens_the_folder_and_finds_the_normalised_clips(small):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(small.path)
    assert builder.info.splits["clips"].num_examples == 20
    assert builder.info.features["label"].names == ["a", "b", "c"]
    examples = list(tfds.as_numpy(builder.as_dataset(split="clips")))
    for number, example in enumerate(examples):
        clip = make_clip(number)
        np.testing.assert_array_equal(example["frames"], normalize_clip(clip.frames, NTU25))
        assert example["name"].decode() == clip.name
        assert example["length"] == len(clip.frames)
        assert (example["label"], example["subject"], example["setup"]) == (
            clip.label, clip.subject, -1,
        )  # fmt: skip


@pytest.mark.long
def test_files_do_not_depend_on_the_number_of_workers(tmp_path, capsys):
    # Items that give two clips, clips of one body, damage and a repeated name included.
    kinds = {3: "twin", 4: "single", 9: "inf", 12: "gone", 16: "unreadable"}
    source = make_source(kinds, 103)
    source = dataclasses.replace(source, items=(*source.items, Item("again", ("clip", 5))))
    for workers in (0, 2):
        prepare_source(source, tmp_path / str(workers), workers=workers)
    files = sorted(path.name for path in (tmp_path / "0").iterdir())
    assert len(files) >= 4 and files == sorted(p.name for p in (tmp_path / "2").iterdir())
    for name in files:
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_where_no_process_can_be_started_a_line_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*_):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("halp_jax.datasets.read_pool.ProcessPoolExecutor", refuse)
    with pytest.raises(UserError, match="no reader process can be started .*--workers=1"):
        prepare_source(make_source(), tmp_path / "set.npz", workers=2)
    assert list(tmp_path.iterdir()) == []


def test_many_record_files_keep_the_order(tmp_path, monkeypatch, small):
    monkeypatch.setattr("halp_jax.datasets.builder.CLIPS_PER_FILE", 6)
    monkeypatch.setattr("halp_jax.datasets.builder.CLIPS_PER_WRITE", 4)
    dataset = prepare_source(make_source(), tmp_path / "set")
    assert [len(shard["records"]) for shard in dataset.metadata["shards"]] == [6, 6, 6, 2]
    assert dataset.read_records(range(20)) == small.read_records(range(20))
    assert dataset.read_records([13, 2]) == small.read_records([13, 2])


def test_coordinates_stay_as_they_are_without_normalisation(tmp_path):
    import tensorflow as tf

    dataset = prepare_source(make_source({1: "single"}, 2), tmp_path / "set", normalize="none")
    example = tf.train.Example.FromString(dataset.read_records([1])[0])
    frames = np.array(example.features.feature["frames"].float_list.value, np.float32)
    frames = frames.reshape(-1, 2, 25, 3)
    np.testing.assert_array_equal(frames[:, :1], make_clip(1, bodies=1).frames)
    assert not frames[:, 1].any()
    with pytest.raises(UserError, match="'sideways' is not known; use one of upright, view"):
        prepare_source(make_source(), tmp_path / "other", normalize="sideways")


# --- damage ---------------------------------------------------------------------------------------


def test_damaged_clips_are_named_counted_and_left_out(tmp_path, capsys):
    source = make_source({1: "unreadable", 4: "inf", 6: "gone"}, 8)
    source = dataclasses.replace(source, items=(*source.items, Item("again", ("clip", 5))))
    dataset = prepare_source(source, tmp_path / "set")
    assert dataset.names == ("clip000", "clip002", "clip003", "clip005", "clip007")
    np.testing.assert_array_equal(dataset.indices("xsub", "train"), [0, 3])
    damaged = dataset.metadata["damaged"]
    assert [entry["item"] for entry in damaged] == ["file1", "file4", "file6", "clip005"]
    assert damaged[0]["reason"] == "file1: not a skeleton file; download it again"
    assert "infinite" in damaged[1]["reason"] and "earlier clip" in damaged[3]["reason"]
    lines = capsys.readouterr().err.splitlines()
    for entry in damaged:
        assert f"damaged, left out: {entry['reason']}" in lines
    assert "4 damaged, left out" in prepare.summary(dataset)


def test_strict_stops_at_the_first_damaged_clip_and_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="clip clip004: .*infinite"):
        prepare_source(make_source({4: "inf", 6: "gone"}), tmp_path / "set", strict=True)
    assert list(tmp_path.iterdir()) == []


def test_nothing_but_damage_is_an_error(tmp_path):
    with pytest.raises(UserError, match="no sound clip, 3 are damaged, the first: file0: not a"):
        prepare_source(make_source(dict.fromkeys(range(3), "unreadable"), 3), tmp_path / "set")
    with pytest.raises(UserError, match="no files to read"):
        prepare_source(make_source(count=0), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_tensorflow_finds_full_is_told_in_one_line(tmp_path, monkeypatch):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def refuse(*_):
        raise tf.errors.ResourceExhaustedError(None, None, "set; No space left on device")

    monkeypatch.setattr(tfds.core.SequentialWriter, "close_all", refuse)
    with pytest.raises(UserError, match="cannot write .*set .*No space left on device"):
        prepare_source(make_source(count=3), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_a_bug_of_a_reader_is_not_taken_for_damage(tmp_path):
    source = dataclasses.replace(make_source(), read=functools.partial(int, base="no base"))
    with pytest.raises(TypeError) as caught:
        prepare_source(source, tmp_path / "set")
    assert "while reading item file0" in caught.value.__notes__


# --- what is mended -------------------------------------------------------------------------------


def test_padding_and_lost_joints_are_mended_and_counted(tmp_path):
    write_pyskl(tmp_path / "plain.pkl", [annotation(f"c{n}", n, n, time=8) for n in range(3)], {})
    padded = [annotation(f"c{n}", n, n, time=8) for n in range(3)]
    for clip in padded[:2]:
        clip["keypoint"] = np.pad(clip["keypoint"], ((0, 0), (0, 292), (0, 0), (0, 0)))
        clip["total_frames"] = 300
    padded[2]["keypoint"][1, 4, 9] = np.nan
    write_pyskl(tmp_path / "padded.pkl", padded, {})
    plain, mended = (
        prepare_source(
            open_source("pyskl", tmp_path / f"{name}.pkl", layout="ntu25"), tmp_path / name
        )
        for name in ("plain", "padded")
    )
    assert plain.lengths.tolist() == mended.lengths.tolist() == [8, 8, 8]
    assert mended.read_records([0, 1]) == plain.read_records([0, 1])
    assert mended.metadata["damaged"] == [] and plain.metadata["notes"].get(EMPTY_END) is None
    assert mended.metadata["notes"][EMPTY_END] == 2
    assert mended.metadata["notes"][LOST_JOINTS.format(5)] == 1
    assert f"{EMPTY_END}: 2" in prepare.summary(mended)


def test_clips_of_other_frame_rates_are_told_and_taken_to_one(command, tmp_path, capsys):
    """Still for 300 frames at 480 Hz, then the action: the first data.max_frames show nothing."""
    rng = np.random.default_rng(0)
    for number in range(3):
        frames = rng.normal(size=(1, 25, 3)).repeat(1000, 0)
        frames[300:] += rng.normal(0, 0.2, (700, 25, 3))
        np.save(tmp_path / f"{number}.npy", frames)
    rows = [f"{number}.npy,{number % 2}" for number in range(3)]
    (tmp_path / "clips.csv").write_text("\n".join(["file,label", *rows]))
    files = ["--format=folder", f"--source={tmp_path}", "--layout=ntu25"]
    out = tmp_path / "set"
    assert command(*files, f"--out={out}", "--resample=30") == 1
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("error: clip 0: its file tells no frame rate") and "--fps" in line
    assert command(*files, f"--out={out}") == 0
    dataset = open_dataset(out)
    assert dataset.metadata["fps"] is None and "frame rates" not in dataset.metadata["notes"]
    cut = describe_cut(dataset.lengths, 300, "training")
    assert (
        cut.startswith("3 of 3 training clips are longer than data.max_frames=300") and "70%" in cut
    )
    assert command(*files, f"--out={out}", "--overwrite", "--fps=480", "--resample=30") == 0
    dataset = open_dataset(out)
    assert dataset.metadata["fps"] == 30 and dataset.lengths.tolist() == [63, 63, 63]
    assert describe_cut(dataset.lengths, 300, "training") == ""
    assert command(*files, f"--out={out}", "--overwrite", "--fps=480") == 0
    assert open_dataset(out).metadata["fps"] == 480


def test_the_frame_rate_is_noted_where_clips_differ(tmp_path):
    def read(item):
        return [dataclasses.replace(clip, fps=10.0 + item.payload[1]) for clip in read_fake(item)]

    source = dataclasses.replace(make_source(count=3), read=read)
    metadata = prepare_source(source, tmp_path / "set").metadata
    assert metadata["fps"] is None
    assert metadata["notes"]["frame rates"] == "10 to 12 Hz; take them to one with --resample"
    repair = Repair(resample=20.0)
    dataset = prepare_source(source, tmp_path / "other", repair=repair)
    assert dataset.metadata["fps"] == 20 and dataset.lengths.tolist() == [9, 10, 11]
    assert dataset.metadata["notes"]["clips taken to 20 frames a second"] == 3


# --- folders --------------------------------------------------------------------------------------


def test_an_existing_folder_is_replaced_only_when_asked_and_only_at_the_end(tmp_path):
    out = tmp_path / "set"
    out.mkdir()  # an empty one is free
    prepare_source(make_source(count=3), out)
    with pytest.raises(UserError, match="exists; .*--overwrite"):
        prepare_source(make_source(count=5), out)
    with pytest.raises(UserError, match="file2"):
        prepare_source(make_source({2: "unreadable"}), out, strict=True, overwrite=True)
    assert len(open_dataset(out)) == 3
    assert len(prepare_source(make_source(count=5), out, overwrite=True)) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_overwrite_spares_what_prepare_did_not_write(tmp_path):
    prepare_source(make_source(count=3), tmp_path / "set")
    (tmp_path / "set" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="holds thesis.tex"):
        prepare_source(make_source(count=5), tmp_path / "set", overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        prepare_source(make_source(), tmp_path / "file", overwrite=True)
    with pytest.raises(UserError, match="cannot write"):
        prepare_source(make_source(), tmp_path / "file" / "set")
    assert len(open_dataset(tmp_path / "set")) == 3


@pytest.mark.long
def test_a_killed_run_leaves_nothing_that_opens_and_no_reader(tmp_path):
    script = (
        "import functools, dataclasses, test_prepare as t\n"
        "from halp_jax.datasets.builder import prepare_source\n"
        "if __name__ == '__main__':\n"
        f"    read = functools.partial(t.read_slowly, folder={str(tmp_path)!r})\n"
        "    source = dataclasses.replace(t.make_source(), read=read)\n"
        f"    prepare_source(source, {str(tmp_path / 'set')!r}, workers=2)\n"
    )
    (tmp_path / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    run = subprocess.Popen([sys.executable, tmp_path / "script.py"], env=environment)
    try:
        wait_until(lambda: list(tmp_path.glob("reader*")), 120)
    finally:
        run.kill()
        run.wait()
    for folder in (tmp_path / "set", tmp_path / "set" / UNFINISHED):
        assert folder.is_dir()
        with pytest.raises(UserError, match="run|prepare"):
            open_dataset(folder)
    readers = [int(path.name.removeprefix("reader")) for path in tmp_path.glob("reader*")]
    wait_until(lambda: not any(is_running(reader) for reader in readers), 20)
    prepare_source(make_source(count=2), tmp_path / "set")
    assert not (tmp_path / "set" / UNFINISHED).exists()


def wait_until(condition, seconds: int) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


# --- opening --------------------------------------------------------------------------------------


@pytest.fixture
def copy(small, tmp_path):
    """A copy of the small data set, to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in small.path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_file_cut_short_is_refused_with_its_place(copy):
    (file,) = copy.glob("*.tfrecord-*")
    size = file.stat().st_size
    os.truncate(file, size - 1)
    with pytest.raises(UserError, match=rf"{file} is truncated at byte {size - 1} of {size}"):
        open_dataset(copy)
    file.unlink()
    with pytest.raises(UserError, match="is missing: run prepare again"):
        open_dataset(copy)


def test_damage_within_a_record_file_is_found_on_reading(copy):
    (file,) = copy.glob("*.tfrecord-*")
    dataset = open_dataset(copy)
    first = dataset.metadata["shards"][0]["records"][0] + 16
    data = bytearray(file.read_bytes())
    data[first : first + 8] = struct.pack("<Q", 2**60)
    file.write_bytes(data)
    dataset.read_records([0, 2])
    with pytest.raises(UserError, match=f"damaged at byte {first}"):
        dataset.read_records([1])


def test_one_bit_that_flips_is_found_and_older_sets_without_checksums_still_open(copy, small):
    (file,) = copy.glob("*.tfrecord-*")
    whole = file.read_bytes()
    first = small.metadata["shards"][0]["records"][0] + 16
    for place in (first + 12, first + 700, first + 11 + small.metadata["shards"][0]["records"][1]):
        data = bytearray(whole)
        data[place] ^= 0x40
        file.write_bytes(data)
        dataset = open_dataset(copy)
        dataset.read_records([0, 2])
        with pytest.raises(
            UserError, match=f"{file} is damaged at byte {first}: run prepare again"
        ):
            list(pipeline.eval_batches(dataset, np.arange(4), batch_size=2))
    metadata = open_dataset(copy).metadata
    del metadata["shards"][0]["crc32"]
    (copy / METADATA).write_text(json.dumps(metadata))
    file.write_bytes(whole)
    assert open_dataset(copy).read_records([1]) == small.read_records([1])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format_version": 99}, "format version 99"),
        ({"labels": [0]}, "does not fit its 20 records"),
        ({"class_names": ["a", "b"]}, "does not fit its 20 records"),
        ({"splits": {"xsub": {"train": [0, 20], "test": []}}}, "does not fit its 20 records"),
        ({"shards": [{"file": "../elsewhere", "records": [1] * 20}]}, "is missing"),
        ({"shards": None}, "is damaged"),
        ({"splits": []}, "is damaged"),
        ({"layout": "octopus"}, "layout 'octopus' is not known"),
    ],
)
def test_wrong_metadata_is_refused(copy, change, message):
    metadata = open_dataset(copy).metadata | change
    (copy / METADATA).write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=message):
        open_dataset(copy)


@pytest.mark.parametrize("field", ["labels", "lengths", "splits"])
def test_a_digit_of_the_metadata_that_flips_is_found(copy, small, field):
    text = (copy / METADATA).read_text()
    assert open_dataset(copy).metadata == small.metadata
    place = re.compile(r"\d").search(text, text.index(f'"{field}"')).start()
    (copy / METADATA).write_text(f"{text[:place]}{int(text[place]) ^ 1}{text[place + 1 :]}")
    with pytest.raises(UserError, match="json is damaged .its checksum is wrong; take this last"):
        open_dataset(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", "[[[", "\x00"])
def test_metadata_that_is_none_is_refused(copy, text):
    (copy / METADATA).write_text(text)
    with pytest.raises(UserError, match=METADATA):
        open_dataset(copy)


def test_opening_needs_no_tensorflow(small):
    code = (
        "import sys; from halp_jax.datasets import open_dataset\n"
        f"dataset = open_dataset({str(small.path)!r})\n"
        "assert len(dataset.read_records([3, 4])) == 2\n"
        "assert not [name for name in sys.modules if name.startswith('tensorflow')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def command():
    """Runs the command's main in this process: command("--format=..", ..) -> exit code."""
    return lambda *arguments: prepare.main(["--workers=1", *arguments])


def test_command_prepares_the_embedded_data_set(command, tmp_path, capsys):
    out = tmp_path / "deep" / "demo"
    assert command("--format=synthetic", f"--out={out}", "--clips=21", "--seed=3") == 0
    output = capsys.readouterr()
    assert f"{out}: 21 clips of 20 classes, ntu25" in output.out
    assert "no labels" not in output.out
    assert "prepare 21/21 synthetic items (100 %)" in output.err
    assert open_dataset(out).names == tuple(
        clip.name
        for source in [open_source("synthetic", None, clips=21, seed=3)]
        for item in source.items
        for clip in source.read(item)
    )


def test_command_tells_the_format_of_the_source(command, tmp_path, capsys):
    write_nwucla(tmp_path / "clips")
    assert command(f"--source={tmp_path / 'clips'}", f"--out={tmp_path / 'set'}") == 0
    output = capsys.readouterr()
    assert f"{tmp_path / 'clips'}: read as --format=nwucla" in output.err
    assert "3 clips of 10 classes, kinect20; splits: xsub 2 train, 1 test; xview" in output.out


def test_options_are_typed_with_dashes_or_underscores():
    dashes, underscores = (
        prepare.parse_args(["--out=a_b", "--max-gap=3", "--as_layout=x_y".replace("_", mark, 1)])
        for mark in "-_"
    )
    assert dashes == underscores and (dashes.out, dashes.as_layout) == ("a_b", "x_y")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--format=ntu", "--source=nowhere"], "nowhere does not exist"),
        (["--format=ntu"], "give it as --source=PATH"),
        ([], "give --source=PATH, or --format=synthetic"),
        (["--source=nowhere"], "nowhere does not exist; check the path"),
        (["--format=pyskl", "--source=x", "--clips=5"], "--clips means nothing to --format=pyskl"),
        (["--format=synthetic", "stray"], "unrecognized arguments: stray"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(command, tmp_path, capsys, arguments, message):
    assert command(*arguments, f"--out={tmp_path / 'set'}") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


def test_interrupt_ends_in_one_line(command, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(prepare, "open_source", lambda *_: make_source({3: "interrupt"}))
    assert command("--format=synthetic", f"--out={tmp_path / 'set'}") == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("prepare: stopped; nothing was")
    assert list(tmp_path.iterdir()) == []


def test_command_line_exits_with_status_1(tmp_path):
    command_line = [sys.executable, "-m", "halp_jax.prepare"]
    bad = [*command_line, "--format=ntu", f"--source={tmp_path}", f"--out={tmp_path / 'set'}"]
    result = subprocess.run(bad, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1, result.stderr


def test_terminate_signal_is_taken_as_an_interrupt():
    code = (
        "import os, signal, sys\n"
        "from halp_jax import prepare\n"
        "prepare.open_source = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(prepare.main(['--format=synthetic', '--out=x']))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 143 and result.stderr.startswith("prepare: stopped"), result


# --- progress -------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run_progress(monkeypatch):
    """Twenty of 400 steps, half a second each, on a stream -> what was written there."""

    def run(stream: io.StringIO) -> str:
        now = [0.0]
        monkeypatch.setattr("tqdm.std.time", lambda: now[0])
        monkeypatch.setattr("halp_jax.progress.LOG_INTERVAL", 4.0)
        with Progress(400, "train", start=100, stream=stream) as progress:
            for step in range(20):
                now[0] += 0.5
                progress.update(loss=4.0 - step / 10)
                if step == 10:
                    progress.note("look")
        return stream.getvalue()

    return run


def test_log_gets_a_plain_line_every_few_seconds(run_progress):
    assert run_progress(io.StringIO()).splitlines() == [
        "train 108/400 steps (27 %), 2/s, 2m26s left, loss 3.3",
        "look",
        "train 116/400 steps (29 %), 2/s, 2m22s left, loss 2.5",
        "train 120/400 steps (30 %), 2/s, 2m20s left, loss 2.1",
    ]


def test_what_took_long_before_a_restart_is_no_rate(monkeypatch):
    now, stream = [0.0], io.StringIO()
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with Progress(64, "train", stream=stream) as progress:
        for step in range(4):
            now[0] += 5 if step else 60  # compiles
            progress.update(8) if step else progress.restart(8)
    assert stream.getvalue().splitlines() == [
        "train 8/64 steps (12 %)",
        "train 24/64 steps (38 %), 1.6/s, 25s left",
        "train 32/64 steps (50 %), 1.6/s, 20s left",
    ]


def test_terminal_gets_one_live_line_and_notes_above_it(run_progress):
    text = run_progress(Terminal())
    assert text.count("\n") == 2 and text.endswith("2m20s left, loss 2.1\n")
    assert "\rlook\n" in text and "train 101/400 steps (25 %) " in text


@pytest.mark.parametrize("stream_type", [io.StringIO, Terminal])
def test_names_move_no_cursor_where_a_bar_may(monkeypatch, stream_type):
    out, errors = io.StringIO(), stream_type()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", errors)

    def work(argv):
        print("class \x1b[2Jé")
        print("damaged \x9b2J", file=sys.stderr)
        with Progress(1, "train") as progress:
            progress.note("note \x1b[A")
            progress.update()
        raise UserError("no \x1b]0;owned\x07 or \r")

    assert run_command("test", work, []) == 1 and sys.stdout is out
    assert out.getvalue() == "class \\x1b[2Jé\n"
    first, *_, last = errors.getvalue().splitlines()
    assert first == r"damaged \x9b2J" and last == r"error: no \x1b]0;owned\x07 or \x0d"
    assert r"note \x1b[A" in errors.getvalue()
    assert ("\r" in errors.getvalue()) == isinstance(errors, Terminal)


def test_the_number_of_a_closed_stream_is_given_to_no_file(tmp_path):
    """As after <&- or 2>&-: what a library writes to it would land in a checkpoint."""
    kept = os.dup(0)
    os.close(0)
    try:
        given = []
        assert run_command("test", lambda _: given.append(os.open(tmp_path, os.O_RDONLY)), []) == 0
    finally:
        os.dup2(kept, 0)
        os.close(kept)
    os.close(given[0])
    assert given[0] > 2


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0s"), (59.6, "1m00s"), (200, "3m20s"), (7500, "2h05m"), (273_600, "3d04h")],
)
def test_duration_reads_naturally(seconds, text):
    assert duration(seconds) == text


def test_files_that_were_not_prepared_are_told_to_be(tmp_path):
    raw = tmp_path / "clips.pkl"
    raw.write_bytes(b"0")
    for path in (raw, tmp_path):
        advice = f"is no prepared data set: write one .* --source={path} --out=FOLDER"
        with pytest.raises(UserError, match=advice):
            open_dataset(path)
