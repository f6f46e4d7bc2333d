"""MATLAB files: the parser against scipy's, UTD-MHAD, Shelf, arrays of one's own."""

import dataclasses
import io

import numpy as np
import pytest
import scipy.io
from _motion import FORMATS, JOINTS, PICK, mat_bytes, walk
from test_motion_files import check_upright, joint, read, real, write

from halp_jax.datasets import open_source
from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.mat import SHELF_JOINTS, UTD_JOINTS, Cells, parse_mat
from halp_jax.datasets.motion_files import SCALED
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import KINECT20


@pytest.mark.parametrize("compressed", [False, True])
def test_mat_files_are_read_as_scipy_writes_them(compressed):
    rng = np.random.default_rng(0)
    cells = np.empty((1, 3), object)
    cells[0, 0], cells[0, 1], cells[0, 2] = rng.normal(size=(4, 3)), np.empty((1, 0)), "text"
    arrays = {"x": rng.normal(size=(5, 3, 7)), "whole": np.arange(12).reshape(3, 4).astype("i2"),
              "small": np.array([[1.0]], "f4"), "c": cells, "s": {"a": 1}, "t": "abc"}  # fmt: skip
    stream = io.BytesIO()
    scipy.io.savemat(stream, arrays, do_compression=compressed)
    found = parse_mat(stream.getvalue(), "a.mat")
    assert set(found) == {"x", "whole", "small", "c"}
    for name in ("x", "whole", "small"):
        np.testing.assert_array_equal(found[name], arrays[name])
    shape, (pose, absent, text) = found["c"]
    assert shape == (1, 3) and absent.shape == (1, 0) and text is None
    np.testing.assert_array_equal(pose, cells[0, 0])


def test_the_test_s_own_mat_files_are_read_by_scipy_too():
    array = np.arange(24.0).reshape(2, 3, 4)
    data = mat_bytes(x=array, c=[array[0], array[1]])
    there = scipy.io.loadmat(io.BytesIO(data))
    np.testing.assert_array_equal(there["x"], array)
    np.testing.assert_array_equal(there["c"][0, 1], array[1])
    assert isinstance(parse_mat(data, "a.mat")["c"], Cells)


def test_utd_mhad_goes_to_kinect20_and_names_tell_class_and_subject(tmp_path):
    frames = walk(1)[:, [JOINTS.index(each) for each in UTD_JOINTS]]
    data = mat_bytes(d_skel=frames.transpose(1, 2, 0))
    write(tmp_path, a2_s3_t1_skeleton__mat=data, a27_s8_t4_skeleton__mat=data)
    source, (last, first) = read("mat", tmp_path)
    assert source.layout == KINECT20 and len(source.class_names) == 27
    assert (first.label, first.subject, first.performance, first.name) == (
        1,
        3,
        1,
        "a2_s3_t1_skeleton",
    )
    assert (last.label, source.class_names[26]) == (26, "squat (two arms stretch out)")
    np.testing.assert_allclose(first.frames[:, 0], walk(1)[:, PICK], atol=1e-6)
    source, (last, first) = read("mat", tmp_path, layout="mocap15")
    assert (first.label, first.subject, last.label) == (1, 3, 26)
    infos = [dataclasses.replace(first.info, name=f"s{s}", subject=s) for s in range(1, 9)]
    assert source.splits(infos)["xsub"]["test"] == ["s2", "s4", "s6", "s8"]  # as in the set's paper
    write(
        tmp_path, a2_s3_t1_skeleton__mat=mat_bytes(d_skel=frames[0])
    )  # one frame has no third axis
    source = open_source("mat", tmp_path)
    with pytest.raises(DamagedClip, match=r"an array \[20, 3\], not"):
        source.read(source.items[1])


