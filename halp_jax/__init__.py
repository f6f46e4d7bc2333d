"""HaLP in JAX: hallucinated latent positives, for any contrastive learner.

What another learner needs to add HaLP, as pure functions:

    spherical_kmeans   prototypes from the newest keys
    halp_loss          the term to add to its loss, as to info_nce
    hallucinate        the positives of one anchor, to look at
    MemoryQueue        where the keys come from, with create_queue, push, newest
"""

from halp_jax.core.contrast import info_nce
from halp_jax.core.hallucinate import hallucinate, halp_loss
from halp_jax.core.kmeans import spherical_kmeans
from halp_jax.core.queue import MemoryQueue, create_queue, newest, push

__all__ = [
    "MemoryQueue",
    "create_queue",
    "hallucinate",
    "halp_loss",
    "info_nce",
    "newest",
    "push",
    "spherical_kmeans",
]
