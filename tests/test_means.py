"""Joints that no file holds: made as means of others, in every reader alike, and kept on the way."""

import json

import numpy as np
import pytest
from _files import annotation, write_pyskl
from _formats import make_clips, write_agcn, write_ctrgcn, write_folder, write_layout

from halp_jax import export
from halp_jax.datasets import from_arrays, open_dataset, open_source, pack
from halp_jax.datasets.builder import prepare_source
from halp_jax.errors import UserError
from halp_jax.skeletons import layout as layouts
from halp_jax.skeletons.layout import (
    BODY25,
    COCO17,
    MEDIAPIPE33,
    find_layout,
    guess_layout,
    restore_layout,
)
from halp_jax.skeletons.layouts_known import fill_means
from halp_jax.skeletons.normalize import normalize_clip

JOINTS = ["left hip", "right hip", "head", "left hand", "right hand", "mid hip"]
OWN = {
    "name": "own5", "joints": JOINTS, "parents": ["mid hip"] * 6, "bodies": 1, "centre": "mid hip",
    "spine": ["mid hip", "head"], "shoulders": ["right hand", "left hand"],
    "means": {"mid hip": ["left hip", "right hip"]},
}  # fmt: skip


def write_own(folder):
    folder.mkdir(exist_ok=True)
    return str(write_layout(folder / "own.json", **OWN))


def test_means_are_filled_in_and_missing_where_a_joint_is():
    points = np.random.default_rng(0).normal(size=(4, 2, 33, 3)).astype(np.float32)
    points[1, 0, 23] = 0
    filled = fill_means(points, MEDIAPIPE33)
    assert filled.shape == (4, 2, 35, 3) and filled.dtype == np.float32
    np.testing.assert_array_equal(filled[:, :, :33], points)
    np.testing.assert_allclose(
        filled[0, :, 33], (points[0, :, 23] + points[0, :, 24]) / 2, rtol=1e-6
    )
    assert not filled[1, 0, 33].any() and filled[1, 0, 34].any() and filled[1, 1, 33].any()
    assert fill_means(filled, MEDIAPIPE33) is filled
    assert fill_means(points, COCO17) is points


def test_guesses_are_of_joints_that_files_hold():
    assert (MEDIAPIPE33.num_joints, MEDIAPIPE33.num_given) == (35, 33)
    for joints, axes, name in ((33, 3, "mediapipe33"), (35, 3, "mediapipe33"), (25, 2, "body25"),
                               (25, 3, "ntu25"), (26, 2, "halpe26"), (33, 2, None), (17, 3, None),
                               (24, 3, "smpl24"), (32, 3, "azure32")):  # fmt: skip
        assert getattr(guess_layout(joints, axes), "name", None) == name
    assert guess_layout(25, 2) is BODY25


@pytest.mark.parametrize("format", ["folder", "pyskl", "agcn", "ctrgcn"])
def test_every_reader_makes_the_means(tmp_path, format):
    layout = write_own(tmp_path / "layout")
    clips = make_clips(3, 1, 5)
    if format == "folder":
        path = write_folder(tmp_path / "a", clips)
    elif format == "pyskl":
        path = write_pyskl(tmp_path / "a.pkl", [annotation("c", 0, 0, 4, 1, 5)], {})
    elif format == "agcn":
        path = write_agcn(tmp_path / "a", {"train": clips})
    else:
        path = write_ctrgcn(tmp_path / "a.npz", {"train": clips})
    source = open_source(format, path, layout=layout)
    (clip,) = source.read(source.items[0])
    assert clip.frames.shape[2:] == (6, 3)
    np.testing.assert_allclose(clip.frames[:, :, 5], clip.frames[:, :, :2].mean(2), atol=1e-6)
    dataset = prepare_source(source, tmp_path / "set")
    frames = open_dataset(pack(dataset, tmp_path / "set.npz")).frames
    assert frames.shape[2] == 6 and np.abs(frames[:, 0, 5]).max() < 1e-6  # the centre
    assert open_dataset(dataset.path).layout == source.layout


def test_landmarks_in_arrays_are_known_by_their_number(tmp_path):
    clips = make_clips(3, 1, 33)
    source = open_source("folder", write_folder(tmp_path, clips))
    assert source.layout is MEDIAPIPE33
    assert source.read(source.items[0])[0].frames.shape == (3, 1, 35, 3)
    dataset = from_arrays(clips, None, layout="mediapipe33")
    wanted = normalize_clip(fill_means(clips[0], MEDIAPIPE33), MEDIAPIPE33)
    np.testing.assert_array_equal(dataset.clip(0), wanted)


def test_a_data_set_of_landmarks_goes_out_and_comes_in(tmp_path):

    splits = {"a": {"train": [0, 1], "test": [2]}}
    packed = pack(
        from_arrays(make_clips(3, 1, 33), [0, 1, 0], layout="mediapipe33", splits=splits),
        tmp_path / "a.npz",
    )
    for format, reader, options in (
        ("pyskl", "pyskl", {}),
        ("ctrgcn", "ctrgcn", {"layout": "mediapipe33"}),
    ):
        out = tmp_path / f"out.{'pkl' if format == 'pyskl' else 'npz'}"
        command = [f"--data={packed}", f"--format={format}", f"--out={out}"]
        assert export.main(command + (["--split=a"] if format == "ctrgcn" else [])) == 0
        source = open_source(reader, out, **options)
        assert source.layout is MEDIAPIPE33
        np.testing.assert_array_equal(
            source.read(source.items[0])[0].frames, open_dataset(packed).clip(0)
        )


def test_layout_files_with_means_and_what_data_sets_hold_of_them(tmp_path):
    layout = find_layout(write_own(tmp_path))
    assert layout.means == ((5, (0, 1)),) and layout.num_given == 5
    described = json.loads(json.dumps(layouts.describe_layout(layout)))
    assert restore_layout(described) == layout
    two = json.loads(json.dumps(layouts.describe_layout(layouts.get_layout("mediapipe33x2"))))
    assert restore_layout(two) == layouts.get_layout("mediapipe33x2")


@pytest.mark.parametrize(
    ("means", "message"),
    [
        ({"head": ["left hip", "right hip"]}, "means must be of the last joints"),
        ({"mid hip": ["left hip", "mid hip"]}, "means must be of joints that files hold"),
        ({"mid hip": []}, "means must be of joints that files hold"),
        ({"mid hip": ["left hip", "tail"]}, "means has 'tail', which is no joint"),
        ({"mid hip": "left hip"}, "means must be a list of joints"),
        ({"tail": ["left hip"]}, "means has 'tail', which is no joint"),
        (["mid hip"], "means must be a table"),
        (3, "means must be a table"),
    ],
)
def test_means_that_are_refused_in_one_line(tmp_path, means, message):
    with pytest.raises(UserError, match=message) as error:
        find_layout(str(write_layout(tmp_path / "a.json", **(OWN | {"means": means}))))
    assert "\n" not in str(error.value)
