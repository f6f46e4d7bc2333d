"""Which format a file or folder is told to have, and the line for what is none."""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from _files import SHARED, annotation, write_pku, write_pyskl, write_skeleton
from _formats import (
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

from halp_jax.datasets import EMBEDDED, READERS, guess_format, open_source
from halp_jax.datasets.guess import LOOKS
from halp_jax.errors import UserError

ROOT = Path(__file__).parents[1]
FORMATS = SHARED.parent / "formats"
TEXTS = {
    "walk.bvh": ("bvh", "HIERARCHY\nROOT Hips\n"),
    "walk.TRC": ("trc", "PathFileType\t4\n"),
    "a.mat": ("mat", "MATLAB 5.0 MAT-file"),
    "walk_000000000001_keypoints.json": ("openpose", '{"people":[]}'),
    "a.json": ("kinetics", '{"data": [{"frame_index": 1, "skeleton": []}]}'),
    "label.json": ("kinetics", '{"a": {"has_skeleton": true}}'),
    "coco.json": ("coco", '{"images": [], "annotations": []}'),
    "alphapose.json": ("coco", '[{"image_id": "1.jpg", "keypoints": []}]'),
    "m.json": ("mediapipe", '[{"poseWorldLandmarks": []}]'),
    "ours.csv": ("folder", "File,Label\na.npy,0\n"),
    "other words.csv": ("folder", "filename;class\nclips/a.npy;wave\n"),
    "long.csv": ("mediapipe", "frame_number,landmark,x,y,z\n"),
    "wide.csv": ("mediapipe", "label,nose_x,nose_y,nose_z,nose_v\n"),
    "numbers.csv": ("mediapipe", "," + ",".join(map(str, range(132))) + "\n"),
    "mlkit.csv": ("mediapipe", "a.jpg,squat" + ",1.5" * 99 + "\n"),
    "named.csv": ("text", "time,Hips.x,Hips.y,Hips.z\n"),
    "kinect.csv": ("text", "Time,SpineBaseX,SpineBaseY,SpineBaseZ\n"),
    "numbered.csv": ("mediapipe", "class,x1,y1,z1,v1,x2,y2,z2,v2\n"),
    "msrc.csv": ("text", "123 " + "0.5 1e-3 -2 1 " * 20 + "\n"),
    "a.txt": ("text", "1 2 3\n"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text_files_are_told_by_name_and_first_bytes(tmp_path, name):
    format, text = TEXTS[name]
    (tmp_path / name).write_text(text)
    # As macOS leaves beside files.
    (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert guess_format(tmp_path / name) == format and guess_format(tmp_path) == format


def test_every_folder_and_file_of_our_own_readers_is_told(tmp_path):
    clips = make_clips(4)
    write_skeleton(tmp_path / "ntu" / "deep", "S001C001P001R001A001")
    write_pku(tmp_path / "pku", {"0105-M": [(1, 2, 4, 2)]})
    write_nwucla(tmp_path / "nwucla")
    write_agcn(tmp_path / "agcn", {"train": clips})
    write_aimclr(tmp_path / "aimclr", {"train": 2})
    write_ctrgcn(tmp_path / "ctrgcn" / "NTU60_CS.npz", {"train": clips})
    (tmp_path / "pyskl").mkdir()
    write_pyskl(tmp_path / "pyskl" / "a.pkl", [annotation("a", 0)], {})
    write_folder(tmp_path / "folder", clips)
    write_npy(tmp_path / "npy", clips)
    write_layout(tmp_path / "npy" / "hand.json")
    for format in sorted(set(READERS) - {"synthetic"}):
        if (tmp_path / format).exists():
            assert guess_format(tmp_path / format) == format
    write_ctrgcn_raw(tmp_path / "raw")
    write_kinetics400(tmp_path / "k400")
    files = {
        "ntu/deep/S001C001P001R001A001.skeleton": "ntu", "agcn/train_data_joint.npy": "agcn",
        "aimclr/train_position.npy": "aimclr", "ctrgcn/NTU60_CS.npz": "ctrgcn",
        "raw": "ctrgcn", "raw/raw_denoised_joints.pkl": "ctrgcn", "pyskl/a.pkl": "pyskl",
        "k400": "pyskl", "folder/labels.csv": "folder", "npy/a/0.npy": "npy",
        "nwucla/a01_s01_e00_v01.json": "nwucla",
    }  # fmt: skip
    assert {name: guess_format(tmp_path / name) for name in files} == files
    np.save(tmp_path / "landmarks.npy", np.ones((5, 33, 3)))
    assert guess_format(tmp_path / "landmarks.npy") == "mediapipe"
    assert set(READERS) - {*EMBEDDED} <= set(LOOKS)
    rows = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "formats.md").read_text(), re.MULTILINE)
    assert set(rows) == {*LOOKS, *EMBEDDED}


def test_a_readme_does_not_make_a_folder_text(tmp_path):
    (tmp_path / "README.txt").write_text("How the clips were made.")
    (tmp_path / "walk").mkdir()
    (tmp_path / "walk" / "1.bvh").write_text("HIERARCHY")
    assert guess_format(tmp_path) == "bvh"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "clip.csv",
            b"x,y,z\n0,0,0\n",
            r"clip.csv: a .csv file that holds the text 'x,y,z', which",
        ),
        ("clip", b"\x80\x04]\x94.", "clip: a file without suffix that holds a pickle, which tells"),
        ("clip", b"PK\x03\x04", "holds a zip archive, as .npz is one"),
        ("clip.dat", b"\x93NUMPY\1\0", "a .dat file that holds a .npy array"),
        ("clip.json", b'{"a": 1}', "a .json file that holds JSON, which tells no format"),
        ("clip.avi", b"RIFF\0\1\2", "a .avi file that holds no text"),
        ("clip.json", b"", "clip.json is empty"),
    ],
)
def test_what_is_no_format_is_told_in_one_line(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        guess_format(tmp_path / name)
    assert "\n" not in str(error.value)
    assert not data or "give --format, one of ntu (.skeleton), pku" in str(error.value)


def test_layouts_folders_of_nothing_and_prepared_sets_are_no_format(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        guess_format(tmp_path / "nowhere")
    with pytest.raises(UserError, match="a folder whose files tell no format"):
        guess_format(tmp_path)
    with pytest.raises(UserError, match="hand.json is a layout; give it as --layout"):
        guess_format(write_layout(tmp_path / "hand.json"))
    (tmp_path / "halp_dataset.json").write_text("{}")
    with pytest.raises(UserError, match="is a prepared data set"):
        guess_format(tmp_path)


@pytest.mark.skipif(not FORMATS.is_dir(), reason="no sample files of formats here")
@pytest.mark.parametrize(
    ("path", "format"),
    [
        *((f"bvh/{name}.bvh", "bvh") for name in ("rokoko_cut", "mixamo_names")),
        *((f"coco/{name}.json", "coco")
          for name in ("alphapose_halpe26_cut", "coco_person_keypoints")),
        *((f"mediapipe/{name}.csv", "mediapipe")
          for name in ("mlkit_pose_samples_cut", "named_subset_wide_cut", "world_landmarks_long")),
        *((name, "openpose") for name in ("openpose_body25", "openpose_body25b",
                                          "openpose_body25b/clip", "openpose_coco18_padded")),
        *((name, name) for name in ("bvh", "coco", "mat", "mediapipe", "text", "trc")),
        ("pyskl_k400", "pyskl"), ("lookalike/kinetics_skeleton", "kinetics"),
        ("lookalike/nw_ucla", "nwucla"), ("lookalike/pku_framewise", "pku"),
        ("lookalike/aimclr", "aimclr"), ("lookalike/ctrgcn", "ctrgcn"),
        *((f"lookalike/{name}", "text") for name in ("msr_action3d", "utkinect", "msrc12", "sbu",
                                                     "florence3d", "irds", "named_columns")),
    ],
)  # fmt: skip
def test_files_of_others_are_told(path, format):
    assert guess_format(FORMATS / path) == format


# --- refusals in words of our own -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "name"),
    [("pyskl", "a.pkl"), ("ctrgcn", "a.npz"), ("ctrgcn", "raw_denoised_joints.pkl"),
     ("npy", "a.npy"), ("folder", "a.csv"), ("ntu", "a.skeleton"),
     ("nwucla", "a01_s01_e00_v01.json")],
)  # fmt: skip
@pytest.mark.parametrize("data", [b"", b"Not found\n"], ids=["empty", "text"])
def test_empty_files_and_error_pages(tmp_path, format, name, data):
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(UserError) as error:
        source = open_source(format, file)
        source.read(source.items[0])
    line = str(error.value)
    assert str(file) in line and "\n" not in line and ("empty" in line or data)
    for words in ("opcode", "magic", "EOF", "codec", "zip file", "reading"):
        assert words not in line


def test_paths_of_windows_and_arrays_of_objects_in_a_table(tmp_path):
    rows = [
        r"clips\0.npy,0",
        r"clips\1.npy,1",
        r"C:\clips\2.npy,1",
        r"..\2.npy,1",
        r"\\a\b\2.npy,1",
    ]
    folder = write_folder(tmp_path, make_clips(2), rows=rows)
    objects = np.empty(2, object)
    objects[:] = make_clips(2)
    np.save(folder / "clips" / "1.npy", objects)
    source = open_source("folder", folder)
    (clip,) = source.read(source.items[0])
    assert clip.name == "clips/0"
    with pytest.raises(UserError, match="Python objects, only numbers are read; save each clip as"):
        source.read(source.items[1])
    for item in source.items[2:]:
        with pytest.raises(UserError, match="outside the folder"):
            source.read(item)
    (folder / "labels.csv").write_text("file,label\n", encoding="utf-16")
    with pytest.raises(UserError, match="no CSV text in UTF-8"):
        open_source("folder", folder)


def test_damaged_pickles_and_archives_say_what_they_hold(tmp_path):
    for format, data, message in (
        ("pyskl", json.dumps({"annotations": []}).encode(), "no pickle of arrays: it holds JSON"),
        ("pyskl", pickle.dumps([1, 2])[:-1], "no pickle of arrays: it is damaged or cut short"),
        ("ctrgcn", pickle.dumps([1]), "no whole .npz file, it holds a pickle"),
        ("ctrgcn", b"PK\x03\x04 and no end", "no whole .npz file, it is cut short"),
        ("npy", b"PK\x03\x04", "no .npy array, it holds a zip archive"),
        ("npy", b"\x93NUMPY\1\0\x10\0{'descr': nothing", "no .npy array, its header is damaged"),
    ):
        file = tmp_path / ("a.pkl" if format == "pyskl" else f"a.{format.replace('ctrgcn', 'npz')}")
        file.write_bytes(data)
        with pytest.raises(UserError, match=message):
            open_source(format, file)
