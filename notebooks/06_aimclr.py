# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Mined and hallucinated positives
#
# AimCLR finds positives: the nearest neighbours of a clip in the queue, from a certain epoch on, are as good
# as its key. HaLP makes them: points on the sphere between the clip and a prototype. Here one run does both,
# and the two kinds stand side by side.
#
# AimCLR comes with the ST-GCN, but takes any encoder of clips, and the BiGRU on motion has something to show
# after two minutes, so `encoder.name` says so below.

# %%
# %matplotlib inline
from pathlib import Path

import small_run

from halp_jax import train
from halp_jax.inspect import anchors, classes, history, plots

START, RUN = Path("runs/notebooks/skeletonclr"), Path("runs/notebooks/aimclr")
settings = [
    f"--config.data.dir={small_run.DATA}", "--config.streams=('motion',)", "--config.encoder.name=bigru",
    "--config.encoder.width=64", "--config.encoder.pooling=mean", "--config.train.num_devices=1",
    "--config.train.batch_size=32", "--config.train.epoch_steps=10", "--config.moco.queue_size=256",
]  # fmt: skip
small_run.make_data()

# %% [markdown]
# ## The start: SkeletonCLR
#
# Two views and a queue. Neighbours are worth mining only once the space means something.

# %%
train.main(
    ["--config=configs/aimclr.py:small+skeletonclr", f"--workdir={START}", *settings,
     "--config.train.epochs=30", "--config.optim.milestones=(40,)"]
)  # fmt: skip

# %% [markdown]
# ## AimCLR with HaLP
#
# From there: a third, extreme view, its map without what attention looks at most, mining, and HaLP's pull on q.
# `positives` of the log counts how many keys of the queue each q is told to be near.

# %%
train.main(
    ["--config=configs/aimclr.py:small+halp", f"--workdir={RUN}", f"--config.init_from={START}", *settings,
     "--config.train.epochs=45", "--config.optim.milestones=(40,)", "--config.aimclr.mine_epoch=30",
     "--config.halp.start_epoch=30", "--config.halp.ramp_epochs=3"]
)  # fmt: skip
run = anchors.open_run(RUN)
clips = anchors.choose_clips(run, 6)
print(
    f"{len(run.anchors)} clips, {len(run.prototypes)} prototypes of {run.origin}, step {run.step}"
)

# %% [markdown]
# ## Side by side
#
# At $t = 0$ stands the real clip nearest to the anchor: what mining takes for a positive. To the right of it
# stand those nearest to $z(t)$; hallucinated positives are drawn from the grey range. A plain frame: the
# clip is of the anchor's class.

# %%
plots.plot_walk(run, anchors.walk(run, clips[0]))

# %%
plots.plot_walk(run, anchors.walk(run, clips[1]))

# %% [markdown]
# ## Which kind keeps the class?
#
# Over all clips: how often the mined neighbour is of the anchor's class, how often the real clip nearest to a
# hallucinated positive is, and what walks of the same length in any direction would reach.

# %%
kept = classes.keep_class(run, ["pairwise"], ["released", "slide"], [0.8], num_positives=10)
print(f"mined: {kept[0].at_anchor:.1%} of the anchor's class")
for row in kept:
    print(f"hallucinated ({row.draw} draw): {row.share:.1%}; any direction: {row.blind:.1%}; "
          f"walked {row.degrees:.0f}°")  # fmt: skip

# %%
plots.plot_classes(run, kept[0])

# %%
plots.plot_history(history.read_history(RUN))
