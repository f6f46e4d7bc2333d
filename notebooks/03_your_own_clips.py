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
# # Your own clips
#
# From arrays of joints to embeddings, nearest neighbours and a run of your own. The arrays here are made up,
# by people whom the encoder has never met; put yours in their place.

# %%
# %matplotlib inline
import numpy as np
import small_run
from IPython.display import HTML

from halp_jax import datasets, embed, evaluate, train
from halp_jax.inspect import anchors, plots, strips
from halp_jax.skeletons import synthetic
from halp_jax.skeletons.layout import parse_layout

workdir = small_run.make()
mine = workdir / "mine"
mine.mkdir(exist_ok=True)

# %% [markdown]
# ## Embeddings of single clips
#
# A clip is a `.npy` file: [frames, joints, 3] or [frames, bodies, joints, 3], in metres, as the sensor gives it.
# `embed` normalises it as the run's data were and lists the nearest clips of the run.

# %%
frames = {name: synthetic.make_clip(5, index) for index, name in enumerate(synthetic.CLASS_NAMES)}
for name in ("wave", "sit down", "bow"):
    np.save(mine / f"{name}.npy", frames[name])

# %%
files = [str(mine / f"{name}.npy") for name in ("wave", "sit down", "bow")]
embed.main([f"--workdir={workdir}", "--neighbours=3", "--input", *files])

# %% [markdown]
# ## A data set of your own
#
# Clips, labels (or `None`: pre-training needs none), and who trains and who tests. A joint that is NaN
# for a few frames is filled in; a wrong shape or label is named. `prepare --format=folder` does the same for a
# folder with a CSV file.

# %%
count = 160
data = datasets.from_arrays(
    [synthetic.make_clip(5, index) for index in range(count)],
    np.arange(count) % 20,
    layout="ntu25",
    class_names=synthetic.CLASS_NAMES,
    splits={"mine": {"train": range(120), "test": range(120, count)}},
)
packed = datasets.pack(data, mine / "clips.npz", overwrite=True)
HTML(strips.animate(data.clip(15), data.layout, data.class_names[data.labels[15]]))

# %% [markdown]
# A skeleton that the package does not know is a few names: which joint hangs on which, the line of the spine
# and that of the shoulders. Pass it as `layout=`, or as a JSON file as `--layout`.

# %%
hand = parse_layout(
    {
        "name": "hand6", "joints": ["wrist", "thumb", "index", "middle", "ring", "little"],
        "parents": ["wrist"] * 6, "bodies": 1, "centre": "wrist",
        "spine": ["wrist", "middle"], "shoulders": ["index", "little"],
    },
    "this notebook",
)  # fmt: skip
hands = np.random.default_rng(0).normal(size=(3, 40, 1, 6, 3))
print(datasets.from_arrays(list(hands), None, layout=hand).layout)

# %% [markdown]
# ## Going on from the trained encoder
#
# `init_from` starts with the weights of a run; a few epochs on so few clips are for the show.

# %%
own = mine / "run"
options = {
    "data.dir": packed, "data.split": "mine", "train.epochs": 6, "init_what": "encoder",
    "init_from": workdir, "knn.every_epochs": 0, "halp.start_epoch": 4, "halp.ramp_epochs": 0,
    "moco.queue_size": 64, "halp.queue_entries": 64, "train.batch_size": 32,
}  # fmt: skip
train.main(["--config=configs/demo.py", f"--workdir={own}", *small_run.settings(**options)])

# %%
evaluate.main([f"--workdir={own}", "--protocol=knn", "--config.train.num_devices=1"])

# %% [markdown]
# And what HaLP hallucinates for them, as in `02_inspect_positives`.

# %%
run = anchors.open_run(own)
plots.plot_walk(run, anchors.walk(run, anchors.choose_clips(run, 12)[11]))
