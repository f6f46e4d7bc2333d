"""Joints by meaning: spellings, names that depend on their neighbours, sides of own layouts."""

import dataclasses

import pytest
from _motion import JOINTS, MIXAMO

from halp_jax.errors import UserError
from halp_jax.skeletons.common import find_joints, match_joints
from halp_jax.skeletons.layout import (
    H36M17,
    KINECT20,
    MOCAP_LAYOUTS,
    NTU25,
    get_layout,
    guess_layout,
    parse_layout,
)
from halp_jax.skeletons.names import find_meanings, split_side


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("LeftArm", "left shoulder"), ("left_arm", "left shoulder"), ("L_Shoulder", "left shoulder"),
        ("mixamorig:LeftArm", "left shoulder"), ("LShoulder", "left shoulder"),
        ("ShoulderLeft", "left shoulder"), ("UpperArm_L", "left shoulder"), ("lShldr", "left shoulder"),
        ("hip centre", "hip centre"), ("Hip Center", "hip centre"), ("Hips", "hip centre"),
        ("SpineBase", "spine base"), ("SpineMid", "spine middle"), ("RightUpLeg", "right hip"),
        ("Rwrist", "right wrist"), ("rhand", "right hand"), ("LeftLeg", "left knee"),
        ("HandTipLeft", "left hand tip"), ("LHipJoint", "left hip joint"),
        ("lowerback", "lowerback"), ("leg", "leg"), ("Head", "head"),
    ],
)  # fmt: skip
def test_a_joint_means_the_same_in_every_spelling(name, meaning):
    assert find_meanings([name]) == (meaning,)


def test_what_a_name_means_depends_on_the_others():
    assert find_meanings(["LeftShoulder", "LeftArm"]) == ("left collar", "left shoulder")
    assert find_meanings(["LeftCollar", "LeftShoulder"]) == ("left collar", "left shoulder")
    hands = ("LeftHand", "LeftHandMiddle1"), ("LeftWrist", "lhand"), ("LeftHand", "LeftHand end")
    assert [find_meanings(each) for each in hands] == [("left wrist", "left hand")] * 3
    assert find_meanings(["LeftHand", "RightHandMiddle1"])[0] == "left hand"
    assert find_meanings(["LeftFoot", "LeftToeBase"]) == ("left ankle", "left foot")
    assert find_meanings(["LeftAnkle", "LeftFoot", "LeftToe"])[1:] == ("left foot", "left toes")
    assert find_meanings(["lowerneck", "Neck"]) == ("neck", "upper neck")
    assert find_meanings(["Chest", "Chest2"]) == ("spine", "chest 2")
    assert find_meanings(["Spine", "Chest"]) == ("spine", "chest")
    biped = ["Bip01", "Bip01 Pelvis", "Bip01 L Thigh", "Bip01 R Thigh"]
    assert find_meanings(biped)[1:] == ("hip centre", "left hip", "right hip")


def test_known_layouts_mean_what_they_say():
    others = map(get_layout, ("smpl24", "azure32"))
    for layout in (NTU25, KINECT20, H36M17, *others, *MOCAP_LAYOUTS):
        assert find_meanings(layout.joints) == layout.joints


def test_a_layout_is_taken_to_another_whatever_its_spelling():
    mixamo = dataclasses.replace(KINECT20, name="mixamo", joints=tuple(MIXAMO[j] for j in JOINTS))
    joints = match_joints(mixamo, KINECT20)
    assert [mixamo.joints[place] for place in joints] == [MIXAMO[j] for j in KINECT20.joints]
    # With toes behind it, what a file calls its left foot is an ankle.
    ankle = find_joints(("left foot", "left toes"), ("left ankle", "left foot"))
    assert ankle == {"left ankle": 0, "left foot": 1}
    # A layout in a file's own names is taken at its word.
    assert find_joints(("LeftArm", "LeftShoulder"), ("LeftShoulder",)) == {"LeftShoulder": 1}
    assert find_joints(("LeftHand",), ("left wrist",)) == {"left wrist": 0}


def test_layouts_of_motion_capture_are_parts_of_kinect20_and_never_guessed():
    for name, count in (("mocap18", 18), ("mocap17", 17), ("mocap15", 15)):
        layout = get_layout(name)
        assert layout.num_joints == count and guess_layout(count, 3) is None
        bones = {(layout.joints[j], layout.joints[p]) for j, p in enumerate(layout.parents)}
        there = {(KINECT20.joints[j], KINECT20.joints[p]) for j, p in enumerate(KINECT20.parents)}
        assert bones - there <= {("hip centre", "shoulder centre")}
        assert [layout.joints[j] for j in layout.shoulders] == ["right shoulder", "left shoulder"]
        assert [layout.joints[j] for j in layout.spine] == ["hip centre", "shoulder centre"]
        assert len(layout.left) == len(layout.right) == (count - 3) // 2
        assert match_joints(NTU25, layout) and match_joints(KINECT20, layout)


def own(**changes):
    """Six joints with the names of animators, of which LeftArm and RightArm are a pair."""
    joints = ["Hips", "Neck", "LeftArm", "RightArm", "LeftUpLeg", "RightUpLeg"]
    parents = ["Hips", "Hips", "Neck", "Neck", "Hips", "Hips"]
    fields = {"name": "mocap6", "joints": joints, "parents": parents, "bodies": 1}
    fields |= {"centre": "Hips", "spine": ["Hips", "Neck"], "shoulders": ["RightArm", "LeftArm"]}
    return parse_layout(fields | changes, "mine.json")


def test_sides_of_own_layouts_are_found_whatever_the_spelling():
    assert (own().left, own().right) == ((2, 4), (3, 5))
    short = ["hips", "neck", "LArm", "RArm", "LThigh", "RThigh"]
    numbers = {"parents": [0, 0, 1, 1, 0, 0], "centre": 0, "spine": [0, 1], "shoulders": [3, 2]}
    assert own(joints=short, **numbers).right == (3, 5)
    unlike = ["hips", "neck", "LArm", "RHumerus", "LThigh", "RFemur"]
    with pytest.raises(
        UserError, match="no left one has a right one like it; give the fields left"
    ):
        own(joints=unlike, **numbers)
    given = own(joints=unlike, **numbers, left=[2, 4], right=[3, 5])
    assert given.left == (2, 4)
    assert split_side("LeftUpLeg") == ("left", "up leg")
