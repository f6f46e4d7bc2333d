"""Draws what a trained run hallucinates: one anchor's walk with the real clips or graphs along it.

    python -m halp_jax.inspect --workdir=runs/halp
    python -m halp_jax.inspect --workdir=runs/mutag --anchor=12 --solver=geodesic

Walks from one clip or graph toward a prototype that is not its own and prints which real one is nearest
at each t. Pictures, in WORKDIR/inspect or --out: walk_N.png, the walk of anchor N; positives_N.png, how
similar its positives stay to its prototype under each solver; sphere.png, several anchors on the sphere;
map.png, all clips or graphs on two main directions.

A run of graphs has one stream and trains on all its graphs. GraphCL makes new prototypes from each
batch and keeps none: those shown are clustered from all graphs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from halp_jax.inspect import anchors, maps, page, plots, plots3d
from halp_jax.options import make_parser, run_command

# Options that a picture's name tells, where they are not the usual.
NAMED = ("stream", "step", "part", "solver", "toward", "split")


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    parser = make_parser("inspect", __doc__)
    add = parser.add_argument
    add("--workdir", required=True, type=Path, help="folder of the training run")
    about = (
        "which clip or graph of the part, counted from 0; default: one from the middle of its class"
    )
    add("--anchor", type=int, help=about)
    about = "the prototype to walk to; default: the one with the longest walk"
    add("--toward", type=int, help=about)
    add("--solver", choices=anchors.SOLVERS, help="default: the run's own")
    add("--stream", default="", help="of a run of several streams; default: its first")
    add("--part", default="train", choices=("train", "test"), help="of the run's split")
    add("--step", type=int, help="which checkpoint; default: the newest")
    add("--data", default="", help="the data set; default: where it was in training")
    add("--split", default="", help="of the data set; default: that of the run")
    add("--out", type=Path, help="folder of the pictures; default: WORKDIR/inspect")
    args = parser.parse_args(argv)
    given = {name: getattr(args, name) for name in NAMED}
    args.asked = {name: v for name, v in given.items() if v != parser.get_default(name)}
    return args


def run(argv: Sequence[str]) -> None:
    """Opens the run, prints the walk, draws."""
    args = parse_args(argv)
    opened = anchors.open_run(
        args.workdir, stream=args.stream, step=args.step, part=args.part, data=args.data,
        split=args.split,
    )  # fmt: skip
    typical = anchors.choose_clips(opened, 6)
    anchor = typical[0] if args.anchor is None else args.anchor
    walk = anchors.walk(opened, anchor, args.toward, args.solver)
    print("\n".join(tell_walk(opened, walk)))
    drawn = [anchors.plot_positives(opened, anchor, solver) for solver in anchors.SOLVERS]
    figures = {
        f"walk_{anchor}": plots.plot_walk(opened, walk),
        f"positives_{anchor}": plots.plot_solvers(opened, drawn),
        "sphere": plots3d.plot_scene_flat(plots3d.project_sphere(opened, typical, args.solver)),
        "map": maps.plot_map(opened),
    }
    out = args.out or args.workdir / "inspect"
    end = "".join(f"_{n}{v}" if isinstance(v, int) else f"_{v}" for n, v in args.asked.items())
    for name, figure in figures.items():
        page.save(figure, out / f"{name}{end}.png")
    print(f"{out}: " + ", ".join(f"{name}{end}.png" for name in figures))


def tell_walk(opened: anchors.Inspected, walk: anchors.Walk) -> list[str]:
    """The walk in words: what it is, and the nearest real clip or graph wherever that changes."""
    unit = opened.unit
    prototypes = f"{len(opened.prototypes)} prototypes of the run"
    if opened.origin != "the run":
        prototypes = f"prototypes: {opened.origin}"
    changes = np.flatnonzero(np.diff(walk.neighbour, prepend=-1))
    return [
        f"step {opened.step}, {len(opened.anchors)} {unit}s, {prototypes}",
        f"{unit} {walk.clip} ({opened.names[walk.clip]}), of prototype {walk.nearest}: toward {walk.target}, "
        f"{np.degrees(walk.omega):.0f} degrees away, t* = {walk.t_star:.2f} ({walk.solver})",
        *(
            f"  from t = {walk.t[i]:.2f} nearest to {unit} {walk.neighbour[i]}"
            f" ({opened.names[walk.neighbour[i]]}), similarity {walk.closeness[i]:.3f}"
            for i in changes
        ),
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    return run_command("inspect", run, argv, stopped="some pictures may be missing")


if __name__ == "__main__":
    sys.exit(main())
