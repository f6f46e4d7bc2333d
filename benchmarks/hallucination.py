"""HaLP's loss alone: our tables against positives that are written down, and what G and solver cost.

    python benchmarks/hallucination.py --cores=1

Loss and gradient for the queries, batch 64, 128 dimensions, 20 prototypes. `table` is
core.hallucinate.halp_loss; `materialized` draws the same positives, writes them down, [batch, G, dim],
and asks them for their similarities; `torch` is the peer's (_torch_peers.halp_loss). Also: the three
solvers, and the expectation over t and P_sel in closed form instead of G draws.
"""

import functools

import _timing
import jax
import jax.numpy as jnp
import numpy as np

from halp_jax.core import hallucinate, sphere

QUICK = {"positives": "1,10", "batch": 8, "repeats": 2, "cores": 1}
TEMPERATURE = 0.07


def materialized_loss(key, queries, anchors, prototypes, *, num_positives: int):
    """The paper's solver as one would write it down: every positive a point."""
    s = sphere.similarities(anchors, prototypes)
    c = sphere.similarities(prototypes, prototypes)

    def one(key, s):
        return hallucinate.hallucinate(key, s, s, c, num_positives=num_positives)

    _, z = jax.vmap(one)(jax.random.split(key, len(s)), s)
    points = sphere.normalize(hallucinate.materialize(z, anchors, prototypes))
    # The rank filter of the points themselves.
    similarity = jnp.einsum("bgd,md->bgm", points, prototypes, precision="highest")
    kept = jnp.argmax(similarity, axis=2) == jnp.argmax(s, axis=1)[:, None]
    toward = jnp.einsum("bd,bgd->bg", queries, points, precision="highest")
    return -jnp.sum(toward * kept) / jnp.maximum(jnp.sum(kept), 1) / TEMPERATURE


def table_loss(key, queries, anchors, prototypes, **options):
    loss = hallucinate.halp_loss
    return loss(key, queries, anchors, prototypes, temperature=TEMPERATURE, **options)[0]


def make_torch(arrays, num_positives: int):
    import _torch_peers
    import torch

    device, _ = _timing.prepare_torch()
    queries, anchors, prototypes = (torch.from_numpy(x).to(device) for x in arrays)
    settings = _torch_peers.Settings(num_positives=num_positives)

    def run():
        q = queries.detach().requires_grad_()
        loss = _torch_peers.halp_loss(q, anchors, prototypes, settings)
        loss.backward()
        return loss

    return run


def main() -> None:
    parser = _timing.make_parser(__doc__)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--prototypes", type=int, default=20)
    parser.add_argument("--positives", default="1,10,100,1000", help="G")
    args = _timing.parse(parser, QUICK)
    machine, rates = _timing.start("HaLP's loss and gradient", args)
    draws = [int(g) for g in args.positives.split(",")]
    rng = np.random.default_rng(0)
    shapes = [(args.batch, args.dim)] * 2 + [(args.prototypes, args.dim)]
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    arrays = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in arrays]
    inputs = [jnp.asarray(x) for x in arrays]
    key = jax.random.key(0)

    def compile_loss(loss, **options):
        run = jax.jit(jax.value_and_grad(functools.partial(loss, **options), argnums=1))
        return lambda: run(key, *inputs)

    runs = {}
    for g in draws:
        runs[f"table G={g}"] = compile_loss(table_loss, num_positives=g)
        runs[f"materialized G={g}"] = compile_loss(materialized_loss, num_positives=g)
        if machine["torch"]:
            runs[f"torch G={g}"] = make_torch(arrays, g)
    solver_draws = min(100, max(draws))
    for solver in ("geodesic", "sphere"):  # pairwise is the table above
        name = f"{solver} sampled G={solver_draws}"
        runs[name] = compile_loss(table_loss, num_positives=solver_draws, solver=solver)
        expected = {"solver": solver, "estimator": "expected"}
        runs[f"{solver} expected"] = compile_loss(table_loss, **expected)
    for g in draws:  # the same draws, so the same loss
        (ours, d_ours), (theirs, d_theirs) = runs[f"table G={g}"](), runs[f"materialized G={g}"]()
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(d_ours, d_theirs, atol=1e-2)
    times = _timing.time_in_turn(runs, repeats=args.repeats, min_seconds=0.05)

    # The three tables, forward and for the queries backward: what no form can do without.
    flops = 2.0 * args.dim * args.prototypes * (3 * args.batch + args.prototypes)
    num_bytes = 4.0 * args.dim * (4 * args.batch + args.prototypes)
    floor = _timing.floor_seconds(flops, num_bytes, rates)
    rows = []
    for name, timing in times.items():
        row = {"member": name, "us": 1e6 * timing.wall, "cpu_us": 1e6 * timing.cpu}
        g = name.split("G=")[-1]
        ours = times.get(f"table G={g}")
        row["over_table"] = timing.wall / ours.wall if ours else None
        points = 4.0 * args.batch * int(g) * args.dim if "expected" not in name else 0.0
        written = name.startswith(("materialized", "torch"))
        row["points_kib"] = points / 1024 if written else None
        row["floor_us"] = 1e6 * floor
        # Whoever writes the positives down moves them at least once each way.
        if written:
            row["floor_us"] = 1e6 * _timing.floor_seconds(flops, num_bytes + 2 * points, rates)
        rows.append(row)
    _timing.print_table(rows)
    size = {name: getattr(args, name) for name in ("batch", "dim", "prototypes")}
    _timing.print_json("hallucination", machine=machine, size=size, repeats=args.repeats, rows=rows)


if __name__ == "__main__":
    main()
