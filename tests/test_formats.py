"""Every reader keeps one contract; what goes out comes in again; layouts of one's own travel along."""

import dataclasses
import gc
import inspect
import pickle
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import _detections
import numpy as np
import pytest
from _files import annotation, poses, write_pku, write_pyskl, write_skeleton, write_split
from _formats import (
    HAND,
    flat_annotation,
    make_clips,
    write_agcn,
    write_aimclr,
    write_ctrgcn,
    write_ctrgcn_raw,
    write_folder,
    write_kinetics400,
    write_layout,
    write_npy,
    write_nwucla,
)
from _motion import write_motion

from halp_jax import export, prepare
from halp_jax.datasets import READERS, from_arrays, open_dataset, open_source, pack
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import check_clip
from halp_jax.datasets.ctrgcn import COPY
from halp_jax.datasets.npy import Rows
from halp_jax.datasets.pyskl import BEST_BODIES
from halp_jax.datasets.read_pool import Reading, read_item
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import COCO17, NTU25, OPENPOSE18, find_layout
from halp_jax.skeletons.normalize import normalize_clip, view_clip
from halp_jax.skeletons.plot import project


def spoil(path: Path, change) -> None:
    array = np.load(path)
    change(array)
    np.save(path, array)


def spoil_npz(path: Path, name: str, change) -> None:
    with np.load(path) as stored:
        arrays = dict(stored)
    change(arrays[name])
    np.savez(path, **arrays)


def spoil_first(array):
    array.flat[0] = np.inf


# A data set: (write(folder) -> (format, path, options), spoil(path) -> a word of the item's name).


def make_ntu(folder):
    for person in (1, 2, 3):
        write_skeleton(folder, f"S001C00{person}P00{person}R001A00{person}", person, bodies=1)
    return "ntu", folder, {}


def spoil_ntu(path):
    (path / "S001C002P002R001A002.skeleton").write_text("1\nnonsense")
    return "P002"


def make_pku(folder):
    write_pku(folder, {"0105-M": [(26, 0, 3, 2), (3, 3, 6, 1)], "0002-L": [(3, 0, 4, 1)]})
    write_split(folder / "cross-view.txt", ["0105-M"], ["0002-L"])
    return "pku", folder, {}


def spoil_pku(path):
    (path / "skeleton" / "0002-L.txt").write_text("1 2 3")
    return "0002-L"


def make_pyskl(folder, make=annotation):
    clips = [make(f"clip {n}", n % 3, n) for n in range(4)]
    split = {"mine_train": ["clip 0", "clip 2"], "mine_val": ["clip 1", "clip 3"]}
    return "pyskl", write_pyskl(folder / "a.pkl", clips, split), {}


def spoil_pyskl(path):
    content = pickle.loads(path.read_bytes())
    spoil_first(content["annotations"][1]["keypoint"])
    path.write_bytes(pickle.dumps(content))
    return "clip 1"


def make_agcn(folder):
    clips = make_clips(5)
    return "agcn", write_agcn(folder / "xsub", {"train": clips[:3], "val": clips[3:]}), {}


def spoil_agcn(path):
    spoil(path / "val_data_joint.npy", spoil_first)
    return "P004"


def make_ctrgcn(folder, save=np.savez):
    clips = make_clips(5)
    parts = {"train": clips[:3], "test": clips[3:]}
    return "ctrgcn", write_ctrgcn(folder / "NTU60_CS.npz", parts, save=save), {}


def spoil_ctrgcn(path):
    spoil_npz(path, "x_test", spoil_first)
    return "test_0"


def make_folder(folder):
    rows = [
        f"clips/{n}.npy,{'ab'[n % 2]},{n // 2},{'train' if n < 3 else 'test'}" for n in range(5)
    ]
    return "folder", write_folder(folder, make_clips(5), "file,label,subject,split", rows), {}


def make_hands(folder):
    layout = write_layout(folder / "hand.json")
    return "folder", write_folder(folder, make_clips(6, 1, 6)), {"layout": str(layout)}


def spoil_folder(path):
    spoil(path / "clips" / "3.npy", spoil_first)
    return "clips/3"


def make_motion(format):
    return lambda folder: (format, folder, write_motion(folder, format))


def spoil_motion(path):
    (file,) = path.glob("*/clip4.*")
    file.write_bytes(file.read_bytes()[:-200])
    return "clip4"


def make_pku_framewise(folder):
    write_pku(folder, {"0105-M": [], "0002-L": []}, folders=("skeleton", "label_per_frame"))
    write_split(folder / "cross-view.txt", ["0105-M"], ["0002-L"])
    for name, labels in (("0105-M", "3 3 0 0 4 4 4 3 0 0 0 0"), ("0002-L", "0 1 1" + 9 * " 0")):
        (folder / "label_per_frame" / f"{name}.txt").write_text("\n".join(labels.split()) + "\n")
    return "pku", folder, {}


def make_nwucla(folder):
    return "nwucla", write_nwucla(folder / "all_sqe"), {}


def spoil_nwucla(path):
    file = path / "a08_s02_e01_v02.json"
    file.write_text(file.read_text().replace('"label": 7', '"label": 11'))
    return "a08_s02_e01_v02"


def make_aimclr(folder):
    return "aimclr", write_aimclr(folder / "xsub", {"train": 3, "val": 2}), {}


def spoil_aimclr(path):
    spoil(path / "val_position.npy", spoil_first)
    return "P004"


