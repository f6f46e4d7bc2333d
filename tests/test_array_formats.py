"""NW-UCLA's JSON, AimCLR's arrays, CTR-GCN's raw clips, Kinetics-400's key points, labels a frame."""

import json
import pickle

import numpy as np
import pytest
from _files import SHARED, poses, write_pku
from _formats import (
    make_clips,
    write_aimclr,
    write_ctrgcn,
    write_ctrgcn_raw,
    write_kinetics400,
    write_npy,
    write_nwucla,
)

from halp_jax.datasets import open_source
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import ClipInfo, DamagedClip
from halp_jax.datasets.labels import ACTIONS
from halp_jax.datasets.pku import parse_labels
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import COCO17, KINECT20, NTU25
from halp_jax.skeletons.normalize import normalize_clip

LOOKALIKES = SHARED.parent / "formats" / "lookalike"
needs_lookalikes = pytest.mark.skipif(
    not LOOKALIKES.is_dir(), reason="no files made in the likeness of these formats here"
)


def read_all(source):
    return [clip for item in source.items for clip in source.read(item)]


def refused(path, message, format, **options):
    with pytest.raises(UserError, match=message) as error:
        read_all(open_source(format, path, **options))
    assert "\n" not in str(error.value) and str(path.parent) in str(error.value)


# --- NW-UCLA --------------------------------------------------------------------------------------


def test_nw_ucla_labels_views_and_subjects(tmp_path):
    source = open_source("nwucla", write_nwucla(tmp_path / "all_sqe"))
    first, second, third = clips = read_all(source)
    assert source.layout is KINECT20 and source.class_names[6] == "donning"
    assert [clip.label for clip in clips] == [0, 6, 9]
    assert second.info == ClipInfo(6, "a08_s02_e01_v02", subject=2, camera=2)
    np.testing.assert_array_equal(third.frames[:, 0], poses(2, 5, 1, 20)[:, 0].astype(np.float32))
    assert source.splits([clip.info for clip in clips]) == {
        "xview": {"train": [first.name, second.name], "test": [third.name]},
        "xsub": {"train": [first.name, third.name], "test": [second.name]},
    }
    (one,) = read_all(open_source("nwucla", tmp_path / "all_sqe" / "a01_s01_e00_v01.json"))
    assert one.info == first.info


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 0}, "its label is 0, not 1 to 10"),
        ({"label": "7"}, "its label is 7, not 1 to 10"),
        ({"skeletons": []}, r"are not \[time, 20, 3\] numbers"),
        ({"skeletons": [[[1.0, 2.0, 3.0]] * 19]}, r"are not \[time, 20, 3\]"),
        ({"skeletons": [[1, "two"]]}, r"are not \[time, 20, 3\]"),
        ({"skeletons": [[[0, 0, 0]] * 20]}, "no body"),
    ],
)
def test_nw_ucla_files_that_are_damaged(tmp_path, change, message):
    file = write_nwucla(tmp_path) / "a01_s01_e00_v01.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DamagedClip, match=message):
        read_all(open_source("nwucla", file))
    file.write_text("[1")
    refused(file, "a01_s01_e00_v01.json: no JSON", "nwucla")


@needs_lookalikes
def test_nw_ucla_as_it_is_handed_out():
    clips = read_all(open_source("nwucla", LOOKALIKES / "nw_ucla"))
    assert [(clip.label, len(clip.frames)) for clip in clips] == [(0, 44), (9, 1)]
    up = (clips[0].frames[:, 0, 3] - clips[0].frames[:, 0, 0]).mean(0)
    assert up.argmax() == 1 and 0.4 < up[1] < 0.7


# --- AimCLR ---------------------------------------------------------------------------------------


