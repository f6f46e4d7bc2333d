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
# # Hallucinated positives among graphs
#
# The same on graphs: GraphCL learns without labels from small graphs, HaLP is one more term of its loss. With
# `MUTAG.zip` ([archives](https://chrsmrrs.github.io/datasets)) in `data/` these are its molecules, else
# made-up ones that come with the package. A minute on two cores.

# %%
# %matplotlib inline
from pathlib import Path

import small_run

from halp_jax import evaluate, prepare, train
from halp_jax.datasets import is_dataset, open_dataset
from halp_jax.inspect import anchors, classes, graph_plots, maps, plots, plots3d

source = small_run.ROOT / "data" / "MUTAG.zip"
name = source.stem if source.exists() else "molecules"
kind = ["--format=tu", f"--source={source}"] if source.exists() else ["--format=synthetic_graphs"]
workdir = Path("runs/notebooks_graphs") / name
data = workdir / "data"

# %% [markdown]
# ## The graphs
#
# A colour is a label of a node, an atom that is. Made-up molecules are active if they have fused rings and a
# nitro group (one node with two alike beside it).

# %%
is_dataset(data) or prepare.main([*kind, f"--out={data}"])
dataset = open_dataset(data)
graph_plots.plot_graphs(dataset, range(12))

# %% [markdown]
# ## Training, and what it knows
#
# Twenty epochs take seconds. Labels come in only now: a support vector machine in ten folds, on the encoder
# before training and after it. One seed differs from another by a point or more, so look at many before you
# compare (`benchmarks/graph_table.py`).

# %%
train.main(
    ["--config=configs/graphcl.py:own+halp", f"--workdir={workdir}", f"--config.data.dir={data}"]
)

# %%
once = ["--protocol=svm", "--config.svm.draws=1"]
for encoder in ("random", "trained"):
    evaluate.main([f"--workdir={workdir}", f"--encoder={encoder}", *once])

# %%
run = anchors.open_run(workdir)
maps.plot_map(run, "tsne")

# %% [markdown]
# ## One walk
#
# From a graph's embedding $z_k$ toward a prototype that is not its own. What lies on the way up to $t^*$ is a
# positive, and below the curves are the real graphs nearest to it. Training makes prototypes anew of each
# batch; those here are clustered from all graphs.

# %%
graphs = anchors.choose_clips(run, 6)
path = anchors.walk(run, graphs[0])
plots.plot_walk(run, path)

# %%
drawn = [anchors.plot_positives(run, graphs[0], solver) for solver in anchors.SOLVERS]
plots.plot_solvers(run, drawn)

# %%
plots3d.plot_scene_flat(plots3d.project_sphere(run, graphs, "geodesic"))

# %% [markdown]
# ## Do positives keep their class?
#
# A positive is given the label of the nearest real graph, and compared with no walk at all.

# %%
result = classes.keep_class(run, ["geodesic"], ["released"], [0.8], num_positives=10)[0]
plots.plot_classes(run, result)