def make_ctrgcn_raw(folder):
    return "ctrgcn", write_ctrgcn_raw(folder), {}


def spoil_ctrgcn_raw(path):
    (path / "frames_cnt.txt").write_text("4\n5\n2\n6\n")
    return "A003"


def make_kinetics400(folder, packed=True):
    return "pyskl", write_kinetics400(folder, packed=packed), {}


def spoil_kinetics400(path):
    file = path.parent / "kpfiles" / "0000.pkl"
    content = pickle.loads(file.read_bytes())
    del content["clip0000001"]
    file.write_bytes(pickle.dumps(content))
    return "clip0000001"


def make_npy(folder):
    return "npy", write_npy(folder, make_clips(5)), {}


def spoil_npy(path):
    spoil(path / "b" / "3.npy", spoil_first)
    return "b/3"


SETS = {
    "ntu": (make_ntu, spoil_ntu),
    "pku": (make_pku, spoil_pku),
    "pyskl": (make_pyskl, spoil_pyskl),
    "pyskl 2-D": (lambda folder: make_pyskl(folder, flat_annotation), spoil_pyskl),
    "agcn": (make_agcn, spoil_agcn),
    "ctrgcn": (make_ctrgcn, spoil_ctrgcn),
    "ctrgcn compressed": (lambda f: make_ctrgcn(f, np.savez_compressed), spoil_ctrgcn),
    "pku frame-wise": (make_pku_framewise, spoil_pku),
    "nwucla": (make_nwucla, spoil_nwucla),
    "aimclr": (make_aimclr, spoil_aimclr),
    "ctrgcn raw": (make_ctrgcn_raw, spoil_ctrgcn_raw),
    "pyskl Kinetics-400": (make_kinetics400, spoil_kinetics400),
    "pyskl Kinetics-400, MMAction2": (lambda f: make_kinetics400(f, False), None),
    "npy": (make_npy, spoil_npy),
    "folder": (make_folder, spoil_folder),
    "folder, own layout": (make_hands, spoil_folder),
    "synthetic": (lambda folder: ("synthetic", None, {"clips": 5}), None),
    "bvh": (make_motion("bvh"), spoil_motion),
    "trc": (make_motion("trc"), None),  # cut short, it is a shorter clip
    "mat": (make_motion("mat"), spoil_motion),
    "text": (make_motion("text"), spoil_motion),
    **_detections.SETS,
}
WITHOUT_SPLITS = {"ntu"}  # its official splits name subjects and cameras that are not among three


def read_all(source):
    return [clip for item in source.items for clip in source.read(item)]


@pytest.mark.parametrize("kind", SETS)
def test_every_reader_keeps_the_contract(tmp_path, kind):
    format, path, options = SETS[kind][0](tmp_path)
    source = open_source(format, path, **options)
    assert source.format == format and {each.split()[0].strip(",") for each in SETS} == set(READERS)
    for part in (source.items, source.read, source.layout, source.notes, source.class_names):
        pickle.loads(pickle.dumps(part))
    clips = [check_clip(clip, source.layout, len(source.class_names)) for clip in read_all(source)]
    assert len(clips) >= 3 and all(0 <= clip.label < len(source.class_names) for clip in clips)
    names = [clip.name for clip in clips]
    assert len(set(names)) == len(names) and len({item.id for item in source.items}) == len(
        source.items
    )
    splits = source.splits([clip.info for clip in clips])
    for parts in splits.values():
        assert set(parts) == {"train", "test"}
        assert set(parts["train"]) | set(parts["test"]) <= set(names)
        assert not set(parts["train"]) & set(parts["test"])
    if kind not in WITHOUT_SPLITS:
        assert any(parts["train"] and parts["test"] for parts in splits.values())
    again = open_source(format, path, **options)
    assert [item.id for item in again.items] == [item.id for item in source.items]
    for clip, other in zip(clips, read_all(again), strict=True):
        np.testing.assert_array_equal(clip.frames, other.frames)
    finished = read_item(Reading(source.read, source.layout, 999, "view"), source.items[0]).clips
    assert finished[0].frames.shape[1:] == (source.layout.bodies, source.layout.num_joints, 3)


@pytest.mark.parametrize("kind", [kind for kind, (_, spoil) in SETS.items() if spoil])
def test_a_damaged_clip_is_named_and_the_others_are_read(tmp_path, kind):
    format, path, options = SETS[kind][0](tmp_path)
    whole = {clip.name: clip for clip in read_all(open_source(format, path, **options))}
    word = SETS[kind][1](path)
    source = open_source(format, path, **options)
    reading = Reading(source.read, source.layout, len(source.class_names), "none")
    results = [read_item(reading, item) for item in source.items]
    ((damaged,),) = [result.damaged for result in results if result.damaged]
    assert word in damaged["reason"] and "\n" not in damaged["reason"]
    others = [clip for result in results for clip in result.clips]
    assert len(others) == len(whole) - 1 and not any(word in clip.name for clip in others)
    for clip in others:
        np.testing.assert_array_equal(clip.frames[:, : whole[clip.name].frames.shape[1]],
                                      whole[clip.name].frames)  # fmt: skip


# --- 2s-AGCN --------------------------------------------------------------------------------------


