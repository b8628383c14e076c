"""The method on anybody's network, loss and data; `ssoup_jax` itself is the door to it."""
