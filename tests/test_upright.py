"""The upright frame: the same clip from every side, people on their feet, and clips known again."""

import dataclasses

import numpy as np
import pytest
from _files import poses
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from halp_jax.datasets import Clip, Item, from_arrays
from halp_jax.datasets.preview import check_skeleton
from halp_jax.datasets.read_pool import Reading
from halp_jax.datasets.source import make_source
from halp_jax.skeletons.layout import (
    KINECT20,
    NTU25,
    describe_layout,
    get_layout,
    restore_layout,
)  # fmt: skip
from halp_jax.skeletons.normalize import looks_normalized, normalize_clip, view_clip
from halp_jax.skeletons.plausible import advise_on_spine

ANGLES = st.floats(-np.pi, np.pi)
# Axis and angle: every rotation there is.
ROTATIONS = st.tuples(ANGLES, ANGLES, ANGLES).map(lambda v: Rotation.from_euler("xyz", v))


def stand(layout, middle=(0.0, 0.3, 0.0)):
    """A person 3 m before the camera, y up, seen from the front: right side at +x. [1, 1, V, 3]"""
    place = {
        "spine base": (0, 0, 0), "spine middle": middle, "spine shoulder": (0, 0.5, 0),
        "neck": (0, 0.55, 0), "head": (0, 0.7, 0),
        "hip centre": (0, 0, 0), "spine": middle, "shoulder centre": (0, 0.5, 0),
    }  # fmt: skip
    place |= {"lower spine": (0, 0.15, 0), "chest": (0, 0.4, 0), "nose": (0, 0.68, -0.1)}
    for side, x in (("left", -1), ("right", 1)):
        place |= {f"{side} eye": (0.03 * x, 0.7, -0.1), f"{side} ear": (0.07 * x, 0.7, 0)}
        place[f"{side} collar"] = (0.05 * x, 0.5, 0)
        tilt = 0.01 * x  # shoulders 3 degrees off level
        place |= {
            f"{side} shoulder": (0.2 * x, 0.48 + tilt, 0), f"{side} elbow": (0.25 * x, 0.2 + tilt, 0),
            f"{side} wrist": (0.26 * x, -0.05, -0.05), f"{side} hand": (0.26 * x, -0.12, -0.05),
            f"{side} hand tip": (0.26 * x, -0.2, -0.05), f"{side} thumb": (0.22 * x, -0.12, -0.1),
            f"{side} hip": (0.1 * x, -0.05, 0), f"{side} knee": (0.1 * x, -0.45, 0),
            f"{side} ankle": (0.1 * x, -0.85, 0), f"{side} foot": (0.1 * x, -0.9, -0.1),
        }  # fmt: skip
    pose = np.array([place[joint] for joint in layout.joints])
    return pose[None, None] + (0, 0, 3)


def turned(clip, rotation, layout=NTU25):
    """The clip with everybody turned by a rotation about the first pose's centre."""
    middle = clip[0, 0, layout.centre]
    return (rotation.apply((clip - middle).reshape(-1, 3)).reshape(clip.shape) + middle).astype(
        np.float32
    )