def test_agcn_lengths_float_labels_and_names(tmp_path):
    clips = make_clips(4)
    folder = write_agcn(
        tmp_path / "PKU" / "xview", {"train": clips[:3], "val": clips[3:]},
        train_labels=[0.0, 2.0, 1.5], train_lengths=[3, 400, 5], val_lengths=None,
        train_names=["0005-L_1", "0006-R_1", "0007-M_1"], val_names=["0005-M_1"],
    )  # fmt: skip
    source = open_source("agcn", folder)
    first, second, fourth = (source.read(source.items[n])[0] for n in (0, 1, 3))
    np.testing.assert_array_equal(first.frames, clips[0])
    assert first.name == "0005-L_1" and first.performance == 5 and first.label == 0
    assert len(second.frames) == 8 and second.label == 2 and not second.frames[4:].any()
    np.testing.assert_array_equal(fourth.frames, clips[3])  # zero frames at the end tell
    with pytest.raises(UserError, match="0007-M_1: its label is no class"):
        source.read(source.items[2])
    infos = [first.info, second.info, fourth.info]
    assert source.splits(infos) == {
        "xview": {"train": ["0005-L_1", "0006-R_1", "0007-M_1"], "test": ["0005-M_1"]}
    }


def test_agcn_of_the_size_of_ntu_60_is_mapped(tmp_path):
    # 7.2 GB, of which the file system holds only what is written: the header and the last clip.
    path, count = tmp_path / "train_data_joint.npy", 40_091
    array = np.lib.format.open_memmap(path, "w+", np.float32, (count, 3, 300, 25, 2))
    array[-1] = 1.0
    del array
    names = [f"clip {number}" for number in range(count)]
    (tmp_path / "train_label.pkl").write_bytes(pickle.dumps((names, [0] * count)))
    source = open_source("agcn", tmp_path)
    (clip,) = source.read(source.items[-1])
    assert clip.frames.shape == (300, 2, 25, 3) and len(source.items) == count
    with pytest.raises(UserError, match="no body in it"):
        source.read(source.items[5])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "train_data_joint.npy").rename(f / "x.npy"), "no train_data_joint.npy"),
        (lambda f: np.save(f / "train_data_joint.npy", np.ones((3, 3, 8, 25))), "not floating-po"),
        (lambda f: np.save(f / "train_data_joint.npy", np.ones((2, 3, 8, 25, 2))), "3 names for 2"),
        (lambda f: np.save(f / "train_data_joint.npy", np.ones((3, 3, 8, 19, 2))), "19 joints; give"),
        (lambda f: np.save(f / "train_data_joint.npy", np.ones((3, 3, 8, 25, 3))), "3 bodies of 25"),
        (lambda f: np.save(f / "train_data_joint.npy", np.array([{}]), allow_pickle=True),
         "only numbers are read"),
        (lambda f: np.save(f / "train_num_frame.npy", np.ones(2)), "for 3 clips"),
        (lambda f: (f / "train_label.pkl").unlink(), "train_label.pkl"),
        (lambda f: (f / "train_label.pkl").write_bytes(pickle.dumps({"a": 1})), "names, labels"),
        (lambda f: (f / "train_label.pkl").write_bytes(pickle.dumps(([1, 2, 3], [0, 0, 0]))),
         "no clip's name"),
    ],
)  # fmt: skip
def test_agcn_files_that_do_not_fit_are_refused_in_one_line(tmp_path, spoil, message):
    folder = write_agcn(tmp_path, {"train": make_clips(3)})
    spoil(folder)
    with pytest.raises(UserError, match=message) as error:
        open_source("agcn", folder)
    assert "\n" not in str(error.value)


@pytest.mark.long
def test_arrays_that_are_normalised_stay_so_unless_asked_for(tmp_path):
    raw = make_clips(3)  # the fourth is no body around its centre
    normal = [view_clip(clip, NTU25) for clip in raw]
    assert not open_source("agcn", write_agcn(tmp_path / "a", {"train": raw})).normalized
    source = open_source("agcn", write_agcn(tmp_path / "b", {"train": normal}), layout="ntu25")
    assert source.normalized == "view" and "--normalize" in source.notes["normalised"]
    kept, again = (prepare_source(source, tmp_path / str(n), normalize=n) for n in (None, "view"))
    assert (kept.metadata["normalize"], again.metadata["normalize"]) == ("none", "view")
    frames = pack_frames(kept, tmp_path)
    np.testing.assert_array_equal(frames, np.concatenate(normal))
    # Why: the second pass turns the clips a little again.
    assert np.abs(pack_frames(again, tmp_path) - frames).max() > 1e-3
    for write, folder in ((write_ctrgcn, tmp_path / "c.npz"),):
        source = open_source("ctrgcn", write(folder, {"train": normal}), layout="ntu25")
        assert source.normalized == "view"
        np.testing.assert_array_equal(read_all(source)[0].frames, normal[0])
    upright = prepare_source(source, tmp_path / "upright", normalize="upright")
    wanted = np.concatenate([normalize_clip(clip, NTU25) for clip in raw])
    np.testing.assert_allclose(pack_frames(upright, tmp_path), wanted, atol=1e-5)


def pack_frames(dataset, folder):
    return open_dataset(pack(dataset, folder / "packed.npz", overwrite=True)).frames


# --- CTR-GCN --------------------------------------------------------------------------------------


def translated(clip):
    """As the generator writes it: the first spine of the first body at the origin."""
    return np.where(clip.any((2, 3), keepdims=True), clip - clip[0, 0, 1], 0).astype(np.float32)


