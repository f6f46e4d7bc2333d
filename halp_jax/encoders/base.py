"""What the encoders of clips have alike: what they are given and what they give back."""

from collections.abc import Callable

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key


class ClipEncoder(nn.Module):
    """Clips to features and embeddings.

    Args (of `__call__`):
      clips: one stream of each clip.
      length: valid frames of each clip, for encoders that look at it; None: all are.
      train: use and update batch statistics, or use the running ones.
      keys: of the clips, for dropout in training; None for none.
      drop: a function of the last map [joints, rows, time, channels], of encoders that have no joints any
        more [1, batch, time, features]; what it makes of it is pooled and embedded, too.

    Returns:
      embedding [batch, dim], not normalised, and feature [batch, num_features]; with `drop` a third,
      the embedding of the dropped map. Without a head an embedding is the feature.
    """

    @nn.compact
    def __call__(
        self,
        clips: Float[Array, "batch time bodies joints xyz"],
        length: Int[Array, " batch"] | None = None,
        *,
        train: bool,
        keys: Key[Array, " batch"] | None = None,
        drop: Callable[[Array], Array] | None = None,
    ) -> tuple[Float[Array, "batch ..."], ...]:
        x, pool, embed = self.encode(clips, length, train, keys)
        feature = pool(x)
        found = embed(feature), feature
        return found if drop is None else (*found, embed(pool(self.apply_drop(drop, x))))

    def encode(
        self, clips: Array, length: Array | None, train: bool, keys: Array | None
    ) -> tuple[Array, Callable[[Array], Array], Callable[[Array], Array]]:
        """(the last map, map -> feature, feature -> embedding)."""
        raise NotImplementedError

    def apply_drop(self, drop: Callable[[Array], Array], x: Array) -> Array:
        """The dropped map, of encoders whose map is in another order."""
        return drop(x)
