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
# # From clips to an encoder that knows actions
#
# Pre-train HaLP on skeleton clips without their labels, then ask how much it has learnt. Everything here
# is a command of the README, called from Python; the clips are synthetic, so nothing has to be
# downloaded. Two minutes on two cores.

# %%
# %matplotlib inline
import small_run
from IPython.display import HTML
from small_run import DATA, RUN

from halp_jax import datasets, evaluate, train
from halp_jax.inspect import anchors, history, maps, plots, strips

# %% [markdown]
# ## The clips
#
# An array [time, bodies, joints, 3] each. `from_arrays` takes your own as well; `pack` writes them to one
# file, which trains without TensorFlow. (Files of NTU RGB+D, PKU-MMD and others: `python -m
# halp_jax.prepare`.)

# %%
RUN.mkdir(parents=True, exist_ok=True)
clips = small_run.make_clips()
DATA.exists() or datasets.pack(clips, DATA)
print(
    f"{len(clips)} clips of {clips.num_classes} actions, {len(clips.indices('xsub', 'train'))} train"
)

# %%
HTML(strips.animate(clips.clip(7), clips.layout, clips.class_names[clips.labels[7]]))

# %% [markdown]
# ## Training
#
# MoCo for 42 epochs, then HaLP on top of it. Run again, the command resumes where it stopped, so here it
# has nothing left to do the second time.

# %%
train.main(["--config=configs/demo.py", f"--workdir={RUN}", *small_run.settings()])

# %%
plots.plot_history(history.read_history(RUN))

# %% [markdown]
# ## What it knows
#
# The labels come in only now: the nearest training clip (of other people) names the action.

# %%
evaluate.main([f"--workdir={RUN}", "--protocol=knn", "--config.train.num_devices=1"])

# %%
maps.plot_confusion(RUN / "eval" / "knn.json")

# %%
run = anchors.open_run(RUN)
maps.plot_map(run, "tsne")
