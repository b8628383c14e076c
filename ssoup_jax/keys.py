"""Randomness by name: every key is derived from the run's seed by a path of words and numbers."""

import zlib

import jax


def derive(key: jax.Array, *path: str | int | jax.Array) -> jax.Array:
    """Derives the key at `path`, such as `('IMP', phase, seed)`; equal paths give equal keys.

    Args:
        key: a typed PRNG key, shape `[]`.
        *path: words (hashed by CRC-32) and non-negative integers, traced ones included.

    Returns:
        A typed PRNG key, shape `[]`.
    """
    for part in path:
        key = jax.random.fold_in(key, zlib.crc32(part.encode()) if isinstance(part, str) else part)
    return key
