"""The older normalisation against the released code's output, what both deviate in, and the edges.

The upright frame itself is held to its promises in test_upright.py.
"""

import dataclasses

import numpy as np
import pytest
from _files import poses

from halp_jax.skeletons.layout import KINECT20, NTU25
from halp_jax.skeletons.normalize import normalize_clip, view_clip

# Of the nine golden clips these two have gaps that the released code handles by accident.
GAP_BEFORE_SECOND_BODY, GAP_IN_FIRST_BODY = 6, 4


@pytest.fixture(scope="module")
def clips(golden):
    """(raw, out), each [clip, time, bodies, joints, xyz]."""
    arrays = golden("prenorm")
    return arrays["raw"].transpose(0, 2, 4, 3, 1), arrays["out"].transpose(0, 2, 4, 3, 1)


def relative_error(ours, theirs):
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), 1e-9)


@pytest.mark.parametrize("case", range(9))
def test_as_released_equals_the_released_code(clips, case):
    raw, out = clips
    assert relative_error(view_clip(raw[case], NTU25, as_released=True), out[case]) < 1e-5


@pytest.mark.parametrize("case", [0, 1, 2, 3, 5, 7, 8])
def test_view_equals_the_released_code_where_no_gap_is_mishandled(clips, case):
    raw, out = clips
    assert relative_error(view_clip(raw[case], NTU25), out[case]) < 1e-5


def test_deviation_others_stay_centred_while_the_first_body_is_gone(clips):
    raw, out = (each[GAP_IN_FIRST_BODY] for each in clips)
    ours = view_clip(raw, NTU25)
    gone = ~raw[:, 0].any((1, 2))
    assert gone.any()
    assert relative_error(ours[:, 0], out[:, 0]) < 1e-5
    assert relative_error(ours[~gone], out[~gone]) < 1e-5
    # The released code lets the second body jump by the distance to the camera.
    jump = np.linalg.norm(np.diff(ours[:, 1, 1], axis=0), axis=-1).max()
    assert np.linalg.norm(np.diff(out[:, 1, 1], axis=0), axis=-1).max() > 2 > 1 > jump
    assert_same_shape(normalize_clip(raw, NTU25), ours)


def test_deviation_a_late_second_body_keeps_its_time(clips):
    raw, out = (each[GAP_BEFORE_SECOND_BODY] for each in clips)
    ours = view_clip(raw, NTU25)
    seen = raw[:, 1].any((1, 2))
    first, last = np.flatnonzero(seen)[[0, -1]]
    assert first > 0
    assert relative_error(ours[:, 0], out[:, 0]) < 1e-5
    assert not ours[:first, 1].any(), "absent is zero, as everywhere"
    # The distance between the two bodies is the raw one: they share their time.
    raw_distance = np.linalg.norm(raw[:, 1] - raw[:, 0], axis=-1)[seen]
    assert np.allclose(np.linalg.norm(ours[:, 1] - ours[:, 0], axis=-1)[seen], raw_distance)
    assert ours[last + 1 :, 1].any((1, 2)).all(), "the end is filled by repeating"
    assert_same_shape(normalize_clip(raw, NTU25), ours)


def assert_same_shape(upright, view):
    """One is the other as a rigid body: gaps are handled alike."""
    np.testing.assert_array_equal(upright.any(-1), view.any(-1))
    np.testing.assert_allclose(
        np.linalg.norm(upright, axis=-1), np.linalg.norm(view, axis=-1), atol=1e-5
    )


def upright(clip):
    """The clip with the first body's spine at right angles to its shoulder line in frame 0."""
    clip = clip.copy()
    clip[0, 0, 0] = clip[0, 0, 1] - (0.1, 0.3, 0.0)
    clip[0, 0, 8] = clip[0, 0, 4] + (0.3, -0.1, 0.2)
    return clip


def test_view_does_not_depend_on_the_camera_where_spine_and_shoulders_are_at_right_angles():
    clip = upright(poses(1, 10, 2).astype(np.float32))
    turn, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))
    turn *= np.sign(np.linalg.det(turn))
    moved = (clip @ turn.T + (0.5, -1.0, 2.0)).astype(np.float32)
    ours = view_clip(clip, NTU25)
    np.testing.assert_allclose(view_clip(moved, NTU25), ours, atol=1e-5)
    np.testing.assert_allclose(normalize_clip(clip, NTU25), ours, atol=1e-5)


