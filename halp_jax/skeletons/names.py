"""Joints by meaning, whatever their spelling: LeftArm, mixamorig:LeftArm, L_Shoulder, "Hip Center".

Files name a joint for what it is (LeftShoulder, LeftHip) or, as animators do, for the bone that begins
there (LeftArm, LeftUpLeg). So a name alone may be ambiguous: LeftShoulder is the collar bone beside a
LeftArm and the shoulder without one; LeftHand is the wrist where fingers follow it and there is no
LeftWrist. `find_meanings` therefore looks at all names of a skeleton at once.
"""

import re
from collections.abc import Sequence

_SIDES = {"left": "left", "l": "left", "lt": "left", "right": "right", "r": "right", "rt": "right"}
# Where small words end: leftArm, LArm, Spine2.
_BREAKS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)")

# The words of a joint without its side -> what they mean there, before the other names are looked at.
_MEANINGS = {
    meaning: words.split("; ")
    for meaning, words in {
        "arm": "arm; upper arm; upperarm; up arm; uparm; shldr",  # the shoulder, where this bone begins
        "collar": "collar; clavicle; collar bone",
        "elbow": "elbow; fore arm; forearm; lower arm; lowerarm; low arm",
        "hip": "hip; up leg; upleg; upper leg; upperleg; thigh",
        "knee": "knee; leg; lower leg; lowerleg; low leg; shin; calf",
        "toes": "toe base; toebase; toes; toe; toe 0; foot end; ankle end; big toe",
    }.items()
}
_LIMBS = {word: meaning for meaning, words in _MEANINGS.items() for word in words}
_PARTS = {*_LIMBS, *"shoulder wrist hand ankle foot thumb fingers heel eye ear".split()}
_TRUNK = {
    **dict.fromkeys(("hips", "hip", "pelvis", "waist", "mid hip", "hips centre", "centre hip"),
                    "hip centre"),
    **dict.fromkeys(("spine mid", "mid spine"), "spine middle"),
    "torso": "spine",
}  # fmt: skip
# What stands for the hand where only the joint before it is called wrist or hand, best first.
_FINGERS = (
    "hand middle 1", "middle 1", "in hand middle", "finger base", "fingers", "hand index 1",
    "hand end", "wrist end",
)  # fmt: skip


def split_side(name: str) -> tuple[str, str]:
    """ "LeftUpLeg" -> ("left", "up leg"), "Hip Center" -> ("", "hip centre"): side and other words."""
    words = _split_words(name)
    if len(words) == 1:
        words = _split_joined(words[0])
    side = next((word for word in words if word in _SIDES), "")
    if side:
        words.remove(side)
    return _SIDES.get(side, ""), " ".join(words)


def find_sides(joints: Sequence[str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The joints of the left and, in the same order, those of the right that mirror them."""
    place = {split_side(joint): number for number, joint in enumerate(joints)}
    paired = [words for side, words in place if side == "left" and ("right", words) in place]
    left, right = (tuple(place[side, words] for words in paired) for side in ("left", "right"))
    return left, right


def find_meanings(joints: Sequence[str]) -> tuple[str, ...]:
    """What each joint is, in the spelling of the known layouts: "left shoulder", "hip centre".

    Names that say nothing known come back in lower case. No meaning is given twice: a second joint
    of one meaning keeps its own words.
    """
    split = [split_side(name) for name in _drop_prefix(joints)]
    meanings: list[str] = []
    for side, words in split:
        others = [rest for other, rest in split if other == side]
        meaning = _mean_limb(words, others) if side else _mean_trunk(words, others)
        meaning = f"{side} {meaning}".strip()
        own = f"{side} {words}".strip()
        meanings.append(own if meaning in meanings else meaning)
    return tuple(meanings)


def _split_words(name: str) -> list[str]:
    name = re.split(r"[:|]", name)[-1]  # a namespace: mixamorig:Hips
    words = re.split(r"[^A-Za-z0-9]+", _BREAKS.sub(" ", name).lower())
    return ["centre" if word == "center" else word for word in words if word]


def _split_joined(word: str) -> list[str]:
    """lhand and lefthand, but not lowerback or leg."""
    for side in ("left", "right", "l", "r"):
        rest = word.removeprefix(side)
        if rest != word and rest in _PARTS:
            return [side, rest]
    return [word]


def _drop_prefix(joints: Sequence[str]) -> list[str]:
    """The names' words, without the first that all but a root share: Bip01 L Thigh, Character1_Hips."""
    split = [_split_words(name) for name in joints]
    while True:
        longer = [words for words in split if len(words) > 1]
        first = {words[0] for words in longer}
        if len(first) != 1 or len(longer) < max(3, len(split) - 1) or first & _SIDES.keys():
            return [" ".join(words) for words in split]
        split = [words[1:] or words for words in split]


def _mean_limb(words: str, others: Sequence[str]) -> str:
    """What a joint of one side is, beside the others of that side."""
    meaning = _LIMBS.get(words, words)
    there = {_LIMBS.get(other, other) for other in others}
    if meaning == "arm":
        return "shoulder"
    if meaning == "shoulder" and "arm" in there:
        return "collar"
    if not {"wrist", "hand"} <= there:
        finger = next((each for each in _FINGERS if each in others), "")
        if finger and words == finger:
            return "hand"
        if finger and words == "hand":
            return "wrist"
    if not {"ankle", "foot"} <= there and "toes" in there:
        if meaning == "toes":
            return "foot"
        if words == "foot":
            return "ankle"
    return meaning


def _mean_trunk(words: str, others: Sequence[str]) -> str:
    if "lower neck" in others or "lowerneck" in others:
        words = {"lower neck": "neck", "lowerneck": "neck", "neck": "upper neck"}.get(words, words)
    if words == "chest" and not {"spine", "torso", "spine mid", "spine middle"} & set(others):
        return "spine"  # the lowest joint of the back is called so
    return _TRUNK.get(words, words)
