"""Clips in memory: the same data set as the folder's, in the order of a pure function of the step."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _batches import (
    CLIPS,
    MAX_FRAMES,
    REFUSED,
    assert_refused,
    assert_resumes,
    assert_same,
    assert_shared_out,
    make_frames,
    take,
)

from halp_jax import export
from halp_jax.datasets import ArrayDataset, from_arrays, open_dataset, pack
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import Clip
from halp_jax.datasets.order import shuffle_epoch
from halp_jax.datasets.pipeline import eval_batches
from halp_jax.datasets.source import Item, Source
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import KINECT20, NTU25
from halp_jax.skeletons.normalize import normalize_clip
from halp_jax.training.checks import fingerprint

ROOT = Path(__file__).parents[1]
SPLITS = {"mine": {"train": list(range(16)), "test": list(range(16, CLIPS))}}


def make_dataset(**options):
    clips = [make_frames(number) for number in range(CLIPS)]
    options = {"layout": KINECT20, "splits": SPLITS, "normalize": "none"} | options
    return from_arrays(clips, np.arange(CLIPS) % 5, **options)


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The same clips as files of tfds."""

    def read(item):
        return [Clip(make_frames(item.payload), item.payload % 5, item.id)]

    def split(infos):
        names = [info.name for info in infos]
        return {"mine": {"train": names[:16], "test": names[16:]}}

    items = tuple(Item(f"clip {number}", number) for number in range(CLIPS))
    names = tuple(f"class {label}" for label in range(5))
    source = Source("fake", KINECT20, names, items, read, split, {})
    return prepare_source(source, tmp_path_factory.mktemp("data") / "set", normalize="none")


def assert_same_dataset(one, other):
    assert one.layout == other.layout and one.class_names == other.class_names
    assert one.names == other.names and len(one) == len(other)
    assert one.num_classes == other.num_classes
    for field in ("labels", "lengths"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field))
        assert getattr(one, field).dtype == getattr(other, field).dtype
    assert one.splits.keys() == other.splits.keys()
    for part in ("train", "test"):
        np.testing.assert_array_equal(one.indices("mine", part), other.indices("mine", part))


def test_every_clip_is_equally_often_in_every_place(dataset):
    # 2,000 epochs of 5 clips: a place has each clip 400 times, give or take 5 sigma of 18.
    indices = np.array([3, 8, 11, 2, 20])
    batches = take(dataset, 2000, indices, batch_size=5, max_frames=1)
    order = np.stack([batch["index"] for batch in batches])
    counts = np.array([(order == clip).sum(0) for clip in indices])
    assert (abs(counts - 400) < 90).all()
    # ... and the orders of neighbouring epochs have nothing to do with each other.
    assert abs((order[1:] == order[:-1]).mean() - 0.2) < 0.03


@pytest.mark.parametrize("count", [1, 2, 17, 1200, 40_000, 70_001])
@pytest.mark.parametrize("seed, epoch", [(0, 0), (1, 257), (2**33 + 5, 3), (2**63 - 1, 1)])
def test_the_order_is_that_of_tensorflows_op(count, seed, epoch):
    import tensorflow as tf

    key = tf.random.stateless_uniform(
        [3], seed=tf.constant([seed, epoch], tf.int64), minval=None, maxval=None, dtype=tf.uint32,
        alg="philox",
    )  # fmt: skip
    wanted = tf.raw_ops.RandomIndexShuffle(
        index=tf.range(count, dtype=tf.int64), seed=key, max_index=tf.constant(count - 1, tf.int64),
        rounds=16,
    )  # fmt: skip
    np.testing.assert_array_equal(shuffle_epoch(count, seed, epoch), wanted)


def test_a_folder_and_its_packed_file_give_the_same_epochs(prepared, tmp_path):
    packed = open_dataset(pack(prepared, tmp_path / "set.npz"))
    assert fingerprint(packed, np.arange(CLIPS)) == fingerprint(prepared, np.arange(CLIPS))
    for start, share in ((0, (0, 1)), (13, (1, 2))):
        options = {"start_step": start, "process_index": share[0], "process_count": share[1]}
        both = (take(dataset, 12, **options) for dataset in (prepared, packed))
        for batch, other in zip(*both, strict=True):
            assert_same(batch, other)


