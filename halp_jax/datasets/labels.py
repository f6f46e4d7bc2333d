"""Labels as files hold them -> classes from 0, and what the names of clips tell.

Many data sets number their actions from 1; taken as they are they make a class 0 without a clip, and
every class is called by the next one's name. -1 is a clip without a label: pre-training takes it, and
wherever classes are compared it is left out.
"""

import re
from collections.abc import Sequence
from typing import Any

from halp_jax.datasets.source import Item, tell_part

UNLABELLED = -1
# A label above this is damage, not a class: it must not make that many classes.
MAX_CLASSES = 1000
# Setup, camera, performer (subject), replication, action; all counted from 1.
_NTU_NAME = re.compile(r"S(\d{3})C(\d{3})P(\d{3})R(\d{3})A(\d{3})", re.ASCII)
# v1: performance and camera. v2: group of actions and number of the performance, camera.
PKU_VIDEO = re.compile(r"(?:(\d{4})|A(\d{2})N(\d{2}))-([LMR])", re.ASCII)
_PKU_CLIP = re.compile(rf"{PKU_VIDEO.pattern}(?:_\d+b*)?", re.ASCII)  # as `pku` names clips
_UCLA_NAME = re.compile(r"a(\d{2})_s(\d{2})_e(\d{2})_v(\d{2})", re.ASCII)
# NTU RGB+D 120 in the official order; NTU RGB+D 60 is the first 60.
ACTIONS = tuple(
    " ".join(
        """
        drink water; eat meal/snack; brushing teeth; brushing hair; drop; pickup; throw;
        sitting down; standing up; clapping; reading; writing; tear up paper; wear jacket;
        take off jacket; wear a shoe; take off a shoe; wear on glasses; take off glasses;
        put on a hat/cap; take off a hat/cap; cheer up; hand waving; kicking something;
        reach into pocket; hopping (one foot jumping); jump up; make a phone call/answer phone;
        playing with phone/tablet; typing on a keyboard; pointing to something with finger;
        taking a selfie; check time (from watch); rub two hands together; nod head/bow; shake head;
        wipe face; salute; put the palms together; cross hands in front (say stop); sneeze/cough;
        staggering; falling; touch head (headache); touch chest (stomachache/heart pain);
        touch back (backache); touch neck (neckache); nausea or vomiting condition;
        use a fan (with hand or paper)/feeling warm; punching/slapping other person;
        kicking other person; pushing other person; pat on back of other person;
        point finger at the other person; hugging other person; giving something to other person;
        touch other person's pocket; handshaking; walking towards each other;
        walking apart from each other; put on headphone; take off headphone; shoot at the basket;
        bounce ball; tennis bat swing; juggling table tennis balls; hush (quiet); flick hair;
        thumb up; thumb down; make ok sign; make victory sign; staple book; counting money;
        cutting nails; cutting paper (using scissors); snapping fingers; open bottle;
        sniff (smell); squat down; toss a coin; fold paper; ball up paper; play magic cube;
        apply cream on face; apply cream on hand back; put on bag; take off bag;
        put something into a bag; take something out of a bag; open a box; move heavy objects;
        shake fist; throw up cap/hat; hands up (both hands); cross arms; arm circles; arm swings;
        running on the spot; butt kicks (kick backward); cross toe touch; side kick; yawn;
        stretch oneself; blow nose; hit other person with something;
        wield knife towards other person; knock over other person (hit with body);
        grab other person's stuff; shoot at other person with a gun; step on foot; high-five;
        cheers and drink; carry something with other person; take a photo of other person;
        follow other person; whisper in other person's ear; exchange things with other person;
        support somebody with hand; finger-guessing game (playing rock-paper-scissors)
        """.split()
    ).split("; ")
)
UCLA_ACTIONS = (
    "pick up with one hand", "pick up with two hands", "drop trash", "walk around", "sit down",
    "stand up", "donning", "doffing", "throw", "carry",
)  # fmt: skip


def parse_name(name: str) -> tuple[int, int, int, int, int] | None:
    """ "S001C002P003R002A013" -> (setup, camera, subject, replication, action), or None."""
    match = _NTU_NAME.fullmatch(name)
    return tuple(int(number) for number in match.groups()) if match else None


