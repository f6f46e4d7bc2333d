"""The embedded data set: bodies, actions, sensor, reader, and how hard it is."""

import pickle

import numpy as np
import pytest

from halp_jax.datasets import synthetic as reader
from halp_jax.datasets.clip import check_clip
from halp_jax.errors import UserError
from halp_jax.skeletons import body, synthetic
from halp_jax.skeletons.actions import ACTIONS
from halp_jax.skeletons.layout import NTU25
from halp_jax.skeletons.normalize import normalize_clip

HEAD, FEET = 3, [14, 15, 18, 19]
CLASSES = len(synthetic.CLASS_NAMES)


@pytest.fixture(scope="module")
def motions():
    """(action, motion before the sensor) of six clips of every class."""
    return [(ACTIONS[i % CLASSES], synthetic.perform(0, i)[0]) for i in range(6 * CLASSES)]


def pose(near_is_left=True, **channels):
    rng = np.random.default_rng(0)
    values = np.zeros((3, len(body.CHANNELS)))
    for name, value in channels.items():
        values[:, body.CHANNEL[name]] = value
    return body.pose_body(values, body.plot_bones(rng), near_is_left)[0]


def forward_of(people):
    """Unit vector [time, people, xyz] that a body faces: up x forward is its left."""
    left = people[..., 12, :] - people[..., 16, :]
    ahead = np.cross(left, [0.0, 1.0, 0.0])
    return ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)


def test_bones_keep_their_length(motions):
    parents = list(NTU25.parents)
    for _, motion in motions:
        lengths = np.linalg.norm(motion - motion[:, :, parents], axis=-1)
        np.testing.assert_allclose(lengths, lengths[:1].repeat(len(lengths), 0), atol=1e-9)
        left, right = list(NTU25.left), list(NTU25.right)
        np.testing.assert_allclose(lengths[..., left], lengths[..., right], atol=1e-9)
        assert lengths[0].sum(-1).min() > 2.5  # metres of bone in a person, not in a doll


def test_a_subject_has_the_same_body_in_all_clips():
    one, other = 0, 60 * CLASSES  # the same subject and camera come again after 60 repetitions
    parents = list(NTU25.parents)
    lengths = []
    for index in (one, other):
        motion = synthetic.perform(0, index)[0][0, 0]
        lengths.append(np.linalg.norm(motion - motion[parents], axis=-1))
    assert synthetic.clip_facts(one)[1] == synthetic.clip_facts(other)[1]
    np.testing.assert_allclose(*lengths, atol=1e-9)


def test_the_lowest_foot_is_on_the_floor(motions):
    for action, motion in motions:
        lowest = motion[:, :, FEET, 1].min(-1)
        if action.name == "jump":
            assert 0.1 < lowest.max() < 0.6
        else:
            np.testing.assert_allclose(lowest, 0, atol=1e-9)


@pytest.mark.parametrize("near_is_left", [True, False])
def test_channels_do_what_their_names_say(near_is_left):
    near = np.array(NTU25.left if near_is_left else NTU25.right)
    hand, foot = (near[list(NTU25.left).index(joint)] for joint in (7, 15))
    outward = 1 if near_is_left else -1
    stand = pose(near_is_left)
    assert stand[HEAD, 1] > 1.3 and stand[hand, 1] < stand[0, 1] + 0.1
    assert pose(near_is_left, **{"raise": 170})[hand, 1] > stand[HEAD, 1]
    assert pose(near_is_left, **{"raise": 90})[hand, 2] > 0.3
    assert outward * pose(near_is_left, open=90)[hand, 0] > 0.5
    assert pose(near_is_left, elbow=90)[hand, 2] > 0.15
    assert pose(near_is_left, hip=60)[foot, 2] > pose(near_is_left, knee=60)[foot, 2] + 0.3
    assert pose(near_is_left, bend=60)[HEAD, 2] > 0.3
    assert outward * pose(near_is_left, side=30)[HEAD, 0] > 0.1
    turned = pose(near_is_left, heading=90, bend=60)
    assert outward * (turned[HEAD, 0] - turned[0, 0]) > 0.3  # forward is now the near side