@pytest.mark.parametrize("start", [1, 5, 6, 13])
def test_a_run_from_step_k_is_the_tail_of_a_run_from_0(dataset, start):
    assert_resumes(dataset, start)
    assert len(take(dataset, 1, start_step=10**12)) == 1


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_out_the_batch_of_one(dataset, count):
    assert_shared_out(dataset, count)


@pytest.mark.parametrize("batch_size", [1, 5, 7, 30])
def test_evaluation_sees_what_the_files_of_the_folder_give(dataset, prepared, batch_size):
    indices = np.array([4, 2, 22, 9, 0, 11, 17])
    options = {"batch_size": batch_size, "max_frames": MAX_FRAMES}
    ours = list(eval_batches(dataset, indices, **options))
    theirs = list(eval_batches(prepared, indices, **options))
    for batch, other in zip(ours, theirs, strict=True):
        assert_same(batch, other)


def test_training_batches_hold_the_same_clips_and_belong_to_the_caller(dataset, prepared):
    for batch in take(dataset, 6):
        (other,) = eval_batches(prepared, batch["index"], batch_size=4, max_frames=MAX_FRAMES)
        assert_same(batch, other)
        batch["frames"][:] = np.nan
        batch["valid"][:] = False
    assert all(
        np.isfinite(batch["frames"]).all() and batch["valid"].all() for batch in take(dataset, 6)
    )


@pytest.mark.parametrize("options, message", REFUSED)
def test_bad_batches_are_refused_at_once(dataset, options, message):
    assert_refused(dataset, options, message)


def test_own_clips_are_normalised_and_filled_up_with_absent_bodies():
    clips = [make_frames(3, NTU25, 1).astype(np.float64), make_frames(4, NTU25, 2)]
    dataset = from_arrays(clips, [1, 0], layout="ntu25")
    assert isinstance(dataset, ArrayDataset) and dataset.layout == NTU25
    assert dataset.class_names == ("class 0", "class 1")
    assert dataset.names == ("clip 0", "clip 1")
    alone = normalize_clip(clips[0].astype(np.float32), NTU25)
    np.testing.assert_array_equal(dataset.clip(0)[:, :1], alone)
    assert not dataset.clip(0)[:, 1].any()
    np.testing.assert_array_equal(dataset.clip(1), normalize_clip(clips[1], NTU25))


def test_without_splits_all_clips_are_for_training_and_none_for_testing():
    dataset = make_dataset(splits=None)
    assert dataset.indices("all", "train").tolist() == list(range(CLIPS))
    assert len(dataset.indices("all", "test")) == 0
    unlabelled = from_arrays([make_frames(2)], None, layout="kinect20")
    assert unlabelled.labels.tolist() == [-1] and unlabelled.class_names == ()
    assert len(unlabelled.indices("all", "train")) == 1
    assert len(unlabelled.labelled("all", "train")) == 0
    some = from_arrays([make_frames(2)] * 3, [1, -1, 0], layout="kinect20")
    assert some.labelled("all", "train").tolist() == [0, 2] and some.num_classes == 2


def test_the_only_split_needs_no_name_and_one_of_several_does():
    one = make_dataset(splits={"random": {"train": [0, 1, 2], "test": [3]}})
    assert one.choose_split("") == "random"
    assert one.indices("", "test").tolist() == [3]
    several = make_dataset(splits={name: {"train": [0, 1]} for name in ("xsub", "xview")})
    with pytest.raises(UserError, match="has several splits: xsub, xview; choose with"):
        several.choose_split("")
    with pytest.raises(UserError, match="no split 'xset'"):
        one.choose_split("xset")


