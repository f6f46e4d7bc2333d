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
# # What is a hallucinated positive?
#
# HaLP walks from a clip's embedding $z_k$ toward a prototype $P_{sel}$ that is not its own, as far as its own,
# $P^*$, stays the nearest: up to $t^*$. What lies on the way is a positive. No decoder shows what such a
# point would look like, but the real clips near it do.
#
# Set `workdir` to a run of your own; by default a small one on synthetic clips is trained here, which
# takes two minutes the first time.

# %%
# %matplotlib inline
import ipywidgets as widgets
import small_run
from IPython.display import HTML

from halp_jax.inspect import anchors, classes, history, plots, plots3d, strips

workdir = small_run.make()
run = anchors.open_run(workdir)
clips = anchors.choose_clips(run, 20)
print(f"{len(run.anchors)} clips, {len(run.prototypes)} prototypes ({run.origin}), step {run.step}")

# %% [markdown]
# ## One walk
#
# The curves are similarities to $z(t)$. $t^*$ is where the first rival ties with $P^*$; positives are drawn
# from the grey range. Below, the real clips nearest to $z(t)$, each under its own $t$: a plain frame where
# that clip has the anchor's class.

# %%
path = anchors.walk(run, clips[11])
plots.plot_walk(run, path)

# %% [markdown]
# The same with everything movable. `sphere` is the full objective: it walks to the point farthest from $P^*$
# that still ranks it first, and leaves the real clips far behind.

# %%
_ = widgets.interact(
    plots.explore,
    run=widgets.fixed(run),
    clip=widgets.Dropdown(options=[(f"{run.names[c]} ({c})", c) for c in clips], value=clips[11]),
    solver=widgets.Dropdown(options=anchors.SOLVERS, value="geodesic"),
    lam=widgets.FloatSlider(0.8, min=0, max=1, step=0.05, continuous_update=False),
    num_prototypes=widgets.IntSlider(20, min=2, max=60, continuous_update=False),
    t=widgets.FloatSlider(0.3, min=0, max=1, step=0.01, continuous_update=False),
)  # fmt: skip

# %% [markdown]
# ## Under every solver
#
# The paper's `pairwise` looks at $P_{sel}$ alone, so another prototype may overtake: those positives are
# refused (crosses). `geodesic` stops before. Both give up little similarity beside what `sphere` shows to
# be possible.

# %%
drawn = [anchors.plot_positives(run, clips[11], solver) for solver in anchors.SOLVERS]
plots.plot_solvers(run, drawn)

# %% [markdown]
# ## On the sphere
#
# Six anchors, on the three main directions; the title says how much of the sphere that shows.

# %%
plots3d.plot_scene(plots3d.project_sphere(run, clips[:12:2], "pairwise"))

# %% [markdown]
# ## Do positives keep their class?
#
# The method needs it and never checks, for it has no labels. Here a positive is given the label of the
# nearest real clip, and compared with no walk at all.

# %%
result = classes.keep_class(run, ["pairwise"], ["released"], [0.8], num_positives=10)[0]
plots.plot_classes(run, result)

# %%
solvers = ("pairwise", "geodesic")
along = {solver: classes.keep_along(run, solver, (0, 0.25, 0.5, 0.75, 1)) for solver in solvers}
plots.plot_keep_along(along)

# %% [markdown]
# ## Over training, and what training sees

# %%
plots.plot_history(history.read_history(workdir))

# %%
moves = history.read_moves(workdir)
for step, degrees in zip(moves.step, moves.degrees, strict=True):
    print(f"to step {step}: prototypes moved {degrees.mean():.0f}° (at most {degrees.max():.0f}°)")

# %%
frames = anchors.read_clips(run, clips[:1])[0]
name = run.names[clips[0]]
strips.plot_views(frames, run.dataset.layout, run.config.views, title=name)

# %%
HTML(strips.animate(frames, run.dataset.layout, name))
