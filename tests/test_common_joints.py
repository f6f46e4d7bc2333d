"""Clips of one skeleton as clips of another: joints by meaning, bodies, refusals, the command."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from halp_jax import prepare
from halp_jax.datasets import from_arrays, open_source, pack
from halp_jax.datasets.builder import prepare_source
from halp_jax.datasets.clip import Clip
from halp_jax.datasets.packed import load_frames, open_dataset
from halp_jax.datasets.prepared import METADATA
from halp_jax.datasets.source import Item, Source
from halp_jax.errors import UserError
from halp_jax.evaluation import load
from halp_jax.skeletons.augment import make_stream
from halp_jax.skeletons.common import convert_clip, match_joints, motion_energy
from halp_jax.skeletons.layout import (
    COCO17,
    KINECT20,
    NTU25,
    OPENPOSE18,
    describe_layout,
    get_layout,
    parse_layout,
    restore_layout,
    to_layout,
    with_bodies,
)
from halp_jax.skeletons.normalize import normalize_clip, view_clip
from halp_jax.training import checkpoint, normalization
from tests._clips import tiny_config
from tests._files import annotation, poses, skeleton_text, write_pyskl
from tests._formats import HAND, write_layout

# By hand, from the two sensors' joint charts: kinect20's joint, ntu25's, and the one where
# kinect20's bone starts, as kinect20 calls it.
KINECT_FROM_NTU = """
hip centre      = spine base      : spine
spine           = spine middle    : shoulder centre
shoulder centre = spine shoulder  : shoulder centre
head            = head            : shoulder centre
left shoulder   = left shoulder   : shoulder centre
left elbow      = left elbow      : left shoulder
left wrist      = left wrist      : left elbow
left hand       = left hand       : left wrist
right shoulder  = right shoulder  : shoulder centre
right elbow     = right elbow     : right shoulder
right wrist     = right wrist     : right elbow
right hand      = right hand      : right wrist
left hip        = left hip        : hip centre
left knee       = left knee       : left hip
left ankle      = left ankle      : left knee
left foot       = left foot       : left ankle
right hip       = right hip       : hip centre
right knee      = right knee      : right hip
right ankle     = right ankle     : right knee
right foot      = right foot      : right ankle
"""
ROWS = [
    [word.strip() for word in line.replace(":", "=").split("=")]
    for line in KINECT_FROM_NTU.strip().splitlines()
]
# Numbers of ntu25's joints as its authors count them, from 1.
PICKED = np.array([1, 2, 21, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]) - 1
KINECT20X2 = with_bodies(KINECT20, 2)


def own_layout(**changes):
    """The hand of _formats with its joints by number, and with fields changed."""
    numbers = {"parents": [0] * 6, "centre": 0, "spine": [0, 3], "shoulders": [2, 5]}
    return parse_layout(HAND | numbers | changes, "hand.json")


def pick(seed=0, time=9, bodies=2):
    return poses(seed, time, bodies).astype(np.float32)


# --- joints ---------------------------------------------------------------------------------------


def test_kinect_joints_are_found_among_those_of_ntu():
    joints = match_joints(NTU25, KINECT20)
    assert [KINECT20.joints[place] for place in range(20)] == [row[0] for row in ROWS]
    assert [NTU25.joints[place] for place in joints] == [row[1] for row in ROWS]
    np.testing.assert_array_equal(joints, PICKED)


def test_coco_joints_are_found_among_those_of_openpose():
    # OpenPose counts nose, neck, right arm, left arm, right leg, left leg, eyes, ears.
    expected = (0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10)
    assert match_joints(OPENPOSE18, COCO17) == expected
    assert match_joints(NTU25, NTU25) == tuple(range(25))


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (KINECT20, NTU25, "kinect20 has no joint that is ntu25's neck, left hand tip, left thumb, "
         "right hand tip, right thumb; prepare both data sets with --as-layout=kinect20x2"),
        (COCO17, OPENPOSE18, "coco17 has no joint that is openpose18's neck; prepare both data "
         "sets with --as-layout=coco17"),
        (NTU25, COCO17, "ntu25 has joints of 3 coordinates and coco17 of 2"),
        (NTU25, own_layout(), "hand6's wrist, thumb, index, middle, ring, little; write a .json"),
        (own_layout(joints=[*KINECT20.joints[:6]], name="torso"), NTU25,
         "--as-layout=FILE.json, that of torso, --max-bodies=2"),
    ],
)  # fmt: skip
def test_joints_without_a_counterpart_are_named_in_one_line(source, target, message):
    with pytest.raises(UserError) as error:
        match_joints(source, target)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_joint_stands_for_one_joint_and_its_own_name_comes_first():
    names = ("spine", "spine middle", "head", "left hand", "right hand", "spine base")
    both = own_layout(name="both", joints=names)
    assert match_joints(both, both) == tuple(range(6))
    with pytest.raises(UserError, match="kinect20 has no joint that is both's spine middle; "):
        match_joints(KINECT20, both)
    other = own_layout(name="other", joints=("head", "spine base", *(f"j{n}" for n in range(4))))
    wanted = own_layout(name="wanted", joints=("hip centre", "head"), spine=[0, 1],
                        shoulders=[0, 1], parents=[0, 0], centre=0)  # fmt: skip
    assert match_joints(other, wanted) == (1, 0)


def test_bones_of_a_converted_clip_are_those_of_the_target():
    frames = pick()
    converted = convert_clip(frames, NTU25, KINECT20X2)
    bones = np.asarray(make_stream(jnp.asarray(converted), "bone", KINECT20X2))
    ours = {row[0]: frames[:, :, NTU25.joints.index(row[1])] for row in ROWS}
    for place, (joint, _, parent) in enumerate(ROWS):
        np.testing.assert_array_equal(bones[:, :, place], ours[joint] - ours[parent], joint)
    assert np.abs(bones).max() > 0.1


# --- bodies ---------------------------------------------------------------------------------------


def test_the_bodies_that_stay_are_those_of_the_ntu_reader(tmp_path):
    # The second person stands still, the third comes late and moves most.
    bodies = poses(3, 12, 3)
    bodies[:, 1] = bodies[:1, 1]
    bodies[:, 2] += np.arange(12)[:, None, None] / 8
    bodies[:4, 2] = 0
    seen = [[(n, pose) for n, pose in enumerate(frame, 1) if pose.any()] for frame in bodies]
    (tmp_path / "S001C001P001R001A001.skeleton").write_text(skeleton_text(seen))
    source = open_source("ntu", tmp_path, bodies="id")  # of people made of noise none would stay
    (clip,) = source.read(source.items[0])
    frames = bodies.astype(np.float32)
    for count in (1, 2):
        converted = convert_clip(frames, with_bodies(NTU25, 3), with_bodies(NTU25, count))
        np.testing.assert_array_equal(converted, clip.frames[:, :count])
    np.testing.assert_array_equal(converted[:, 0], frames[:, 2])
    assert motion_energy(frames[:, 2]) > motion_energy(frames[:, 0]) > 0
    assert motion_energy(frames[:, 0] * 0) == 0


def test_motion_energy_by_hand():
    body = np.zeros((4, 2, 3), np.float32)  # the last two frames do not see it
    body[:2, :, 0] = [[1, 3], [1, 3]]
    body[:2, :, 2] = [[2, 2], [6, 6]]
    assert motion_energy(body) == 1.0 + 2.0


def test_absent_bodies_never_displace_one_that_is_seen():
    frames = np.zeros((3, 3, 25, 3), np.float32)
    frames[:, 1] = 1.0  # at one place all the time: it has no energy at all
    converted = convert_clip(frames, with_bodies(NTU25, 3), with_bodies(NTU25, 1))
    np.testing.assert_array_equal(converted, frames[:, 1:2])
    assert not convert_clip(frames[:, 1:2], NTU25, KINECT20X2)[:, 1].any()


def test_of_a_normalised_clip_the_first_body_stays_centred():
    frames = pick(seed=1)
    normalized = normalize_clip(frames, NTU25)
    assert motion_energy(normalized[:, 1]) > motion_energy(normalized[:, 0])
    converted = convert_clip(normalized, NTU25, KINECT20)
    np.testing.assert_array_equal(converted, normalized[:, :1, PICKED])


# --- names of layouts -----------------------------------------------------------------------------


def test_the_name_tells_the_number_of_bodies_and_is_found_again():
    assert (KINECT20X2.name, KINECT20X2.bodies) == ("kinect20x2", 2)
    assert dataclasses.replace(KINECT20X2, name="kinect20", bodies=1) == KINECT20
    assert get_layout("kinect20x2") == to_layout("kinect20x2") == KINECT20X2
    assert get_layout("kinect20x1") is with_bodies(KINECT20X2, 1) is KINECT20
    assert with_bodies(KINECT20X2, 3).name == "kinect20x3"
    assert with_bodies(NTU25, 2) is NTU25 and get_layout("ntu25x1").bodies == 1
    # As a data set and a checkpoint hold it: whole.
    described = json.loads(json.dumps(describe_layout(KINECT20X2)))
    assert described["joints"][0] == "hip centre"
    assert restore_layout(described) == KINECT20X2


def test_a_layout_of_ones_own_takes_bodies_too():
    name = "a" * 40
    hand = own_layout(name=name)
    more = with_bodies(hand, 12)
    assert more.name == name + "x12" and with_bodies(more, 2).name == name + "x2"
    assert restore_layout(describe_layout(more)) == more


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kinect20x17", "kinect20 with 17 bodies: a clip holds 1 to 16"),
        ("kinect20x0", "'kinect20x0' is not known"),
        ("kinect20x2x2", "'kinect20x2x2' is not known"),
        ("handx2", "'handx2' is not known; use one of kinect20, ntu25"),
        ("kinect20x" + "9" * 5000, "is not known"),
    ],
)
def test_names_that_are_no_layout(name, message):
    with pytest.raises(UserError, match=message):
        get_layout(name)


def test_no_layout_of_ones_own_may_pass_for_a_known_one():
    with pytest.raises(UserError, match="'kinect20x2' is a known one and differs; rename"):
        restore_layout(HAND | {"name": "kinect20x2"})


# --- prepare --------------------------------------------------------------------------------------


def read_item(item):
    frames, label = item.payload
    return [Clip(frames, label, item.id)]


def make_source(clips, layout=NTU25, **fields):
    items = tuple(Item(f"clip {n}", (frames, n % 2)) for n, frames in enumerate(clips))

    def split(infos):
        return {"mine": {"train": [info.name for info in infos], "test": []}}

    return Source("fake", layout, ("a", "b"), items, read_item, split, {}, **fields)


def test_normalised_coordinates_are_those_of_the_picked_joints(tmp_path):
    clips = [pick(seed, time=5 + seed) for seed in range(4)]
    clips[3][:, 1] = 0
    dataset = prepare_source(make_source(clips), tmp_path / "set", as_layout=KINECT20X2)
    frames = np.split(load_frames(dataset), np.cumsum(dataset.lengths)[:-1])
    for found, clip in zip(frames, clips, strict=True):
        np.testing.assert_array_equal(found, normalize_clip(clip[:, :, PICKED], KINECT20X2))
        # Centre, shoulders and the older spine are the same joints: what is first does not matter.
        np.testing.assert_allclose(
            view_clip(clip[:, :, PICKED], KINECT20X2),
            view_clip(clip, NTU25)[:, :, PICKED],
            rtol=0, atol=1e-6,
        )  # fmt: skip
    in_memory = from_arrays(clips, [0, 1, 0, 1], layout="ntu25", as_layout="kinect20x2")
    np.testing.assert_array_equal(in_memory.frames, np.concatenate(frames))
    for each in (dataset, in_memory, open_dataset(pack(dataset, tmp_path / "set.npz"))):
        assert each.layout == KINECT20X2
        record = each.metadata["converted_from"]
        assert (record["layout"], record["bodies"]) == ("ntu25", 2)
        assert record["joints"] == {row[0]: row[1] for row in ROWS}
        assert record["left_out"][0] == "neck" and len(record["left_out"]) == 5


def test_normalised_files_keep_their_coordinates_unless_asked(tmp_path):
    clips = [view_clip(pick(seed), NTU25) for seed in range(2)]
    source = make_source(clips, normalized="view")
    kept = prepare_source(source, tmp_path / "kept", as_layout=KINECT20X2)
    assert kept.metadata["normalize"] == "none"
    picked = np.concatenate(clips)[:, :, PICKED]
    np.testing.assert_array_equal(load_frames(kept), picked)
    asked = prepare_source(source, tmp_path / "asked", as_layout=KINECT20X2, normalize="view")
    assert asked.metadata["normalize"] == "view"
    assert np.abs(load_frames(asked) - picked).max() > 1e-3
    # Upright ones are stood on the spine of the new layout.
    clips = [normalize_clip(pick(seed), NTU25) for seed in range(2)]
    source = make_source(clips, normalized="upright")
    turned = prepare_source(source, tmp_path / "turned", as_layout=KINECT20X2)
    assert turned.metadata["normalize"] == "upright"
    wanted = [normalize_clip(clip[:, :, PICKED], KINECT20X2) for clip in clips]
    np.testing.assert_array_equal(load_frames(turned), np.concatenate(wanted))
    same = prepare_source(source, tmp_path / "same")
    assert same.metadata["normalize"] == "upright"
    np.testing.assert_array_equal(load_frames(same), np.concatenate(clips))


def test_without_another_layout_every_byte_is_as_before(tmp_path):
    clips = [pick(seed) for seed in range(3)]
    plain = prepare_source(make_source(clips), tmp_path / "plain")
    same = prepare_source(make_source(clips), tmp_path / "same", as_layout=NTU25)
    files = sorted(path.name for path in plain.path.iterdir())
    assert METADATA in files and files == sorted(path.name for path in same.path.iterdir())
    for name in files:
        assert (plain.path / name).read_bytes() == (same.path / name).read_bytes(), name
    assert list(plain.metadata) == [
        "format_version", "name", "layout", "class_names", "normalize", "fps", "notes",
        "damaged", "absent_from_splits", "splits", "names", "labels", "lengths", "shards",
    ]  # fmt: skip
    expected = np.concatenate([normalize_clip(clip, NTU25) for clip in clips])
    np.testing.assert_array_equal(load_frames(plain), expected)
    assert "converted_from" not in from_arrays(clips, None, layout=NTU25).metadata


def test_what_is_lost_is_counted_and_what_cannot_be_is_refused_before_any_work(tmp_path):
    clips = [pick(0), pick(1), pick(2), pick(3)]
    clips[1][:, 1] = 0  # one person: nothing is lost
    clips[2][:, :, PICKED] = 0  # only thumbs and the like were seen
    dataset = prepare_source(make_source(clips), tmp_path / "one", as_layout=KINECT20)
    (remark,) = (note for note in dataset.metadata["notes"] if "bodies" in note)
    assert "those that move most" in remark and dataset.metadata["notes"][remark] == 2
    ((item, reason),) = (entry.values() for entry in dataset.metadata["damaged"])
    assert item == "clip 2" and "there is no body in it" in reason
    with pytest.raises(UserError, match="kinect20 has no joint that is ntu25's neck"):
        prepare_source(make_source(clips, KINECT20), tmp_path / "two", as_layout=NTU25)
    with pytest.raises(UserError, match="kinect20 has no joint that is ntu25's neck"):
        from_arrays([clip[:, :, PICKED] for clip in clips], None, layout=KINECT20, as_layout=NTU25)
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


@pytest.fixture
def command(tmp_path):
    """Runs the command on two small files: command(name of the file, options...) -> exit code."""
    split = {"xsub_train": ["c0", "c1"], "xsub_val": ["c2"]}
    for joints, bodies in ((25, 2), (20, 1)):
        clips = [annotation(f"c{n}", n, n, bodies=bodies, joints=joints) for n in range(3)]
        write_pyskl(tmp_path / f"{joints}.pkl", clips, split)

    def run(name, *options):
        paths = [f"--source={tmp_path / name}.pkl", f"--out={tmp_path / name}"]
        paths.append(f"--layout={ {'25': 'ntu25', '20': 'kinect20'}[name] }")  # noise has no shape
        arguments = ["--format=pyskl", "--workers=1", *paths, *options]
        return prepare.main(arguments)

    return run


def test_command_makes_one_layout_of_two_data_sets(command, tmp_path, capsys):
    for name in ("25", "20"):
        assert command(name, "--as-layout=kinect20", "--max-bodies=2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "3 clips of 3 classes, kinect20x2; splits: xsub 2 train, 1 test" in lines[0]
    assert lines[1] == (
        "taken from ntu25, bodies 2: spine base as hip centre, spine middle as spine, spine"
        " shoulder as shoulder centre; without neck, left hand tip, left thumb, right hand tip, right thumb"
    )
    assert "taken from kinect20, bodies 1: the same joints" in lines
    ntu, kinect = open_dataset(tmp_path / "25"), open_dataset(tmp_path / "20")
    assert ntu.layout == kinect.layout == get_layout("kinect20x2")
    one, two = load_frames(ntu), load_frames(kinect)
    assert one.shape == two.shape == (15, 2, 20, 3)
    assert one[:, 1].any() and not two[:, 1].any()
    raw = annotation("c0", 0, 0, bodies=1, joints=20)["keypoint"].astype(np.float32)
    expected = normalize_clip(raw.transpose(1, 0, 2, 3), KINECT20)
    np.testing.assert_array_equal(two[:5, :1], expected)


def test_command_takes_layouts_of_ones_own(command, tmp_path, capsys):
    joints = ["head", "left hand", "right hand", "spine base", "spine shoulder", "spine"]
    fields = {"joints": joints, "parents": [4, 4, 4, 5, 4, 4], "centre": 5, "spine": [3, 4]}
    file = write_layout(tmp_path / "six.json", name="six", **fields, shoulders=[2, 1])
    assert command("25", f"--as-layout={file}", "--max-bodies=1") == 0
    assert "spine middle as spine; without neck, left shoulder" in capsys.readouterr().out
    dataset = open_dataset(tmp_path / "25")
    assert dataset.layout.name == "sixx1" and dataset.layout.left == (1,)
    assert load_frames(dataset).shape == (15, 1, 6, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--as-layout=kinect"], "layout 'kinect' is not known; use one of kinect20"),
        (["--as-layout=none.json"], "none.json: cannot be read .*; check --as-layout"),
        (["--as-layout=ntu25"], "kinect20 has no joint that is ntu25's neck, left hand tip"),
        (["--as-layout=coco17"], "kinect20 has joints of 3 coordinates and coco17 of 2"),
    ],
)
def test_command_refuses_in_one_line(command, tmp_path, capsys, options, message):
    assert command("20", *options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    with pytest.raises(UserError, match=message):
        raise UserError(line)
    assert not (tmp_path / "20").exists()


# --- encoders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clips", "trained", "message"),
    [
        (NTU25, KINECT20X2, "trained on kinect20x2 and these clips are ntu25: prepare them again"
         " with --as-layout=kinect20x2"),
        (KINECT20, KINECT20X2, "these clips are kinect20: prepare them again"),
        (KINECT20, NTU25, "trained on ntu25: kinect20 has no joint that is ntu25's neck"),
        (own_layout(joints=HAND["joints"][::-1]), own_layout(name="other"), "--max-bodies=2"),
    ],
)  # fmt: skip
def test_an_encoder_refuses_clips_of_another_layout(monkeypatch, clips, trained, message):
    monkeypatch.setattr(load, "check_same_encoder", lambda *_: None)
    monkeypatch.setattr(checkpoint, "load_config", lambda *_: None)
    monkeypatch.setattr(checkpoint, "restore_state", lambda *_: (None, 7))
    described = {7: {"layout": describe_layout(trained)}}
    monkeypatch.setattr(checkpoint, "load_info", lambda _, step: described[step])
    with pytest.raises(UserError, match=message) as error:
        load.load_encoder("trained", tiny_config(), clips, "run")
    assert "\n" not in str(error.value)


def test_an_encoder_takes_clips_whose_joints_have_other_names():
    hand = {"layout": describe_layout(own_layout())}
    normalization.check_layout(own_layout(joints=["w", "t", "i", "m", "r", "l"]), hand)
    normalization.check_layout(own_layout(name="other"), hand)
    normalization.check_layout(KINECT20X2, {"layout": describe_layout(get_layout("kinect20x2"))})
