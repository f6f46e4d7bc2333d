"""The embed command: one's own clips in every form, and their neighbours in the run's data."""

import numpy as np
import pytest
from _clips import make_state, tiny_config
from _files import poses, write_skeleton

from halp_jax import datasets, embed
from halp_jax.skeletons.layout import NTU25
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
        checkpoint.save(manager, 3, make_state(config, NTU25), {"layout": "ntu25"})
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
    inputs = (place / "data.npz", place / "four.npy")
    options = ("--neighbours=0", "--stream=concat", f"--out={tmp_path / 'out.npz'}")
    assert run(place, "--input", *inputs, *options) == 0
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["embeddings", "features", "names"]
        assert len(arrays["names"]) == 10 and arrays["names"][5] == "clip 4"
        features, embeddings = arrays["features"], arrays["embeddings"]
    assert features.shape == (10, 32) and embeddings.shape == (10, 8)
    np.testing.assert_allclose(features[0], features[5], atol=1e-5)  # four.npy is clip 4


def test_without_a_data_set_clips_are_normalised_as_usual(place, tmp_path):
    options = ("--neighbours=0", "--config.data.dir=", "--input", place / "four.npy")
    found = []
    for i, more in enumerate(((), ("--normalize=none",), ())):
        out = tmp_path / f"{i}.npz"
        config = ("--config.data.dir=" + str(place / "data.npz"),) if i == 2 else ()
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
    four = place / "four.npy"
    wrong = {
        ("--input", bad): "20 joints",
        ("--input", tmp_path / "objects.npy"): "objects.npy cannot be read",
        ("--input", tmp_path / "text.npy"): "text.npy cannot be read",
        ("--input", tmp_path / "bad.skeleton"): "bad.skeleton",
        ("--input", tmp_path / "no.npy"): "No such file",
        ("--input", tmp_path / "no.npz"): "does not exist",
        ("--input", four, f"--out={tmp_path / 'out.txt'}"): ".npz",
        ("--input", four, f"--out={place / 'data.npz'}"): "exists",
        ("--input", four, "--neighbours=-1"): "--neighbours=-1",
        ("--input", four, "--stream=joint,bone"): "one stream",
        ("--input", four, "--stream=motion"): "motion",
        ("--input", four, "--config.data.dir="): "--neighbours=0",
        ("--input", place / "data.npz", "--normalize=none"): "normalised by view",
        ("--input", four, "--encoder=raw"): "--encoder",
        ("--input", four, "--nothing=1"): "nothing",
        ("--input", four, "--step=4"): "step 4",
    }
    for options, message in wrong.items():
        assert run(place, *options) == 1, options
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith("error: ") and message in line, line