def test_ctrgcn_gives_the_same_clips_as_the_sensor_and_drops_copies(tmp_path):
    pairs, singles = make_clips(3), make_clips(3, bodies=1, seed=9)
    written = [translated(np.concatenate([clip, clip], 1)) for clip in singles]
    parts = {"train": [*map(translated, pairs), *written[:2]], "test": written[2:]}
    file = write_ctrgcn(tmp_path / "NTU120_CSet.npz", parts)
    source = open_source("ctrgcn", file, layout="ntu25")
    clips = read_all(source)
    assert [clip.remark for clip in clips] == [""] * 3 + [COPY] * 3
    for clip, raw in zip(clips[:3], pairs, strict=True):
        ours = normalize_clip(clip.frames, NTU25)
        np.testing.assert_allclose(ours, normalize_clip(raw, NTU25), atol=1e-5)
    for clip, raw in zip(clips[3:], singles, strict=True):
        assert not clip.frames[:, 1].any() and len(clip.frames) == len(raw)
    dataset = prepare_source(source, tmp_path / "set")
    assert dataset.metadata["notes"][COPY] == 3
    assert dataset.splits["xset"]["test"].tolist() == [5]


def test_ctrgcn_compressed_and_stored_are_the_same_and_stored_is_mapped(tmp_path):
    _, stored, _ = make_ctrgcn(tmp_path / "a")
    _, packed, _ = make_ctrgcn(tmp_path / "b", np.savez_compressed)
    one, other = Rows(stored, "x_train"), Rows(packed, "x_train")
    assert isinstance(one.read(0), np.memmap) and not isinstance(other.read(0), np.memmap)
    for first, count in ((2, 1), (0, 3), (1, 1), (0, 1)):  # backwards too
        np.testing.assert_array_equal(one.read(first, count), other.read(first, count))
    changed = bytearray(packed.read_bytes())
    changed[600] ^= 255
    packed.write_bytes(bytes(changed))
    with pytest.raises(UserError, match="fetch it again") as error:
        for item in open_source("ctrgcn", packed).items:
            open_source("ctrgcn", packed).read(item)
    assert "\n" not in str(error.value)


def test_a_reader_that_is_forgotten_closes_its_file(tmp_path, monkeypatch):
    """Also when the garbage collector finds it in a circle, where it takes things in any order."""
    path, complaints = tmp_path / "a.npz", []
    np.savez_compressed(path, x=np.ones((5, 3)))
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    for _ in range(50):
        circle = SimpleNamespace(rows=Rows(path, "x"))
        circle.itself = circle
        assert circle.rows.read(3).sum() == circle.rows.read(0).sum() == 3
        del circle
    gc.collect()
    assert not complaints


def change_arrays(path, **changes):
    with np.load(path) as stored:
        arrays = dict(stored) | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": None, "x_test": None}, "no x_train and no x_test"),
        ({"y_train": None}, "no array y_train"),
        ({"x_train": np.array([{}, {}, {}])}, "only numbers are read"),
        ({"x_train": np.ones((3, 8, 149), np.float32)}, "not floating-point"),
        ({"x_train": np.ones((3, 8, 225), np.float32)}, "more bodies than the 2"),
        ({"x_train": np.ones((3, 8, 150), int)}, "not floating-point"),
        ({"x_train": np.asfortranarray(np.ones((3, 8, 150)))}, "Fortran"),
        ({"y_train": np.eye(3)[:2]}, "for 3 clips"),
        ({"y_train": np.ones((3, 5000))}, "5000 classes"),
    ],
)
def test_ctrgcn_files_that_do_not_fit_are_refused_in_one_line(tmp_path, changes, message):
    _, path, _ = make_ctrgcn(tmp_path)
    change_arrays(path, **changes)
    with pytest.raises(UserError, match=message) as error:
        open_source("ctrgcn", path)
    assert "\n" not in str(error.value)


def test_ctrgcn_labels_that_are_not_one_class_damage_their_clip(tmp_path):
    _, path, _ = make_ctrgcn(tmp_path)
    y = np.array([[0, 1, 0], [1, 1, 0], [0, 0, 0]], np.float32)
    change_arrays(path, y_train=y, y_test=np.array([2, 1]))
    source = open_source("ctrgcn", path)
    assert [item.label for item in source.items] == [1, -2, -1, 2, 1]
    with pytest.raises(UserError, match="train_1: its label is not one class"):
        source.read(source.items[1])


# --- joints in a picture --------------------------------------------------------------------------


def test_2d_pyskl_clips_lie_in_the_unit_box_and_unseen_joints_are_zero(tmp_path):
    one, crowd = flat_annotation("one", 0, 1), flat_annotation("crowd", 1, 2, bodies=4)
    one["keypoint"][0, 2, 9], one["keypoint_score"][0, 2, 9] = (3, 4), 0
    one["keypoint"][1, 0, 5] = (1920, 0)
    crowd["keypoint_score"][[0, 2]] /= 10
    source = open_source("pyskl", write_pyskl(tmp_path / "a.pkl", [one, crowd], {}))
    first, second = read_all(source)
    assert source.layout is COCO17 and not first.frames[..., 2].any()
    np.testing.assert_allclose(first.frames[0, 1, 5], (1, -1080 / 1920, 0))
    assert not first.frames[2, 0, 9].any()
    wanted = (crowd["keypoint"][[1, 3]].astype(float) - (960, 540)) / 960
    np.testing.assert_allclose(
        second.frames[..., :2], wanted.transpose(1, 0, 2, 3), atol=1e-6
    )  # fmt: skip
    assert (first.remark, second.remark) == ("", BEST_BODIES)


