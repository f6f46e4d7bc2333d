"""The PYSKL reader and the unpickler below it: what is read, and what is refused to run."""

import pickle

import numpy as np
import pytest
from _files import SHARED, annotation, write_pyskl
from _formats import flat_annotation

from halp_jax.datasets import pyskl
from halp_jax.datasets.clip import ClipInfo, DamagedClip
from halp_jax.datasets.labels import ACTIONS
from halp_jax.datasets.safe_pickle import PickledArray, load_pickle
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import KINECT20, NTU25

PKU = [annotation("0005-L_00229", 1, 0), annotation("0006-R_00001", 0, 1, bodies=1)]


def read_all(source):
    return [clip for item in source.items for clip in source.read(item)]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_clips_of_every_protocol(tmp_path, protocol):
    split = {"xsub_train": ["0005-L_00229"], "xsub_val": ["0006-R_00001", "gone"], "other": []}
    source = pyskl.open_source(write_pyskl(tmp_path / "a.pkl", PKU, split, protocol))
    first, second = read_all(source)
    assert source.layout is NTU25 and source.class_names == ("class 0", "class 1")
    np.testing.assert_array_equal(first.frames, PKU[0]["keypoint"].transpose(1, 0, 2, 3))
    assert first.frames.dtype == np.float32 and first.frames.shape == (5, 2, 25, 3)
    assert second.frames.shape == (5, 2, 25, 3) and not second.frames[:, 1].any()
    assert first.info == ClipInfo(1, "0005-L_00229", camera=0, performance=5)
    assert source.splits([first.info, second.info]) == {
        "xsub": {"train": ["0005-L_00229"], "test": ["0006-R_00001", "gone"]}
    }
    assert source.notes["splits_ignored"] == ["other"]
    for each in (source.items, source.read, source.splits):
        pickle.loads(pickle.dumps(each))


def test_nw_ucla_names_layout_and_classes(tmp_path):
    clips = [
        annotation(f"a{n + 1:02d}_s03_e00_v02", n, n, time=1, bodies=1, joints=20)
        for n in range(10)
    ]
    source = pyskl.open_source(write_pyskl(tmp_path / "a.pkl", clips, {}))
    clip = read_all(source)[0]
    assert source.layout is KINECT20 and source.class_names[9] == "carry"
    assert clip.frames.shape == (1, 1, 20, 3)
    assert clip.info == ClipInfo(0, "a01_s03_e00_v02", subject=3, camera=2)


def test_ntu_names_and_classes_and_a_folder_with_the_file(tmp_path):
    clips = [annotation("S018C002P042R001A061", 60)]
    split = {"xset_train": [], "xset_test": [clips[0]["frame_dir"]]}
    write_pyskl(tmp_path / "ntu.pkl", clips, split)
    source = pyskl.open_source(tmp_path)
    (clip,) = read_all(source)
    assert clip.info == ClipInfo(60, clips[0]["frame_dir"], subject=42, camera=2, setup=18)
    assert source.class_names == ACTIONS
    assert source.splits([clip.info])["xset"]["test"] == [clip.name]


def test_numpy_scalars_float32_fortran_order_and_big_endian(tmp_path):
    clip = annotation("a", 0)
    for dtype, order in ((np.float32, "C"), (">f4", "C"), (np.float64, "F"), (np.float16, "F")):
        keypoint = np.array(clip["keypoint"], dtype, order=order)
        changed = clip | {"keypoint": keypoint, "label": np.int64(3), "total_frames": np.int32(5)}
        source = pyskl.open_source(write_pyskl(tmp_path / "a.pkl", [changed], {}))
        (read,) = read_all(source)
        np.testing.assert_array_equal(read.frames, clip["keypoint"].transpose(1, 0, 2, 3))
        assert read.label == 3 and len(source.class_names) == 4
        assert source.notes["labels"] == "no clip is of class 0, 1, 2"