def test_a_part_to_choose_settings_on_and_clips_that_are_in_two_parts(caplog):
    splits = {"x": {"train": [0, 1, 2], "test": [3, 2], "val": [4]}}
    dataset = from_arrays([make_frames(2)] * 6, [0] * 6, layout="kinect20", splits=splits)
    assert dataset.indices("x", "val").tolist() == [4]
    other = dataset.test_on("x", "val")
    assert other.indices("x", "test").tolist() == [4]
    assert other.indices("x", "train").tolist() == [0, 1, 2]
    assert "split x: 1 clips are in train and in test" in caplog.text
    assert dataset.metadata["notes"] == {
        "warning, split x": "1 clips are in train and in test: accuracies will be too high",
        "split x": "1 clips are in no part of it",
    }


def test_lost_joints_and_the_frame_rate_of_clips_in_memory():
    frames = make_frames(2)
    lost = frames.copy()
    lost[1, 0, 3] = np.nan
    options = {"layout": "kinect20", "normalize": "none"}
    assert from_arrays([frames], [0], **options).metadata["fps"] is None
    filled = from_arrays([lost], [0], fps=60.0, **options)
    middle = (frames[0, 0, 3] + frames[2, 0, 3]) / 2
    np.testing.assert_allclose(filled.clip(0)[1, 0, 3], middle, rtol=1e-6)
    assert filled.metadata["fps"] == 60 and 1 in filled.metadata["notes"].values()
    assert not from_arrays([lost], [0], max_gap=0, **options).clip(0)[1, 0, 3].any()
    half = from_arrays([frames], [0], fps=60.0, resample=30.0, **options)
    np.testing.assert_array_equal(half.clip(0), frames[::2])
    assert half.metadata["fps"] == 30


GOOD = make_frames(2)


@pytest.mark.parametrize(
    "clips, labels, options, message",
    [
        ([], [], {}, "there are no clips"),
        ([GOOD], [0, 1], {}, "1 clips and 2 labels"),
        ([GOOD], [0.5], {}, "one whole number a clip"),
        ([GOOD], [-2], {}, "clip 0: its class is -2"),
        ([GOOD], [2], {"class_names": ("a", "b")}, "classes run from 0 to 1"),
        ([GOOD, GOOD[:, 0]], [0, 0], {}, "clip 1: its shape is"),
        ([GOOD[:, :, :19]], [0], {}, "19 joints of 3 numbers, but kinect20 has 20"),
        ([GOOD[:0]], [0], {}, "it has no frames"),
        ([GOOD * np.nan], [0], {}, "every coordinate is NaN"),
        ([GOOD.astype(np.float64) * 1e300], [0], {}, "infinite or larger"),
        ([GOOD], [0], {"fps": -1.0}, "fps is -1.0; give a number from 0 to 10000"),
        ([GOOD], [0], {"resample": 30.0}, "tells no frame rate to resample; give it as --fps"),
        ([GOOD.astype(object)], [0], {}, "no array of real numbers"),
        ([[[1.0], [1.0, 2.0]]], [0], {}, "no array of real numbers"),
        ([GOOD], [0], {"layout": "coco17"}, "coco17"),
        ([GOOD], [0], {"normalize": "yes"}, "'yes' is not known"),
        ([GOOD, GOOD], [0, 0], {"names": ["a", "a"]}, "'a' is there twice"),
        ([GOOD, GOOD], [0, 0], {"names": ["a"]}, "2 clips and 1 names"),
        ([GOOD], [0], {"splits": {"x": {"train": [1]}}}, "x, train: there is no clip 1"),
        ([GOOD], [0], {"splits": {"x": {"train": [-1]}}}, "there is no clip -1"),
        ([GOOD], [0], {"splits": {"x": {"train": [0, 0]}}}, "clip 0 is there twice"),
        ([GOOD], [0], {"splits": {"x": {"train": [True]}}}, "a list of clip numbers"),
        ([GOOD], [0], {"splits": {"x": {"dev": [0]}}}, "the parts train, test and val"),
        ([GOOD], [0], {"splits": {"x": [0]}}, "the parts train, test and val"),
    ],
)
def test_bad_clips_are_refused_in_one_line(clips, labels, options, message):
    with pytest.raises(UserError, match=message) as error:
        from_arrays(clips, labels, **{"layout": "kinect20"} | options)
    assert "\n" not in str(error.value)