def test_2d_clips_are_centred_and_scaled_and_not_turned():
    clip = np.zeros((6, 2, 17, 3), np.float32)
    clip[..., :2] = poses(3, 6, 2, 17)[..., :2]
    clip[2, 0, 9] = 0
    ours = normalize_clip(clip, COCO17)
    trunk = ours[:, 0, [5, 6, 11, 12]]
    np.testing.assert_allclose(trunk.mean(1), 0, atol=1e-6)
    spine = np.linalg.norm(ours[:, 0, 5] - ours[:, 0, 11], axis=-1)
    assert np.median(spine) == pytest.approx(0.5) and not ours[..., 2].any()
    assert not ours[2, 0, 9].any() and np.abs(ours).max() < 100
    moved = np.where(clip.any(-1, keepdims=True), clip * 300 + (960, 540, 0), 0)
    np.testing.assert_allclose(normalize_clip(moved.astype(np.float32), COCO17), ours, atol=1e-4)
    np.testing.assert_allclose(normalize_clip(ours, COCO17), ours, atol=1e-6)
    edges = clip[0, 0, 1] - clip[0, 0, 0], ours[0, 0, 1] - ours[0, 0, 0]
    cosine = edges[0] @ edges[1] / np.linalg.norm(edges[0]) / np.linalg.norm(edges[1])
    assert cosine == pytest.approx(1)
    shown = project(ours, COCO17)
    assert np.sign(shown[0, 0, 1, 1] - shown[0, 0, 0, 1]) == -np.sign(edges[1][1])


def test_2d_trunks_that_are_never_whole_still_give_finite_clips():
    clip = np.zeros((4, 1, 18, 3), np.float32)
    clip[:, 0, :3, :2] = poses(1, 4, 1, 3)[:, 0, :, :2]
    ours = normalize_clip(clip, OPENPOSE18)
    np.testing.assert_allclose(ours[:, 0, :3].mean(1), 0, atol=1e-6)
    assert not ours[:, :, 3:].any()


def test_kinetics_arrays_and_own_2d_clips(tmp_path):
    flat = [np.concatenate([c[..., :2], np.ones_like(c[..., :1])], -1)
            for c in make_clips(4, joints=18)]  # fmt: skip
    flat[0][1, 0, 7, 2] = 0
    source = open_source("agcn", write_agcn(tmp_path / "a", {"train": flat}))
    clip = read_all(source)[0]
    assert source.layout is OPENPOSE18 and not clip.frames[1, 0, 7].any()
    np.testing.assert_array_equal(clip.frames[0, ..., 1], -flat[0][0, ..., 1])
    wide = flat[0][0, ..., 0] * 340 / 256  # people keep their proportions
    np.testing.assert_allclose(clip.frames[0, ..., 0], wide, rtol=1e-6)
    folder = write_folder(tmp_path / "b", [clip[..., :2] for clip in make_clips(3, 1, 17)])
    assert open_source("folder", folder).layout is COCO17
    dataset = from_arrays(flat, None, layout="openpose18", normalize="none")
    assert not dataset.frames[..., 2].any() and not dataset.clip(0)[1, 0, 7].any()


# --- one's own ------------------------------------------------------------------------------------


def test_folder_splits_and_labels(tmp_path):
    clips = make_clips(10, bodies=1)
    folder = write_folder(tmp_path / "a", clips)
    infos = [clip.info for clip in read_all(open_source("folder", folder))]
    (split,) = [open_source("folder", folder).splits(infos)]
    assert set(split) == {"random"} and len(split["random"]["test"]) == 2
    others = [open_source("folder", folder, seed=n).splits(infos) for n in range(6)]
    assert others[0] == split and any(other != split for other in others)

    rows = [f"clips/{n}.npy,{'wave kick'.split()[n % 2]},{'abc'[n % 3]}" for n in range(10)]
    source = open_source("folder", write_folder(tmp_path / "b", clips, "File,Label,subject", rows))
    found = read_all(source)
    assert source.class_names == ("kick", "wave") and found[0].label == 1
    np.testing.assert_array_equal(found[0].frames, clips[0])
    parts = source.splits([clip.info for clip in found])["xsub"]
    assert parts["test"] == [f"clips/{n}" for n in (2, 5, 8)] and len(parts["train"]) == 7
    rows = [f"clips/{n}.npy,{n % 5 - 1}" for n in range(10)]
    source = open_source("folder", write_folder(tmp_path / "c", clips, "file,subject", rows))
    assert [clip.subject for clip in read_all(source)][:5] == [-1, 0, 1, 2, 3]


@pytest.mark.parametrize(
    "parts", [("train", "test"), ("Train", "val"), ("training", "valid", "test")]
)
def test_folders_of_parts_are_no_classes(tmp_path, parts):
    for part in parts:
        write_npy(tmp_path / part, make_clips(4, bodies=1))
    source = open_source("npy", tmp_path)
    infos = [clip.info for clip in read_all(source)]
    assert source.class_names == ("a", "b")
    assert [info.label for info in infos] == [0, 0, 1, 1] * len(parts)
    own = source.splits(infos)["own"]
    test = parts[-1]  # val alone is what is tested on
    assert own["train"] == [
        f"{parts[0]}/a/0",
        f"{parts[0]}/a/2",
        f"{parts[0]}/b/1",
        f"{parts[0]}/b/3",
    ]
    assert {name.split("/")[0] for name in own["test"]} == {test} and len(own["test"]) == 4
    assert len(own.get("val", ())) == (4 if len(parts) == 3 else 0)


