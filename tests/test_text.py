"""Text and CSV by a description of columns: the known sets in small, one's own, and real files."""

import dataclasses
import json

import numpy as np
import pytest
from _motion import FORMATS, JOINTS, PICK, named_csv, walk
from test_motion_files import check_upright, joint, read, real

from halp_jax.datasets import open_source
from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.motion_files import SCALED, match_name, scale_to_metres
from halp_jax.datasets.text import TWICE
from halp_jax.datasets.text_columns import BUILT_IN
from halp_jax.errors import UserError
from halp_jax.skeletons.common import find_joints
from halp_jax.skeletons.layout import KINECT20, NTU25, get_layout


def rows(frames, columns, before=None, extra=(), sep=" "):
    """[time, joints of JOINTS, 3] as lines in the order of `columns`, `extra` behind each joint."""
    found = find_joints(JOINTS, columns.joints)
    picked = frames[:, [found[each] for each in columns.joints]]
    tail = np.broadcast_to(np.array(extra, float), (*picked.shape[:2], len(extra)))
    numbers = np.concatenate([picked, tail], -1).reshape(len(frames), -1)
    before = np.zeros((len(frames), 0)) if before is None else np.array(before)
    return "\n".join(sep.join(f"{x:.6f}" for x in row) for row in np.hstack([before, numbers]))


def test_utkinect_clips_are_rows_from_the_first_to_the_last_number(tmp_path):
    frames = walk(0, 12)
    numbers = np.array([100, 102, 104, 104, 106, 110, 112, 114, 116, 118, 120, 122])[:, None]
    (tmp_path / "joints").mkdir()
    text = rows(frames, BUILT_IN["utkinect"], numbers).replace(" ", "  ")
    (tmp_path / "joints" / "joints_s02_e01.txt").write_text(text)
    (tmp_path / "actionLabel.txt").write_text(
        "s01_e01\nwalk: 1 3\n\ns02_e01\nwalk: 102 110\npush: 116 122\npull: 112 114\ncarry:  NaN NaN\n"
    )
    source, (first, push, pull) = read("text", tmp_path, columns="utkinect")
    np.testing.assert_allclose(first.frames[:, 0], frames[[1, 2, 4, 5]][:, PICK], atol=1e-5)
    assert (first.name, first.label, first.subject) == ("joints/joints_s02_e01_walk", 0, 2)
    assert (first.remark, first.fps) == (TWICE, 15)  # 30 a second, every second one there
    assert (len(push.frames), push.label, len(pull.frames), pull.label) == (4, 6, 2, 7)
    (tmp_path / "actionLabel.txt").write_text("s02_e01\nfly: 1 2\n")
    source = open_source("text", tmp_path, columns="utkinect")
    with pytest.raises(DamagedClip, match="'fly: 1 2' is no action"):
        source.read(source.items[0])


def test_msr_action3d_has_a_joint_a_row_in_an_order_of_its_own(tmp_path):
    columns = BUILT_IN["msr_action3d"]
    text = rows(walk(1), columns, extra=(0.9,)).split()
    lines = [" ".join(text[start : start + 4]) for start in range(0, len(text), 4)]
    (tmp_path / "a20_s10_e03_skeleton3D.txt").write_text("\n".join(lines))
    (tmp_path / "a01_s01_e01_skeleton3D.txt").write_text("0 0 0 0\n" * 40)
    source = open_source("text", tmp_path, columns="msr_action3d")
    (clip,) = source.read(source.items[1])
    np.testing.assert_allclose(clip.frames[:, 0], walk(1)[:, PICK], atol=1e-5)
    assert (clip.label, clip.subject, clip.performance) == (19, 10, 3)
    infos = [dataclasses.replace(clip.info, name=f"s{s}", subject=s) for s in range(1, 11)]
    assert source.splits(infos)["xsub"]["test"] == [f"s{s}" for s in (2, 4, 6, 8, 10)]
    with pytest.raises(DamagedClip, match="no body in it"):
        source.read(source.items[0])