def test_a_packed_folder_is_the_folder(prepared, tmp_path, capsys):
    file = tmp_path / "sub" / "set.npz"
    assert export.main([f"--data={prepared.path}", f"--out={file}"]) == 0
    assert "23 clips, 276 frames" in capsys.readouterr().out
    assert [path.name for path in file.parent.iterdir()] == ["set.npz"]
    packed = open_dataset(file)
    assert_same_dataset(packed, prepared)
    assert packed.name == "fake" and packed.metadata["normalize"] == "none"
    options = {"batch_size": CLIPS, "max_frames": 30}
    (batch,) = eval_batches(packed, np.arange(CLIPS), **options)
    (other,) = eval_batches(prepared, np.arange(CLIPS), **options)
    assert_same(batch, other)
    assert export.main([f"--data={prepared.path}", f"--out={file}"]) == 1
    assert "exists" in capsys.readouterr().err
    assert export.main([f"--data={file}", f"--out={file}", "--overwrite"]) == 0
    assert_same_dataset(open_dataset(file), prepared)


def test_half_is_smaller_and_right_to_a_millimetre_below_4_metres(tmp_path):
    clips = [np.clip(make_frames(number) - number, -4, 4) for number in range(CLIPS)]
    dataset = from_arrays(clips, [0] * CLIPS, layout=KINECT20, normalize="none")
    whole, half = pack(dataset, tmp_path / "a.npz"), pack(dataset, tmp_path / "b.npz", half=True)
    assert half.stat().st_size < 0.7 * whole.stat().st_size
    packed = open_dataset(half)
    assert packed.frames.dtype == np.float32
    assert 0 < np.abs(packed.frames - dataset.frames).max() <= 1e-3
    np.testing.assert_array_equal(open_dataset(whole).frames, dataset.frames)
    far = from_arrays([clips[1] + 7e4], [0], layout=KINECT20, normalize="none")
    with pytest.raises(UserError, match="beyond float16"):
        pack(far, tmp_path / "c.npz", half=True)
    assert not (tmp_path / "c.npz").exists()


def test_pack_refuses_names_and_leaves_nothing_behind(dataset, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="does not end in .npz"):
        pack(dataset, tmp_path / "set.zip")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        pack(dataset, tmp_path / "file" / "set.npz")
    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(UserError, match="No space left"):
        pack(dataset, tmp_path / "set.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def fail(stream, **arrays):
    stream.write(b"PK")
    raise OSError(28, "No space left on device")


def rewrite(file, change):
    """The packed file again, after `change(metadata, arrays)`."""
    with np.load(file) as stored:
        arrays = dict(stored)
    metadata = json.loads(arrays["metadata"].tobytes())
    change(metadata, arrays)
    if "metadata" in arrays:
        arrays["metadata"] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    np.savez_compressed(file, **arrays)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda m, a: m.update(format_version=2), "format version 2, this program reads 1"),
        (lambda m, a: m.update(format="other"), "metadata are of something else"),
        (lambda m, a: m.update(lengths=m["lengths"][:-1]), "does not fit its 23 records"),
        (lambda m, a: m["lengths"].__setitem__(0, 2), "its clips have"),
        (lambda m, a: m["lengths"].__setitem__(slice(0, 2), [0, 3]), "its clips have"),
        (lambda m, a: m["labels"].__setitem__(0, 5), "does not fit"),
        (lambda m, a: m["splits"]["mine"]["test"].append(23), "does not fit"),
        (lambda m, a: m.update(layout="ntu25"), "its clips have"),
        (lambda m, a: m.update(layout="other"), "other"),
        (lambda m, a: m.pop("names"), "KeyError: 'names'"),
        (lambda m, a: a.update(frames=a["frames"][1:]), "its clips have"),
        (lambda m, a: a.update(frames=a["frames"].astype(np.float64)), "frames are float64"),
        (lambda m, a: a.update(frames=a["frames"] / 0 * 0), "NaN or infinite"),
        (lambda m, a: a.update(frames=a["frames"].astype(object)), "Object arrays"),
        (lambda m, a: a.pop("frames"), "frames"),
        (lambda m, a: a.pop("metadata"), "metadata"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_a_file_that_does_not_fit_is_refused_in_one_line(dataset, tmp_path, change, message):
    file = pack(dataset, tmp_path / "set.npz")
    rewrite(file, change)
    with pytest.raises(UserError, match=message) as error:
        open_dataset(file)
    assert "\n" not in str(error.value)


def test_damaged_files_are_refused(dataset, tmp_path):
    file = pack(dataset, tmp_path / "set.npz")
    content = file.read_bytes()
    for end in (0, 1, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:end])
        with pytest.raises(UserError, match="is damaged or no packed data set .*: pack it again"):
            open_dataset(file)
    middle = len(content) // 2
    file.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(UserError, match="is damaged"):
        open_dataset(file)
    start = content.index(b"frames.npy") + 40
    for place in np.linspace(start, content.rindex(b"PK\1\2") - 200, 40).astype(int):
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        with pytest.raises(UserError, match="is damaged"):
            open_dataset(file)
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "array.npy").rename(file)
    with pytest.raises(UserError, match="is damaged or no packed"):
        open_dataset(file)
    file.unlink()
    with pytest.raises(UserError, match="does not exist: write it with python -m halp_jax.export"):
        open_dataset(file)


