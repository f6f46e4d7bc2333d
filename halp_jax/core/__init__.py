"""The paper as pure functions on arrays. Knows no data set, no encoder, no file; imports jax alone."""