def test_the_other_hand_is_the_mirror_image():
    moves = {"raise": 70, "roll": 20, "open": 30, "elbow": 40, "far_raise": 15, "hip": 30,
             "far_knee": 40, "spread": 10, "twist": 25, "side": 12, "look": 30, "heading": 50,
             "tilt": 5, "go": 0.3}  # fmt: skip
    left, right = pose(True, **moves), pose(False, **moves)
    swap = np.arange(25)
    swap[list(NTU25.left)], swap[list(NTU25.right)] = NTU25.right, NTU25.left
    np.testing.assert_allclose(left, right[swap] * [-1, 1, 1], atol=1e-12)


def test_walking_goes_where_its_name_says(motions):
    for action, motion in motions:
        if action.name.startswith("walk"):
            walked = (motion[-1, 0, 0] - motion[0, 0, 0]) @ forward_of(motion[:, 0]).mean(0)
            assert (walked if action.name == "walk forward" else -walked) > 0.25


def test_two_people_face_each_other_and_touch(motions):
    hands, closest = [6, 7, 10, 11], []
    for action, motion in motions:
        if not action.partner:
            continue
        facing = forward_of(motion)
        assert (facing[:, 0] * facing[:, 1]).sum(-1).mean() < -0.8
        one, two = motion[:, 0], motion[:, 1]
        gaps = [(one[:, hands], two), (two[:, hands], one)]
        closest.append(min(np.linalg.norm(a[:, :, None] - b[:, None], axis=-1).min()
                           for a, b in gaps))  # fmt: skip
    assert len(closest) == 24 and np.median(closest) < 0.15 and max(closest) < 0.45


def test_clips_are_pure_in_seed_and_index():
    forward = [synthetic.make_clip(3, index) for index in (0, 17, 41)]
    again = [synthetic.make_clip(3, index) for index in (41, 17, 0)][::-1]
    for one, two in zip(forward, again, strict=True):
        np.testing.assert_array_equal(one, two)
    same_class = synthetic.make_clip(3, 17 + CLASSES)
    assert same_class.shape != forward[1].shape or not np.allclose(same_class, forward[1])
    other_seed = synthetic.make_clip(4, 17)
    assert other_seed.shape != forward[1].shape or not np.allclose(other_seed, forward[1])


def test_facts_are_balanced():
    facts = np.array([synthetic.clip_facts(index) for index in range(60 * CLASSES)])
    assert len({tuple(row) for row in facts[:, :3]}) == len(facts)  # label x subject x camera
    assert np.unique(facts[:, 1]).tolist() == list(range(1, 21))
    assert np.unique(facts[:, 2]).tolist() == [1, 2, 3]
    assert np.unique(facts[:, 3]).tolist() == [1, 2, 3, 4, 5, 6]
    rows = [tuple(row) for row in facts]
    assert [synthetic.clip_facts(index) for index in range(5)] == rows[:5]


def test_raw_clips_are_sound():
    lengths = []
    for index in range(6 * CLASSES):
        (clip,) = reader.read_item(reader.Item("", index), seed=0)
        assert check_clip(clip, NTU25, CLASSES) is clip
        np.testing.assert_array_equal(clip.frames, synthetic.make_clip(0, index))
        assert clip.frames.shape[1:] == (2, 25, 3) and 40 <= len(clip.frames) <= 160
        lengths.append(len(clip.frames))
        assert clip.frames[:, 1].any() == bool(ACTIONS[clip.label].partner)
        seen = clip.frames[clip.frames.any(-1)]
        assert 0.8 < np.percentile(seen[:, 2], 1) and seen[:, 2].max() < 7.5
        assert np.abs(seen[:, 0]).max() < 3
    assert max(lengths) - min(lengths) > 60


