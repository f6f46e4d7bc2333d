"""BVH and TRC: what is read of files that the test writes, and of real ones."""

import json

import numpy as np
import pytest
from _motion import FORMATS, JOINTS, MIXAMO, PICK, walk, walk_bvh, walk_trc
from scipy.spatial.transform import Rotation

from halp_jax.datasets import open_source
from halp_jax.datasets.bvh import parse_bvh
from halp_jax.datasets.clip import DamagedClip
from halp_jax.datasets.motion_files import SCALED
from halp_jax.datasets.read_pool import Repair, finish_clip
from halp_jax.datasets.trc import parse_trc
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import KINECT20
from halp_jax.skeletons.normalize import normalize_clip

real = pytest.mark.skipif(not FORMATS.is_dir(), reason="../shared/formats is not here")


def read(format, path, **options):
    source = open_source(format, path, **options)
    return source, [clip for item in source.items for clip in source.read(item)]


def write(folder, **files):
    for name, data in files.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def joint(frames, layout, name):
    return frames[:, layout.joints.index(name)]


def check_upright(clip, layout, feet=True):
    """Normalised: head above hips, shoulders right of left and ahead, toes ahead of ankles.

    Toes ahead means that nothing was mirrored: right is where a right hand is.
    """
    frames = normalize_clip(clip.frames, layout)[:, 0]
    rise = joint(frames, layout, "head") - joint(frames, layout, "hip centre")
    assert rise[:, 2].mean() > 0.4 and np.abs(rise[:, :2].mean(0)).max() < 0.25
    line = (joint(frames, layout, "right shoulder") - joint(frames, layout, "left shoulder"))[0]
    assert line[0] > 0.2 and abs(line[1]) < 1e-5
    if feet:
        side, up = (joint(frames, layout, f"{s} hip") for s in ("left", "right")), rise
        left = np.subtract(*side)
        toes = sum(joint(frames, layout, f"{s} foot") - joint(frames, layout, f"{s} ankle")
                   for s in ("left", "right"))  # fmt: skip
        assert (np.linalg.det(np.stack([left, up, toes], 1)) > 0).all()


# --- BVH ------------------------------------------------------------------------------------------


def test_bvh_positions_follow_from_the_angles_in_each_joints_own_order():
    text = """HIERARCHY
    ROOT hips { OFFSET 9 9 9 CHANNELS 6 Xposition Yposition Zposition Zrotation Yrotation Xrotation
      JOINT my knee { OFFSET 1 2 3 CHANNELS 3 Zrotation Xrotation Yrotation
        JOINT foot { OFFSET 0 -1 0.5 CHANNELS 3 Xrotation Yrotation Zrotation
          End Site { OFFSET 0 0 1 } } } }
    MOTION
    Frames: 2
    Frame Time: .02
    1 2 3 10 20 30 40 50 60 70 80 90
    4 5 6 -5 15 25 35 45 55 65 75 85"""
    skeleton, positions, fps = parse_bvh(text.encode(), "a.bvh")
    assert skeleton.names == ["hips", "my knee", "foot", "foot end"]
    assert (skeleton.parents, fps) == ([0, 0, 1, 2], 50)
    for frame, row in enumerate(text.splitlines()[-2:]):
        numbers = np.array(row.split(), float)
        place, turn = numbers[:3], Rotation.identity()
        np.testing.assert_allclose(positions[frame, 0], place)  # and not OFFSET plus them
        orders = ("ZYX", "ZXY", "XYZ")
        for number, offset in enumerate(([1, 2, 3], [0, -1, 0.5], [0, 0, 1])):
            angles = numbers[3 + 3 * number : 6 + 3 * number]
            turn = turn * Rotation.from_euler(orders[number], angles, degrees=True)
            place = place + turn.apply(offset)
            np.testing.assert_allclose(positions[frame, number + 1], place, atol=1e-9)