def test_msrc12_is_cut_halfway_between_its_marks(tmp_path):
    columns, frames = BUILT_IN["msrc12"], walk(2, 12)
    frames[:2] = 0
    times = 1e9 + np.arange(12)[:, None] * 33333
    (tmp_path / "P1_1_3_p07.csv").write_text(rows(frames, columns, times, extra=(1.0,)))
    ticks = ((times[[4, 8], 0] * 49875 - 24937.5) / 1000).astype(int)
    tags = f"XQPCTick;Tag\n{ticks[0]};G3 Push right\n{ticks[1]};G12 Kick\n"
    (tmp_path / "P1_1_3_p07.tagstream").write_text(tags)
    _, (first, second) = read("text", tmp_path, columns="msrc12")
    assert (first.label, first.subject, second.label) == (2, 7, 11)
    assert first.fps == pytest.approx(30, abs=0.01)
    np.testing.assert_allclose(first.frames[:4, 0], frames[2:6][:, PICK], atol=1e-5)
    # A frame on the border may belong to either.
    np.testing.assert_allclose(second.frames[-5:, 0], frames[7:][:, PICK], atol=1e-5)
    (tmp_path / "P1_1_3_p07.tagstream").unlink()
    source = open_source("text", tmp_path, columns="msrc12")
    with pytest.raises(DamagedClip, match="P1_1_3_p07.tagstream: cannot be read"):
        source.read(source.items[0])


def test_florence3d_is_one_file_of_many_clips_in_millimetres(tmp_path):
    columns, frames = BUILT_IN["florence3d"], walk(3, 7)
    head = [(1, 4, 2)] * 3 + [(2, 5, 9)] * 4
    text = rows(frames * 1000, columns, head)
    (tmp_path / "Florence_dataset_WorldCoordinates.txt").write_text(text)
    source, (first, second) = read("text", tmp_path, columns="florence3d")
    assert (first.label, first.subject, second.label, second.subject) == (1, 4, 8, 5)
    assert (len(first.frames), len(second.frames), source.layout.name) == (3, 4, "mocap15")
    body, layout = second.frames[:, 0], source.layout
    np.testing.assert_allclose(
        joint(body, layout, "left wrist"), frames[3:, JOINTS.index("left wrist")], atol=1e-5
    )
    hips = frames[3:, [JOINTS.index(f"{side} hip") for side in ("left", "right")]].mean(1)
    np.testing.assert_allclose(joint(body, layout, "hip centre"), hips, atol=1e-5)


def test_sbu_numbers_become_metres_and_a_path_tells_the_class(tmp_path):
    columns = BUILT_IN["sbu"]
    people = [walk(seed) + (0, -1, 2 + seed) for seed in (1, 2)]
    stored = [(frames - columns.shift) / columns.scale for frames in people]
    one, two = (rows(each, columns, sep=",").split("\n") for each in stored)
    lines = [f"{55 + n},{a},{b}" for n, (a, b) in enumerate(zip(one, two, strict=True))]
    folder = tmp_path / "s03s07" / "08" / "002"
    folder.mkdir(parents=True)
    (folder / "skeleton_pos.txt").write_text("\n".join(lines))
    source, (clip,) = read("text", tmp_path, columns="sbu")
    assert (source.layout.name, clip.label, clip.subject, clip.performance) == (
        "mocap15x2",
        7,
        3,
        2,
    )
    for body in (0, 1):
        elbow = joint(clip.frames[:, body], source.layout, "left elbow")
        np.testing.assert_allclose(elbow, people[body][:, JOINTS.index("left elbow")], atol=1e-5)
        wrist = joint(clip.frames[:, body], source.layout, "left wrist")  # the set's hand
        np.testing.assert_allclose(wrist, people[body][:, JOINTS.index("left hand")], atol=1e-5)


