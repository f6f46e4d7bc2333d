"""One clip of skeletons, and the checks that it must pass before anything is computed with it."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from halp_jax.errors import UserError
from halp_jax.skeletons.layout import Layout
from halp_jax.skeletons.layouts_known import fill_means

# The longest clips of NTU and PKU-MMD have about 300 and 2,000 frames; past this a file is broken.
MAX_FRAMES = 20_000
# Sensors see a few metres. Far beyond that, float32 arithmetic on squares is about to overflow.
MAX_COORDINATE = 1e6
# Motion capture runs at hundreds of frames a second. In Hz.
MAX_RATE = 10_000


class DamagedClip(UserError):  # noqa: N818 - the name says what it is, as the commands print it
    """One file or clip is damaged. The message names it, the reason, and what to do."""


@dataclasses.dataclass(frozen=True)
class ClipInfo:
    """A clip without its frames: what splits are made from. -1 stands for "not known".

    A clip of label -1 has no class: it is trained on, and left out where classes are compared."""

    label: int
    name: str
    subject: int = -1
    camera: int = -1
    setup: int = -1
    performance: int = -1


@dataclasses.dataclass(frozen=True)
class Clip:
    """frames [time, bodies, joints, xyz] float32 in metres, a 0-based label and where it is from.

    An absent body is all zeros. So is a joint that was not found; where the files have NaN for it, it
    may be NaN until `read_pool.finish_clip` has mended the clip. A label of -1 is a clip without one.
    `setup`, `camera`, `subject` and `performance` are numbered as the data set numbers them (so usually
    from 1); -1 stands for "not known". `remark` says what was changed in the clip, in words that are the
    same for all clips; `prepare` counts them, several with "; " between them one by one. `fps` is the
    frame rate in Hz, 0 where the file does not tell.
    """

    frames: Float[np.ndarray, "time bodies joints xyz"]
    label: int
    name: str
    subject: int = -1
    camera: int = -1
    setup: int = -1
    performance: int = -1
    remark: str = ""
    fps: float = 0.0

    def add_remark(self, remark: str, **changes: Any) -> "Clip":
        """The clip with one more remark and other fields changed."""
        remarks = "; ".join(filter(None, (self.remark, remark)))
        return dataclasses.replace(self, remark=remarks, **changes)

    @property
    def remarks(self) -> list[str]:
        return self.remark.split("; ") if self.remark else []

    @property
    def info(self) -> ClipInfo:
        return ClipInfo(
            self.label, self.name, self.subject, self.camera, self.setup, self.performance
        )


def check_clip(clip: Clip, layout: Layout, num_classes: int) -> Clip:
    """Returns `clip` when it is sound: see `find_damage` for what that means.

    Joints that are means of others are filled in here, where every clip of every reader passes.

    Raises:
        DamagedClip: naming the clip and what is wrong with it.
    """
    if layout.means and np.ndim(clip.frames) == 4:
        clip = dataclasses.replace(clip, frames=fill_means(clip.frames, layout))
    reason = find_damage(clip, layout, num_classes)
    if reason:
        raise DamagedClip(f"clip {clip.name}: {reason}; replace the file or leave it out")
    return clip


def find_damage(clip: Clip, layout: Layout, num_classes: int) -> str | None:
    """What is wrong with a clip, in words; None if nothing is."""
    frames = clip.frames
    if not isinstance(frames, np.ndarray) or frames.ndim != 4:
        return f"frames must be an array [time, bodies, joints, xyz], not {np.shape(frames)}"
    if frames.dtype != np.float32:
        return f"frames must be float32, not {frames.dtype}"
    time, bodies, joints, axes = frames.shape
    if joints != layout.num_joints or axes != 3:
        return f"{joints} joints of {axes} numbers, but {layout.name} has {layout.num_joints} of 3"
    if time == 0:
        return "it has no frames"
    if time > MAX_FRAMES:
        return f"it has {time} frames, more than the limit of {MAX_FRAMES}"
    if not 1 <= bodies <= layout.bodies:
        return f"it has {bodies} bodies, but {layout.name} takes 1 to {layout.bodies}"
    largest = np.fmax.reduce(np.abs(frames), axis=None)  # NaN only if all of them are
    if np.isnan(largest):
        return "every coordinate is NaN, so there is no body in it"
    if largest > MAX_COORDINATE:
        return f"coordinates are infinite or larger than {MAX_COORDINATE:g} metres"
    if largest == 0:
        return "every coordinate is zero, so there is no body in it"
    if not 0 <= clip.fps <= MAX_RATE:
        return f"its frame rate is {clip.fps} Hz"
    if not -1 <= clip.label < num_classes:
        return f"its class is {clip.label}, but classes run from 0 to {num_classes - 1}"
    return None