def test_what_follows_total_frames_is_padding(tmp_path):
    whole = annotation("a", 0, time=9)
    flat = flat_annotation("a", 0, 0, time=9)
    for clip in (whole, flat):
        cut = clip | {"total_frames": 6}
        (read,) = read_all(pyskl.open_source(write_pyskl(tmp_path / "a.pkl", [cut], {})))
        (uncut,) = read_all(pyskl.open_source(write_pyskl(tmp_path / "a.pkl", [clip], {})))
        assert (len(uncut.frames), uncut.remark) == (9, "")
        np.testing.assert_array_equal(read.frames, uncut.frames[:6])
        assert read.remarks == [pyskl.CUT] and read.frames.any()
        for total in (9, 10, 0, -1, 2.5, None, "6"):  # says nothing, or nothing new
            changed = clip | {"total_frames": total}
            (read,) = read_all(pyskl.open_source(write_pyskl(tmp_path / "a.pkl", [changed], {})))
            assert (len(read.frames), read.remark) == (9, "")


def test_names_of_kinect_v2_sets_tell_the_frame_rate(tmp_path):
    for name, fps in (("S001C001P001R001A001", 30), ("0105-M_1", 30), ("a01_s01_e00_v01", 0)):
        (clip,) = read_all(
            pyskl.open_source(write_pyskl(tmp_path / "a.pkl", [annotation(name, 0)], {}))
        )
        assert clip.fps == fps


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label": -2}, "its label is -2"),
        ({"label": 10**9}, "its label is 1000000000"),
        ({"label": "two"}, "its label is two"),
        ({"keypoint": None}, "no array of floating-point"),
        ({"keypoint": [[1.0]]}, "no array of floating-point"),
        ({"keypoint": np.ones((2, 5, 25, 3), np.int64)}, "no array of floating-point"),
        ({"keypoint": np.ones((2, 5, 25, 2), np.float16)}, r"not \[bodies, time, joints, 3\]"),
        ({"keypoint": np.ones((5, 25, 3), np.float16)}, r"not \[bodies, time, joints, 3\]"),
        ({"keypoint": np.ones((2, 0, 25, 3), np.float16)}, r"not \[bodies, time"),
        ({"keypoint": np.ones((2, 5, 20, 3), np.float16)}, "20 joints of 3 numbers"),
        ({"keypoint": np.ones((3, 5, 25, 3), np.float16)}, "it has 3 bodies"),
        ({"keypoint": np.zeros((2, 5, 25, 3), np.float16)}, "every coordinate is zero"),
        ({"keypoint": np.full((2, 5, 25, 3), np.nan, np.float16)}, "NaN"),
        ({"keypoint": np.full((2, 5, 25, 3), 1e300)}, "infinite or larger"),
        ({"frame_dir": None}, "no frame_dir"),
        ({"frame_dir": "two\nlines"}, "no frame_dir"),
        ({"frame_dir": PKU[0]["frame_dir"]}, "is there twice"),
    ],
)
def test_one_damaged_annotation_is_named_and_the_others_are_read(tmp_path, change, reason):
    good = [*PKU, annotation("0007-R_00001", 1)]
    bad = annotation("0008-R_00001", 0) | change
    source = pyskl.open_source(write_pyskl(tmp_path / "a.pkl", [*good, bad], {}))
    assert len(source.items) == 4 and len(source.class_names) == 2
    assert all(len(source.read(item)) == 1 for item in source.items[:3])
    with pytest.raises(DamagedClip, match=reason) as error:
        source.read(source.items[3])
    assert source.items[3].id in str(error.value) and "\n" not in str(error.value)


def open_labels(tmp_path, labels, names="abcdef"):
    clips = [annotation(name, label) for name, label in zip(names, labels, strict=False)]
    source = pyskl.open_source(write_pyskl(tmp_path / "a.pkl", clips, {}))
    return [clip.label for clip in read_all(source)], source