def test_aimclr_arrays_are_kept_and_can_be_normalised(tmp_path):
    source = open_source(
        "aimclr", write_aimclr(tmp_path / "xsub", {"train": 3, "val": 2}), layout="ntu25"
    )
    clips = read_all(source)
    assert prepare_source(source, tmp_path / "set").metadata["normalize"] == "aimclr"
    assert {clip.fps for clip in clips} == {0.0}  # 50 frames of whatever there were
    assert source.normalized == "aimclr" and source.class_names == ACTIONS[:60]
    assert source.splits([clip.info for clip in clips])["xsub"]["test"] == [
        "S001C001P004R001A001", "S001C001P005R001A002",
    ]  # fmt: skip
    wanted = poses(1, 5, 2) - poses(1, 5, 2)[:, :, 20:21]
    np.testing.assert_allclose(clips[1].frames, wanted, atol=2e-6)
    # The joint at the origin is there, and an absent body is not.
    assert clips[1].frames[:, :, 20].any(-1).all() and not clips[0].frames[:, 1].any()
    ours = normalize_clip(clips[1].frames, NTU25)
    raw = normalize_clip(poses(1, 5, 2)[:, :1].astype(np.float32), NTU25)
    np.testing.assert_allclose(ours[:, 0], raw[:, 0], atol=1e-5)


@needs_lookalikes
def test_aimclr_as_it_is_handed_out():
    source = open_source("aimclr", LOOKALIKES / "aimclr")
    clips = read_all(source)
    assert [clip.label for clip in clips] == [0, 7, 8, 49]
    assert {clip.frames.shape for clip in clips} == {(50, 2, 25, 3)}
    assert [bool(clip.frames[:, 1].any()) for clip in clips] == [False, False, False, True]


# --- CTR-GCN --------------------------------------------------------------------------------------


def test_ctrgcn_raw_clips_of_one_and_two_bodies(tmp_path):
    source = open_source("ctrgcn", write_ctrgcn_raw(tmp_path))
    clips = read_all(source)
    assert [clip.frames.shape[:2] for clip in clips] == [(4, 1), (5, 1), (3, 1), (6, 2)]
    np.testing.assert_array_equal(clips[3].frames, poses(3, 6, 2).astype(np.float32))
    info = clips[1].info
    assert info == ClipInfo(1, "S001C002P003R001A002", subject=3, camera=2, setup=1)
    splits = source.splits([clip.info for clip in clips])
    assert splits["xview"]["train"] == [clips[1].name, clips[2].name]
    assert splits["xsub"]["test"] == [clips[1].name, clips[3].name]


def test_ctrgcn_lists_lie_where_its_scripts_put_them_or_are_missed(tmp_path):
    folder = write_ctrgcn_raw(tmp_path / "denoised_data")
    (tmp_path / "statistics").mkdir()
    names = folder / "skes_available_name.txt"
    moved = names.rename(tmp_path / "statistics" / names.name)
    file = folder / "raw_denoised_joints.pkl"
    assert len(read_all(open_source("ctrgcn", file))) == 4
    moved.write_text("S001C001P001R001A001\n")
    refused(file, "4 clips, but skes_available_name.txt has 1 lines", "ctrgcn")
    moved.write_text("S001C001P001R001A001\n" * 4)
    refused(file, "has a name twice", "ctrgcn")
    moved.unlink()
    refused(file, "holds no skes_available_name.txt; put CTR-GCN's list there", "ctrgcn")
    file.write_bytes(pickle.dumps({"a": 1}))
    refused(file, "no list of arrays", "ctrgcn")


def test_ctrgcn_files_without_training_clips(tmp_path):
    path = write_ctrgcn(tmp_path / "NTU60_CS.npz", {"train": make_clips(2), "test": make_clips(3)})
    with np.load(path) as stored:
        arrays = dict(stored)
    np.savez(path, **arrays | {name: arrays[name][:0] for name in ("x_train", "y_train")})
    source = open_source("ctrgcn", path)
    assert [clip.name for clip in read_all(source)] == ["test_0", "test_1", "test_2"]
    assert source.splits([]) == {}


@needs_lookalikes
def test_ctrgcn_as_it_is_handed_out():
    raw = read_all(open_source("ctrgcn", LOOKALIKES / "ctrgcn"))
    assert [clip.frames.shape[:2] for clip in raw] == [(73, 1), (62, 1), (48, 1), (63, 2)]
    assert [clip.label for clip in raw] == [0, 7, 8, 49] and raw[3].subject == 2
    made = read_all(open_source("ctrgcn", LOOKALIKES / "ctrgcn" / "NTU60_CS.npz"))
    assert [clip.label for clip in made] == [0, 7, 8, 49]
    for clip, other in zip(raw, made, strict=True):  # moved as a whole
        moved = other.frames[:, : clip.frames.shape[1]] - clip.frames
        np.testing.assert_allclose(moved, np.broadcast_to(moved[0, 0, 0], moved.shape), atol=1e-5)


