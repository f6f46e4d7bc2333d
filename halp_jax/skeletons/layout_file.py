"""A user's own skeleton, from a small JSON file or from the metadata of a data set.

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
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from halp_jax.errors import UserError
from halp_jax.skeletons import layout as layouts
from halp_jax.skeletons.layout import Layout
from halp_jax.skeletons.names import find_sides, split_side

MAX_JOINTS = 300
_REQUIRED = ("name", "joints", "parents", "bodies", "centre", "spine", "shoulders")
_OPTIONAL = ("axes", "left", "right", "view_spine", "means")
# A word, and the number of bodies that `with_bodies` puts behind it.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}(x[0-9]{1,2})?", re.ASCII)


def find_layout(name: str, option: str = "--layout") -> Layout:
    """The layout that an option names: a known one, or a JSON file.

    Raises:
        UserError: there is no such layout or file, or the file is no sound layout.
    """
    if name in layouts.LAYOUTS or not name.endswith(".json"):
        return layouts.get_layout(name)
    path = Path(name).expanduser()
    try:
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check {option}") from error
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise UserError(f"{path}: no JSON ({reason}); correct it") from error
    return parse_layout(fields, str(path))


def restore_layout(described: Any) -> Layout:
    """What `describe_layout` gave -> the layout.

    Raises:
        UserError: it is not known, or not sound.
    """
    if isinstance(described, Mapping):
        return parse_layout(described, "the data set's layout")
    if not isinstance(described, str):
        raise UserError(f"layout {str(described)[:40]!r} is not known; prepare the data set again")
    return layouts.get_layout(described)


def to_layout(layout: Layout | str) -> Layout:
    """What a Python user gives as a layout: its name, a JSON file, or a Layout, which is checked.

    Raises:
        UserError: it is not known, or not sound.
    """
    if isinstance(layout, str):
        return find_layout(layout)
    return restore_layout(layouts.describe_layout(layout))


def parse_layout(fields: Any, where: str) -> Layout:
    """A sound layout from the fields of a file.

    Raises:
        UserError: naming `where`, the field, and what is wrong with it.
    """
    try:
        layout = _parse(fields)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    known = layouts.find_known(layout.name)
    if known in (None, layout):
        return layout
    before = dataclasses.replace(known, spine=known.view_spine or known.spine, view_spine=None)
    if layout == before:  # of a data set older than the two spines
        return known
    raise UserError(f"layout {layout.name!r} is a known one and differs; rename your own")


def _parse(fields: Any) -> Layout:
    if not isinstance(fields, Mapping):
        raise UserError(f"no table of {', '.join(_REQUIRED)}; correct it")
    for field in _REQUIRED:
        if field not in fields:
            raise UserError(f"{field} is missing; add it")
    for field in fields:
        if field not in _REQUIRED + _OPTIONAL:
            raise UserError(f"{str(field)[:40]!r} is no field of a layout; leave it out")

    name, joints = fields["name"], fields["joints"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError("name must be a word of letters, digits, - and _; correct it")
    if not isinstance(joints, list | tuple) or not 2 <= len(joints) <= MAX_JOINTS:
        raise UserError(f"joints must be a list of 2 to {MAX_JOINTS} names; correct it")
    if not all(isinstance(each, str) and each and each.isprintable() for each in joints):
        raise UserError("joints must be names; correct it")
    number = {joint: place for place, joint in enumerate(joints)}
    if len(number) != len(joints):
        twice = next(joint for joint in joints if joints.count(joint) > 1)
        raise UserError(f"joints has {twice[:40]!r} twice; correct it")
    parents = _find_all("parents", fields["parents"], number, len(joints))
    _check_tree(parents, joints)
    bodies, axes = fields["bodies"], fields.get("axes", 3)
    if type(bodies) is not int or not 1 <= bodies <= layouts.MAX_BODIES:
        raise UserError(f"bodies must be a whole number from 1 to {layouts.MAX_BODIES}; correct it")
    if type(axes) is not int or axes not in (2, 3):
        raise UserError("axes must be 2 or 3; correct it")
    pairs = {}
    for field in ("spine", "shoulders", "view_spine"):
        if field != "view_spine" or fields.get(field) is not None:
            pairs[field] = _find_all(field, fields[field], number, 2)
    for field, pair in pairs.items():
        if pair[0] == pair[1]:
            raise UserError(f"{field} has one joint twice; correct it")
    left, right = _find_sides(fields, number)
    return Layout(
        name=name,
        joints=tuple(joints),
        parents=parents,
        bodies=bodies,
        centre=_find("centre", fields["centre"], number),
        left=left,
        right=right,
        axes=axes,
        means=_find_means(fields.get("means", {}), number),
        **pairs,
    )


def _find(field: str, given: Any, number: Mapping[str, int]) -> int:
    """The number of a joint that is given by name or number."""
    if isinstance(given, str) and given in number:
        return number[given]
    if type(given) is not int or not 0 <= given < len(number):
        raise UserError(f"{field} has {str(given)[:40]!r}, which is no joint; correct it")
    return given


def _find_all(
    field: str, given: Any, number: Mapping[str, int], count: int | None = None
) -> tuple[int, ...]:
    """The numbers of a list of joints, of which there must be `count`."""
    if not isinstance(given, list | tuple) or count not in (None, len(given)):
        many = "" if count is None else f"{count} "
        raise UserError(f"{field} must be a list of {many}joints; correct it")
    return tuple(_find(field, each, number) for each in given)


def _find_means(given: Any, number: Mapping[str, int]) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """The field means, a table of a layout file or the pairs that a data set holds."""
    pairs = list(given.items()) if isinstance(given, Mapping) else given
    if not isinstance(pairs, list | tuple) or not all(
        isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs
    ):
        raise UserError("means must be a table of joints and lists of joints; correct it")
    means = tuple(
        (_find("means", joint, number), _find_all("means", of, number)) for joint, of in pairs
    )
    given_joints = len(number) - len(means)
    if [joint for joint, _ in means] != list(range(given_joints, len(number))):
        raise UserError("means must be of the last joints, in their order; correct it")
    if not all(of and max(of) < given_joints for _, of in means):
        raise UserError("means must be of joints that files hold; correct it")
    return means


def _check_tree(parents: Sequence[int], joints: Sequence[str]) -> None:
    roots = [joint for joint, parent in enumerate(parents) if joint == parent]
    if len(roots) != 1:
        raise UserError(
            f"parents has {len(roots)} joints that are their own parent, not one root; correct it"
        )
    for joint, name in enumerate(joints):
        place = joint
        for _ in joints:
            place = parents[place]
        if place != roots[0]:
            raise UserError(f"parents goes round in a circle from {name[:40]!r}; correct it")


def _find_sides(
    fields: Mapping, number: Mapping[str, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The fields left and right, or the joints whose names tell them: "left knee", LeftUpLeg, LKnee."""
    if ("left" in fields) != ("right" in fields):
        raise UserError("left and right must both be given, or neither; correct it")
    if "left" in fields:
        left, right = (_find_all(side, fields[side], number) for side in ("left", "right"))
    else:
        left, right = find_sides(tuple(number))
        if not left and {"left", "right"} <= {split_side(joint)[0] for joint in number}:
            raise UserError(
                "the names of the joints tell sides, but no left one has a right one like"
                " it; give the fields left and right, lists of joints in the same order"
            )
    if len(left) != len(right) or len({*left, *right}) != len(left) + len(right):
        raise UserError("left and right must pair different joints; correct it")
    return left, right