def test_the_sensor_makes_mistakes():
    frozen = zero = empty = late = 0
    trunk, stay = [0, 1, 2, 4, 8, 12, 16, 20], []  # the sensor never loses these joints
    for index in range(6 * CLASSES):
        frames = synthetic.make_clip(0, index)
        nobody, bodies = ~frames.any((1, 2, 3)), frames.any((0, 2, 3))
        there = frames[1:][:, bodies].any((2, 3))  # [time, body]
        still = ~np.diff(frames[:, bodies], axis=0).any(-1) & there[..., None]
        gone = still & ~frames[1:, bodies].any(-1)
        zero += gone.sum()
        frozen += (still & ~gone).sum()
        empty += nobody.any()
        stay.append(still.mean((0, 1)))
        assert not still[..., trunk].any()
        late += bodies.all() and not nobody[0] and not frames[0, 1].any()
        assert (still.mean((0, 2)) < 0.3).all()  # else everything trembles
    assert np.mean(stay, axis=0).max() < 0.05  # of each joint: what is seen trembles
    assert frozen > 100 and zero > 20 and late
    assert 0.05 < empty / (6 * CLASSES) < 0.5


def test_cameras_differ_and_stand_where_ntu_has_them():
    angles = {}
    for index in range(3 * CLASSES):
        label, _, camera, *_ = synthetic.clip_facts(index)
        frames = synthetic.make_clip(0, index).astype(np.float64)
        if ACTIONS[label].partner or not frames[0].any():
            continue
        forward = forward_of(frames[frames.any((1, 2, 3)), :1]).mean((0, 1))
        angles.setdefault(camera, []).append(np.degrees(np.arctan2(forward[0], -forward[2])))
    mean = {camera: np.median(values) for camera, values in angles.items()}
    assert abs(mean[1]) < 20 and 25 < abs(mean[2]) < 65 and mean[2] * mean[3] < 0


def test_source_is_complete_and_picklable():
    source = reader.open_source("", clips=120, seed=1)
    assert source.layout is NTU25 and source.class_names == synthetic.CLASS_NAMES
    assert len(source.items) == 6 * CLASSES and len(set(source.class_names)) == CLASSES >= 10
    read = pickle.loads(pickle.dumps(source.read))
    clips = [clip for item in source.items for clip in read(item)]
    np.testing.assert_array_equal(clips[5].frames, synthetic.make_clip(1, 5))
    by_name = {clip.name: clip for clip in clips}
    assert len(by_name) == len(clips)
    assert clips[0].name == "S002C001P001R001A001"
    splits = source.splits([clip.info for clip in clips])
    assert set(splits) == {"xsub", "xview"}
    for parts in splits.values():
        assert sorted(parts["train"] + parts["test"]) == sorted(by_name)
        for part in parts.values():
            assert {by_name[name].label for name in part} == set(range(CLASSES))
    subjects = [{by_name[n].subject for n in splits["xsub"][part]} for part in ("train", "test")]
    assert not subjects[0] & subjects[1]
    assert {by_name[n].camera for n in splits["xview"]["test"]} == {1}


def test_number_of_clips_may_be_given():
    assert len(reader.open_source(clips=33).items) == 33


@pytest.mark.parametrize("options", [{"clips": 0}, {"clips": -1}, {"seed": -1}])
def test_bad_options_are_refused(options):
    with pytest.raises(UserError, match="give a number from"):
        reader.open_source("", **options)


def test_single_poses_do_not_tell_the_classes():
    """Time matters: the mean pose says little, raw coordinates leave much to learn."""
    clips = [synthetic.make_clip(0, index) for index in range(24 * CLASSES)]
    facts = np.array([synthetic.clip_facts(index) for index in range(len(clips))])
    sampled = []
    for clip in clips:
        places = np.linspace(0, len(clip) - 1, 32).round().astype(int)
        sampled.append(normalize_clip(clip, NTU25)[places])
    sampled = np.stack(sampled)
    train = facts[:, 1] % 2 == 1

    def score(features):
        flat = features.reshape(len(features), -1)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        guess = facts[train, 0][(flat[~train] @ flat[train].T).argmax(1)]
        return (guess == facts[~train, 0]).mean()

    assert score(sampled.mean(1)) < 0.45
    assert 0.40 < score(sampled) < 0.75