def test_hidden_files_make_no_clips_and_no_class(tmp_path):
    write_npy(tmp_path, make_clips(4, bodies=1))
    for file in sorted(tmp_path.rglob("*.npy")):
        left = tmp_path / "__MACOSX" / file.parent.name / f"._{file.name}"
        left.parent.mkdir(parents=True, exist_ok=True)
        left.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    source = open_source("npy", tmp_path)
    assert source.class_names == ("a", "b") and len(source.items) == 4
    folder = write_folder(tmp_path / "table", make_clips(2))
    (folder / "._labels.csv").write_bytes(b"\0\5\x16\7")
    assert len(open_source("folder", folder).items) == 2


def test_joints_of_minus_one_are_missing(tmp_path):
    clips = make_clips(1, bodies=1)
    clips[0][1, 0, 7] = -1
    clips[0][2, 0, 7, 0] = -1
    (clip,) = read_all(open_source("npy", write_npy(tmp_path, clips)))
    assert not clip.frames[1, 0, 7].any() and clip.frames[2, 0, 7].all()


@pytest.mark.parametrize(
    ("columns", "rows", "message"),
    [
        ("file,class", None, "give the column file and if you like label"),
        ("file;label", None, "give the column file and if you like label"),
        ("label,subject", None, "give the column file and if you like label"),
        ("file,label,label", None, "give the column file and if you like label"),
        ("file,label", ["clips/0.npy"], "line 2 has 1 cells, not 2"),
        ("file,label", ["clips/0.npy,99999"], "class 99999"),
        ("file,label", ["clips/9.npy,1"], "cannot be read"),
        ("file,label", ['"clips/0.npy,1'], "no CSV text"),
        ("file,label", [""], "0 clips in it"),
    ],
)
def test_folder_tables_that_are_refused_in_one_line(tmp_path, columns, rows, message):
    folder = write_folder(tmp_path, make_clips(1), columns, rows)
    with pytest.raises(UserError, match=message) as error:
        open_source("folder", folder)
    assert "\n" not in str(error.value)


def test_folder_clips_without_a_label_and_labels_from_1(tmp_path):
    def labels(name, columns, rows):
        source = open_source("folder", write_folder(tmp_path / name, make_clips(3), columns, rows))
        found = [clip.label for clip in read_all(source)]
        return found, source.class_names, source.notes["labels"]

    files = [f"clips/{n}.npy" for n in range(3)]
    assert labels("a", "file", files) == ([-1, -1, -1], (), "")
    rows = [f"{file},{label}" for file, label in zip(files, ("wave", "", "kick"), strict=True)]
    assert labels("b", "file,label", rows) == ([1, -1, 0], ("kick", "wave"), "")
    rows = [f"{file},{label}" for file, label in zip(files, (2, -1, 1), strict=True)]
    told = "run from 1 to 2: taken as classes from 0"
    assert labels("c", "file,label", rows) == ([1, -1, 0], ("class 0", "class 1"), told)
    rows = [f"{file},{label}" for file, label in zip(files, (0, 3, 3), strict=True)]
    assert labels("d", "file,label", rows)[2] == "no clip is of class 1, 2"


def test_folder_rows_to_choose_settings_on(tmp_path):
    rows = [f"clips/{n}.npy,0,{'train train test val'.split()[n]}" for n in range(4)]
    source = open_source("folder", write_folder(tmp_path, make_clips(4), "file,label,split", rows))
    splits = source.splits([clip.info for clip in read_all(source)])
    assert splits == {
        "own": {"train": ["clips/0", "clips/1"], "test": ["clips/2"], "val": ["clips/3"]}
    }


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("../clips/0.npy,0,train", "outside the folder"),
        ("/etc/passwd.npy,0,train", "outside the folder"),
        ("labels.csv,0,train", "does not end in .npy"),
        ("clips/0.npy,0,train", "is there twice"),
        ("clips/1.npy,0,valid", "not train, test or val"),
        ("clips/gone.npy,0,test", "cannot be read"),
        ("clips/odd.npy,0,test", r"its shape is \[5, 25\]"),
        ("clips/object.npy,0,test", "only numbers are read"),
    ],
)
def test_folder_rows_that_are_damaged_do_not_stop_the_others(tmp_path, row, reason):
    rows = ["clips/0.npy,0,train", row]
    folder = write_folder(tmp_path, make_clips(2), "file,label,split", rows)
    np.save(folder / "clips" / "odd.npy", np.ones((5, 25)))
    np.save(folder / "clips" / "object.npy", np.array([{}]), allow_pickle=True)
    source = open_source("folder", folder)
    assert len(source.read(source.items[0])) == 1
    with pytest.raises(UserError, match=reason) as error:
        source.read(source.items[1])
    assert "\n" not in str(error.value)


