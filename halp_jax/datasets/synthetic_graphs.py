"""The embedded graphs: made-up molecules of rings with small groups on them, in the manner of MUTAG.

    python -m halp_jax.prepare --format=synthetic_graphs --out=data/molecules

One to four rings of six carbons are fused or bound to one another; nitro groups, halogens and the like
hang on them at random. A molecule is active if it has fused rings and a nitro group. No chemistry is
claimed.
"""

import numpy as np

from halp_jax.datasets.graphs import GraphDataset, from_arrays

COUNT = 240
CLASS_NAMES = ("inactive", "active")
CARBON, NITROGEN, OXYGEN, FLUORINE, CHLORINE = range(5)
NITRO = (NITROGEN, OXYGEN, OXYGEN)
# Of each the first atom is bound to the ring, the others to the first.
GROUPS = (
    NITRO, (CARBON, OXYGEN, OXYGEN), (NITROGEN,), (OXYGEN,), (OXYGEN, CARBON), (CARBON,),
    (FLUORINE,), (CHLORINE,),
)  # fmt: skip
ODDS = (0.3, *[0.1] * 7)
Bonds = list[tuple[int, int]]


def read(source: str = "", *, seed: int = 0) -> GraphDataset:
    """COUNT molecules; another seed makes others. `source` is not used: there are no files."""
    made = [make_molecule(np.random.default_rng((seed, i))) for i in range(COUNT)]
    atoms, bonds, active = zip(*made, strict=True)
    names = [f"molecule {i}" for i in range(COUNT)]
    return from_arrays(bonds, active, node_labels=atoms, class_names=CLASS_NAMES, names=names)


def make_molecule(rng: np.random.Generator) -> tuple[list[int], Bonds, int]:
    """(the atoms, pairs of them, its class) of one molecule."""
    atoms: list[int] = []
    bonds: Bonds = []
    ring = _add_ring(atoms, bonds, [])
    free, has_fused, has_nitro = list(ring), False, False
    for _ in range(rng.integers(0, 4)):
        if rng.random() < 0.5:  # two neighbours of the last ring, which nothing hangs on yet
            has_fused = True
            shared = ring[2:4]
            ring = _add_ring(atoms, bonds, shared)
            free = [n for n in free if n not in shared] + ring[2:]
        else:
            end, ring = ring[4], _add_ring(atoms, bonds, [])
            bonds.append((end, ring[0]))
            free = [n for n in free if n != end] + ring[1:]
    for place in rng.permutation(free)[: rng.integers(1, 5)]:
        group = GROUPS[rng.choice(len(GROUPS), p=ODDS)]
        has_nitro |= group == NITRO
        first = _bind(atoms, bonds, group[0], int(place))
        for other in group[1:]:
            _bind(atoms, bonds, other, first)
    return atoms, bonds, int(has_fused and has_nitro)


def _bind(atoms: list[int], bonds: Bonds, kind: int, end: int) -> int:
    """A new atom bound to the atom `end` -> its number."""
    atoms.append(kind)
    bonds.append((end, len(atoms) - 1))
    return len(atoms) - 1


def _add_ring(atoms: list[int], bonds: Bonds, shared: list[int]) -> list[int]:
    """A ring of six, of which `shared` are there already and neighbours -> its atoms in order."""
    ring = shared + list(range(len(atoms), len(atoms) + 6 - len(shared)))
    atoms += [CARBON] * (6 - len(shared))
    bonds += zip(ring, ring[1:] + ring[:1], strict=True)
    return ring