def test_bvh_files_of_any_names_and_units_become_clips_of_one_layout(tmp_path):
    (tmp_path / "wave").mkdir()
    (tmp_path / "kick").mkdir()
    other = {joint: "".join(w.capitalize() for w in joint.split()) for joint in JOINTS}
    (tmp_path / "kick" / "a.bvh").write_bytes(walk_bvh(1, unit=14.0, order="YXZ", names=other))
    (tmp_path / "wave" / "b.bvh").write_bytes(walk_bvh(1, unit=1.0, order="YXZ"))
    (tmp_path / "wave" / "c.bvh").write_bytes(walk_bvh(1, unit=100.0, order="YXZ"))
    source, clips = read("bvh", tmp_path)
    assert (source.layout, source.class_names) == (KINECT20, ("kick", "wave"))
    assert [(clip.name, clip.label) for clip in clips] == [
        ("kick/a", 0), ("wave/b", 1), ("wave/c", 1)
    ]  # fmt: skip
    assert [clip.remark for clip in clips] == [SCALED, "", SCALED]
    assert clips[0].fps == pytest.approx(120, abs=0.001)
    np.testing.assert_allclose(clips[1].frames, clips[2].frames, atol=1e-3)
    bones = [np.linalg.norm(joint(c.frames[:, 0], KINECT20, "left knee")
                            - joint(c.frames[:, 0], KINECT20, "left hip"), axis=-1) for c in clips]  # fmt: skip
    np.testing.assert_allclose(bones[1], np.hypot(0.43, np.hypot(0.01, 0.03)), atol=1e-3)
    assert 0.8 < bones[0].mean() / bones[1].mean() < 1.2
    for clip in clips:
        check_upright(clip, KINECT20)


def test_bvh_without_hands_and_with_a_layout_of_ones_own(tmp_path):
    names = MIXAMO | {"left hand": "LeftProp", "right hand": "RightProp"}
    (tmp_path / "a.bvh").write_bytes(walk_bvh(names=names))
    source, (clip,) = read("bvh", tmp_path / "a.bvh")
    assert source.layout.name == "mocap18" and (clip.name, clip.label) == ("a", -1)
    (tmp_path / "mine.json").write_text(json.dumps({
        "name": "mine", "joints": ["Hips", "Neck", "LeftProp", "RightProp", "LeftArm", "RightArm"],
        "parents": [0, 0, 4, 5, 1, 1], "bodies": 1, "centre": 0, "spine": [0, 1], "shoulders": [5, 4],
    }))  # fmt: skip
    source, (clip,) = read("bvh", tmp_path, layout=str(tmp_path / "mine.json"))
    assert clip.frames.shape == (6, 1, 6, 3) and clip.remark == ""  # a body it cannot measure
    chain = ["LeftFoot", "LeftLeg", "LeftUpLeg", "Hips", "Neck", "Head", "LeftArm", "RightArm"]
    (tmp_path / "mine.json").write_text(json.dumps({
        "name": "mine", "joints": chain, "parents": [1, 2, 3, 3, 3, 4, 4, 4], "bodies": 1, "centre": 3,
        "spine": [3, 4], "shoulders": [7, 6],
    }))  # fmt: skip
    source, (clip,) = read("bvh", tmp_path, layout=str(tmp_path / "mine.json"))
    assert clip.remark == SCALED
    wanted = [JOINTS.index(f"left {each}") for each in ("ankle", "knee")]
    shin = np.linalg.norm(np.diff(walk()[:1, wanted], axis=1))
    assert np.linalg.norm(clip.frames[0, 0, 0] - clip.frames[0, 0, 1]) == pytest.approx(
        shin, abs=0.05
    )
    (tmp_path / "b.bvh").write_bytes(walk_bvh(names=names | {"head": "Nose"}))
    with pytest.raises(
        UserError, match="b.bvh: its joints are not those of kinect20 or of mocap18"
    ):
        open_source("bvh", tmp_path / "b.bvh")
    source = open_source("bvh", tmp_path)
    with pytest.raises(DamagedClip, match="b.bvh: no joint that is mocap18's head"):
        source.read(source.items[1])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"MOTION", b"MOTIONS", "no sound BVH"),
        (b"Frames: 6", b"Frames: 7", "for 7 frames of"),
        (b"Frames: 6", b"Frames: 99999999999", "at most 20000 frames"),
        (b"Xposition", b"Wposition", "channels wposition"),
        (b"CHANNELS 6", b"CHANNELS 9999999", "channels"),
        (b"}\nMOTION", b"\nMOTION", "within the hierarchy"),
        (b"}\nMOTION", b"} ROOT b { }\nMOTION", "more than one ROOT"),
        (b"OFFSET", b"OFFSET x", "could not convert"),
        (b"Frame Time: .0083333\n0", b"Frame Time: .0083333\nnan 0", "numbers for 6"),
        (b"\n2.0000", b"\nnan", "NaN, infinite or absurd"),
        (b"\n2.0000", b"\n1,5", "no number"),
    ],
)
def test_bvh_files_that_are_damaged_are_refused_in_one_line(old, new, message):
    data = walk_bvh()
    assert old in data
    with pytest.raises(DamagedClip, match=message) as error:
        parse_bvh(data.replace(old, new, 1), "a.bvh")
    assert "\n" not in str(error.value) and "a.bvh" in str(error.value)


