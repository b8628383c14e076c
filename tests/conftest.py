"""Every test runs with the project's XLA settings and with JAX's strict checks on."""

import jax

from ssoup_jax import devices

devices.configure()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