@pytest.mark.parametrize(
    "more, message",
    [
        ({"frames": np.zeros((9000, 2, 25, 3), np.float32)}, "frames are more than its clips have"),
        ({"other": np.zeros(2**23, np.uint8)}, "arrays are far larger than the file"),
    ],
)
def test_a_small_file_does_not_unpack_to_gigabytes(dataset, tmp_path, more, message):
    with np.load(pack(dataset, tmp_path / "set.npz")) as arrays:
        found = dict(arrays) | {"frames": np.zeros((1, 1, 1, 3), np.float32)} | more
    np.savez_compressed(tmp_path / "large.npz", **found)
    assert (tmp_path / "large.npz").stat().st_size < 60_000
    with pytest.raises(UserError, match=message):
        open_dataset(tmp_path / "large.npz")


BLOCKED = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "scipy", "matplotlib", "sklearn"):
    sys.modules[name] = None  # an import of it fails, as where it is not installed
import jax
jax.config.update("jax_platforms", "cpu")
from halp_jax import evaluate, prepare, train
made = ["--format=synthetic", "--clips=6", "--workers=1"]
assert prepare.main([*made, "--out={out}/made.npz"]) == 0
assert prepare.main([*made, "--out={out}/folder"]) == 1
assert train.main(["--config={config}", "--workdir={out}", "--config.data.dir={file}"]) == 0
for protocol in ("knn", "linear"):
    assert evaluate.main(["--workdir={out}", "--protocol=" + protocol]) == 0
assert sys.modules["tensorflow"] is None
"""
CONFIG = """
from tests._runs import small_config


def get_config():
    config = small_config()
    config.data.split = "mine"
    config.train.epochs, config.train.num_devices = 3, 1
    config.halp.mu, config.knn.every_epochs = 0.0, 3
    config.linear.epochs = config.linear.num_crops = 2
    return config
"""


@pytest.mark.long
def test_train_and_evaluate_run_where_tensorflow_is_not_installed(tmp_path):
    clips = [make_frames(5 + number % 9, NTU25, 2) for number in range(CLIPS)]
    clips = [clip - clip.mean() for clip in clips]
    dataset = from_arrays(clips, np.arange(CLIPS) % 3, layout=NTU25, splits=SPLITS)
    file = pack(dataset, tmp_path / "set.npz")
    config = tmp_path / "config.py"
    config.write_text(CONFIG)
    program = BLOCKED.format(file=file, out=tmp_path / "run", config=config)
    result = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert "TensorFlow, which is not installed: pip install" in result.stderr
    assert len(open_dataset(tmp_path / "run" / "made.npz")) == 6
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 6  # 3 epochs of 16 clips
    for protocol in ("knn", "linear"):
        figures = json.loads((tmp_path / "run" / "eval" / f"{protocol}.json").read_text())
        assert (figures["num_train"], figures["num_test"]) == (16, 7)
