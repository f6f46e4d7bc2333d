"""Data sets of the TU collection (Morris et al. 2020): MUTAG, PROTEINS, NCI1, DD and 120 more.

    python -m halp_jax.prepare --format=tu --source=MUTAG.zip --out=data/mutag

The archive, or a folder, holds NAME_A.txt (an edge a line: "source, target", nodes from 1),
NAME_graph_indicator.txt (a node a line: its graph, from 1) and, each where there is one,
NAME_graph_labels.txt, NAME_node_labels.txt, NAME_edge_labels.txt and NAME_node_attributes.txt.

As GraphCL's reader: loops and repeated edges go, edges are sorted and keep the directions they are given
in, a node's features are its label, one-hot from the smallest to the largest there is, and attributes
are left out unless --attributes asks for them. Unlike it, which takes all nodes of most data sets for
alike, labels count wherever there are some, and isolated nodes at the end stay.
Nothing is unpacked: the files are read where they are in the archive.
"""

import io
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from halp_jax.datasets.files import one_line
from halp_jax.datasets.graphs import GraphDataset, build, clean_edges
from halp_jax.datasets.labels import UNLABELLED
from halp_jax.datasets.npy import ZIP_DAMAGE
from halp_jax.errors import UserError

EDGES, OWNERS = "A", "graph_indicator"
OTHERS = ("graph_labels", "node_labels", "edge_labels", "node_attributes")
MAX_BYTES = 2 * 2**30  # of one file, unpacked; the largest of the collection have half of that


def read(source: str | Path, *, attributes: bool = False) -> GraphDataset:
    """The data set of an archive or folder.

    Args:
        attributes: nodes' features have their attributes, too.

    Raises:
        UserError: it is no such data set, several, or damaged; the line names the file.
    """
    path = Path(source).expanduser()
    name, files = _find_files(path)
    owners = _parse(files, OWNERS)[:, 0] - 1
    sizes = np.bincount(owners[owners >= 0])
    if (np.diff(owners) < 0).any() or owners.min() < 0 or not sizes.all():
        raise _damaged(files, OWNERS, "graphs must be numbered 1, 2, 3 ... in rising order")
    edges = _parse(files, EDGES, columns=2) - 1
    if len(edges) and not 0 <= edges.min() <= edges.max() < len(owners):
        raise _damaged(files, EDGES, f"nodes run from 1 to {len(owners)}")
    if (owners[edges[:, 0]] != owners[edges[:, 1]]).any():
        raise _damaged(files, EDGES, "an edge leaves its graph")

    def column(what: str, rows: int, kind: type = np.int64) -> np.ndarray | None:
        if what not in files:
            return None
        found = _parse(files, what, kind)
        if len(found) != rows:
            raise _damaged(files, what, f"it has {len(found)} lines, {rows} are needed")
        return found

    labels = column("node_labels", len(owners))
    labels = np.zeros((len(owners), 1), np.int64) if labels is None else labels - labels.min(0)
    values = column("node_attributes", len(owners), np.float32) if attributes else None
    if attributes and values is None:
        raise UserError(f"{path} has no {name}_node_attributes.txt; leave out --attributes")
    classes, class_names = np.full(len(sizes), UNLABELLED), []
    graph_labels = column("graph_labels", len(sizes))
    if graph_labels is not None:
        found, classes = np.unique(graph_labels[:, 0], return_inverse=True)
        class_names = [str(name) for name in found]
    return build(
        name, sizes, labels, np.zeros((len(owners), 0), np.float32) if values is None else values,
        *clean_edges(edges, len(owners), column("edge_labels", len(edges))),
        classes=classes, class_names=class_names, path=path,
        notes={"read from": path.name},
    )  # fmt: skip


def _find_files(path: Path) -> tuple[str, dict[str, tuple[str, bytes]]]:
    """(the data set's name, "A" -> (the file's name, its bytes) and so on)."""
    if path.is_dir():
        found = sorted(path.rglob("*_*.txt"))
        members = {p.relative_to(path.parent).as_posix(): p.read_bytes for p in found}
        return _choose(path, members)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {}
            for info in archive.infolist():
                if info.file_size > MAX_BYTES:
                    raise UserError(f"{path}: {info.filename} has {info.file_size} bytes: too many")
                members[info.filename] = lambda info=info: archive.read(info)
            return _choose(path, members)
    except UserError:  # is a ValueError, as some damage is
        raise
    except (OSError, *ZIP_DAMAGE) as error:
        reason = "it does not exist" if not path.exists() else one_line(error, 300)
        raise UserError(
            f"{path} is no archive or folder of a TU data set ({reason}): fetch it again"
        ) from error


def _choose(path: Path, members: dict) -> tuple[str, dict[str, tuple[str, bytes]]]:
    plain = [m for m in members if not (PurePosixPath(m).is_absolute() or ".." in m or m[0] == "_")]
    names = sorted({m.removesuffix(f"_{EDGES}.txt") for m in plain if m.endswith(f"_{EDGES}.txt")})
    if len(names) != 1:
        found = ", ".join(PurePosixPath(name).name for name in names) or "none"
        raise UserError(
            f"{path} must hold one data set, NAME_A.txt and so on; it has {found} (clips: unpack them)"
        )
    [stem] = names
    wanted = {what: f"{stem}_{what}.txt" for what in (EDGES, OWNERS, *OTHERS)}
    if wanted[OWNERS] not in members:
        raise UserError(f"{path} has no {wanted[OWNERS]}: fetch it again")
    files = {w: (f"{path}: {m}", members[m]()) for w, m in wanted.items() if m in members}
    return PurePosixPath(stem).name, files


def _parse(files: dict, what: str, kind: type = np.int64, columns: int = 0) -> np.ndarray:
    """The numbers of a file, [lines, columns]."""
    where, data = files[what]
    if not data.strip():
        raise _damaged(files, what, "it is empty")
    try:
        found = np.loadtxt(io.BytesIO(data), kind, delimiter=",", ndmin=2, encoding="latin1")
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where} is damaged ({error}): fetch it again") from error
    if columns not in (0, found.shape[1]) or not np.isfinite(found).all():
        raise _damaged(files, what, "it holds no such table of numbers")
    return found


def _damaged(files: dict, what: str, reason: str) -> UserError:
    return UserError(f"{files[what][0]} is damaged ({reason}): fetch it again")
