"""The embedded data set: clips of 25-joint motion made from nothing, for demos and tests.

People of different size, posture, pace and handedness do the actions of `actions.py` somewhere in
a clip of 40 to 160 frames (30 a second), idle before and after, while the limbs that the action
does not need do something else. One of three cameras sees them, with the noise, lost joints and
missing frames of a depth sensor. Nothing of it is recorded from anyone, and none of it is NTU.

A clip is a pure function of (seed, index): `make_clip` may be called in any order, on any machine.
Subject, camera and class of a clip follow from its index alone and are balanced.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from halp_jax.skeletons.actions import ACTIONS, SEAT, Action, Keys, Swing
from halp_jax.skeletons.body import CHANNEL, CHANNELS, NUM_JOINTS, plot_bones, pose_body
from halp_jax.skeletons.kinematics import rotate_about

CLASS_NAMES = tuple(action.name for action in ACTIONS)
NUM_SUBJECTS, NUM_CAMERAS, NUM_SETUPS = 20, 3, 6
_CAMERA_ANGLES = (0.0, -45.0, 45.0)  # degrees about the vertical, as in NTU's rooms
# Joints that a sensor follows badly, and groups that it loses together.
_RESTLESS = [7, 11, 15, 19, 21, 22, 23, 24]
_GROUPS = ([6, 7, 21, 22], [10, 11, 23, 24], [5], [9], [14, 15], [18, 19], [15], [19], [3], [22])
FRAMES = (40, 160)
_ARMS = ("raise", "roll", "open", "elbow", "wrist")
_FAR_ARMS = tuple(f"far_{name}" for name in _ARMS)
# How a person may hold an arm at rest: hanging, bent before the body, on the hip, on the back.
_ARM_RESTS = (
    {"raise": 2, "open": 8, "elbow": 14},
    {"raise": 18, "open": 4, "elbow": 78, "roll": -34},
    {"raise": -14, "open": 36, "elbow": 88, "roll": -30},
    {"raise": -18, "open": 6, "elbow": 40, "roll": -45},
)


@dataclasses.dataclass(frozen=True)
class _Person:
    bones: np.ndarray
    posture: np.ndarray  # [channels], added to every pose
    vigour: float  # scales how far movements go
    pace: float
    restless: float  # scales idle movement
    right_handed: float  # how likely the right side leads


def clip_facts(index: int) -> tuple[int, int, int, int, int]:
    """(label, subject, camera, setup, performance) of a clip, the latter four counted from 1.

    Within a class, all pairs of subject and camera come once before any comes again.
    """
    performance, label = divmod(index, len(ACTIONS))
    subject = (performance * 7 + label * 3) % NUM_SUBJECTS + 1
    setup = (performance // 60 + subject) % NUM_SETUPS + 1
    return label, subject, performance % NUM_CAMERAS + 1, setup, performance + 1


def make_clip(seed: int, index: int) -> Float[np.ndarray, "time 2 25 3"]:
    """Frames of clip `index` of the data set `seed`, as a sensor would deliver them, float32.

    Metres in the frame of the camera: y up, z away from it. Pure in (seed, index).
    """
    _, _, camera, setup, _ = clip_facts(index)
    motion, rng = perform(seed, index)
    return _sense(rng, _place_before_camera(rng, motion, camera, setup))


def perform(
    seed: int, index: int
) -> tuple[Float[np.ndarray, "time people 25 3"], np.random.Generator]:
    """The clip as it happens in the room, metres, y up; and the generator from which the sensor draws."""
    label, subject, *_ = clip_facts(index)
    action, rng = ACTIONS[label], _generator(seed, 0, index)
    people = [_plot_person(seed, subject)]
    if action.partner:
        other = (subject + int(rng.integers(1, NUM_SUBJECTS))) % NUM_SUBJECTS + 1
        people.append(_plot_person(seed, other if other != subject else other % NUM_SUBJECTS + 1))
    moments = _plot_moments(rng, people[0].pace)
    return _act(rng, action, people, moments), rng


def _generator(seed: int, *words: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *words))))


def _plot_person(seed: int, subject: int) -> _Person:
    """The body and habits of a subject, the same in all clips of a data set."""
    rng = _generator(seed, 1, subject)
    bones = plot_bones(rng)
    posture = np.zeros(len(CHANNELS))
    for name, width in (("bend", 5), ("waist", 3), ("lean", 2), ("nod", 6), ("open", 3),
                        ("far_open", 3), ("raise", 5), ("far_raise", 5)):  # fmt: skip
        posture[CHANNEL[name]] = rng.normal(0, width)
    vigour, pace, restless = rng.uniform((0.82, 0.8, 0.6), (1.15, 1.25, 1.5))
    return _Person(bones, posture, vigour, pace, restless, 0.8 if rng.random() < 0.7 else 0.2)


def _plot_moments(rng: np.random.Generator, pace: float) -> np.ndarray:
    """[time]: where in the action every frame is; below 0 before it begins, above 1 after."""
    length = 66 / np.clip(pace * np.exp(rng.uniform(-0.3, 0.3)), 0.6, 1.6)
    before, after = rng.uniform(-0.06, 0.5, 2) * length
    time = int(np.clip(round(length + before + after), *FRAMES))
    return (np.arange(time) - before) / length


def _act(
    rng: np.random.Generator, action: Action, people: list[_Person], moments: np.ndarray
) -> np.ndarray:
    """[time, people, joints, xyz]: the action, played on the floor of the room, metres."""
    near_is_left = bool(rng.random() > people[0].right_handed)
    beats, phase = rng.uniform(*action.beats), rng.random()
    # Swings of a walk start anywhere; those of a gesture begin with the gesture.
    phase = phase if "walk" in action.name or "turn" in action.name else 0.0
    seated = action.seated and rng.random() < 0.25
    parts = [(action.keys, action.swings), (action.partner, action.partner_swings)]
    facing = 180.0 + rng.normal(0, 22)
    bodies = []
    for role, person in enumerate(people):
        keys, swings = parts[role]
        busy = {name for _, pose in keys for name in pose} | {swing.channel for swing in swings}
        rest = _plot_rest(rng, person, seated)
        channels = rest + _idle(rng, person, busy, moments)
        channels += _play(rng, keys, rest, person.vigour, moments)
        for swing in swings:
            channels[:, CHANNEL[swing.channel]] += _swing(rng, swing, beats, phase, moments)
        body = pose_body(channels, person.bones, near_is_left)
        heading = facing + 180.0 * role + rng.normal(0, 5)
        body = body @ rotate_about("y", heading).T
        ahead = rotate_about("y", facing)[:, 2] * action.gap * rng.normal(1, 0.05)
        bodies.append(body + ahead * (role - 0.5) * (len(people) == 2))
    # A sensor numbers people as it finds them, not by who acts on whom.
    if len(bodies) == 2 and rng.random() < 0.5:
        bodies.reverse()
    return np.stack(bodies, 1)


def _plot_rest(rng: np.random.Generator, person: _Person, seated: bool) -> np.ndarray:
    """[channels]: how the person stands or sits when doing nothing."""
    rest = person.posture + rng.normal(0, 2.5, len(CHANNELS))
    rest[[CHANNEL[name] for name in ("heading", "go", "lift")]] = 0
    # Most people hang both arms; the others do something with each of them.
    for prefix in ("", "far_"):
        pose = _ARM_RESTS[0 if rng.random() < 0.55 else rng.integers(1, len(_ARM_RESTS))]
        for name, value in pose.items():
            rest[CHANNEL[prefix + name]] += value * rng.normal(1, 0.15)
    for name, value in (SEAT if seated else {"spread": 5, "far_spread": 5}).items():
        rest[CHANNEL[name]] += value
    knees = [CHANNEL["knee"], CHANNEL["far_knee"]]
    rest[knees] = np.abs(rest[knees]) + 2
    return rest


def _idle(
    rng: np.random.Generator, person: _Person, busy: set[str], moments: np.ndarray
) -> np.ndarray:
    """[time, channels]: slow sway everywhere, and gestures of limbs that the action leaves free."""
    width = np.zeros(len(CHANNELS))
    for name, value in (("lean", 1.2), ("bend", 1.5), ("twist", 5), ("side", 2), ("nod", 6),
                        ("look", 14), ("tilt", 1), ("heading", 5)):  # fmt: skip
        width[CHANNEL[name]] = value
    for name in (*_ARMS, *_FAR_ARMS):
        width[CHANNEL[name]] = 3 if name in busy else 7
    turns = np.cumsum(np.full(len(moments), 1 / 30))[:, None]
    rates, starts = rng.uniform(0.1, 0.6, len(CHANNELS)), rng.random(len(CHANNELS))
    sway = np.sin(2 * np.pi * (turns * rates + starts))
    sway *= width * rng.gamma(2, 0.5, len(CHANNELS)) * person.restless

    for limb in (_ARMS, _FAR_ARMS, ("look", "nod"), ("twist", "side")):
        if busy.isdisjoint(limb) and rng.random() < 0.75:
            prefix = limb[0].removesuffix("raise") if "raise" in limb[0] else None
            for _ in range(rng.integers(1, 3)):
                centre, half = rng.uniform(-0.1, 1.1), rng.uniform(0.12, 0.5)
                bump = np.cos(np.pi / 2 * np.clip((moments - centre) / half, -1, 1)) ** 2
                if prefix is None:
                    for name in limb:
                        sway[:, CHANNEL[name]] += bump * rng.normal(0, 16)
                    continue
                size = rng.uniform(0.3, 1.1)
                for name, low, high in (("raise", 0, 115), ("open", -10, 60), ("elbow", 0, 80),
                                        ("roll", -40, 50)):  # fmt: skip
                    sway[:, CHANNEL[prefix + name]] += bump * size * rng.uniform(low, high)
    return sway


def _play(
    rng: np.random.Generator, keys: Keys, rest: np.ndarray, vigour: float, moments: np.ndarray
) -> np.ndarray:
    """[time, channels]: how far the poses of the action lead away from the rest pose."""
    times = np.array([moment for moment, _ in keys], np.float64)
    # The pace within an action varies, but not so much that its order or contrast is lost.
    gaps = np.diff(times) * np.exp(rng.normal(0, 0.12, len(times) - 1))
    times = np.concatenate([[0], np.cumsum(gaps) / gaps.sum()])
    poses = np.zeros((len(keys), len(CHANNELS)))
    size = vigour * rng.uniform(0.8, 1.15)
    for row, (_, pose) in enumerate(keys):
        for name, value in pose.items():
            channel = CHANNEL[name]
            # Sitting and turning have an end that no vigour changes.
            scale = 1 if name in ("heading", "go", "knee", "hip", "far_knee", "far_hip") else size
            poses[row, channel] = value * scale * rng.normal(1, 0.07) - rest[channel]
    place = np.clip(np.searchsorted(times, moments, side="right") - 1, 0, len(times) - 2)
    part = np.clip((moments - times[place]) / np.diff(times)[place], 0, 1)[:, None]
    blend = part**3 * (10 - 15 * part + 6 * part**2)  # minimum jerk
    return poses[place] * (1 - blend) + poses[place + 1] * blend


def _swing(
    rng: np.random.Generator, swing: Swing, beats: float, phase: float, moments: np.ndarray
) -> np.ndarray:
    """[time]: one repeated movement, faded in and out."""
    inside = np.minimum(moments - swing.begin, swing.end - moments) / 0.08
    wave = np.sin(2 * np.pi * (beats * moments + swing.phase + phase))
    return swing.amplitude * rng.uniform(0.75, 1.2) * np.clip(inside, 0, 1) * wave


def _place_before_camera(
    rng: np.random.Generator,
    motion: Float[np.ndarray, "time people joints 3"],
    camera: int,
    setup: int,
) -> Float[np.ndarray, "time people joints 3"]:
    """Motion on the floor (y up) in the frame of a Kinect: x to its left, y up, z away, metres.

    `camera` (from 1) gives the side it looks from, `setup` its height, distance and so its tilt.
    """
    side = rotate_about("y", _CAMERA_ANGLES[camera - 1] + rng.normal(0, 4))
    height = 0.8 + 0.15 * (setup - 1)
    distance = 2.6 + 0.3 * ((setup * 5) % NUM_SETUPS)
    where = rng.normal(0, 0.25, 3) * (1, 0, 1)
    seen = (motion + where) @ side.T + np.array([0, -height, distance])
    tilt = np.arctan2(height - 0.9, distance) + rng.normal(0.05, 0.03)
    c, s = np.cos(tilt), np.sin(tilt)
    # A camera that looks down sees what is farther away higher up.
    return seen @ np.array([[1, 0, 0], [0, c, s], [0, -s, c]]).T


def _sense(
    rng: np.random.Generator, seen: Float[np.ndarray, "time people joints 3"]
) -> Float[np.ndarray, "time 2 joints 3"]:
    """What a depth sensor makes of it, float32, absent bodies and lost joints as zeros.

    The faults are those that NTU's files show: trembling hands and feet, limbs behind the body that wander,
    joints that freeze or are not given, single frames without anybody, and a second person who is found late.
    """
    time, people = seen.shape[:2]
    frames = np.zeros((time, 2, NUM_JOINTS, 3))
    frames[:, :people] = seen + _noise(rng, seen)
    for body in range(people):
        for _ in range(rng.poisson(0.6)):
            joints = _GROUPS[rng.integers(len(_GROUPS))]
            begin = int(rng.integers(1, time - 5))
            end = min(time, begin + int(rng.integers(4, 26)))
            frozen = rng.random() < 0.8
            frames[begin:end, body, joints] = frames[begin - 1, body, joints] if frozen else 0
    if rng.random() < 0.2:
        begin = int(rng.integers(0, time - 4))
        frames[begin : begin + int(rng.integers(1, 5))] = 0
    if people > 1 and rng.random() < 0.25:
        frames[: int(rng.integers(1, 9)), 1] = 0
    return frames.astype(np.float32)


def _noise(rng: np.random.Generator, seen: np.ndarray) -> np.ndarray:
    """Trembling from frame to frame and slow wandering of the joint estimates, metres."""
    time = len(seen)
    width = np.full(NUM_JOINTS, 0.006)
    width[_RESTLESS] = 0.014
    # Noise grows with the square of the distance, and behind the trunk the sensor guesses.
    scale = (seen[..., 2:] / 3) ** 2
    scale = scale * np.where(seen[..., 2:] > seen[..., 1:2, 2:] + 0.08, 2.0, 1.0)
    knots = rng.standard_normal((time // 8 + 2, *seen.shape[1:]))
    place, part = np.divmod(np.arange(time) / 8, 1)
    place, part = place.astype(int), part[:, None, None, None]
    wander = knots[place] * (1 - part) + knots[place + 1] * part
    tremble = rng.standard_normal(seen.shape)
    return width[:, None] * scale * (tremble + 1.5 * wander)