def test_irds_joints_go_by_the_names_in_the_file(tmp_path):
    spelled = {each: "".join(word.capitalize() for word in each.split()) for each in NTU25.joints}
    order = list(NTU25.joints[::-1])
    frames = np.random.default_rng(0).normal(size=(4, 25, 3))
    lines = ["Version0.1"] + [
        f"{8028 + n},5,{18432 + 40 * n}," + ",".join(
            f"({spelled[each]},{'Tracked' if n else 'Inferred'},{x:.6f},{y:.7e},{z:.6f},258.3,220.5)"
            for each, (x, y, z) in zip(order, frame, strict=True))
        for n, frame in enumerate(frames)
    ]  # fmt: skip
    (tmp_path / "301_18_4_2_1_stand.txt").write_text("\n".join(lines))
    source, (clip,) = read("text", tmp_path, columns="irds")
    assert (source.layout, clip.label, clip.subject, clip.performance) == (NTU25, 4, 301, 2)
    assert clip.fps == 25
    np.testing.assert_allclose(clip.frames[:, 0], frames[:, ::-1], atol=1e-5)


def write_uiprmd(folder, time=5, angle=90.0):
    """A body of 22 joints whose right arm hangs on a shoulder that is turned about z."""
    columns = BUILT_IN["uiprmd"]
    positions, angles = np.zeros((2, time, 22, 3))
    positions[:, :, 1], positions[:, 0] = 20, (10, 80, -200)  # each bone 20 cm up from its parent
    shoulder = columns.joints.index("right upper arm")
    angles[:, shoulder] = (0, 0, angle)
    for name, array in (("positions", positions), ("angles", angles)):
        np.savetxt(folder / f"m02_s03_e04_{name}.txt", array.reshape(time, -1), delimiter=",")
    return positions, shoulder


def test_uiprmd_positions_are_offsets_in_the_parents_frame(tmp_path):
    write_uiprmd(tmp_path)
    source, (clip,) = read("text", tmp_path, columns="uiprmd")
    body, layout = clip.frames[:, 0], source.layout
    assert (layout.name, clip.label, clip.subject, clip.performance) == ("mocap18", 1, 3, 4)
    # waist 0.8, spine, chest, collar, upper arm: 0.2 each; then turned from y to -x.
    np.testing.assert_allclose(joint(body, layout, "right shoulder")[0], (0.1, 1.6, -2), atol=1e-6)
    np.testing.assert_allclose(joint(body, layout, "right elbow")[0], (-0.1, 1.6, -2), atol=1e-6)
    np.testing.assert_allclose(joint(body, layout, "right wrist")[0], (-0.3, 1.6, -2), atol=1e-6)
    np.testing.assert_allclose(joint(body, layout, "left elbow")[0], (0.1, 1.8, -2), atol=1e-6)
    (tmp_path / "Positions").mkdir()
    (tmp_path / "Angles").mkdir()
    for name in ("positions", "angles"):
        file = f"m02_s03_e04_{name}.txt"
        (tmp_path / file).rename(tmp_path / name.capitalize() / file)
    _, (again,) = read("text", tmp_path, columns="uiprmd")
    np.testing.assert_array_equal(again.frames, clip.frames)
    (tmp_path / "Angles" / "m02_s03_e04_angles.txt").unlink()
    source = open_source("text", tmp_path, columns="uiprmd")
    with pytest.raises(DamagedClip, match="no m02_s03_e04_angles.txt beside it"):
        source.read(source.items[0])