@pytest.mark.parametrize("layout", [NTU25, KINECT20])
def test_first_frame_stands_on_the_axes(layout):
    clip = poses(3, 6, layout.bodies, layout.num_joints).astype(np.float32)
    for normalize in (normalize_clip, view_clip):
        ours = normalize(clip, layout)
        assert ours.shape == clip.shape and ours.dtype == np.float32
        assert not ours[:, 0, layout.centre].any(), "the centre joint is the origin of every frame"
        right, left = layout.shoulders
        x, y, z = ours[0, 0, right] - ours[0, 0, left]
        assert x > 0 and abs(y) < 1e-6 and (abs(z) < 1e-6) == (normalize is view_clip)
        bottom, top = layout.spine
        x, y, z = ours[0, 0, top] - ours[0, 0, bottom]
        assert (z > 0 and max(abs(x), abs(y)) < 1e-6) == (normalize is normalize_clip)
        lengths = np.linalg.norm(clip[..., 3, :] - clip[..., 7, :], axis=-1)
        assert np.allclose(np.linalg.norm(ours[..., 3, :] - ours[..., 7, :], axis=-1), lengths)


def test_frames_in_which_nobody_is_seen_move_to_the_end_and_are_filled():
    clip = poses(4, 10, 2).astype(np.float32)
    clip[:3] = 0
    ours = normalize_clip(clip, NTU25)
    np.testing.assert_array_equal(ours[:7], normalize_clip(clip[3:], NTU25))
    np.testing.assert_array_equal(ours[7:], ours[:3])


def test_first_body_that_comes_late_still_gives_the_directions():
    clip = poses(5, 10, 2).astype(np.float32)
    clip[:4, 0] = 0
    ours = normalize_clip(clip, NTU25)
    assert np.isfinite(ours).all()
    right, left = NTU25.shoulders
    assert abs((ours[4, 0, right] - ours[4, 0, left])[1]) < 1e-6
    raw_shape = clip[:, 1] - clip[:, 1, :1]
    lengths = np.linalg.norm(ours[:, 1] - ours[:, 1, :1], axis=-1)
    assert np.allclose(lengths, np.linalg.norm(raw_shape, axis=-1), atol=1e-5)
    assert np.abs(ours[:4, 1]).max() < 4, "centred on where the first body appears"


def test_only_the_second_body_present_is_taken_as_the_reference():
    clip = poses(6, 5, 2).astype(np.float32)
    clip[:, 0] = 0
    ours = normalize_clip(clip, NTU25)
    assert not ours[:, 0].any()
    np.testing.assert_allclose(ours[:, 1], normalize_clip(clip[:, ::-1].copy(), NTU25)[:, 0])


def test_degenerate_axes_leave_the_clip_unturned():
    clip = poses(7, 5, 1).astype(np.float32)
    layout = dataclasses.replace(NTU25, spine=(3, 3), shoulders=(5, 5))
    centred = clip - clip[:, :1, 1:2]
    np.testing.assert_allclose(normalize_clip(clip, layout), centred, atol=1e-6)

    missing = clip.copy()
    missing[:, :, [0, 8]] = 0  # neither the spine nor the shoulders can be measured anywhere
    ours = normalize_clip(missing, NTU25)
    assert np.isfinite(ours).all() and not ours[:, :, [0, 8]].any()

    one_point = np.full((3, 2, 25, 3), 2.0, np.float32)
    assert not normalize_clip(one_point, NTU25).any()
    empty = np.zeros((3, 2, 25, 3), np.float32)
    assert not normalize_clip(empty, NTU25).any()


def test_single_frame_and_upright_clip():
    clip = upright(poses(8, 1, 1).astype(np.float32))
    ours = normalize_clip(clip, NTU25)
    assert ours.shape == (1, 1, 25, 3) and np.isfinite(ours).all()
    spine = ours[0, 0, 1] - ours[0, 0, 0]
    assert np.allclose(spine, (0, 0, np.linalg.norm(spine)), atol=1e-6)
    np.testing.assert_allclose(normalize_clip(ours, NTU25), ours, atol=1e-6)
