"""The embed command: one's own clips in every form, their neighbours, and what classifiers say."""

import argparse
import io
import json
import pickle
import shutil

import jax
import numpy as np
import pytest
from _clips import make_state, tiny_config
from _detections import people, write_yolo
from _files import annotation, poses, write_pyskl, write_skeleton
from _formats import HAND, write_aimclr, write_folder, write_nwucla

from halp_jax import datasets, embed, evaluate
from halp_jax.datasets.builder import prepare_source
from halp_jax.errors import UserError
from halp_jax.evaluation import finetune_run, linear
from halp_jax.skeletons.layout import COCO17, KINECT20, NTU25, parse_layout, with_bodies
from halp_jax.training import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")

CLIPS = [poses(seed, 12, 1 + seed % 2).astype(np.float32) for seed in range(9)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run of two streams, its data set, and files to embed."""
    folder = tmp_path_factory.mktemp("embed")
    dataset = datasets.from_arrays(
        CLIPS, [0, 1, 2] * 3, layout="ntu25", class_names=("walk", "wave", "sit"),
        splits={"xsub": {"train": range(1, 8), "test": (0, 8)}},
    )  # fmt: skip
    datasets.pack(dataset, folder / "data.npz")
    config = tiny_config(streams=("joint", "bone"), data__dir=str(folder / "data.npz"))
    checkpoint.save_config(folder / "run", config)
    with checkpoint.open_manager(folder / "run", config) as manager:
        checkpoint.save(manager, 3, make_state(config, NTU25, 3), {"layout": "ntu25"})
    np.save(folder / "four.npy", CLIPS[4])  # [time, joints, xyz] of the one body
    np.save(folder / "five.npy", CLIPS[5].astype(np.float64))
    np.save(folder / "four_flat.npy", CLIPS[4][:, 0])
    write_skeleton(folder, "mine", seed=3, time=12, bodies=2)
    return folder


def run(place, *arguments):
    return embed.main([f"--workdir={place / 'run'}", *map(str, arguments)])


def test_a_training_clip_is_its_own_neighbour(place, tmp_path, capsys):
    files = [place / name for name in ("four.npy", "five.npy", "four_flat.npy", "mine.skeleton")]
    out = tmp_path / "out.npz"
    assert run(place, "--input", *files, f"--out={out}", "--neighbours=3", "--stream=bone") == 0
    with np.load(out, allow_pickle=False) as arrays:
        found = dict(arrays)
    assert found["names"].tolist() == [str(file) for file in files]
    assert found["features"].shape == (4, 16) and found["embeddings"].shape == (4, 4)
    np.testing.assert_allclose(np.linalg.norm(found["embeddings"], axis=1), 1, rtol=1e-5)
    # The skeleton file holds the numbers of clip 3 to six digits, its bodies perhaps swapped.
    assert found["neighbour_names"][:3, 0].tolist() == ["clip 4", "clip 5", "clip 4"]
    assert found["neighbour_classes"][:3, 0].tolist() == ["wave", "sit", "wave"]
    np.testing.assert_allclose(found["similarities"][:3, 0], 1, atol=1e-5)
    assert np.all(np.diff(found["similarities"], axis=1) <= 1e-6)
    np.testing.assert_allclose(found["features"][0], found["features"][2], atol=1e-6)
    text = capsys.readouterr().out
    assert f"{files[1]}\n   1.000  sit  (clip 5)\n" in text and "4 clips" in text


def test_a_data_set_is_embedded_as_it_is_and_streams_side_by_side(place, tmp_path):
    files = (place / "data.npz", place / "four.npy")
    options = ("--neighbours=0", "--stream=concat", f"--out={tmp_path / 'out.npz'}")
    assert run(place, "--input", *files, *options) == 0
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["embeddings", "features", "names"]
        assert len(arrays["names"]) == 10 and arrays["names"][5] == "clip 4"
        features, embeddings = arrays["features"], arrays["embeddings"]
    assert features.shape == (10, 32) and embeddings.shape == (10, 8)
    np.testing.assert_allclose(features[0], features[5], atol=1e-5)  # four.npy is clip 4


def test_clips_that_are_cut_are_counted(place, capsys):
    files, cut = [place / name for name in ("four.npy", "data.npz")], "--config.data.max_frames=8"
    assert run(place, "--input", *files, "--neighbours=0", cut) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "10 of 10 input clips are longer than data.max_frames=8 and cut to their start"
    )


def test_without_a_data_set_clips_are_normalised_as_usual(place, tmp_path):
    options = ("--neighbours=0", "--config.data.dir=", "--input", place / "four.npy")
    found = []
    for i, more in enumerate(((), ("--normalize=none",), ())):
        out = tmp_path / f"{i}.npz"
        gone = ("--config.data.dir=nowhere",) if i == 0 else ()  # the data of the training
        config = ("--config.data.dir=" + str(place / "data.npz"),) if i == 2 else gone
        assert run(place, *options, *more, *config, f"--out={out}") == 0
        with np.load(out) as arrays:
            found.append(arrays["features"])
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_what_cannot_be_embedded_is_told_in_one_line(place, tmp_path, capsys):
    bad = tmp_path / "bad.npy"
    np.save(bad, np.zeros((5, 2, 20, 3), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}]))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "bad.skeleton").write_text("3 1")
    (tmp_path / "clip.csv").write_text("x,y,z\n0,0,0\n")
    (tmp_path / "clip").write_bytes(pickle.dumps([1]))
    (tmp_path / "empty.json").write_text("")
    write_nwucla(tmp_path, ["a01_s01_e00_v01"])
    points = np.random.default_rng(0).normal(size=(9, 1, 17, 3))
    points = datasets.from_arrays([points] * 2, None, layout="coco17", normalize="none")
    datasets.pack(points, tmp_path / "coco.npz")
    four = place / "four.npy"
    wrong = {
        ("--input", bad): "20 joints",
        ("--input", tmp_path / "objects.npy"): "objects.npy: an array of Python objects",
        ("--input", tmp_path / "text.npy"): "text.npy: no .npy array, it holds the text 'no array'",
        ("--input", tmp_path / "bad.skeleton"): "bad.skeleton",
        ("--input", tmp_path / "no.npy"): "no.npy does not exist",
        (
            "--input",
            tmp_path / "clip.csv",
        ): "clip.csv: a .csv file that holds the text 'x,y,z', which",
        ("--input", tmp_path / "clip"): "clip: a file without suffix that holds a pickle, which",
        ("--input", tmp_path / "empty.json"): "empty.json is empty",
        (
            "--input",
            four,
            "--format=ntu",
            "--layout=coco17",
        ): "--layout means nothing to --format=ntu",
        ("--input", four, "--layout=coco17"): "four.npy: 12 frames, 1 bodies, 25 joints; coco17",
        (
            "--input",
            tmp_path / "a01_s01_e00_v01.json",
        ): "kinect20 has no joint that is ntu25's neck",
        ("--input", tmp_path / "no.npz"): "does not exist",
        (
            "--input",
            tmp_path / "coco.npz",
        ): "the encoder was trained on ntu25: coco17 has joints of 2 coordinates",
        (
            "--input",
            place / "data.npz",
            f"--config.data.dir={tmp_path / 'coco.npz'}",
        ): "the encoder was trained on ntu25: coco17 has joints of 2 coordinates",
        ("--input", four, f"--out={tmp_path / 'out.txt'}"): ".npz",
        ("--input", four, f"--out={place / 'data.npz'}"): "exists",
        ("--input", four, "--neighbours=-1"): "--neighbours=-1",
        ("--input", four, "--stream=joint,bone"): "one stream",
        ("--input", four, "--stream=motion"): "motion",
        (
            "--input",
            four,
            "--classifier=../linear",
        ): "--classifier=../linear; give linear, finetune",
        ("--input", four, "--config.data.dir="): "--neighbours=0",
        ("--input", four, "--protocol=finetune"): "--protocol means nothing to embed",
        ("--input", four, "--encoder=raw"): "--encoder",
        ("--input", four, "--nothing=1"): "nothing",
        ("--input", four, "--step=4"): "step 4",
    }
    for options, message in wrong.items():
        assert run(place, *options) == 1, options
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ") and message in line, line


@pytest.fixture()
def classified(place, tmp_path, monkeypatch):
    """A copy of the run, and a function that evaluates it -> test scores, of each fusion."""
    shutil.copytree(place / "run", tmp_path / "run")
    jax.config.update("jax_disable_most_optimizations", True)
    seen, original = [], linear.score

    def score(logits, labels, epochs):
        odds = np.exp(logits[-1])
        seen.append(odds / odds.sum(1, keepdims=True))
        return original(logits, labels, epochs)

    monkeypatch.setattr(linear, "score", score)

    def classify(protocol, *options):
        options = (f"--protocol={protocol}", *options)
        seen.clear()
        assert evaluate.main([f"--workdir={tmp_path / 'run'}", *options]) == 0
        return list(seen)

    yield tmp_path, classify
    jax.config.update("jax_disable_most_optimizations", False)


def scores_of(folder, place, *options):
    out = folder / "out.npz"
    out.unlink(missing_ok=True)
    common = ("--input", place / "data.npz", "--neighbours=0", f"--out={out}")
    assert run(folder, *common, *options) == 0
    with np.load(out, allow_pickle=False) as arrays:
        return dict(arrays)


def test_the_linear_classifier_is_used_where_it_is(classified, place, capsys):
    folder, classify = classified
    capsys.readouterr()
    assert run(folder, "--input", place / "four.npy", "--classifier=linear") == 1
    assert f"run evaluate --workdir={folder / 'run'} --protocol=linear" in capsys.readouterr().err
    standardized = "--config.linear.standardize=True"
    wanted = classify("linear", "--stream=joint,ensemble", standardized)
    for options, scores in zip(((), ("--stream=ensemble",)), wanted, strict=True):
        found = scores_of(folder, place, *options)
        assert found["class_names"].tolist() == ["walk", "wave", "sit"]
        assert found["scores"].shape == (9, 3)
        np.testing.assert_allclose(found["scores"][[0, 8]], scores, atol=1e-5)
    capsys.readouterr()
    assert run(folder, "--input", place / "four.npy", "--neighbours=1") == 0
    lines = capsys.readouterr().out.splitlines()
    best = [line.split(" %  ") for line in lines[1:4]]
    assert sorted(name for _, name in best) == ["sit", "walk", "wave"]
    odds = [float(percent) for percent, _ in best]
    assert odds == sorted(odds, reverse=True) and sum(odds) == pytest.approx(100, abs=0.2)
    assert lines[4] == "   1.000  wave  (clip 4)" and "scores [1, 3]" in lines[5]
    # Another crop for the features than the classifier's: the clips are encoded again.
    found = scores_of(folder, place, "--config.knn.crop=0.5")
    np.testing.assert_allclose(found["scores"][[0, 8]], wanted[0], atol=1e-5)
    assert "scores" not in scores_of(folder, place, "--classifier=none")
    # Another file of the protocol, as other settings make it, has a name that can be given.
    file = folder / "run" / "eval" / "linear.npz"
    file.rename(file.with_stem("linear_1a2b3c"))
    for options in ((), ("--stream=bone",)):  # whose features are not those of the layer
        found = scores_of(folder, place, "--classifier=linear_1a2b3c", *options)
        np.testing.assert_allclose(found["scores"][[0, 8]], wanted[0], atol=1e-5)
    capsys.readouterr()
    for options, begin in ((["--classifier=linear"], "error: "), ([], "no scores: ")):
        run(folder, "--input", place / "four.npy", "--neighbours=0", *options)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{begin}there is no {file}: run evaluate --workdir=")
        assert "or give --classifier=linear_1a2b3c" in line


def test_a_classifier_that_does_not_fit_is_refused(classified, place, capsys):
    folder, classify = classified
    classify("linear")
    file = folder / "run" / "eval" / "linear.npz"
    whole = file.read_bytes()

    def refused(message):
        capsys.readouterr()
        given = ("--input", place / "four.npy", "--neighbours=0")
        assert run(folder, *given, "--classifier=linear") == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0], lines
        return lines[0].removeprefix("error: ")

    def rewrite(arrays=(), **changes):
        with np.load(io.BytesIO(whole)) as there:
            table = dict(there) | dict(arrays)
        table["info"] = np.array(json.dumps(json.loads(str(table["info"])) | changes))
        np.savez(file, **table)

    rewrite(normalize="released")
    refused("normalised by released, these are by upright: run evaluate")
    rewrite(step=2)
    refused("was made from checkpoint 2, this is 3")
    rewrite(encoder_id="0")
    refused("other weights of step 3")
    rewrite(streams=["joint"])
    refused("streams joint, this has joint, bone")
    rewrite(format=9)
    refused("linear.npz cannot be read (its format is 9")
    rewrite(arrays={"encoder/7/head": np.zeros(3)})
    refused("linear.npz cannot be read (")
    file.write_bytes(whole[:1000])
    line = refused("cannot be read")
    # Not asked for: said, and left out.
    assert run(folder, "--input", place / "four.npy", "--neighbours=0") == 0
    told = capsys.readouterr()
    assert f"no scores: {line}" in told.err and "scores" not in told.out
    assert run(folder, "--input", place / "four.npy", "--stream=ensemble") == 1
    assert "--stream=ensemble is of a classifier" in capsys.readouterr().err


@pytest.mark.long
def test_fine_tuned_classifiers_bring_their_encoder(classified, place, capsys, monkeypatch):
    folder, classify = classified
    settings = {"epochs": 2, "batch_size": 7, "learning_rate": 0.1}
    options = [f"--config.finetune.{name}={value}" for name, value in settings.items()]
    (wanted,) = classify("finetune", "--stream=bone", *options)
    found = scores_of(folder, place, "--classifier=finetune", "--stream=bone")
    np.testing.assert_allclose(found["scores"][[0, 8]], wanted, atol=1e-5)
    # The run resumes: the encoder of its new checkpoint is another, that of the classifier is not.
    config = checkpoint.load_config(folder / "run")
    with checkpoint.open_manager(folder / "run", config) as manager:
        config.seed = 1
        checkpoint.save(manager, 4, make_state(config, NTU25, 4), {"layout": "ntu25"})
    later = scores_of(folder, place, "--classifier=finetune", "--stream=bone")
    np.testing.assert_allclose(later["scores"], found["scores"], atol=1e-6)
    assert np.abs(later["features"] - found["features"]).max() > 1e-3
    capsys.readouterr()
    assert run(folder, "--input", place / "four.npy", "--classifier=transfer") == 1
    assert "--protocol=transfer" in capsys.readouterr().err
    # Without weights there is no classifier, and the one that was there is of other figures.
    file = folder / "run" / "eval" / "finetune_bone.npz"
    assert file.exists()
    ended = finetune_run.FinetuneResult(wanted.reshape(1, 2, 3), None)
    monkeypatch.setattr(
        finetune_run,
        "make_trainer",
        lambda *_: lambda *_, **__: finetune_run.FinetuneResult(*ended),
    )
    without = "--config.finetune.keep_weights=False"
    classify("finetune", "--stream=bone", *options, "--config.finetune.epochs=1", without)
    assert file.exists()  # another setting has a name of its own, and takes nothing away
    classify("finetune", "--stream=bone", *options, without)
    assert not file.exists()


def test_files_of_any_format_are_read_and_told(place, tmp_path, capsys):
    clips = [annotation("of 4", 0), annotation("of 5", 1), annotation("damaged", 1)]
    for number, clip in zip((4, 5, 6), clips, strict=True):
        clip["keypoint"] = CLIPS[number].transpose(1, 0, 2, 3).copy()
        clip["total_frames"] = len(CLIPS[number])
    clips[2]["keypoint"][0, 0, 0] = 1e9
    write_pyskl(tmp_path / "a.pkl", clips, {})
    write_folder(tmp_path / "own", CLIPS[6:8])
    write_skeleton(tmp_path / "ntu", "S001C001P001R001A003", seed=3, time=12, bodies=2)
    files = [tmp_path / name for name in ("a.pkl", "own", "own/labels.csv", "ntu")]
    out = tmp_path / "out.npz"
    assert run(place, "--input", *files, f"--out={out}", "--neighbours=1") == 0
    with np.load(out, allow_pickle=False) as arrays:
        names, nearest = arrays["names"].tolist(), arrays["neighbour_names"][:, 0].tolist()
        np.testing.assert_allclose(arrays["similarities"][:6], 1, atol=1e-5)
    again = f"{tmp_path / 'own' / 'labels.csv'}/clips/"
    assert names == ["of 4", "of 5", "clips/0", "clips/1", f"{again}0", f"{again}1",
                     "S001C001P001R001A003"]  # fmt: skip
    assert nearest[:6] == ["clip 4", "clip 5", "clip 6", "clip 7", "clip 6", "clip 7"]
    assert "damaged, left out: clip damaged: coordinates" in capsys.readouterr().err
    assert run(place, "--input", tmp_path / "own" / "clips" / "1.npy", "--format=npy") == 0


def test_clips_that_were_normalised_by_something_else_are_refused(tmp_path):
    write_aimclr(tmp_path, {"train": 2})
    message = "is normalised already .aimclr. and the encoder takes upright: give raw clips, or"
    with pytest.raises(UserError, match=message):
        embed.read_clips(tmp_path, None, {}, NTU25, "upright")
    for normalization in ("none", None):
        assert len(embed.read_clips(tmp_path, None, {}, NTU25, normalization)) == 2


def test_joints_in_a_picture_are_those_of_the_prepared_data_set(tmp_path):
    clip = people(0, 5, 17)
    folder = write_yolo(tmp_path / "labels", clip, "walk")
    np.save(tmp_path / "walk.npy", clip)
    size = {"picture": "1000x800"}
    source = datasets.open_source("yolo", folder, **size)
    prepared = prepare_source(source, tmp_path / "data.npz")
    for path, options in ((folder, size), (tmp_path / "walk.npy", {})):
        given = dict.fromkeys(embed.READER_OPTIONS) | options
        args = argparse.Namespace(input=[path], format=None, normalize=None, **given)
        (found,) = embed.read_inputs(args, COCO17, "upright")
        np.testing.assert_allclose(found.clip(0), prepared.clip(0), atol=1e-4)


def test_a_skeleton_file_takes_the_joints_of_the_encoder(tmp_path):
    path = write_skeleton(tmp_path, "mine", seed=3, time=12, bodies=2)
    (whole,) = embed.read_clips(path, None, {}, NTU25)
    (fewer,) = embed.read_clips(path, None, {}, with_bodies(KINECT20, 2))
    assert whole.frames.shape == (12, 2, 25, 3) and whole.name == str(path)
    np.testing.assert_array_equal(fewer.frames, whole.frames[:, :, [0, 1, 20, *range(3, 20)]])
    with pytest.raises(UserError, match="coco17"):
        embed.read_clips(path, None, {}, COCO17)


def test_arrays_have_the_joints_of_the_encoder_where_its_layout_is_ones_own(tmp_path):
    hand = parse_layout(HAND, "hand.json")
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(5, 1, 6, 3)))
    (clip,) = embed.read_clips(tmp_path / "a.npy", None, {}, hand)
    assert clip.frames.shape == (5, hand.bodies, 6, 3)
