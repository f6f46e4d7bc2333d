"""What makes a clip sound, and the words for what does not."""

import dataclasses

import numpy as np
import pytest
from _files import poses

from halp_jax.datasets.clip import MAX_FRAMES, Clip, ClipInfo, DamagedClip, check_clip
from halp_jax.skeletons.layout import NTU25

SOUND = Clip(poses(0, 4, 2).astype(np.float32), 3, "a", 1, 2, 3, 4)


def test_a_sound_clip_passes_as_it_is():
    assert check_clip(SOUND, NTU25, 4) is SOUND
    assert SOUND.info == ClipInfo(3, "a", subject=1, camera=2, setup=3, performance=4)
    one = dataclasses.replace(SOUND, frames=SOUND.frames[:, :1])
    assert check_clip(one, NTU25, 4) is one
    assert check_clip(dataclasses.replace(SOUND, label=-1), NTU25, 4).label == -1
    lost = dataclasses.replace(SOUND, frames=SOUND.frames.copy())
    lost.frames[1, 0, 3] = np.nan  # a joint that was not found is no damage
    assert check_clip(lost, NTU25, 4) is lost


def test_remarks_are_kept_one_by_one():
    clip = SOUND.add_remark("one").add_remark("two, long", fps=5.0)
    assert (SOUND.remarks, clip.remarks, clip.fps) == ([], ["one", "two, long"], 5.0)


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (SOUND.frames.astype(np.float16), "float32, not float16"),
        (SOUND.frames[:, :, :20], "20 joints of 3 numbers, but ntu25 has 25 of 3"),
        (SOUND.frames[..., :2], "25 joints of 2 numbers"),
        (SOUND.frames[:0], "no frames"),
        (np.zeros((MAX_FRAMES + 1, 1, 25, 3), np.float32), "20001 frames, more than the limit"),
        (SOUND.frames[:, :0], "0 bodies, but ntu25 takes 1 to 2"),
        (np.concatenate([SOUND.frames, SOUND.frames], 1), "4 bodies"),
        (SOUND.frames * np.float32(np.nan), "NaN, so there is no body"),
        (np.where(np.arange(3) == 1, np.inf, SOUND.frames).astype(np.float32), "are infinite or"),
        (SOUND.frames * np.float32(1e7), "larger than 1e\\+06 metres"),
        (SOUND.frames * 0, "no body"),
    ],
)
def test_damaged_frames_are_refused_with_the_reason(frames, reason):
    with pytest.raises(DamagedClip, match=f"^clip a: .*{reason}.*; replace") as error:
        check_clip(dataclasses.replace(SOUND, frames=frames), NTU25, 4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [("fps", value, "its frame rate is") for value in (-1.0, 1e9, float("nan"), float("inf"))]
    + [("label", value, f"class is {value}, but classes run from 0 to 3") for value in (-2, 4)],
)
def test_a_label_and_a_rate_that_cannot_be_are_refused(field, value, reason):
    with pytest.raises(DamagedClip, match=reason):
        check_clip(dataclasses.replace(SOUND, **{field: value}), NTU25, 4)