def test_labels_from_1_become_classes_from_0_and_it_is_said(tmp_path):
    found, source = open_labels(tmp_path, [1, 2, 3, 1])
    assert found == [0, 1, 2, 0] and source.class_names == ("class 0", "class 1", "class 2")
    assert source.notes["labels"] == "run from 1 to 3: taken as classes from 0"
    found, source = open_labels(tmp_path, [0, 1, 2])
    assert found == [0, 1, 2] and source.notes["labels"] == ""


def test_labels_are_held_against_the_actions_in_ntu_names(tmp_path):
    names = [f"S001C001P00{n}R001A0{action:02d}" for n, action in enumerate((1, 7, 60))]
    assert open_labels(tmp_path, [0, 6, 59], names)[1].notes["labels"].startswith("no clip is of")
    found, source = open_labels(tmp_path, [1, 7, 60], names)  # the action itself: from 1
    assert found == [0, 6, 59] and source.class_names == ACTIONS[:60]
    assert "taken as classes from 0" in source.notes["labels"]
    found, source = open_labels(tmp_path, [0, 9, 59], names)
    assert found == [0, 9, 59] and source.notes["labels"].startswith("1 of 3 are not the action")


def test_clips_without_labels_and_a_bare_list(tmp_path):
    clips = [annotation("a", 0), annotation("b", 0), annotation("c", -1)]
    del clips[0]["label"]
    clips[1]["label"] = None
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(clips))
    source = pyskl.open_source(tmp_path / "a.pkl")
    clips = read_all(source)
    assert [clip.label for clip in clips] == [-1, -1, -1] and source.class_names == ()
    (split,) = source.splits([clip.info for clip in clips]).items()  # something to train on
    assert split == ("random", {"train": ["b", "c"], "test": ["a"]})


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ({"train": "ab", "val": "c"}, {"given": {"train": "ab", "test": "c"}}),
        ({"Train": "ab", "Test": "c"}, {"given": {"train": "ab", "test": "c"}}),
        (
            {"train1": "a", "test1": "b", "train2": "b", "test2": "a"},
            {"1": {"train": "a", "test": "b"}, "2": {"train": "b", "test": "a"}},
        ),
        ({"train_xsub": "a", "test_xsub": "b"}, {"xsub": {"train": "a", "test": "b"}}),
        (
            {"xsub_train": "a", "xsub_val": "b", "xsub_test": "c"},
            {"xsub": {"train": "a", "val": "b", "test": "c"}},
        ),
        (
            {"xsub_training": "a", "xsub_validation": "b", "xsub_testing": "c"},
            {"xsub": {"train": "a", "val": "b", "test": "c"}},
        ),
        ({"train": "ab", "valid": "c"}, {"given": {"train": "ab", "test": "c"}}),
        ({"xset_train": "abc"}, {"xset": {"train": "abc", "test": ""}}),
    ],
)
def test_splits_however_their_parts_are_called(tmp_path, split, expected):
    clips = [annotation(name, 0) for name in "abc"]
    named = {key: list(names) for key, names in split.items()}
    source = pyskl.open_source(write_pyskl(tmp_path / "a.pkl", clips, named))
    assert source.splits([]) == {
        benchmark: {part: list(names) for part, names in parts.items()}
        for benchmark, parts in expected.items()
    }
    assert source.notes["splits_ignored"] == []


