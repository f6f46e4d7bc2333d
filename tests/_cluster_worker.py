"""One process of a cluster: joins, checks what several can do, and writes down what it saw.

    python tests/_cluster_worker.py DATA OUT NUM_STEPS      (who it is: the variables of `cluster`)

One start does it all, for a start costs many seconds. tests/test_cluster.py starts it, plays process
-1 (`make_run`, `run_steps`: the same steps without a cluster) and reads OUT.
"""

import contextlib
import hashlib
import io
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from _runs import small_config
from _steps import change, create_state, make_train_step

from halp_jax import train
from halp_jax.errors import UserError
from halp_jax.training import cluster, parallel, shutdown

STREAMS = {"halp": ("joint",), "halp_cmd": ("joint", "motion", "bone")}
MEMBERS = [(method, driver) for method in STREAMS for driver in parallel.DRIVERS]


def choose_members(num_steps):
    """Few steps are for a quick look: each method and each driver once."""
    return MEMBERS if num_steps > 4 else MEMBERS[:: len(parallel.DRIVERS) + 1]


def make_run(method, num_steps):
    """-> (the step, the state to start from, global batches): HaLP is on from the start."""
    config = small_config()
    config.streams, config.cmd.topk = STREAMS[method], 16
    config.cmd.nu = float(len(config.streams) > 1)
    config.halp.mu, config.halp.start_epoch = 2.0, 0
    rng = np.random.default_rng(0)
    batches = [
        {
            "frames": rng.normal(size=(8, 12, 2, 25, 3)).astype(np.float32),
            "length": rng.integers(5, 13, 8).astype(np.int32),
        }
        for _ in range(num_steps)
    ]
    state = create_state(config)
    state = change(
        state,
        prototypes=state.extra["queue"].keys[:, :4],
        queue=state.extra["queue"]._replace(pushed=jnp.full(len(config.streams), 100)),
    )
    return make_train_step(config, 3), state, batches


def digest(array):
    return hashlib.sha256(np.asarray(array).tobytes()).hexdigest()


def run_steps(method, driver, num_steps):
    """Losses of every step, and what the devices of this process hold in the end."""
    step, state, batches = make_run(method, num_steps)
    run = parallel.compile_step(step, driver=driver)
    state, losses = parallel.replicate(state), []
    for batch in batches:
        state, metrics = run(
            state, {name: cluster.local_shard(rows) for name, rows in batch.items()}
        )
        losses.append([float(metrics["loss"]), float(metrics["loss_halp"])])
    held = [digest(shard.data) for shard in state.extra["prototypes"].addressable_shards]
    prototypes = np.asarray(state.extra["prototypes"].addressable_data(0))
    return {"losses": losses, "held": held, "prototypes": prototypes.tolist()}


def say_what_failed(block):
    try:
        block()
    except UserError as error:
        return [type(error).__name__, str(error)]
    return None


def fail_in(process):
    with cluster.fail_together():
        if jax.process_index() == process:
            raise UserError("broken here")


def exchange_all():
    """What every function of `cluster` gives to this process."""
    me = jax.process_index()
    rows = np.arange(7, dtype=np.int64)
    mine = cluster.local_shard(rows)
    own = {
        "zero": np.float32([-0.0, me]), "half": np.array([0.1 + me], ml_dtypes.bfloat16),
        "flag": np.array(me == 0), "none": np.zeros((0, 3), np.float32), "count": np.int32(7 + me),
    }  # fmt: skip
    first = cluster.broadcast_tree(own)
    return {
        "share": mine.tolist(),
        "gathered": cluster.gather(mine, 7).tolist(),
        "pairs": cluster.gather(np.stack([mine, -mine], 1).astype(np.float32), 7).tolist(),
        "kind": str(cluster.gather(mine, 7).dtype),
        "exchanged": cluster.exchange(f"näh {me} " * (1 + 999 * me))[:2],
        "first": cluster.broadcast_scalar(me + 5),
        "from_first": {name: [x.tobytes().hex(), str(x.dtype)] for name, x in first.items()},
        "shapes": [list(first[name].shape) == list(own[name].shape) for name in own],
        "alike": say_what_failed(lambda: cluster.assert_same_on_all("colour", "red")),
        "not alike": say_what_failed(lambda: cluster.assert_same_on_all("colour", me)),
        "together": say_what_failed(lambda: fail_in(None)),
        "one failed": say_what_failed(lambda: fail_in(1)),
    }


def refused(*options):
    """What the command says and returns."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status = train.main(list(options))
    return [status, said.getvalue()]


def main(data, out, num_steps):
    cluster.join(small_config())
    me = jax.process_index()
    seen = {"exchange": exchange_all()}
    for method, driver in choose_members(num_steps):
        seen[f"{method} {driver}"] = run_steps(method, driver, num_steps)
    config = f"--config={out / 'config.py'}", f"--config.data.dir={data}"
    seen["locked"] = refused(*config, f"--workdir={out / 'locked'}")
    seen["file"] = refused(*config, f"--workdir={out / 'file'}")
    seen["differ"] = refused(*config, f"--workdir={out / 'new'}", f"--config.seed={me}")
    (out / f"{me}.json").write_text(json.dumps(seen))
    cluster.exchange("written")
    if me == 1:  # it alone: the others wait for it
        shutdown.leave(UserError("the roof is on fire"))
    cluster.exchange("never comes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
