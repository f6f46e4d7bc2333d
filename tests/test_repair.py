"""Empty ends, lost joints and frame rates: what is mended in a clip, and what is left alone."""

import numpy as np
import pytest
from _files import poses

from halp_jax.datasets.clip import Clip, DamagedClip
from halp_jax.datasets.read_pool import (
    EMPTY_END,
    LOST_JOINTS,
    RESAMPLED,
    Repair,
    describe_rates,
    finish_clip,
    mend_clip,
)
from halp_jax.errors import UserError
from halp_jax.skeletons.layout import NTU25
from halp_jax.skeletons.repair import fill_gaps, resample, trim_end

CLIP = poses(1, 12, 2).astype(np.float32)


def ramp(count: int = 12) -> np.ndarray:
    """One body of two joints; x of both is 1 + the number of the frame."""
    frames = np.ones((count, 1, 2, 3), np.float32)
    frames[..., 0] += np.arange(count)[:, None, None]
    return frames


@pytest.mark.parametrize("empty", [0.0, np.nan])
def test_only_empty_frames_at_the_end_are_left_out(empty):
    padded = np.concatenate([CLIP, np.full((88, 2, 25, 3), empty, np.float32)])
    padded[:2] = empty  # zeros that lead stay, and a gap too
    padded[5] = empty
    np.testing.assert_array_equal(trim_end(padded), padded[:12])
    assert trim_end(CLIP) is CLIP
    assert len(trim_end(padded[12:])) == 1


def test_a_joint_lost_for_a_moment_is_filled_in_and_else_missing():
    frames = ramp()
    whole = frames.copy()
    frames[2:5, 0, 0] = np.nan  # three frames
    frames[6:10, 0, 1, 2] = np.nan  # one coordinate of four
    frames[0, 0, 1] = frames[11, 0, 0] = np.nan  # nothing before, nothing after
    filled = fill_gaps(frames, max_gap=3)
    missing = np.zeros((12, 1, 2), bool)
    missing[6:10, 0, 1] = missing[0, 0, 1] = missing[11, 0, 0] = True
    np.testing.assert_allclose(filled, np.where(missing[..., None], 0, whole), rtol=1e-6)
    missing[6:10] = False
    np.testing.assert_allclose(
        fill_gaps(frames, 4), np.where(missing[..., None], 0, whole), rtol=1e-6
    )
    assert not fill_gaps(frames, 0)[2:5, 0, 0].any() and np.isnan(frames[2, 0, 0]).all()
    assert fill_gaps(CLIP) is CLIP


def test_a_gap_is_not_filled_towards_a_joint_that_is_missing():
    frames = ramp(6)
    frames[1, 0, 0] = 0  # missing, as the file says
    frames[2, 0, 0] = np.nan
    np.testing.assert_array_equal(fill_gaps(frames)[:4, 0, 0, 0], [1, 0, 2.0 + 1, 4])
    frames[3:, 0, 0] = 0
    assert not fill_gaps(frames)[1:, 0, 0].any()


@pytest.mark.parametrize(
    ("rate", "wanted", "count"),
    [(480.0, 30.0, 3), (480.0, 60.0, 5), (30.0, 60.0, 65), (30.0, 25.0, 27), (120.0, 29.97, 8)],
)
def test_a_resampled_movement_takes_as_long(rate, wanted, count):
    frames = ramp(33)
    found = resample(frames, rate, wanted)
    assert found.shape == (count, 1, 2, 3) and found.dtype == np.float32
    seconds = (found[:, 0, 0, 0] - 1) / rate
    np.testing.assert_allclose(seconds, np.arange(count) / wanted, atol=1e-6)
    assert 32 / rate - 1 / wanted < seconds[-1] <= 32 / rate + 1e-6


def test_nothing_is_drawn_towards_what_is_missing():
    frames = np.concatenate([ramp(5), ramp(5)], 1)
    frames[2:, 1] = 0  # the second body leaves
    frames[1, 0, 1] = 0  # a joint is missing once
    found = resample(frames, 30.0, 120.0)
    assert len(found) == 17
    np.testing.assert_allclose(found[:, 0, 0, 0], 1 + np.arange(17) / 4)
    assert found[:7, 0, 1, 0].tolist() == [1, 1, 0, 0, 0, 0, 3]  # each as in the nearer frame
    np.testing.assert_allclose(found[:6, 1, 0, 0], [1, 1.25, 1.5, 1.75, 2, 2])
    assert not found[6:, 1].any()


def test_a_clip_is_mended_and_says_how():
    clip = Clip(np.concatenate([CLIP, 0 * CLIP]), 0, "a", remark="read")
    clip.frames[3, 0, 7] = np.nan
    mended = mend_clip(clip, Repair(fps=60.0, resample=30.0))
    assert (len(mended.frames), mended.fps) == (6, 30)
    np.testing.assert_array_equal(mended.frames[:, 1], CLIP[::2, 1])
    assert mended.remarks == ["read", EMPTY_END, LOST_JOINTS.format(5), RESAMPLED.format(30)]
    assert finish_clip(clip, NTU25, 1, "upright").frames.shape == CLIP.shape
    sound = Clip(CLIP, 0, "a", fps=30.0)
    assert mend_clip(sound, Repair(fps=15.0, resample=30.0)) is sound  # the file knows better
    assert mend_clip(Clip(CLIP, 0, "a"), Repair(fps=15.0)).fps == 15
    rounded = mend_clip(Clip(CLIP, 0, "a", fps=1 / 0.0333333), Repair(resample=30.0))
    assert len(rounded.frames) == len(CLIP) and not rounded.remark


def test_a_rate_must_be_known_and_a_clip_not_too_long():
    with pytest.raises(UserError, match="clip a: its file tells no frame rate .* --fps") as error:
        mend_clip(Clip(CLIP, 0, "a"), Repair(resample=30.0))
    assert not isinstance(error.value, DamagedClip)
    with pytest.raises(DamagedClip, match="clip a: 110001 frames at 10000 Hz, more than"):
        mend_clip(Clip(CLIP, 0, "a", fps=1.0), Repair(resample=1e4))
    for wrong in ({"max_gap": -1}, {"fps": float("nan")}, {"resample": 1e6}):
        with pytest.raises(UserError, match="give a number from 0 to"):
            Repair(**wrong)


@pytest.mark.parametrize(
    ("rates", "fps", "note"),
    [
        ([30.0, 30.0], 30, None),
        ([30.0, 30.0003], 30, None),
        ([0.0, 0.0], None, None),
        ([12.5, 480.0, 30.0], None, "12.5 to 480 Hz; take"),
        ([30.0, 0.0, 0.0], None, "30 Hz, 2 unknown; take"),
    ],
)
def test_frame_rates_of_a_data_set(rates, fps, note):
    found, notes = describe_rates(rates)
    assert found == fps and (note is None) == (notes == {})
    assert note is None or notes["frame rates"].startswith(note)