def test_files_that_are_refused(tmp_path):
    file = tmp_path / "a.pkl"
    with pytest.raises(UserError, match="does not exist"):
        pyskl.open_source(file)
    with pytest.raises(UserError, match="holds 0 .pkl files"):
        pyskl.open_source(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(UserError, match="no pickle of arrays"):
        pyskl.open_source(file)
    for content in ([], {"split": {}}, {"annotations": []}, {"annotations": {"a": 1}}):
        file.write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="no list of annotations"):
            pyskl.open_source(file)
    for split in (["xsub_train"], {"xsub_train": "abc"}, {3: []}, {"xsub_train": [1]}):
        with pytest.raises(UserError, match="split"):
            pyskl.open_source(write_pyskl(file, PKU, split))
    with pytest.raises(UserError, match="17 joints; give --layout, as coco17, h36m17"):
        pyskl.open_source(write_pyskl(file, [annotation("a", 0, joints=17)], {}))
    with pytest.raises(UserError, match="no annotation is sound"):
        pyskl.open_source(write_pyskl(file, [{"frame_dir": "a", "label": 0, "keypoint": 1}], {}))
    whole = write_pyskl(file, PKU, {}).read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no pickle of arrays") as error:
        pyskl.open_source(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)
    write_pyskl(tmp_path / "b.pkl", PKU, {})
    with pytest.raises(UserError, match="holds 2 .pkl files"):
        pyskl.open_source(tmp_path)