# --- Kinetics-400 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False], ids=["PYSKL", "MMAction2"])
def test_kinetics_people_keep_their_place_and_gaps_stay(tmp_path, packed):
    source = open_source("pyskl", write_kinetics400(tmp_path, packed=packed))
    clips = read_all(source)
    assert source.layout is COCO17 and [clip.label for clip in clips] == [0, 1, 2, 0]
    frames = clips[1].frames
    assert frames.shape == (6, 2, 17, 3)  # frames 1, 3, ... 11
    assert frames.any((2, 3)).tolist() == [[1, 1], [1, 1], [0, 0], [0, 0], [1, 1], [1, 1]]
    points = np.random.default_rng(1).uniform(0, 60, (17, 2)) + (100, 100)
    left = min((0, 1), key=lambda body: frames[0, body, 0, 0])
    for time in (0, 1, 4, 5):  # frame 9 names them in the other order, and a third
        np.testing.assert_allclose(
            frames[time, left, :, :2], (points - (500, 400)) / 500, atol=1e-3
        )
    np.testing.assert_allclose(frames[4, 1 - left, :, 0] - frames[4, left, :, 0], 0.8, atol=1e-3)


def test_kinetics_key_points_that_are_not_there_are_asked_for(tmp_path):
    file = write_kinetics400(tmp_path / "a")
    kept = (tmp_path / "a" / "kpfiles").rename(tmp_path / "kpfiles")
    refused(file, "its key points lie in other files, not found in .*--keypoints", "pyskl")
    assert len(read_all(open_source("pyskl", file, keypoints=str(tmp_path)))) == 4
    assert len(read_all(open_source("pyskl", file, keypoints=str(kept)))) == 4
    # The way the data set's own list of contents looks, without rows.
    content = [{"frame_dir": f"v{k}", "label": k, "total_frames": 300} for k in range(2)]
    file.write_bytes(pickle.dumps({"split": {"train": ["v0", "v1"]}, "annotations": content}))
    refused(file, "its key points lie in other files", "pyskl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"raw_file": "../../etc/0000.pkl"}, "there is no file of it"),
        ({"raw_file": "kpfiles/9999.pkl"}, "there is no file of it"),
        ({"frame_inds": np.array([3, 1])}, "its frame_inds fall"),
        ({"frame_inds": None}, "no frame_inds"),
        ({"frame_inds": np.arange(3)}, r"a keypoint \[9, 17, 3\], not numbers \[3, 17, 3\]"),
        ({"frame_inds": np.arange(9) * 100_000 + np.eye(9, dtype=int)[8]}, "more than the"),
        ({"key": "gone"}, "gone: no keypoint"),
        ({"img_shape": (0, 5)}, "its img_shape is"),
    ],
)
def test_kinetics_annotations_that_are_damaged(tmp_path, change, message):
    file = write_kinetics400(tmp_path)
    content = pickle.loads(file.read_bytes())
    content["annotations"][1] |= change
    file.write_bytes(pickle.dumps(content))
    source = open_source("pyskl", file)
    assert len(source.read(source.items[0])) == 1
    with pytest.raises(DamagedClip, match=message):
        source.read(source.items[1])


@needs_lookalikes
@pytest.mark.parametrize("packed", [True, False], ids=["PYSKL", "MMAction2"])
def test_kinetics_as_it_is_handed_out(tmp_path, packed):
    folder = LOOKALIKES / "pyskl_k400"
    content = pickle.loads((folder / "k400_contents.pkl").read_bytes())
    if not packed:
        del content["annotations"][0]["raw_file"]
    file = tmp_path / "k400.pkl"
    file.write_bytes(pickle.dumps(content))
    (clip,) = read_all(open_source("pyskl", file, keypoints=str(folder)))
    assert clip.frames.shape == (26, 2, 17, 3) and clip.label == 42
    assert clip.frames[:, 0].any((1, 2)).all()
    head, hips = clip.frames[:, 0, 0, 1], clip.frames[:, 0, 11:13, 1].mean(1)
    assert (hips - head).mean() > 0.2  # y down


