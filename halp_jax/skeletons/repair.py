"""What is mended in the frames of a clip before they are normalised: empty end, lost joints, rate.

A joint that was not found is (0, 0, 0) throughout this package. Readers may also give it as NaN where
the files do: such a joint is filled in if it was lost for a moment only, and else becomes (0, 0, 0).
"""

import numpy as np
from jaxtyping import Float

# Lost for longer, at 30 frames a second a sixth of one, a joint may have been anywhere.
MAX_GAP = 5

Frames = Float[np.ndarray, "time bodies joints xyz"]
Kept = Float[np.ndarray, "kept bodies joints xyz"]


def trim_end(frames: Frames) -> Kept:
    """Without the frames at the end in which nobody is seen, but one frame at least."""
    if frames[-1].any() and not np.isnan(frames[-1]).any():
        return frames
    seen = np.flatnonzero((np.abs(frames) > 0).any((1, 2, 3)))  # NaN is no more than 0
    return frames[: seen[-1] + 1 if len(seen) else 1]


def fill_gaps(frames: Frames, max_gap: int = MAX_GAP) -> Frames:
    """Without NaN; the same array if there is none.

    A joint that is NaN for `max_gap` frames or fewer goes straight from where it was seen last to
    where it is seen next. For longer, before its first frame and after its last it is (0, 0, 0).
    """
    nowhere = np.isnan(frames)
    if not nowhere.any():
        return frames
    lost = nowhere.any(-1)  # [time, bodies, joints]
    filled = np.where(lost[..., None], np.float32(0), frames)
    seen, count = filled.any(-1), len(frames)
    time = np.arange(count)[:, None, None]
    last = np.maximum.accumulate(np.where(seen, time, -1))
    following = np.minimum.accumulate(np.where(seen, time, count)[::-1])[::-1]
    short = lost & (last >= 0) & (following < count) & (following - last - 1 <= max_gap)
    row, body, joint = np.nonzero(short)
    begin, end = last[short], following[short]
    share = ((row - begin) / (end - begin))[:, None]
    filled[short] = (1 - share) * filled[begin, body, joint] + share * filled[end, body, joint]
    return filled


def resample(frames: Frames, rate: float, wanted: float) -> Kept:
    """The clip at `wanted` frames a second instead of `rate`, from its first frame on.

    Between two frames a joint moves straight; one that is missing in either of them is as in the
    nearer one, so nothing is drawn towards (0, 0, 0).
    """
    place = np.arange(count_resampled(len(frames), rate, wanted)) * (rate / wanted)
    low = np.minimum(place.astype(int), len(frames) - 1)
    high = np.minimum(low + 1, len(frames) - 1)
    share = np.clip(place - low, 0, 1).astype(np.float32)[:, None, None, None]
    before, after = frames[low], frames[high]
    both = before.any(-1, keepdims=True) & after.any(-1, keepdims=True)
    nearer = np.where(share < 0.5, before, after)
    return np.where(both, (1 - share) * before + share * after, nearer)


def count_resampled(count: int, rate: float, wanted: float) -> int:
    """How many frames `resample` makes of `count`."""
    return int((count - 1) * (wanted / rate) + 1e-6) + 1