def lean(clip, bottom, top):
    """Degrees between the z axis and a line of the first pose."""
    line = clip[0, 0, top] - clip[0, 0, bottom]
    return np.degrees(np.arccos(line[2] / np.linalg.norm(line)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(ROTATIONS, st.sampled_from(["ntu25", "kinect20", "kinect20x2"]), st.integers(0, 5))
def test_every_rotation_of_the_camera_gives_the_same_clip(rotation, name, seed):
    layout = get_layout(name)
    clip = poses(seed, 6, layout.bodies, layout.num_joints)
    clip[0, 0, layout.shoulders[0]] = clip[0, 0, layout.shoulders[1]] + (0.3, 0.1, -0.2)
    clip[0, 0, layout.spine[1]] = clip[0, 0, layout.spine[0]] + (0.1, 0.4, 0.1)
    ours = normalize_clip(clip.astype(np.float32), layout)
    seen = turned(clip, rotation, layout)
    np.testing.assert_allclose(normalize_clip(seen, layout), ours, atol=1e-5)
    assert looks_normalized(ours, layout) == "upright"
    assert looks_normalized(seen, layout) == ""


@settings(max_examples=40, deadline=None, derandomize=True)
@given(ANGLES, ANGLES, st.floats(0, np.pi / 4))
def test_whoever_is_within_45_degrees_of_upright_ends_upright(about, towards, tilt):
    axis = np.array([np.cos(towards), 0, np.sin(towards)])  # level
    rotation = Rotation.from_rotvec(tilt * axis) * Rotation.from_euler("y", about)
    for layout in (NTU25, KINECT20):
        ours = normalize_clip(turned(stand(layout), rotation, layout), layout)
        hips, neck = layout.joints.index("left hip"), layout.joints.index("head")
        middle = (ours[:, :, hips] + ours[:, :, layout.joints.index("right hip")]) / 2
        line = ours[0, 0, neck] - middle[0, 0]
        assert np.degrees(np.arccos(line[2] / np.linalg.norm(line))) < 5
        right, left = layout.shoulders
        assert (ours[0, 0, right] - ours[0, 0, left])[0] > 0.3


@pytest.mark.parametrize("degrees", [0, 45, 90, 120, 150, 170, 175, 178, 179, 180])
def test_a_person_seen_from_behind_stands_as_one_seen_from_the_front(degrees):
    front = normalize_clip(stand(NTU25).astype(np.float32), NTU25)
    about = Rotation.from_euler("y", degrees, degrees=True)
    behind = turned(stand(NTU25), about)
    np.testing.assert_allclose(normalize_clip(behind, NTU25), front, atol=1e-5)
    assert lean(front, 0, 20) < 0.01
    assert front[0, 0, 15, 1] > 0.05, "feet point forward, along +y"


def test_kinect_v1_stands_by_hips_and_shoulders_and_view_as_it_did():
    clip = stand(KINECT20, middle=(0, 0.06, 0.035)).astype(np.float32)
    assert lean(normalize_clip(clip, KINECT20), 0, 2) < 0.01
    assert lean(view_clip(clip, KINECT20), 0, 1) < 4, "shoulders are turned to x last"
    assert 25 < lean(view_clip(clip, KINECT20), 0, 2) < 35
    before = dataclasses.replace(KINECT20, name="before", spine=(0, 1), view_spine=None)
    np.testing.assert_array_equal(view_clip(clip, KINECT20), view_clip(clip, before))


def test_an_older_data_set_of_kinect20_still_opens():
    two = get_layout("kinect20x2")
    written = describe_layout(two) | {"spine": [0, 1]}
    del written["view_spine"]
    assert restore_layout(written) == two
    assert restore_layout(describe_layout(two)) == two
    with pytest.raises(Exception, match="'kinect20x2' is a known one and differs"):
        restore_layout(written | {"spine": [0, 3]})


def test_the_nearest_frame_with_a_shoulder_line_gives_it():
    clip = poses(3, 7, 1)
    right, left = NTU25.shoulders
    clip[:, 0, right] = clip[:, 0, left] + (0.3, 0.05, 0.1)
    clip[5, 0, right] = clip[5, 0, left] + (0.0, 0.1, 0.3)
    clip[:5, 0, right] = clip[:5, 0, left] + (0.001, 0, 0)  # on one point
    clip[1, 0, right] = clip[1, 0, left] + 1.2 * (clip[0, 0, 1] - clip[0, 0, 0])  # along the spine
    for frames, place in ((clip, 5), (clip[::-1], 0)):
        ours = normalize_clip(frames.astype(np.float32), NTU25)
        line = ours[place, 0, right] - ours[place, 0, left]
        assert line[0] > 0.05 and abs(line[1]) < 1e-6
        spine_line = ours[0, 0, 1] - ours[0, 0, 0]
        assert np.abs(spine_line[:2]).max() < 1e-6 and spine_line[2] > 0


def test_a_spine_on_one_point_waits_for_a_frame_that_has_one():
    clip = poses(3, 5, 1)
    clip[:2, 0, 1] = clip[:2, 0, 0] + 1e-4
    ours = normalize_clip(clip.astype(np.float32), NTU25)
    assert np.abs((ours[2, 0, 1] - ours[2, 0, 0])[:2]).max() < 1e-6
    right, left = NTU25.shoulders
    line = ours[2, 0, right] - ours[2, 0, left]  # of that frame, not of one before
    assert line[0] > 0.1 and abs(line[1]) < 1e-6
    clip = poses(3, 6, 1)
    clip[:2, 0, right] = 0  # a body that is not whole gives no frame
    ours = normalize_clip(clip.astype(np.float32), NTU25)
    lean = [np.abs((frame[0, 1] - frame[0, 0])[:2]).max() for frame in ours]
    assert lean[2] < 1e-6 and lean[0] > 1e-4


def test_without_shoulders_the_spine_alone_is_stood_up_head_first_or_not():
    clip = stand(NTU25)
    clip[:, :, NTU25.shoulders] = 0
    for rotation in (Rotation.identity(), Rotation.from_euler("x", 90, degrees=True)):
        for upside in (Rotation.identity(), Rotation.from_euler("x", 180, degrees=True)):
            seen = turned(clip, rotation * upside)
            seen[:, :, NTU25.shoulders] = 0
            assert lean(normalize_clip(seen, NTU25), 0, 20) < 0.1


@pytest.mark.parametrize("layout", [NTU25, KINECT20])
def test_clips_that_were_centred_or_turned_before_end_in_the_same_frame(layout):
    clip = poses(2, 8, layout.bodies, layout.num_joints).astype(np.float32)
    ours = normalize_clip(clip, layout)
    centred = clip - clip[:, :1, [layout.centre]]
    for other in (centred, view_clip(clip, layout), view_clip(clip, layout, True), ours):
        np.testing.assert_allclose(normalize_clip(other, layout), ours, atol=1e-5)
    assert looks_normalized(view_clip(clip, layout), layout) == "view"
    assert looks_normalized(ours.astype(np.float16), layout) == "upright"
    assert looks_normalized(centred, layout) == ""
    # A centre joint that is never seen is no origin: the spine cannot be measured.
    clip[:, :, layout.centre] = 0
    far = clip + np.float32(3) * clip.any(-1, keepdims=True)
    ours = normalize_clip(far, layout)
    assert np.isfinite(ours).all()
    if layout is NTU25:  # whose centre the spine begins at
        np.testing.assert_allclose(ours[..., 2], far[..., 2], atol=1e-5)


@pytest.mark.parametrize(
    "layout",
    [NTU25, KINECT20, *map(get_layout, ("body25", "h36m17", "smpl24", "azure32"))],
    ids=lambda x: x.name,
)
def test_the_origin_is_no_missing_joint_whichever_joint_it_is(layout):
    clip = poses(7, 6, 2, layout.num_joints)
    clip[..., 2] *= layout.axes == 3
    ours = normalize_clip(clip, layout)
    for joint in (*layout.spine, layout.centre, layout.root, 3):
        own = clip - clip[:, :1, [joint]]  # everybody around the first one's joint
        np.testing.assert_allclose(normalize_clip(own, layout), ours, atol=1e-5)
    # Where the camera stands no joint is: one that is never seen stays missing.
    clip[:, 0, 3] = 0
    assert not normalize_clip(clip + 3 * clip.any(-1, keepdims=True), layout)[:, 0, 3].any()


@pytest.mark.parametrize("name", ["h36m17", "smpl24", "azure32"])
def test_poses_of_others_stand_upright_from_the_camera_around_the_hips(name):
    layout = get_layout(name)
    camera = stand(layout).astype(np.float32) * (-1, -1, 1)  # x to the right, y down, z away
    frames = normalize_clip(camera - camera[:, :, :1], layout)[0, 0]
    place = dict(zip(layout.joints, frames, strict=True))
    assert place["head"][2] > 0.6 and place["left ankle"][2] < -0.8
    assert place["right shoulder"][0] - place["left shoulder"][0] == pytest.approx(0.4, abs=0.01)
    assert not place["hip centre"].any()


def test_a_short_spine_is_told_and_a_long_one_not():
    short = dataclasses.replace(KINECT20, name="short", spine=(0, 1), view_spine=None)
    clip = stand(KINECT20, middle=(0, 0.06, 0.035))
    line = advise_on_spine([clip, clip], short)
    assert line.startswith("hip centre to spine is short (8 % of the way") and "\n" not in line
    for layout, middle in ((KINECT20, (0, 0.06, 0.035)), (NTU25, (0, 0.3, 0))):
        raw = stand(layout, middle)
        assert advise_on_spine([raw], layout) is None
        assert advise_on_spine([normalize_clip(raw.astype(np.float32), layout)], layout) is None
    assert advise_on_spine([np.zeros((3, 1, 20, 3))], short) is None
    assert advise_on_spine([clip], dataclasses.replace(short, axes=2)) is None


def test_reading_tells_a_short_spine_of_ones_own_layout():
    short = dataclasses.replace(KINECT20, name="short", spine=(0, 1), view_spine=None)
    clip = stand(KINECT20, middle=(0, 0.06, 0.035)).astype(np.float32)
    reading = Reading(lambda item: [Clip(clip, 0, item.id)], short, 1, "upright")
    source = make_source("fake", reading.read, [Item("a", None), Item("b", None)], short, ["a"])
    note = check_skeleton(source, reading)
    assert note["spine"].startswith("hip centre to spine is short")
    taken = dataclasses.replace(reading, layout=KINECT20, as_layout=short)
    assert check_skeleton(dataclasses.replace(source, layout=KINECT20), taken) == note
    assert check_skeleton(source, dataclasses.replace(reading, normalize="none")) == {}
    fine = dataclasses.replace(short, spine=(0, 2))
    fitting = dataclasses.replace(source, layout=fine)
    assert check_skeleton(fitting, dataclasses.replace(reading, layout=fine)) == {}


def test_arrays_are_stood_upright_unless_asked():
    clip = poses(4, 6, 2).astype(np.float32)
    dataset = from_arrays([clip], None, layout="ntu25")
    assert dataset.metadata["normalize"] == "upright"
    np.testing.assert_array_equal(dataset.clip(0), normalize_clip(clip, NTU25))
