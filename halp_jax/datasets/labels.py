"""Labels as files hold them -> classes from 0, and what a user should know of them.

Many data sets number their actions from 1; taken as they are they make a class 0 without a clip, and
every class is called by the next one's name. -1 is a clip without a label: pre-training takes it, and
wherever classes are compared it is left out.
"""

from collections.abc import Sequence

from halp_jax.datasets.ntu import parse_name

UNLABELLED = -1


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


def label_by_folder(names: Sequence[str]) -> tuple[dict[str, int], tuple[str, ...]]:
    """{clip: class} and the classes' names, in the order of the alphabet.

    The name of a clip that lies in a folder begins with it ("wave/0007"), and that is its class; any
    other is without a label.
    """
    folders = {name: name.split("/")[0] for name in names if "/" in name}
    classes = sorted(set(folders.values()))
    number = {each: place for place, each in enumerate(classes)}
    labels = {name: number[folders[name]] if name in folders else UNLABELLED for name in names}
    return labels, tuple(classes)