def test_a_layout_of_ones_own_travels_with_the_data_set(tmp_path):
    format, path, options = make_hands(tmp_path)
    hand = find_layout(options["layout"])
    assert hand.spine == (0, 3) and hand.centre == 0 and hand.left == ()
    prepared = prepare_source(open_source(format, path, **options), tmp_path / "set")
    packed = pack(prepared, tmp_path / "set.npz")
    pickled = tmp_path / "set.pkl"
    assert export.main([f"--data={packed}", "--format=pyskl", f"--out={pickled}"]) == 0
    for opened in (lambda: open_dataset(prepared.path), lambda: open_dataset(packed),
                   lambda: open_source("pyskl", pickled)):  # fmt: skip
        assert opened().layout == hand
    metadata = prepared.metadata | {"layout": hand.name}
    assert metadata["layout"] == "hand6" and prepared.metadata["layout"]["joints"][0] == "wrist"
    own = from_arrays(make_clips(2, 1, 6), None, layout=hand)
    assert own.layout == hand


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, "name is missing"),
        ({"name": "a b"}, "name must be a word"),
        ({"name": "ntu25"}, "'ntu25' is a known one"),
        ({"joints": ["wrist"]}, "joints must be a list of 2 to"),
        ({"joints": ["wrist"] * 6}, "'wrist' twice"),
        ({"joints": [1, 2, 3, 4, 5, 6]}, "joints must be names"),
        ({"parents": [0] * 5}, "parents must be a list of 6"),
        ({"parents": [0, 1, 0, 0, 0, 0]}, "2 joints that are their own parent"),
        ({"parents": [0, 2, 1, 0, 0, 0]}, "in a circle from 'thumb'"),
        ({"parents": [0, 0, 0, 0, 0, 6]}, "has '6', which is no joint"),
        ({"parents": [0, 0, 0, 0, 0, True]}, "has 'True', which is no joint"),
        ({"bodies": 0}, "bodies must be a whole number"),
        ({"bodies": 1e9}, "bodies must be a whole number"),
        ({"centre": "elbow"}, "centre has 'elbow'"),
        ({"spine": ["wrist", "wrist"]}, "spine has one joint twice"),
        ({"shoulders": ["wrist"]}, "shoulders must be a list of 2"),
        ({"axes": 4}, "axes must be 2 or 3"),
        ({"left": ["thumb"]}, "must both be given"),
        ({"left": ["thumb"], "right": ["thumb"]}, "must pair different"),
        ({"colour": "red"}, "'colour' is no field"),
    ],
)
def test_layout_files_that_are_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(UserError, match=message) as error:
        find_layout(str(write_layout(tmp_path / "a.json", **changes)))
    assert (
        "\n" not in str(error.value)
        and str(tmp_path) in str(error.value)
        or "known one" in str(error.value)
    )


def test_layout_files_that_are_none_and_sides_by_name(tmp_path):
    file = tmp_path / "a.json"
    for text in ("", "[1", "[]", "[" * 100_000, "\xff"):
        file.write_text(text, encoding="latin1")
        with pytest.raises(UserError, match="a.json: no"):
            find_layout(str(file))
    with pytest.raises(UserError, match="cannot be read"):
        find_layout(str(tmp_path / "b.json"))
    with pytest.raises(UserError, match="'hand9' is not known; use one of kinect20, ntu25, coco17"):
        find_layout("hand9")
    joints = ["wrist", "left a", "right a", "left b", "right b", "tip"]
    fields = {"joints": joints, "spine": [0, 5], "shoulders": [2, 1], "parents": [0] * 6}
    layout = find_layout(str(write_layout(file, **fields)))
    assert (layout.left, layout.right) == ((1, 3), (2, 4))
    assert HAND["joints"][0] == "wrist"


def test_prepare_takes_the_layout_and_refuses_it_where_it_means_nothing():
    for format in READERS:
        args = prepare.parse_args([f"--format={format}", "--out=x", "--layout=coco17"])
        if "layout" in inspect.signature(READERS[format]).parameters:
            assert prepare.reader_options(args) == {"layout": "coco17"}
        else:
            with pytest.raises(UserError, match=f"means nothing to --format={format}"):
                prepare.reader_options(args)
    assert args.normalize is None
    args = prepare.parse_args(["--format=text", "--out=x", "--columns=sbu"])
    assert prepare.reader_options(args)["columns"] == "sbu"


# --- out and in again -----------------------------------------------------------------------------


def make_dataset(layout, bodies=2):
    clips = make_clips(7, bodies, layout.num_joints)
    clips[2] = clips[2][:, :1]
    if layout.axes == 2:
        clips = [np.where(np.arange(3) < 2, clip, 1).astype(np.float32) for clip in clips]
        clips[0][1, 0, 4, 2] = 0
    splits = {"mine": {"train": [0, 2, 4, 6], "test": [1, 3]}, "rest": {"train": [5], "test": [0]}}
    names = [f"clip {number}" for number in "abcdefg"]
    return from_arrays(
        clips, [0, 1, 2, 0, 1, 2, 0], layout=layout, splits=splits, names=names,
        class_names=("wave", "kick", "bow", "sit"), fps=25.0,
    )  # fmt: skip


