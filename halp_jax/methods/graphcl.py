"""GraphCL (You et al., NeurIPS 2020) on graphs, with HaLP as a term of its loss.

    L = L_CL + mu L_HaLP

As the released unsupervised_TU: the first view is the graph itself, the second one augmented; the loss is
one-sided NT-Xent, its anchors the first view's; the batches never change; Adam. For HaLP a graph's
anchor is its first view without gradient, the query its second. The paper's rows come without code:
prototypes are of the batch's own anchors, or of a bank of the newest.
"""

import math

import jax
import jax.numpy as jnp
import ml_collections
import optax

from halp_jax.core.contrast import one_sided_nt_xent
from halp_jax.core.hallucinate import halp_loss
from halp_jax.core.queue import create_queue, newest, push
from halp_jax.core.sphere import normalize
from halp_jax.encoders.gin import Graphs, make_encoder
from halp_jax.methods import check, graph_views, halp
from halp_jax.methods.base import AXIS, Method, Spec

SHOWN, NEWEST = ("contrast_accuracy", "mu", "kept"), ("mu",)
UNIT = "graphs"
KEEPS_REST = True  # the last batch of an epoch has the graphs that are left
FIXED = ("graphcl.prototypes", *halp.FIXED)
VIEW_ROWS = 0.625  # the share of a batch's rows that most views fit into
ADVICE = "a lower --config.optim.learning_rate or a higher --config.graphcl.temperature"

CHOICES = {
    "graphcl.augmentation": tuple(graph_views.AUGMENTATIONS),
    "graphcl.subgraph": graph_views.SUBGRAPHS,
    "graphcl.loops": graph_views.LOOPS,
    "graphcl.prototypes": ("batch", "bank"),
    "halp.solver": ("pairwise", "geodesic"),
    "train.precision": ("float32",),
}


def default_config() -> ml_collections.ConfigDict:
    """The sections of a config that are this method's own."""
    graphcl = ml_collections.ConfigDict()
    graphcl.augmentation = "random2"  # random3, random4, or one: see methods/graph_views.py
    graphcl.subgraph = "released"  # neighbours of one node alone; "textbook" grows further
    graphcl.loops = "released"  # or "all", "none": graph_views.whole
    graphcl.temperature = 0.2
    graphcl.prototypes = "batch"  # or "bank": of the newest halp.queue_entries anchors
    return ml_collections.ConfigDict({"graphcl": graphcl, "halp": halp.default_config()})


def check_config(config: ml_collections.ConfigDict, spec: Spec | None = None) -> None:
    """Raises UserError for settings that cannot work."""
    check.choices(config, CHOICES)
    check.at_least(config, 1, "encoder.width", "encoder.num_layers")
    check.at_least(config, 0, "optim.learning_rate")
    check.above_zero(config, "graphcl.temperature")
    if config.knn.every_epochs:
        check.refuse(
            config, "knn.every_epochs", "0 for graphs: halp_jax.evaluate does it, in folds"
        )
    halp.check_config(config, config.halp.queue_entries, "halp.queue_entries")
    batch_size, bank = config.train.batch_size, config.halp.queue_entries
    if config.graphcl.prototypes == "bank" and bank < batch_size:
        advice = f"a bank must hold train.batch_size={batch_size} or more"
        check.refuse(config, "halp.queue_entries", advice)


def make_optimizer(config: ml_collections.ConfigDict, steps_per_epoch: int):
    """Adam as torch.optim.Adam, at one rate; no schedules to report."""
    return optax.adam(config.optim.learning_rate), {}


