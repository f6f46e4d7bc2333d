"""Clips of another normalisation than the encoder's are refused, wherever the two meet."""

import numpy as np
import pytest
from _clips import FakeDataset, make_state, tiny_config
from _files import poses

from halp_jax import datasets, embed, evaluate
from halp_jax.evaluation import finetune
from halp_jax.skeletons.layout import NTU25
from halp_jax.skeletons.normalize import view_clip
from halp_jax.training import checkpoint, checks, normalization
from halp_jax.training.normalization import KEPT

CLIPS = [poses(seed, 12, 2).astype(np.float32) for seed in range(8)]
SPLITS = {"xsub": {"train": range(6), "test": (6, 7)}}


def write_data(path, normalize):
    dataset = datasets.from_arrays(
        CLIPS, [0, 1] * 4, layout="ntu25", splits=SPLITS, normalize=normalize
    )
    datasets.pack(dataset, path, overwrite=True)
    return datasets.open_dataset(path)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Data sets of three normalisations, and a run on the upright one."""
    folder = tmp_path_factory.mktemp("normalization")
    for normalize in ("upright", "view", "none"):
        write_data(folder / f"{normalize}.npz", normalize)
    config = tiny_config(data__dir=str(folder / "upright.npz"), knn__k=(1,))
    state = make_state(config, NTU25, 3)
    for name in ("upright", "view"):
        checkpoint.save_config(folder / name, config)
        with checkpoint.open_manager(folder / name, config) as manager:
            checkpoint.save(manager, 3, state, {"layout": "ntu25", "normalize": name})
    np.save(folder / "raw.npy", CLIPS[0])
    np.save(folder / "turned.npy", view_clip(CLIPS[0], NTU25))
    return folder


def refused(command, capsys, *arguments):
    """The one line that the command ends with."""
    capsys.readouterr()
    assert command.main([str(argument) for argument in arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_agrees_with_what():
    note = {"notes": {"normalised": "by whoever wrote the files; kept unless --normalize says"}}
    assert normalization.of_dataset({"normalize": "none"} | note) == KEPT
    assert normalization.of_dataset({"normalize": "upright"} | note) == "upright"
    assert normalization.of_dataset({"normalize": "none", "notes": {}}) == "none"
    assert normalization.of_dataset({}) is None
    assert normalization.agree(None, "view") and normalization.agree("view", None)
    assert normalization.agree("view", "view") and not normalization.agree("view", "released")
    assert normalization.agree(KEPT, "view") and normalization.agree("released", KEPT)
    assert not normalization.agree("upright", KEPT) and not normalization.agree("none", "view")
    assert normalization.to_apply(KEPT) == "released" and normalization.to_apply("view") == "view"


@pytest.mark.parametrize("protocol", ["knn", "linear", "finetune", "semi", "transfer"])
def test_evaluation_refuses_clips_of_another_normalisation(place, capsys, protocol):
    options = (f"--workdir={place / 'upright'}", f"--protocol={protocol}")
    line = refused(evaluate, capsys, *options, f"--config.data.dir={place / 'view.npz'}")
    assert line == (
        f"error: {place / 'view.npz'} is normalised by view, but the encoder of "
        f"{place / 'upright'} was trained on clips normalised by upright: prepare the data set with "
        "--normalize=upright"
    )
    assert not (place / "upright" / "eval").exists()


def test_a_joined_run_of_another_normalisation_is_refused(place, capsys):
    options = (f"--workdir={place / 'upright'}", "--protocol=knn", f"--join={place / 'view'}")
    line = refused(evaluate, capsys, *options)
    assert f"the encoder of {place / 'view'} was trained on clips normalised by view" in line


def test_embed_refuses_what_the_encoder_does_not_know(place, capsys):
    def given(run, *more):
        return refused(embed, capsys, f"--workdir={place / run}", "--neighbours=0", *more)

    view = f"--config.data.dir={place / 'view.npz'}"
    assert "none.npz is normalised by none, but the encoder of" in given(
        "upright", f"--input={place / 'none.npz'}"
    )
    assert "--normalize=view, but the encoder of" in given(
        "upright", f"--input={place / 'raw.npy'}", "--normalize=view"
    )
    assert "turned.npy is normalised already (view) and the encoder takes view" in given(
        "view", f"--input={place / 'turned.npy'}", view
    )
    line = refused(
        embed, capsys, f"--workdir={place / 'upright'}", f"--input={place / 'raw.npy'}", view
    )
    assert "view.npz is normalised by view" in line, "the neighbours are of other clips"


def test_an_upright_encoder_takes_turned_clips_as_if_they_were_raw(place, tmp_path):
    found = []
    inputs = (place / "raw.npy", place / "turned.npy", place / "upright.npz")
    options = (f"--workdir={place / 'upright'}", "--neighbours=0", f"--out={tmp_path / 'a.npz'}")
    assert embed.main([*options, "--input", *map(str, inputs)]) == 0
    with np.load(tmp_path / "a.npz") as arrays:
        found = arrays["features"]
    np.testing.assert_allclose(found[1:3], found[:1].repeat(2, 0), atol=1e-5)


def test_a_run_of_before_is_known_by_the_digest_of_its_clips(tmp_path):
    path = tmp_path / "data.npz"
    old = write_data(path, "view")
    config = tiny_config(data__dir=str(path))
    checkpoint.save_config(tmp_path, config)
    info = {"data": checks.fingerprint(old, old.indices("xsub", "train"))}
    assert normalization.of_run(tmp_path, info) == "view"
    write_data(path, "upright")  # prepared anew, in the same place
    assert normalization.of_run(tmp_path, info) == "view"
    assert normalization.of_run(tmp_path, {}) == "upright", "there is nothing else to go by"
    assert normalization.of_run(tmp_path, {"data": "of other clips"}) is None
    path.unlink()
    assert normalization.of_run(tmp_path, info) is None
    assert normalization.of_run(tmp_path / "no run", {}) is None
    normalization.check("upright", "data", tmp_path, info)  # not known: nothing is said


def test_the_digest_of_runs_of_before_stays_valid():
    frames = np.ones((3, 2, 25, 3), np.float32)
    dataset = datasets.from_arrays([frames], None, layout="ntu25", normalize="none")
    assert checks.fingerprint(dataset, np.array([0])) == "57a939151d2f5639"
    dataset = datasets.from_arrays([frames[:, :1, :20]], None, layout="kinect20", normalize="none")
    assert checks.fingerprint(dataset, np.array([0])) == "9827af1e8a824eeb"


def test_fine_tuning_does_not_go_on_with_clips_of_another_normalisation():
    folders = set()
    for metadata in ({"normalize": "view"}, {"normalize": "upright"}, {}):
        dataset = FakeDataset(metadata=metadata)
        folders.add(finetune.find_folder("run", "finetune", tiny_config(), dataset, (), ["joint"]))
    assert len(folders) == 3