@real
@pytest.mark.parametrize(
    ("name", "joints", "ends", "frames", "fps", "up", "rise"),
    [
        ("mixamo_names", 55, 15, 69, 30, 1, 59.2), ("cmu_12_01_walk_cut", 31, 7, 120, 120, 1, 7.3),
        ("cmu_other_names", 31, 7, 125, 30, 1, 7.4), ("rokoko_cut", 60, 13, 60, 100, 1, 66.0),
        ("fair1_dab_cut", 27, 7, 90, 30, 2, 17.6),
    ],
)  # fmt: skip
def test_real_bvh_files(name, joints, ends, frames, fps, up, rise):
    path = FORMATS / "bvh" / f"{name}.bvh"
    skeleton, positions, rate = parse_bvh(path.read_bytes(), name)
    is_end = [each.endswith(" end") for each in skeleton.names]
    assert (is_end.count(False), is_end.count(True), len(positions)) == (joints, ends, frames)
    assert rate == pytest.approx(fps, rel=1e-3)
    head = next(j for j, each in enumerate(skeleton.names) if each.lower().endswith("head"))
    mean = (positions[:, head] - positions[:, 0]).mean(0)
    assert mean.argmax() == up and mean[up] == pytest.approx(rise, abs=0.06)
    source, (clip,) = read("bvh", path)
    assert source.layout == KINECT20 and clip.frames.shape == (frames, 1, 20, 3)
    check_upright(clip, KINECT20)


@real
def test_real_bvh_files_are_one_data_set():
    source, clips = read("bvh", FORMATS / "bvh")
    assert len(clips) == 5 and all(clip.remark == SCALED for clip in clips)
    for clip in clips:
        legs = [np.linalg.norm(joint(clip.frames[:, 0], KINECT20, f"left {a}")
                               - joint(clip.frames[:, 0], KINECT20, f"left {b}"), axis=-1).mean()
                for a, b in (("hip", "knee"), ("knee", "ankle"))]  # fmt: skip
        assert 0.65 < sum(legs) < 0.95


# --- TRC ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("units", ["m", "cm", "mm"])
def test_trc_is_in_metres_and_people_are_joined_by_their_names(tmp_path, units):
    write(tmp_path, run_P1__trc=walk_trc(1, 6, units), run_P2__trc=walk_trc(2, 4, units),
          walk__trc=walk_trc(3, 6, units))  # fmt: skip
    source, (run, alone) = read("trc", tmp_path)
    assert source.layout.name == "kinect20x2" and (run.name, alone.name) == ("run", "walk")
    np.testing.assert_allclose(run.frames[:, 0], walk(1)[:, PICK], atol=1e-4)
    np.testing.assert_allclose(run.frames[:4, 1], walk(2, 4)[:, PICK], atol=1e-4)
    assert not run.frames[4:, 1].any() and alone.frames.shape == (6, 1, 20, 3)
    assert run.fps == 60
    check_upright(run, KINECT20)


