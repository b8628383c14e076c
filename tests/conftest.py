"""Every test runs with the project's XLA settings and with JAX's strict checks on."""

from ssoup_jax import backend

backend.configure()

import jax  # noqa: E402  (the flags come first)

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