@pytest.mark.skipif(not LOOKALIKES.is_dir(), reason="no real Kinetics-400 annotations here")
def test_real_kinetics_annotations_pair_with_their_rows(tmp_path):
    file = LOOKALIKES.parent / "pyskl_k400" / "k400_contents_cut.pkl"
    refused(file, "its key points lie in other files", "pyskl")
    rng = np.random.default_rng(0)
    for each in pickle.loads(file.read_bytes())["annotations"]:
        points = rng.uniform(1, 300, (len(each["frame_inds"]), 17, 3)).astype(np.float16)
        path = tmp_path / f"{each['frame_dir']}.pkl"
        path.write_bytes(pickle.dumps({"keypoint": points}, protocol=2))
    clips = read_all(open_source("pyskl", file, keypoints=str(tmp_path)))
    lengths = {clip.name: len(clip.frames) for clip in clips}
    assert len(clips) == 8 and lengths["jf7RDuUTrsQ"] == 150  # every second of 300


# --- PKU-MMD, a label a frame ---------------------------------------------------------------------


def test_pku_labels_a_frame_are_joined_where_they_touch(tmp_path):
    labels = b"0\n3\n3\n\n3\r\n0\n 4 \n3\n"
    assert parse_labels(labels, "x") == [(3, 1, 4, 7), (4, 5, 6, 7), (3, 6, 7, 7)]
    write_pku(tmp_path, {"0105-M": []}, folders=("skeleton", "label_per_frame"))
    file = tmp_path / "label_per_frame" / "0105-M.txt"
    file.write_text("\n".join("0 7 7 7 0 0 8 8 0 0 0 51".split()))
    clips = read_all(open_source("pku", tmp_path))
    assert [(clip.name, clip.label) for clip in clips] == [
        ("0105-M_00001", 6), ("0105-M_00006", 7), ("0105-M_00011", 50),
    ]  # fmt: skip
    np.testing.assert_array_equal(clips[0].frames, poses(0, 12, 2).astype(np.float32)[1:4])
    # Segments beside them say more: two of one action may touch.
    (tmp_path / "label_segments").mkdir()
    (tmp_path / "label_segments" / "0105-M.txt").write_text("7,1,3,2\n7,3,4,2\n")
    clips = read_all(open_source("pku", tmp_path))
    assert [(clip.name, len(clip.frames)) for clip in clips] == [
        ("0105-M_00001", 2), ("0105-M_00003", 1),
    ]  # fmt: skip


@needs_lookalikes
def test_pku_labels_a_frame_are_the_segments(tmp_path):
    folder = LOOKALIKES / "pku_framewise"
    segments = read_all(open_source("pku", folder))
    (tmp_path / "skeleton").symlink_to(folder / "skeleton")
    (tmp_path / "label").symlink_to(folder / "label_per_frame")
    clips = read_all(open_source("pku", tmp_path))
    assert [(clip.name, clip.label) for clip in clips] == [
        ("0001-M_00010", 11), ("0001-M_00054", 13), ("0001-M_00091", 15),
    ]  # fmt: skip
    for clip, other in zip(clips, segments, strict=True):
        assert clip.info == other.info
        np.testing.assert_array_equal(clip.frames, other.frames)


# --- arrays without a table -----------------------------------------------------------------------


def test_npy_arrays_are_labelled_by_their_folder_or_not_at_all(tmp_path):
    clips = make_clips(3)
    source = open_source("npy", write_npy(tmp_path, clips))
    assert source.class_names == ("a", "b") and source.layout is NTU25
    found = {clip.name: clip for clip in read_all(source)}
    assert {name: clip.label for name, clip in found.items()} == {"a/0": 0, "a/2": 0, "b/1": 1}
    np.testing.assert_array_equal(found["a/2"].frames, clips[2])
    for folder in ("10", "9", "a 10", "a 9"):
        write_npy(tmp_path / "numbers" / folder, clips[:1])
    assert open_source("npy", tmp_path / "numbers").class_names == ("9", "10", "a 9", "a 10")
    (alone,) = read_all(open_source("npy", tmp_path / "a" / "2.npy"))
    assert alone.info == ClipInfo(-1, "2")
    refused(tmp_path / "c.npy", "does not exist; give a .npy file", "npy")
    np.save(tmp_path / "c.npy", np.ones((5, 25)))
    refused(tmp_path / "c.npy", r"an array \[5, 25\], which tells no skeleton", "npy")