def test_trc_participants_are_no_people_and_a_trial_is_read_once(tmp_path):
    """Names as Pose2Sim writes them."""
    for trial in ("S00_P01_T01_walk_0-99", "S00_P02_T01_walk_0-99", "S00_P01_T02_two_P1_0-99",
                  "S00_P01_T02_two_P2_0-99"):  # fmt: skip
        for seed, version in enumerate(("", "_filt_butterworth", "_filt_butterworth_LSTM")):
            (tmp_path / f"{trial}{version}.trc").write_bytes(walk_trc(seed))
    (tmp_path / "S00_P03_T01_run_0-99_filt_butterworth.trc").write_bytes(walk_trc(3))
    source, clips = read("trc", tmp_path)
    bodies = {clip.name: int(clip.frames.any((0, 2, 3)).sum()) for clip in clips}
    assert bodies == {"S00_P01_T01_walk_0-99": 1, "S00_P01_T02_two_0-99": 2,
                      "S00_P02_T01_walk_0-99": 1, "S00_P03_T01_run_0-99": 1}  # fmt: skip
    for clip in clips:
        wanted = walk(3 if "run" in clip.name else 0)[:, PICK]
        np.testing.assert_allclose(clip.frames[:, 0], wanted, atol=1e-4)
    assert source.notes == {"filtered twins left out": 8}


def test_trc_middles_are_made_and_empty_cells_are_missing(tmp_path):
    names = [each for each in JOINTS if each not in ("hip centre", "spine") and "hand" not in each]
    data = walk_trc(1, 6, "m", names).decode().splitlines()
    cells = data[7].split("\t")
    hip = 2 + 3 * names.index("left hip")
    cells[hip : hip + 3] = ["", "", ""]
    data[7] = "\t".join(cells)
    data[8] = "\t".join(data[8].split("\t")[:-3])  # the last marker's cells are not even there
    (tmp_path / "a.trc").write_text("\n".join(data))
    source, (clip,) = read("trc", tmp_path)
    layout, body = source.layout, clip.frames[:, 0]
    assert layout.name == "mocap17"
    hips = walk(1)[:, [JOINTS.index(f"{side} hip") for side in ("left", "right")]].mean(1)
    whole = [0, 1, 3, 4, 5]
    np.testing.assert_allclose(joint(body, layout, "hip centre")[whole], hips[whole], atol=1e-4)
    lost = np.isnan(body).all(-1)
    assert {(time, layout.joints[j]) for time, j in np.argwhere(lost)} == {
        (2, "hip centre"), (2, "left hip"), (3, "right foot")
    }  # fmt: skip
    # What is lost for a moment is filled in, as of all files.
    finished = finish_clip(clip, layout, 0, "none")
    hip = joint(finished.frames[:, 0], layout, "left hip")
    np.testing.assert_allclose(hip[2], (hip[1] + hip[3]) / 2, atol=1e-6)
    finished = finish_clip(clip, layout, 0, "none", repair=Repair(max_gap=0))
    assert not joint(finished.frames[:, 0], layout, "left hip")[2].any()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"\tmm", b"\tinch", "Units 'inch', not one of m, cm, mm"),
        (b"Units", b"Unit", "'Units'"),
        (b"HipCentre\t\t", b"HipCentre\t", "every third column"),
        (b"\n1\t", b"\n1\tx\tx\t", "no sound TRC"),
        (b"DataRate", b"\xff", "'DataRate'"),
    ],
)
def test_trc_files_that_are_damaged_are_refused_in_one_line(old, new, message):
    with pytest.raises(DamagedClip, match=message) as error:
        parse_trc(walk_trc().replace(old, new, 1), "a.trc")
    assert "\n" not in str(error.value)


@real
def test_real_trc_files_of_two_people():
    rises = []
    for person in (1, 2):
        path = FORMATS / "trc" / f"two_people_P{person}.trc"
        names, positions, fps = parse_trc(path.read_bytes(), path.name)
        assert (len(names), positions.shape, fps) == (21, (100, 21, 3), 60)
        hips = positions[:, [names.index("RHip"), names.index("LHip")]].mean(1)
        rises.append((positions[:, names.index("Head")] - hips).mean(0)[1])
    np.testing.assert_allclose(rises, (0.57, 0.67), atol=0.006)
    source, (clip,) = read("trc", FORMATS / "trc")
    assert (clip.name, source.layout.name) == ("two_people", "mocap17x2")
    assert clip.frames.shape == (100, 2, 17, 3) and clip.frames.any(-1).all()
    check_upright(clip, source.layout)
