"""Networks, built by name."""

from ssoup_jax.models.ops.convolution import CONVOLUTIONS
from ssoup_jax.models.registry import ARCHS, ImageShape, build, check_arch, init, last_layer

__all__ = ["ARCHS", "CONVOLUTIONS", "ImageShape", "build", "check_arch", "init", "last_layer"]