def test_named_columns_are_found_by_meaning(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.csv").write_bytes(named_csv(1))
    source, (clip,) = read("text", tmp_path, columns="named")
    assert (source.layout, source.class_names, clip.label) == (KINECT20, ("run",), 0)
    np.testing.assert_allclose(clip.frames[:, 0], walk(1)[:, PICK], atol=1e-5)
    assert clip.fps == pytest.approx(120, rel=1e-3) and clip.remark == SCALED
    (tmp_path / "run" / "b.csv").write_text("time,a,b\n1,2,3\n")
    with pytest.raises(UserError, match="0 joints NAME.x, NAME.y, NAME.z in its first line"):
        open_source("text", tmp_path / "run" / "b.csv", columns="named")


def test_named_columns_beside_text_and_empty_cells(tmp_path):
    """As pandas writes a table: an index, text, and nothing where there was no number."""
    head, *lines = named_csv(1, 8).decode().splitlines()
    rows = [f",{head},label"] + [f"{number},{line},walk" for number, line in enumerate(lines)]
    lost = JOINTS.index("left knee")
    cells = rows[3].split(",")
    cells[2 + 3 * lost : 5 + 3 * lost] = "", "", ""
    rows[3] = ",".join(cells)
    spelled = rows[0].replace(".x", "X").replace(".y", "Y").replace(".z", "Z")
    for first in (rows[0], spelled):
        (tmp_path / "a.csv").write_text("\n".join([first, *rows[1:]]))
        _, (clip,) = read("text", tmp_path, columns="named")
        wanted = walk(1, 8)[:, PICK]
        wanted[2, KINECT20.joints.index("left knee")] = np.nan
        np.testing.assert_allclose(clip.frames[:, 0], wanted, atol=1e-5)
    # As many empty cells as there are columns must not pass for a frame less.
    halves = [lines[2].split(",")[:31] + [""] * 30, lines[3].split(",")[:30] + [""] * 31]
    lines[2:4] = map(",".join, halves)
    (tmp_path / "a.csv").write_text("\n".join([head, *lines]))
    _, (clip,) = read("text", tmp_path, columns="named")
    assert len(clip.frames) == 8 and np.isnan(clip.frames[2:4]).any((1, 2, 3)).all()
    np.testing.assert_allclose(clip.frames[4:, 0], walk(1, 8)[4:, PICK], atol=1e-5)


def test_a_description_of_ones_own(tmp_path):
    spelled = ["".join(word.capitalize() for word in joint.split()) for joint in JOINTS]
    # Left-handed millimetres, as some engines have them, with a quality behind each joint.
    frames = walk(1) * (-1000, 1000, 1000)
    tail = np.concatenate([frames, np.ones((6, 20, 1))], -1).reshape(6, 80)
    body = "\n".join(";".join(f"{x:.4f}" for x in row) for row in tail)
    (tmp_path / "k2_p5.csv").write_text("quality\n" + body)
    fields = {"joints": spelled, "files": "k*.csv", "skip_lines": 1, "width": 4,
              "scale": [-0.001, 0.001, 0.001], "fps": 50, "name": "k{label}_p{subject}"}  # fmt: skip
    file = tmp_path / "columns.json"
    file.write_text(json.dumps(fields))
    source, (clip,) = read("text", tmp_path, columns=str(file))
    assert (source.layout, clip.label, clip.subject, clip.fps) == (KINECT20, 1, 5, 50)
    assert source.class_names == ("class 0", "class 1")
    np.testing.assert_allclose(clip.frames[:, 0], walk(1)[:, PICK], atol=1e-5)
    check_upright(clip, KINECT20)
    two = np.concatenate([walk(1), walk(2)], 1).reshape(6, -1) * 1000  # both in millimetres
    (tmp_path / "k2_p5.csv").write_text("\n".join(",".join(map(str, row)) for row in two))
    file.write_text(json.dumps({"joints": spelled, "files": "k*.csv", "bodies": 2}))
    _, (clip,) = read("text", tmp_path, columns=str(file))
    for body in range(2):
        np.testing.assert_allclose(clip.frames[:, body], walk(body + 1)[:, PICK], atol=1e-5)
    for change, message in (
        ({"jonits": []}, "'jonits' is no field"), ({"width": "4"}, "width must be a whole number"),
        ({"joints": []}, "joints must be named"), ({"width": 2}, "width 3 or more"),
        ({"joints": ["a", "a"]}, "a name twice"), ({"bodies": 10**9}, "bodies 1 to 16"),
        ({"width": 10**9}, "more than 20000 numbers"), ({"kind": "irds"}, "numbers or header"),
        ({"key": 0}, "one of the columns before"), ({"scale": [1, 2]}, "one number or three"),
        ({"scale": ["1"]}, "scale must be a list"), ({"cut": "sbu"}, "cut is for"),
    ):  # fmt: skip
        file.write_text(json.dumps(fields | change))
        with pytest.raises(UserError, match=message):
            open_source("text", tmp_path, columns=str(file))
    for text in ("{", "[1]", "[" * 100_000):
        file.write_text(text)
        with pytest.raises(UserError, match="columns.json: no "):
            open_source("text", tmp_path, columns=str(file))
    for given in (None, "nosuch"):
        with pytest.raises(UserError, match="give one of utkinect, msr_action3d, msrc12"):
            open_source("text", tmp_path, columns=given)


def test_names_tell_numbers_by_a_template():
    assert match_name("a{label}_s{subject}", "x/a04_s02_e01") == {"label": 4, "subject": 2}
    assert match_name("s{subject}s{}/{label}", "s01s12/03/001/x") == {"subject": 1, "label": 3}
    assert match_name("a{label}_s{subject}", "data04_s02") == {}
    assert match_name("a{label}", "a12345678") == {}


def test_a_body_of_unknown_unit_is_measured_along_its_bones():
    frames = np.stack([walk(1)[:, PICK], walk(2)[:, PICK]], 1)  # two people
    for factor in (1.0, 100.0, 1000.0):
        scaled, remark = scale_to_metres(frames * factor, KINECT20)
        np.testing.assert_allclose(scaled, frames, atol=1e-9)
        assert (remark == "") == (factor == 1)
    small, remark = scale_to_metres(frames * 14, KINECT20)
    assert remark == SCALED and small.max() == pytest.approx(frames.max(), rel=0.15)
    crouched = frames.copy()
    crouched[:, :, KINECT20.joints.index("head")] = (0, 1.6, 0)
    np.testing.assert_array_equal(scale_to_metres(crouched, KINECT20)[0], crouched)
    layout = get_layout("coco17")
    assert scale_to_metres(np.ones((2, 1, 17, 3)), layout)[1] == ""


@real
@pytest.mark.parametrize(
    ("columns", "path", "clips", "time", "bodies", "layout"),
    [
        ("utkinect", "lookalike/utkinect", 4, None, 1, "kinect20"),
        ("msrc12", "lookalike/msrc12", 2, None, 1, "kinect20"),
        ("florence3d", "lookalike/florence3d", 3, 25, 1, "mocap15"),
        ("sbu", "lookalike/sbu", 1, 45, 2, "mocap15x2"),
        ("irds", "lookalike/irds", 1, 30, 1, "ntu25"),
        ("named", "lookalike/named_columns", 1, 48, 1, "mocap18"),
        ("uiprmd", "text", 1, 73, 1, "mocap18"),
        ("msr_action3d", "lookalike/msr_action3d/a04_s02_e01_skeleton3D.txt", 1, 40, 1, "kinect20"),
    ],
)  # fmt: skip
def test_files_that_were_not_written_by_this_test(columns, path, clips, time, bodies, layout):
    source, found = read("text", FORMATS / path, columns=columns)
    assert (len(found), source.layout.name) == (clips, layout)
    for clip in found:
        assert clip.frames.shape[1] == bodies and time in (None, len(clip.frames))
        assert clip.frames.any(-1).all() and (clip.label >= 0) == (columns != "named")
        if columns == "irds":
            continue
        middle = joint(clip.frames[:, 0], source.layout, "hip centre")
        rise = (joint(clip.frames[:, 0], source.layout, "head") - middle).mean(0)
        assert rise[1] == pytest.approx({"uiprmd": 0.56, "named": 0.6}.get(columns, 0.64), abs=0.08)
        check_upright(clip, source.layout, feet="foot" in " ".join(source.layout.joints))


@real
def test_sbu_s_two_people_face_each_other():
    source, (clip,) = read("text", FORMATS / "lookalike" / "sbu", columns="sbu")
    mean, layout = clip.frames.mean(0), source.layout
    for body, other in ((0, 1), (1, 0)):
        left, right = (mean[body, layout.joints.index(f"{s} shoulder")] for s in ("left", "right"))
        towards = mean[other, 0] - mean[body, 0]
        facing = np.cross(left - right, (0, 1, 0))
        assert facing @ towards / np.linalg.norm(facing) / np.linalg.norm(towards) > 0.9
