"""Several processes that are one run: how they start, what they agree on, and how they end together."""

from ssoup_jax.pod.agree import ALONE, Pod

__all__ = ["ALONE", "Pod"]
