"""The settings of an experiment: typed, validated, immutable."""

from ssoup_jax.config.settings import Settings, make_settings

__all__ = ["Settings", "make_settings"]