@pytest.mark.parametrize("layout", [NTU25, COCO17], ids=lambda layout: layout.name)
def test_pyskl_goes_out_and_comes_in_the_same(tmp_path, layout, capsys):
    dataset = make_dataset(layout)
    packed, out = pack(dataset, tmp_path / "set.npz"), tmp_path / "deep" / "set.pkl"
    assert export.main([f"--data={packed}", "--format=pyskl", f"--out={out}"]) == 0
    captured = capsys.readouterr()
    assert f"{out}: 7 clips" in captured.out and "export 7/7 clips" in captured.err
    assert [path.name for path in out.parent.iterdir()] == ["set.pkl"]

    source = open_source("pyskl", out)
    assert source.layout == layout and source.class_names == dataset.class_names
    clips = read_all(source)
    for number, clip in enumerate(clips):
        np.testing.assert_array_equal(clip.frames, dataset.clip(number))
        assert (clip.name, clip.label) == (dataset.names[number], dataset.labels[number])
        assert clip.fps == 25
    splits = source.splits([clip.info for clip in clips])
    for benchmark, parts in dataset.splits.items():
        for part, numbers in parts.items():
            assert splits[benchmark][part] == [dataset.names[number] for number in numbers]

    content = pickle.loads(out.read_bytes())  # as PYSKL opens it
    first = content["annotations"][0]
    assert type(first) is dict and type(content["annotations"]) is list
    assert content["split"]["mine_val"] == ["clip b", "clip d"]
    assert content["annotations"][2]["keypoint"].shape[:2] == (1, len(dataset.clip(2)))
    assert b"numpy._core" not in out.read_bytes()
    if layout.axes == 2:  # what PYSKL's normalisation makes of it
        height, width = first["img_shape"]
        back = (first["keypoint"] - (width / 2, height / 2)) / (width / 2, height / 2)
        back *= (first["keypoint_score"] > 0)[..., None]
        np.testing.assert_array_equal(back.transpose(1, 0, 2, 3), dataset.clip(0)[..., :2])


@pytest.mark.parametrize("layout", [NTU25, OPENPOSE18], ids=lambda layout: layout.name)
def test_npz_goes_out_and_comes_in_the_same(tmp_path, layout):
    dataset = make_dataset(layout)
    packed, out = pack(dataset, tmp_path / "set.npz"), tmp_path / "NTU60_CS.npz"
    command = [f"--data={packed}", "--format=ctrgcn", f"--out={out}", "--split=mine"]
    assert export.main(command) == 0
    with np.load(out) as arrays:
        assert set(arrays) == {"x_train", "y_train", "x_test", "y_test"}
        assert arrays["x_train"].shape == (4, 6, 6 * layout.num_joints)
        np.testing.assert_array_equal(arrays["y_test"].argmax(1), dataset.labels[[1, 3]])
    source = open_source("ctrgcn", out, layout=layout.name)
    assert isinstance(Rows(out, "x_train").read(0), np.memmap) and len(source.class_names) == 4
    clips = read_all(source)
    for clip, number in zip(clips, (0, 2, 4, 6, 1, 3), strict=True):
        np.testing.assert_array_equal(clip.frames, dataset.clip(number))
        assert clip.label == dataset.labels[number]
    splits = source.splits([clip.info for clip in clips])
    assert len(splits["xsub"]["train"]) == 4 and len(splits["xsub"]["test"]) == 2


def test_export_says_what_is_wrong_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    packed = pack(make_dataset(NTU25), tmp_path / "set.npz")
    (tmp_path / "there.pkl").write_text("")
    for arguments, message in (
        (["--format=ctrgcn", "--out=a.npz"], "has the splits mine, rest; give one as --split"),
        (["--format=ctrgcn", "--out=a.npz", "--split=no"], "no split 'no'"),
        (["--format=ctrgcn", "--out=a.zip", "--split=mine"], "does not end in .npz"),
        (["--format=pyskl", "--out=there.pkl"], "exists; choose another --out, or --overwrite"),
        (["--format=pyskl", "--out=a.pkl", "--split=mine"], "means nothing"),
        (["--format=pyskl", "--out=there.pkl/a.pkl"], "cannot write"),
    ):
        monkeypatch.chdir(tmp_path)
        assert export.main([f"--data={packed}", *arguments]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and message in line
    monkeypatch.setattr("halp_jax.datasets.formats_out._annotate", fail)
    assert export.main([f"--data={packed}", "--format=pyskl", "--out=a.pkl"]) == 1
    monkeypatch.setattr(zipfile.ZipFile, "open", fail)
    assert export.main(["--data=there.pkl", "--format=pyskl", "--out=a.pkl"]) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.npz", "there.pkl"]


def fail(*_, **__):
    raise OSError(28, "No space left on device")


def test_a_prepared_folder_goes_out_too(tmp_path):
    source = dataclasses.replace(open_source("synthetic", None, clips=5), notes={})
    prepared = prepare_source(source, tmp_path / "set")
    assert (
        export.main([f"--data={tmp_path / 'set'}", "--format=pyskl", f"--out={tmp_path / 'a.pkl'}"])
        == 0
    )
    again = prepare_source(open_source("pyskl", tmp_path / "a.pkl"), tmp_path / "again")
    np.testing.assert_array_equal(pack_frames(again, tmp_path), pack_frames(prepared, tmp_path))
    assert again.class_names == prepared.class_names
    assert prepared.metadata["normalize"] == again.metadata["normalize"] == "upright"
    arrays = ["--format=ctrgcn", "--split=xsub", f"--out={tmp_path / 'a.npz'}"]
    assert export.main([f"--data={tmp_path / 'set'}", *arrays]) == 0
    third = prepare_source(open_source("ctrgcn", tmp_path / "a.npz"), tmp_path / "third")
    assert third.metadata["normalize"] == "upright"
    order = np.concatenate([prepared.indices("xsub", part) for part in ("train", "test")])
    frames = pack_frames(prepared, tmp_path)
    wanted = np.split(frames, np.cumsum(prepared.lengths)[:-1])
    np.testing.assert_array_equal(
        pack_frames(third, tmp_path), np.concatenate([wanted[number] for number in order])
    )
    for benchmark in prepared.splits:
        np.testing.assert_array_equal(
            again.indices(benchmark, "test"), prepared.indices(benchmark, "test")
        )
