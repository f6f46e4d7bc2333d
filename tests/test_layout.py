"""Layouts: consistent indices, bones that form a tree, and the errors of `get_layout`."""

import numpy as np
import pytest

from halp_jax.errors import UserError
from halp_jax.skeletons.layout import KINECT20, LAYOUTS, NTU25, get_layout

# The pairs (joint, parent) of the released bone stream, counted from 1.
BONES = (
    "1-2 2-21 3-21 4-3 5-21 6-5 7-6 8-7 9-21 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 18-17 "
    "19-18 20-19 21-21 22-23 23-8 24-25 25-12"
)


def test_ntu25_has_the_bones_of_the_released_code():
    pairs = [tuple(int(n) for n in bone.split("-")) for bone in BONES.split()]
    assert len(pairs) == NTU25.num_joints == 25
    for joint, parent in pairs:
        assert NTU25.parents[joint - 1] == parent - 1


def test_sizes_and_bodies():
    assert (KINECT20.num_joints, KINECT20.bodies) == (20, 1)
    assert (NTU25.num_joints, NTU25.bodies) == (25, 2)
    assert (NTU25.centre, NTU25.spine, NTU25.shoulders) == (1, (0, 1), (8, 4))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_bones_form_one_tree(layout):
    parents = np.array(layout.parents)
    joints = np.arange(layout.num_joints)
    assert (parents == joints).sum() == 1, "one root"
    ancestors = joints
    for _ in joints:
        ancestors = parents[ancestors]
    assert len(set(ancestors)) == 1, "every joint reaches the root"


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_sides_mirror_each_other_by_name_and_bone(layout):
    mirror = dict(zip(layout.left + layout.right, layout.right + layout.left, strict=True))
    assert len(mirror) == 2 * len(layout.left)
    for left, right in zip(layout.left, layout.right, strict=True):
        assert layout.joints[left].replace("left", "right") == layout.joints[right]
        parent = layout.parents[left]
        assert mirror.get(parent, parent) == layout.parents[right]
    for joint in set(range(layout.num_joints)) - set(mirror):
        assert "left" not in layout.joints[joint] and "right" not in layout.joints[joint]
    assert "right shoulder" == layout.joints[layout.shoulders[0]]
    assert "left shoulder" == layout.joints[layout.shoulders[1]]


def test_a_layout_can_be_a_key_and_get_layout_names_the_known_ones():
    assert {get_layout("ntu25"): 1}[NTU25] == 1
    assert get_layout("kinect20") is KINECT20
    with pytest.raises(UserError, match="'coco' is not known; use one of kinect20, ntu25"):
        get_layout("coco")
