"""Layouts by name, from a user's file, and as data sets describe them.

The known ones (`layouts_known`) go by name, with another number of bodies if the name says so:
kinect20x2 is kinect20 for clips of two bodies. A skeleton of one's own is a small JSON file:

    {"name": "hand6", "joints": ["wrist", "thumb", "index", "middle", "ring", "little"],
     "parents": ["wrist", "wrist", "wrist", "wrist", "wrist", "wrist"],
     "bodies": 2, "centre": "wrist", "spine": ["wrist", "middle"], "shoulders": ["index", "little"]}

`spine` and `shoulders` are the lines that normalisation turns bodies by: `spine` (bottom, top) should
be a long one, hips to neck rather than hips to the next joint (a few centimetres of noise on a short
one make all bodies lean); `shoulders` runs (right, left). `centre` becomes the origin.

Joints are given by name or by number from 0. The root is its own parent. Optional: `axes` (2 for
joints in a picture; 3 if not given), `left` and `right` (paired; found by their names if not given:
"left knee" and "right knee", LeftLeg and RightLeg, LKnee and RKnee), `means`,
{"mid hip": ["left hip", "right hip"]}: joints that no file holds, the last of `joints`, each made as the
mean of others, `view_spine` (another spine for `--normalize=view`). Nothing of the file is executed, and
every mistake is one line.

`SYNONYMS` are the joints that two known layouts call by different names; `common` takes clips from one
layout to another.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halp_jax.errors import UserError
from halp_jax.skeletons.layouts_known import (
    AZURE32,
    BODY25,
    BODY25B,
    COCO17,
    H36M17,
    HALPE26,
    KINECT20,
    MEDIAPIPE33,
    MOCAP_LAYOUTS,
    NTU25,
    OPENPOSE18,
    SMPL24,
    Layout,
)
from halp_jax.skeletons.names import find_sides, split_side

MAX_BODIES, MAX_JOINTS = 16, 300

_KNOWN = (
    KINECT20, NTU25, COCO17, OPENPOSE18, BODY25, BODY25B, HALPE26, MEDIAPIPE33, H36M17,
    SMPL24, AZURE32, *MOCAP_LAYOUTS,
)  # fmt: skip
LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in _KNOWN}
_WITH_BODIES = re.compile(r"(.+)x([1-9][0-9]{0,2})")

# Two names of one joint, in Kinect v1 and v2; all others have the same name in both. v1's shoulder
# centre lies between the shoulders, as v2's spine shoulder does; the neck, above it, is new in v2.
SYNONYMS = (
    ("hip centre", "spine base"), ("spine", "spine middle"), ("shoulder centre", "spine shoulder"),
    ("hip centre", "mid hip"), ("spine base", "mid hip"),
    ("shoulder centre", "mid shoulder"), ("spine shoulder", "mid shoulder"),
    ("shoulder centre", "neck"),  # where there is only one of the two
    ("left wrist", "left hand"), ("right wrist", "right hand"),
    ("left ankle", "left foot"), ("right ankle", "right foot"),
)  # fmt: skip

_REQUIRED = ("name", "joints", "parents", "bodies", "centre", "spine", "shoulders")
_OPTIONAL = ("axes", "left", "right", "view_spine", "means")
# A word, and the number of bodies that `with_bodies` puts behind it.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}(x[0-9]{1,2})?", re.ASCII)


def find_known(name: str) -> Layout | None:
    """The known layout of this name, with another number of bodies if the name says so."""
    if name in LAYOUTS:
        return LAYOUTS[name]
    match = _WITH_BODIES.fullmatch(name)
    return with_bodies(LAYOUTS[match[1]], int(match[2])) if match and match[1] in LAYOUTS else None


def get_layout(name: str) -> Layout:
    """The same. Raises UserError, which names the known ones, if there is none."""
    layout = find_known(name)
    if layout is None:
        raise UserError(
            f"layout {name!r} is not known; use one of {', '.join(LAYOUTS)}, or the .json file of"
            " your own"
        )
    return layout


def with_bodies(layout: Layout, bodies: int) -> Layout:
    """The layout for clips of so many bodies, which its name tells: kinect20 with 2 is kinect20x2.

    Raises:
        UserError: no clip has so many.
    """
    if not 1 <= bodies <= MAX_BODIES:
        raise UserError(
            f"layout {layout.name} with {bodies} bodies: a clip holds 1 to {MAX_BODIES}; give another"
            " number"
        )
    if bodies == layout.bodies:
        return layout
    match = _WITH_BODIES.fullmatch(layout.name)
    name = match[1] if match and int(match[2]) == layout.bodies else layout.name
    plain = LAYOUTS.get(name)
    if plain is not None and plain.bodies == bodies:
        return plain
    return dataclasses.replace(layout, name=f"{name}x{bodies}", bodies=bodies)


def guess_layout(joints: int, axes: int) -> Layout | None:
    """The known layout with this number of joints and coordinates, if there is one.

    Of the two with 25 joints in a picture it is body25, OpenPose's default. No array is taken for one of
    motion capture by its number of joints alone, nor for h36m17: 17 joints of three numbers may be
    coco17's x, y and score.
    """
    known = (each for each in LAYOUTS.values() if each not in (H36M17, *MOCAP_LAYOUTS))
    return next((each for each in known if each.takes(joints) and each.axes == axes), None)


def tell_layout(joints: int, axes: int, what: str) -> Layout:
    """The same. Raises UserError, which begins with `what` and names those that fit, if there is none."""
    if layout := guess_layout(joints, axes):
        return layout
    names = ", ".join(each.name for each in LAYOUTS.values() if each.takes(joints))
    raise UserError(f"{what}; give --layout, as {names + ' or ' if names else ''}a .json file")


def find_layout(name: str, option: str = "--layout") -> Layout:
    """The layout that an option names: a known one, or a JSON file.

    Raises:
        UserError: there is no such layout or file, or the file is no sound layout.
    """
    if name in LAYOUTS or not name.endswith(".json"):
        return get_layout(name)
    path = Path(name).expanduser()
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check {option}") from error
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: no JSON ({reason}); correct it") from error
    return parse_layout(fields, str(path))


def to_layout(layout: Layout | str) -> Layout:
    """What a Python user gives as a layout: its name, a JSON file, or a Layout, which is checked.

    Raises:
        UserError: it is not known, or not sound.
    """
    return (
        find_layout(layout) if isinstance(layout, str) else restore_layout(describe_layout(layout))
    )


def describe_layout(layout: Layout) -> str | dict[str, Any]:
    """What a data set's JSON holds of its layout: the name of a known one, all of the user's own."""
    return layout.name if LAYOUTS.get(layout.name) == layout else dataclasses.asdict(layout)


def restore_layout(described: Any) -> Layout:
    """What `describe_layout` gave -> the layout.

    Raises:
        UserError: it is not known, or not sound.
    """
    if isinstance(described, Mapping):
        return parse_layout(described, "the data set's layout")
    if not isinstance(described, str):
        raise UserError(f"layout {str(described)[:40]!r} is not known; prepare the data set again")
    return get_layout(described)


# --- one's own ------------------------------------------------------------------------------------


def parse_layout(fields: Any, where: str) -> Layout:
    """A sound layout from the fields of a file.

    Raises:
        UserError: naming `where`, the field, and what is wrong with it.
    """
    try:
        layout = _parse(fields)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    known = find_known(layout.name)
    if known in (None, layout):
        return layout
    before = dataclasses.replace(known, spine=known.view_spine or known.spine, view_spine=None)
    if layout == before:  # of a data set older than the two spines
        return known
    raise UserError(f"layout {layout.name!r} is a known one and differs; rename your own")


def _require(sound: Any, rule: str) -> None:
    if not sound:
        raise UserError(f"{rule}; correct it")


def _parse(fields: Any) -> Layout:
    _require(isinstance(fields, Mapping), f"no table of {', '.join(_REQUIRED)}")
    for field in _REQUIRED:
        if field not in fields:
            raise UserError(f"{field} is missing; add it")
    for field in fields:
        if field not in _REQUIRED + _OPTIONAL:
            raise UserError(f"{str(field)[:40]!r} is no field of a layout; leave it out")
    name, joints, bodies = fields["name"], fields["joints"], fields["bodies"]
    axes = fields.get("axes", 3)
    word = isinstance(name, str) and _NAME.fullmatch(name)
    _require(word, "name must be a word of letters, digits, - and _")
    many = isinstance(joints, list | tuple) and 2 <= len(joints) <= MAX_JOINTS
    _require(many, f"joints must be a list of 2 to {MAX_JOINTS} names")
    names = all(isinstance(each, str) and each and each.isprintable() for each in joints)
    _require(names, "joints must be names")
    number = {joint: place for place, joint in enumerate(joints)}
    for joint in number:
        _require(joints.count(joint) == 1, f"joints has {joint[:40]!r} twice")
    few = type(bodies) is int and 1 <= bodies <= MAX_BODIES
    _require(few, f"bodies must be a whole number from 1 to {MAX_BODIES}")
    _require(type(axes) is int and axes in (2, 3), "axes must be 2 or 3")
    parents = _find_all("parents", fields["parents"], number, len(joints))
    _check_tree(parents, joints)
    lines = {}
    for field in ("spine", "shoulders", "view_spine"):
        if field in _REQUIRED or fields.get(field) is not None:
            lines[field] = start, end = _find_all(field, fields[field], number, 2)
            _require(start != end, f"{field} has one joint twice")
    left, right = _find_sides(fields, number)
    return Layout(
        name=name, joints=tuple(joints), parents=parents, bodies=bodies,
        centre=_find("centre", fields["centre"], number), left=left, right=right, axes=axes,
        means=_find_means(fields.get("means", {}), number), **lines,
    )  # fmt: skip


def _find(field: str, given: Any, number: Mapping[str, int]) -> int:
    """The number of a joint that is given by name or number."""
    if isinstance(given, str) and given in number:
        return number[given]
    sound = type(given) is int and 0 <= given < len(number)
    _require(sound, f"{field} has {str(given)[:40]!r}, which is no joint")
    return given


def _find_all(
    field: str, given: Any, number: Mapping[str, int], count: int | None = None
) -> tuple[int, ...]:
    """The numbers of a list of joints, of which there must be `count`."""
    many = "" if count is None else f"{count} "
    sound = isinstance(given, list | tuple) and count in (None, len(given))
    _require(sound, f"{field} must be a list of {many}joints")
    return tuple(_find(field, each, number) for each in given)


def _find_means(given: Any, number: Mapping[str, int]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The field means, a table of a layout file or the pairs that a data set holds."""
    pairs = list(given.items()) if isinstance(given, Mapping) else given
    sound = isinstance(pairs, list | tuple) and all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    )
    _require(sound, "means must be a table of joints and lists of joints")
    means = tuple(
        (_find("means", joint, number), _find_all("means", of, number)) for joint, of in pairs
    )
    last = list(range(len(number) - len(means), len(number)))
    _require(
        [joint for joint, _ in means] == last, "means must be of the last joints, in their order"
    )
    held = all(of and max(of) < len(number) - len(means) for _, of in means)
    _require(held, "means must be of joints that files hold")
    return means


def _check_tree(parents: Sequence[int], joints: Sequence[str]) -> None:
    roots = [joint for joint, parent in enumerate(parents) if joint == parent]
    own = f"parents has {len(roots)} joints that are their own parent, not one root"
    _require(len(roots) == 1, own)
    for joint, name in enumerate(joints):
        place = joint
        for _ in joints:
            place = parents[place]
        _require(place == roots[0], f"parents goes round in a circle from {name[:40]!r}")


def _find_sides(
    fields: Mapping, number: Mapping[str, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The fields left and right, or the joints whose names tell them: "left knee", LeftUpLeg, LKnee."""
    both = ("left" in fields) == ("right" in fields)
    _require(both, "left and right must both be given, or neither")
    if "left" in fields:
        left, right = (_find_all(side, fields[side], number) for side in ("left", "right"))
    else:
        left, right = find_sides(tuple(number))
        if not left and {"left", "right"} <= {split_side(joint)[0] for joint in number}:
            raise UserError(
                "the names of the joints tell sides, but no left one has a right one like"
                " it; give the fields left and right, lists of joints in the same order"
            )
    different = len(left) == len(right) and len({*left, *right}) == len(left) + len(right)
    _require(different, "left and right must pair different joints")
    return left, right
