"""The twenty actions of the embedded data set, each a small table of poses over time.

They are chosen so that time tells them apart: most come in families that pass through the same
poses in another order, at another pace or another number of times (raise slowly and lower fast,
or the reverse; sit down and stand up; walk forward and backward; push and pull; crouch once and
jump). The mean pose of a clip says little about its class.
"""

import dataclasses

# (moment from 0 to 1, {channel of body.CHANNELS: value}). A channel that a pose leaves out is at
# the rest that the person happens to have; before the first and after the last pose it stays.
Number = float | int
Keys = tuple[tuple[Number, dict[str, Number]], ...]


@dataclasses.dataclass(frozen=True)
class Swing:
    """amplitude * sin(2 pi (beats * moment + phase)), added to a channel between two moments."""

    channel: str
    amplitude: Number
    phase: Number = 0.0
    begin: Number = 0.0
    end: Number = 1.0


@dataclasses.dataclass(frozen=True)
class Action:
    """What one person does and, for two, what the partner at `gap` metres does meanwhile.

    `beats` bounds how often the swings repeat; `seated` says that it may also be done on a chair.
    """

    name: str
    keys: Keys
    swings: tuple[Swing, ...] = ()
    beats: tuple[float, float] = (1.0, 1.0)
    partner: Keys = ()
    partner_swings: tuple[Swing, ...] = ()
    gap: float = 0.0
    seated: bool = False


def _both(**pose: Number) -> dict[str, Number]:
    """The same pose for the near and the far limb."""
    return pose | {f"far_{name}": value for name, value in pose.items()}


def _pass(*keys: tuple[Number, dict[str, Number]]) -> Keys:
    """From rest through some poses and back."""
    return (0, {}), *keys, (1, {})


def _hold(pose: dict[str, Number], begin: Number, end: Number) -> Keys:
    """From rest into a pose, which is held from one moment to another, and back."""
    return _pass((begin, pose), (end, pose))


SEAT = _both(hip=84, knee=86, spread=6) | {"lean": -4}

_HIGH = {"raise": 128, "open": 12, "elbow": 35}
_AIM = {"raise": 92, "open": -4, "elbow": 8, "roll": 0, "twist": 14}
_COCKED = {"raise": 62, "open": 48, "elbow": 108, "roll": 60, "twist": -18}
_LOW = {"raise": 42, "open": -10, "elbow": 18, "roll": 0, "twist": 12}
_HANDS_MET = _both(roll=-14, elbow=62, open=2) | {"raise": 52, "far_raise": 52}
_HANDS_NEAR = _HANDS_MET | {"open": 14, "far_open": 14}
_HANDS_APART = _both(roll=10, elbow=30, open=46) | {"raise": 60, "far_raise": 60}
_CROUCH = _both(hip=72, knee=92, elbow=25) | {"bend": 22, "waist": 8, "raise": 30, "far_raise": 30}
_STRETCH = _both(hip=2, knee=2, elbow=15) | {"bend": 0, "raise": 65, "far_raise": 65}
_REACH = _both(elbow=10, open=2) | {"raise": 84, "far_raise": 84}
_DRAWN = _both(elbow=112, open=14) | {"raise": 34, "far_raise": 34}
_CLASP = {"raise": 44, "elbow": 42, "open": -12, "go": 0.08, "bend": 4}
_EMBRACE = _both(elbow=62, open=-2, roll=-12) | {
    "raise": 74, "far_raise": 66, "go": 0.36, "bend": 8, "nod": 8,
}  # fmt: skip
_WELCOME = _both(elbow=18, open=40) | {"raise": 66, "far_raise": 62, "go": 0.18}


def _walk(direction: int) -> tuple[Swing, ...]:
    """Legs in counter-phase; the knee bends while its thigh swings in the walking direction."""
    forth = 0.0 if direction > 0 else 0.5
    return (
        Swing("hip", 25, forth), Swing("far_hip", 25, forth + 0.5),
        Swing("knee", 24, 0.25), Swing("far_knee", 24, 0.75),
        Swing("raise", 14, forth + 0.5), Swing("far_raise", 14, forth),
    )  # fmt: skip


_STRIDE = _both(knee=27)
_STEP = _both(knee=24, hip=10)
_NOD_HANDS = (Swing("elbow", 15, 0, 0.24, 0.78), Swing("raise", 7, 0, 0.24, 0.78))