def number_classes(labels: Sequence[int], names: Sequence[str] = ()) -> tuple[list[int], str]:
    """Classes from 0, and a line about them where there is something to say, else "".

    Labels 1 to K, each of which has a clip, become 0 to K - 1, and so do those of NTU's clips that are
    the action numbers in their names (A001 is class 0). Nothing else is moved.

    Args:
        labels: whole numbers, -1 for none.
        names: of the clips; those like S001C001P001R001A001 tell their class.
    """
    given = sorted({label for label in labels if label >= 0})
    if not given:
        return list(labels), ""
    told = [parse_name(name) for name in names]
    pairs = [
        (n[4], label) for n, label in zip(told, labels, strict=bool(names)) if n and label >= 0
    ]
    from_one = given == list(range(1, len(given) + 1))
    if pairs and len(pairs) == sum(label >= 0 for label in labels):
        from_one = all(label == action for action, label in pairs)
        if not from_one and (differ := sum(label != action - 1 for action, label in pairs)):
            return list(labels), (
                f"{differ} of {len(pairs)} are not the action in the clip's name (A001 is class 0);"
                " kept as they are"
            )
    if from_one:
        moved = [label - 1 if label > 0 else label for label in labels]
        return moved, f"run from {given[0]} to {given[-1]}: taken as classes from 0"
    empty = sorted(set(range(given[-1] + 1)) - set(given))
    if empty:
        shown = ", ".join(map(str, empty[:8])) + (", ..." if len(empty) > 8 else "")
        return list(labels), f"no clip is of class {shown}"
    return list(labels), ""


def name_classes(count: int) -> tuple[str, ...]:
    """ "class 0", "class 1", ...: where a file has numbers only."""
    return tuple(f"class {number}" for number in range(count))


def label_by_folder(items: Sequence[Item]) -> tuple[list[Item], tuple[str, ...]]:
    """The items with their classes, and the classes' names in the order of the alphabet, 2 before 10.

    The name of a clip that lies in a folder begins with it ("wave/0007"), and that is its class; any
    other is without a label. Folders train and test, where all clips lie in such, are no classes.
    """
    folders = [item.id.split("/")[:-1] for item in items]
    if all(tell_part(item.id) for item in items):
        folders = [inside for _, *inside in folders]
    folders = [each[0] if each else None for each in folders]
    padded = {each: re.sub(r"\d+", lambda n: n[0].zfill(9), each) for each in folders if each}
    classes = sorted(padded, key=lambda each: (padded[each], each))
    number = {each: place for place, each in enumerate(classes)} | {None: UNLABELLED}
    return _relabel(items, [number[each] for each in folders]), tuple(classes)


def number_items(items: Sequence[Item]) -> tuple[list[Item], str]:
    """`number_classes` of items, which their ids name."""
    classes, note = number_classes([item.label for item in items], [item.id for item in items])
    return _relabel(items, classes), note


def _relabel(items: Sequence[Item], classes: Sequence[int]) -> list[Item]:
    pairs = zip(items, classes, strict=True)
    return [Item(item.id, item.payload, label) for item, label in pairs]


def parse_name_fields(name: str) -> dict[str, Any]:
    """What NTU, PKU-MMD and NW-UCLA names say: subject, camera, setup, performance, fps; else {}.

    PKU-MMD's cameras L, M, R are 0, 1, 2; videos of one performance show the same movements from
    several sides, so that a split of one's own must keep them together. The trial number of NW-UCLA
    starts anew for every subject and action, so it is no performance of its own.
    """
    if numbers := parse_name(name):
        return {"setup": numbers[0], "camera": numbers[1], "subject": numbers[2], "fps": 30.0}
    if match := _PKU_CLIP.fullmatch(name):
        performance = int(match[1]) if match[1] else 100 * int(match[2]) + int(match[3])
        return {"performance": performance, "camera": "LMR".index(match[4]), "fps": 30.0}
    if match := _UCLA_NAME.fullmatch(name):
        return {"subject": int(match[2]), "camera": int(match[4])}
    return {}


def guess_class_names(names: Sequence[str], num_classes: int) -> tuple[str, ...]:
    """Known names where the clips' names tell the data set, otherwise "class 0", "class 1", ..."""
    if 0 < num_classes <= len(ACTIONS) and all(parse_name(name) for name in names):
        return ACTIONS[:60] if num_classes <= 60 else ACTIONS
    if num_classes == len(UCLA_ACTIONS) and all(_UCLA_NAME.fullmatch(name) for name in names):
        return UCLA_ACTIONS
    return name_classes(num_classes)
