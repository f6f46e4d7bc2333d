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
# # Add HaLP to your learner
#
# `halp_jax.core` knows nothing of skeletons. Below, a plain contrastive learner of small images (the digits of
# scikit-learn, somewhere in 12 x 12 pixels; an MLP, a momentum encoder, a queue) gets HaLP in three lines and
# an import, and is compared with itself without them. A minute or two.

# %%
# %matplotlib inline
import functools

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from halp_jax import (
    create_queue,
    hallucinate,
    halp_loss,
    info_nce,
    newest,
    push,
    spherical_kmeans,
)  # fmt: skip
from halp_jax.core.sphere import normalize, similarities, slerp_weights
from halp_jax.evaluation.knn import nearest
from halp_jax.inspect import page

rng = np.random.default_rng(0)
digits, labels = load_digits(return_X_y=True)
images = np.zeros((len(digits), 12, 12), np.float32)
for image, digit in zip(images, digits.reshape(-1, 8, 8) / 16, strict=True):
    row, column = rng.integers(1, 4, 2)
    image[row : row + 8, column : column + 8] = digit
images = jnp.asarray(images)
order = rng.permutation(len(images))
learn, test = order[:1200], order[1200:]

# %% [markdown]
# ## A plain learner
#
# Two views of an image, shifted, dimmed, with noise; the query learns to find its key among those
# of the queue.


# %%
def view(key, image):
    keys = jax.random.split(key, 3)
    image = jnp.roll(image, jax.random.randint(keys[0], (2,), -1, 2), (0, 1))
    dim = jax.random.uniform(keys[1], minval=0.6, maxval=1.2)
    return dim * image + 0.1 * jax.random.normal(keys[2], image.shape)


def create(key, sizes=(144, 256, 256, 32)):
    keys = jax.random.split(key, len(sizes))
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=False)
    return [jax.random.normal(k, (m, n)) * (2 / m) ** 0.5 for k, m, n in pairs]


def encode(weights, x):
    x = x.reshape(len(x), -1)
    for weight in weights[:-1]:
        x = jax.nn.relu(x @ weight)
    return normalize(x @ weights[-1]), x


# %% [markdown]
# ## With HaLP
#
# They are marked. `mu` = 0 is the learner without them.


# %%
def total_loss(weights, keys, queue, prototypes, x, rng, mu):
    queries, _ = encode(weights, x)
    loss, _ = info_nce(queries, keys, queue.keys, 0.1)
    loss_halp, figures = halp_loss(rng, queries, keys, prototypes, temperature=0.1)  # HaLP
    loss = loss + mu * loss_halp  # HaLP
    return loss, figures


def step(state, rng, mu):
    weights, momentum, speed, queue = state
    rngs = jax.random.split(rng, 5)
    batch = images[learn][jax.random.randint(rngs[0], (128,), 0, len(learn))]
    x, x_key = (jax.vmap(view)(jax.random.split(r, 128), batch) for r in rngs[1:3])
    momentum = jax.tree.map(lambda old, new: 0.99 * old + 0.01 * new, momentum, weights)
    keys, _ = encode(momentum, x_key)
    pushed = push(queue, keys)
    prototypes = spherical_kmeans(rngs[3], newest(pushed, 256), 20, max_iter=5).centroids  # HaLP
    gradient = jax.grad(total_loss, has_aux=True)
    change, figures = gradient(weights, keys, queue, prototypes, x, rngs[4], mu)
    speed = jax.tree.map(lambda s, g: 0.9 * s + g, speed, change)
    weights = jax.tree.map(lambda w, s: w - 0.05 * s, weights, speed)
    return (weights, momentum, speed, pushed), figures


@functools.partial(jax.jit, static_argnames="steps")
def run(state, rng, mu, steps):
    return jax.lax.scan(lambda s, r: step(s, r, mu), state, jax.random.split(rng, steps))


def accuracy(features, labelled):
    place = nearest(features[labelled], features[test], 1)[0][:, 0]
    return 100 * float((labels[labelled][place] == labels[test]).mean())


# %% [markdown]
# ## The result
#
# HaLP wants a trained learner under it, so both start from the same 800 steps without. Then 200 more of
# each, for five seeds; judged by the nearest of 200 labelled digits.

# %%
rows = []
for seed in range(5):
    start = create(jax.random.key(seed))
    queue = create_queue(jax.random.key(100 + seed), 1024, 32)
    state = (start, start, jax.tree.map(jnp.zeros_like, start), queue)
    state, _ = run(state, jax.random.key(200 + seed), 0.0, 800)
    plain, _ = run(state, jax.random.key(300 + seed), 0.0, 200)
    ours, watched = run(state, jax.random.key(300 + seed), 1.0, 200)
    labelled = np.random.default_rng(seed).choice(learn, 200, replace=False)
    rows.append([accuracy(images.reshape(-1, 144), labelled)])
    rows[-1] += [accuracy(encode(s[0], images)[1], labelled) for s in (state, plain, ours)]
rows = np.array(rows)
names = ("pixels", "800 steps", "1000 steps", "800 + 200 with HaLP")
for name, column in zip(names, rows.T, strict=True):
    print(f"{name:20} {column.mean():.1f} ± {column.std(ddof=1):.1f} % right")
gain = rows[:, 3] - rows[:, 2]
print(
    f"HaLP against none, paired: {gain.mean():+.1f} ± {gain.std(ddof=1) / 5**0.5:.1f} (std. error)"
)

# %% [markdown]
# ## What it hallucinated
#
# Five seeds of so small a learner settle nothing, and the figure above claims nothing. `figures` says whether
# the term did its work: positives kept by the rank filter, $t^*$, prototypes in use. And one walk: each line is a
# prototype, and $t^*$ is where the first of them comes as near as $P^*$.

# %%
print({name: round(float(values[-50:].mean()), 2) for name, values in watched.items()})

# %%
anchor, _ = encode(ours[1], images[learn][:1])
prototypes = spherical_kmeans(jax.random.key(0), newest(ours[3], 256), 20).centroids
s, c = similarities(anchor, prototypes)[0], similarities(prototypes, prototypes)
reach, positives = hallucinate(jax.random.key(0), s, s, c, num_positives=8, solver="geodesic")
target = int(positives.selected[0])
t_star = float(reach.t_star[target])


def plot_walk():
    t = jnp.linspace(0, 1, 200)
    a, b = slerp_weights(t, reach.omega[target])
    figure = page.make_figure(8.0, 4.0)
    axes = figure.add_subplot()
    axes.plot(t, a[:, None] * s + b[:, None] * c[target], color="0.7", lw=0.8)
    lines = {int(s.argmax()): "P*: nearest to the anchor", target: "P_sel: where the walk ends"}
    for j, name in lines.items():
        axes.plot(t, a * s[j] + b * c[target, j], lw=2, label=name)
    axes.axvline(t_star, color="black", ls=":", label=f"t* = {t_star:.2f}")
    axes.set_xlabel(f"t, from a digit {labels[learn][0]} to prototype {target}")
    axes.set_ylabel("similarity to z(t)")
    axes.legend(frameon=False)
    return figure


plot_walk()