def test_shelf_s_people_are_absent_where_their_cell_is_empty(tmp_path):
    names = [each.replace("neck", "shoulder centre") for each in SHELF_JOINTS]
    poses = walk(1, 3)[:, [JOINTS.index(each) for each in names]]
    empty = np.zeros((1, 0))
    people = [[poses[0], empty, poses[2]], [empty, empty, empty], [*poses]]
    write(tmp_path, actors__mat=mat_bytes(actor3D=people, actor2D=[[[empty]]]))
    source, (clip,) = read("mat", tmp_path)
    assert source.layout.name == "mocap15x3" and clip.frames.shape == (3, 3, 15, 3)
    np.testing.assert_array_equal(clip.frames.any((2, 3)), [[1, 0, 1], [0, 0, 1], [1, 0, 1]])
    body = joint(clip.frames[:, 2], source.layout, "left knee")
    np.testing.assert_allclose(body, walk(1, 3)[:, JOINTS.index("left knee")], atol=1e-6)


@pytest.mark.parametrize("axes", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_mat_arrays_of_ones_own_in_each_order_of_axes(tmp_path, axes):
    (tmp_path / "wave").mkdir()
    frames = walk(1)[:, PICK]
    frames[2, 7] = np.nan  # lost, and filled in like those of all files
    array = frames.transpose(axes) * 1000
    (tmp_path / "wave" / "x.mat").write_bytes(mat_bytes(pose=array, fps=np.array([[30.0]])))
    source, (clip,) = read("mat", tmp_path, layout="kinect20")
    np.testing.assert_allclose(clip.frames[:, 0], frames, atol=1e-5)
    assert (clip.label, source.class_names, clip.remark) == (0, ("wave",), SCALED)
    with pytest.raises(UserError, match="give the skeleton with --layout"):
        open_source("mat", tmp_path)
    source = open_source("mat", tmp_path, layout="ntu25")
    with pytest.raises(
        DamagedClip, match=r"not \[time, 25, 3\], \[25, 3, time\] or \[3, 25, time\]"
    ):
        source.read(source.items[0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"MATLAB 7.3 MAT-file", r"save it again with save\(..., '-v7'\)"),
        (b"\x89HDF\r\n", "-v7"),
        (b"", "it is empty"),
        (b"no MATLAB", "no MATLAB file of version 5"),
        (mat_bytes(x=np.ones((2, 3, 4)))[:-8], "ends within a variable"),
        (mat_bytes(x=np.ones((2, 3))), "not one 3-D array of joints, but x"),
        (mat_bytes(x=np.ones((2, 3, 4)), y=np.ones((2, 3, 4))), "but x, y"),
        (mat_bytes(actor3D=[[np.ones((14, 3))], [np.ones((14, 3))] * 2]), "equally many"),
    ],
)
def test_mat_files_that_do_not_fit_are_refused_in_one_line(tmp_path, data, message):
    write(tmp_path, a__mat=data)
    source = open_source("mat", tmp_path, layout="mocap15x2")
    with pytest.raises(DamagedClip, match=message) as error:
        source.read(source.items[0])
    assert "\n" not in str(error.value)


@real
def test_real_shelf_file_and_the_likeness_of_utd_mhad():
    source, (clip,) = read("mat", FORMATS / "mat")
    assert (source.layout.name, clip.frames.shape) == ("mocap15x4", (3, 4, 15, 3))
    assert clip.frames.any((0, 2, 3)).tolist() == [True, False, True, False]
    rise = joint(clip.frames[:, 0], source.layout, "head") - joint(
        clip.frames[:, 0], source.layout, "hip centre"
    )
    assert rise.mean(0)[2] == pytest.approx(0.88, abs=0.01)
    check_upright(clip, source.layout, feet=False)
    source, (clip,) = read("mat", FORMATS / "lookalike" / "utd_a1_s1_t1_skeleton.mat")
    assert (clip.label, clip.subject, clip.frames.shape) == (0, 1, (48, 1, 20, 3))
    rise = clip.frames[:, 0, 3] - clip.frames[:, 0, 0]
    assert rise.mean(0)[1] == pytest.approx(0.6, abs=0.06)
    check_upright(clip, KINECT20)