def make(config: ml_collections.ConfigDict, spec: Spec, halp_loss=halp_loss) -> Method:
    """The method. `halp_loss`: as `halp.make_term` has it."""
    c, layout = config.graphcl, spec.layout
    trained, frozen = make_encoder(config, AXIS), make_encoder(config)
    dim, kinds = frozen.num_features, graph_views.AUGMENTATIONS[c.augmentation]
    pull = halp.make_term(
        config.halp, dim, c.temperature, spec.steps_per_epoch, halp_loss=halp_loss
    )
    has_bank = c.prototypes == "bank"

    def init(key):
        key_params, key_bank = jax.random.split(key)
        variables = frozen.init(key_params, _no_graphs(layout.num_features), train=False)
        extra = {"batch_stats": variables["batch_stats"]}
        if has_bank:
            bank = create_queue(key_bank, config.halp.queue_entries, dim)
            extra |= {"bank": bank, "prototypes": pull.init()}
        return variables["params"], extra

    def views(keys, batch):
        shard = jax.tree.map(lambda leaf: leaf[0], batch)  # a device has one
        g = graph_views.whole(shard, layout, c.loops)
        return g, graph_views.augment(keys[0], shard, g, kinds, c.subgraph, c.loops)

    def forward(params, batch_stats, g):
        variables = {"params": params, "batch_stats": batch_stats}
        (z, _), new = trained.apply(variables, g, train=True, mutable=["batch_stats"])
        return normalize(z), new["batch_stats"]

    def forward_view(params, batch_stats, g):
        """The same of a view. On a CPU in fewer rows, where its nodes fit into them."""
        rows = math.ceil(VIEW_ROWS * len(g.nodes))
        if jax.default_backend() != "cpu":
            return forward(params, batch_stats, g)
        return jax.lax.cond(
            jax.lax.pmax(jnp.sum(g.nodes), AXIS) < rows,
            lambda g: forward(params, batch_stats, graph_views.compact(g, rows)),
            # Computed again for its gradient, lest in every step there be memory kept for this rare case.
            jax.checkpoint(lambda g: forward(params, batch_stats, g)),
            g,
        )

    def loss(params, extra, views, key, step):
        anchors, batch_stats = forward(params, extra["batch_stats"], views[0])
        queries, batch_stats = forward_view(params, batch_stats, views[1])
        there = views[0].graphs
        others, filled = (jax.lax.all_gather(x, AXIS, tiled=True) for x in (queries, there))
        own = jax.lax.axis_index(AXIS) * len(there) + jnp.arange(len(there))
        losses, closest = one_sided_nt_xent(anchors, others, own, filled, c.temperature)
        count = jax.lax.pmean(jnp.sum(there), AXIS)  # of graphs on a device, on average
        loss_cl, accuracy = jnp.sum(losses) / count, jnp.sum(closest) / count
        kept = {"batch_stats": batch_stats}
        if has_bank:
            every = jax.lax.all_gather(jax.lax.stop_gradient(anchors), AXIS, tiled=True)
            bank = push(extra["bank"], every, filled)
            entries = len(bank.keys)
            source = halp.Source(newest(bank, entries), bank.pushed >= entries)
            loss_halp, kept["prototypes"], figures = pull.loss(
                extra["prototypes"], queries, anchors, source, key, step, there
            )
            kept["bank"] = bank
        else:
            loss_halp, figures = pull.fresh(queries, anchors, there, key, step)
        figures |= {"loss_cl": loss_cl, "contrast_accuracy": accuracy}
        return loss_cl + loss_halp, (kept, figures)

    def infer(params, extra, batch):
        shard = jax.tree.map(lambda leaf: leaf[0], batch)
        g = graph_views.whole(shard, layout, c.loops)
        variables = {"params": params, "batch_stats": extra["batch_stats"]}
        return frozen.apply(variables, g, train=False)

    def encode(params, extra, batch):
        return infer(params, extra, batch)[1][None]

    def embed(params, extra, batch):
        return normalize(infer(params, extra, batch)[0])[None]

    return Method(init, views, loss, encode, embed)


def _no_graphs(num_features: int) -> Graphs:
    """One node of one graph, for the shapes of the parameters."""
    one, none = jnp.zeros(1, jnp.int32), jnp.zeros((1, 1), jnp.int32)
    there = jnp.ones(1, bool)
    return Graphs(
        jnp.zeros((1, num_features)), there, there, None, there, one, one, one,
        none, none, none, none, one,
    )  # fmt: skip


def step_flops(config: ml_collections.ConfigDict, spec: Spec) -> float:
    """Model FLOPs of one step: two views of every graph, forward and twice that backward.

    What a view has left out counts, sums over neighbours do not.
    """
    encoder, graphs = make_encoder(config), config.train.batch_size
    return 6.0 * encoder.count_flops(graphs * spec.mean_length, graphs, spec.layout.num_features)