ACTIONS = (
    Action(
        "wave",
        _hold(_HIGH | {"elbow": 52}, 0.17, 0.83),
        swings=(Swing("roll", 36, 0, 0.12, 0.88), Swing("elbow", 16, 0.1, 0.12, 0.88)),
        beats=(2.5, 5.5),
        seated=True,
    ),
    Action("raise arm slowly, lower it fast", _hold(_HIGH, 0.64, 0.84), seated=True),
    Action("raise arm fast, lower it slowly", _hold(_HIGH, 0.16, 0.36), seated=True),
    Action(
        "clap",
        _hold(_HANDS_NEAR, 0.18, 0.82),
        swings=(Swing("open", 18, 0, 0.14, 0.86), Swing("far_open", 18, 0, 0.14, 0.86)),
        beats=(3.5, 7.0),
        seated=True,
    ),
    Action(
        "open and close the arms",
        _pass((0.2, _HANDS_MET), (0.5, _HANDS_APART), (0.8, _HANDS_MET)),
        seated=True,
    ),
    Action("throw", _pass((0.46, _COCKED), (0.57, _AIM), (0.68, _LOW)), seated=True),
    Action("catch", _pass((0.32, _LOW), (0.43, _AIM), (0.54, _COCKED)), seated=True),
    Action("sit down", ((0, {}), (0.5, _CROUCH | {"lean": 16}), (1, SEAT))),
    Action("stand up", ((0, SEAT), (0.5, _CROUCH | {"lean": 16}), (1, {}))),
    Action("squat", _hold(_CROUCH, 0.45, 0.55)),
    Action(
        "jump",
        _pass(
            (0.32, _CROUCH),
            (0.43, _STRETCH),
            (0.51, _STRETCH | {"lift": 0.26}),
            (0.59, _STRETCH),
            (0.70, _CROUCH),
        ),
    ),
    Action("bow", _hold({"bend": 34, "waist": 18, "lean": 22, "nod": 14}, 0.42, 0.58)),
    Action(
        "kick",
        _pass(
            (0.40, {"hip": -24, "knee": 62}),
            (0.53, {"hip": 66, "knee": 8, "lean": -8}),
            (0.70, {"hip": 30, "knee": 40}),
        ),
    ),
    Action("walk forward", _hold(_STRIDE, 0.08, 0.92), swings=_walk(1), beats=(1.5, 3.0)),
    Action("walk backward", _hold(_STRIDE, 0.08, 0.92), swings=_walk(-1), beats=(1.5, 3.0)),
    Action(
        "turn around",
        (
            (0, {"heading": 0}),
            (0.1, _STEP | {"heading": 4}),
            (0.9, _STEP | {"heading": 166}),
            (1, {"heading": 170}),
        ),
        swings=(
            Swing("knee", 22),
            Swing("far_knee", 22, 0.5),
            Swing("hip", 11),
            Swing("far_hip", 11, 0.5),
        ),
        beats=(1.5, 3.0),
    ),  # fmt: skip
    Action(
        "handshake",
        _hold(_CLASP, 0.24, 0.78),
        swings=_NOD_HANDS,
        beats=(2.5, 5.5),
        partner=_hold(_CLASP, 0.24, 0.78),
        partner_swings=_NOD_HANDS,
        gap=1.08,
    ),
    Action(
        "hug",
        _pass((0.25, _WELCOME), (0.45, _EMBRACE), (0.72, _EMBRACE)),
        partner=_pass((0.25, _WELCOME), (0.45, _EMBRACE), (0.72, _EMBRACE)),
        gap=1.02,
    ),
    Action(
        "push",
        _pass((0.40, _DRAWN), (0.54, _REACH | {"bend": 10}), (0.66, _REACH)),
        partner=(
            (0, {}),
            (0.46, {}),
            (0.60, {"go": -0.30, "bend": -12, "nod": 8}),
            (0.80, {"go": -0.38}),
            (1, {"go": -0.38}),
        ),
        gap=0.86,
    ),
    Action(
        "pull",
        _pass((0.34, _REACH | {"bend": 8}), (0.46, _REACH), (0.60, _DRAWN)),
        partner=(
            (0, {}),
            (0.46, {}),
            (0.60, {"go": 0.26, "bend": 12, "nod": -8}),
            (0.80, {"go": 0.22}),
            (1, {"go": 0.22}),
        ),
        gap=1.02,
    ),
)