class Calls:
    """Pickles into a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def _hostile(sentinel):
    import os
    import subprocess

    touch = f"touch {sentinel}"
    yield "system", pickle.dumps(Calls(os.system, touch), protocol=4)
    yield "Popen", pickle.dumps(Calls(subprocess.Popen, ["touch", str(sentinel)]), protocol=2)
    yield "eval", pickle.dumps(Calls(eval, f"open({str(sentinel)!r}, 'w')"), protocol=0)
    yield "memmap", pickle.dumps(Calls(np.memmap, str(sentinel), "u1", "w+", 0, (1,)))
    yield "numpy.load", pickle.dumps(Calls(np.load, str(sentinel)))
    yield "object arrays", pickle.dumps(np.array([Calls(os.system, touch)], object))
    yield "object dtype", pickle.dumps(np.dtype("O"))
    yield "structured dtype", pickle.dumps(np.zeros(1, [("a", "f4")]))
    yield "strings", pickle.dumps(np.array(["a"]))
    yield "attribute", b"\x80\x04\x8c\x05numpy\x8c\x0ff2py.os.system\x93."
    yield "dotted", b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93."
    yield "INST", f"(S'{touch}'\nios\nsystem\n.".encode()
    yield "persistent", b"\x80\x02X\x01\x00\x00\x00aQ."
    yield "extension", b"\x80\x02\x82\x01."
    yield "buffer", b"\x80\x05\x97."
    yield "ndarray called", b"\x80\x02cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85R."
    yield "name filled", b"\x80\x02cnumpy\ndtype\nN}X\x05\x00\x00\x00_callcnumpy\nndarray\ns\x86b."
    yield "memo", b"\x80\x02Nr\xff\xff\xff\x7f."
    yield "huge bytes", b"\x80\x04\x8e\x00\x00\x00\x00\x00\x01\x00\x00."
    yield "huge bytearray", b"\x80\x05\x96\x00\x00\x00\x00\x00\x01\x00\x00."
    yield "huge frame", b"\x80\x04\x95\x00\x00\x00\x00\x00\x01\x00\x00N."
    yield (
        "huge shape",
        pickle.dumps(np.ones(3, np.float32), 2).replace(b"K\x03\x85", b"J\0\0\0\x7f\x85"),
    )
    yield "codec", b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x04\x00\x00\x00zlib\x86R."
    yield (
        "negative shape",
        pickle.dumps(np.ones(3, np.float32), 2).replace(b"K\x03\x85", b"J\xff\xff\xff\xff\x85"),
    )


def test_nothing_in_a_pickle_runs(tmp_path):
    sentinel = tmp_path / "sentinel"
    file = tmp_path / "a.pkl"
    names = []
    for name, content in _hostile(sentinel):
        file.write_bytes(content)
        with pytest.raises(UserError, match="no pickle of arrays") as error:
            load_pickle(file)
        assert str(file) in str(error.value) and "\n" not in str(error.value), name
        assert not sentinel.exists(), name
        names.append(name)
    assert len(set(names)) == 24
    # The check would notice: the same pickle, loaded without fences, does run.
    pickle.loads(next(content for name, content in _hostile(sentinel) if name == "system"))
    assert sentinel.exists()


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_arrays_of_numpy_1_and_2_are_known(tmp_path, core):
    file = tmp_path / "a.pkl"
    value = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "b": np.float32(2.5)}
    value["c"] = [True, "d"]
    text = pickle.dumps(value, protocol=2)
    for name in (b"numpy.core", b"numpy._core"):
        text = text.replace(b"c" + name + b".", b"c" + core.encode() + b".")
    file.write_bytes(text)
    loaded = load_pickle(file)
    assert isinstance(loaded["a"], PickledArray)
    np.testing.assert_array_equal(loaded["a"].array, value["a"])
    assert loaded["b"] == 2.5 and loaded["c"] == [True, "d"]


@pytest.mark.skipif(not (SHARED / "pyskl").is_dir(), reason="no PYSKL files of real clips here")
@pytest.mark.parametrize(
    ("name", "layout", "sizes"),
    [
        (
            "pku_mmd_v1_two_person_3danno",
            NTU25,
            {"xsub": (1510, 195), "xview": (1139, 566), "xperf": (1145, 560)},
        ),
        ("nw_ucla_3danno", KINECT20, {"xview": (1020, 464), "xsub": (724, 760)}),
    ],
)
def test_real_files(name, layout, sizes):
    source = pyskl.open_source(SHARED / "pyskl" / f"{name}.pkl")
    clips = read_all(source)
    assert source.layout is layout and len(clips) == len(source.items)
    splits = source.splits([clip.info for clip in clips])
    found = {name: (len(each["train"]), len(each["test"])) for name, each in splits.items()}
    assert found == sizes
    cameras = {clip.name: clip.camera for clip in clips}
    testing = {cameras[each] for each in splits["xview"]["test"]}
    assert len(testing) == 1 and not testing & {cameras[each] for each in splits["xview"]["train"]}


@pytest.mark.parametrize(
    "body",
    [
        b"}(I1\np1\n" + b"".join(b"g%d\ng%d\n\x86p%d\n" % (n, n, n + 1) for n in range(1, 41)) + b"I1\nu.",
        b"I1\np1\n" + b"".join(b"(g%d\ng%d\nlp%d\n" % (n, n, n + 1) for n in range(1, 41)) + b".",
        # Empty lists first, which then fill one another.
        b"".join(b"]p%d\n" % n for n in range(40))
        + b"".join(b"g%d\n(g%d\ng%d\ne" % (n, n - 1, n - 1) for n in range(39, 0, -1)) + b".",
        b"]p0\ng0\na.",  # a list that holds itself
        b"V" + b"x" * 10_000 + b"\np1\nc_codecs\nencode\np2\n"
        + b"(" + b"(g2\n(g1\nVlatin1\ntR" * 300 + b"l.",
        b"(" * 60 + b"l" * 60 + b".",
        b"\x8b" + (2000).to_bytes(4, "little") + b"\x01" * 2000 + b".",
        b"0.", b"a.", b"g5\n.", b"(e.", b"t.",
    ],
)  # fmt: skip
def test_pickles_that_grow_without_end_are_refused_at_once(tmp_path, body):
    (tmp_path / "a.pkl").write_bytes(body)
    with pytest.raises(UserError, match="no pickle of arrays"):
        load_pickle(tmp_path / "a.pkl")


def test_a_value_that_many_clips_share_is_no_attack(tmp_path):
    size, name = (1080, 1920), "n" * 50
    value = [{"size": size, "name": name, "x": np.float32(n)} for n in range(3000)]
    value += [np.ones(9, np.float32)] * 3
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(value))
    assert load_pickle(tmp_path / "a.pkl")[2999] == {"size": size, "name": name, "x": 2999}
