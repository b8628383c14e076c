"""The thin CIFAR ResNets of depth 6n + 2, with shortcuts that have no weights.

He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssoup_jax.models.layers import Layer, Linear, Network, global_average


class Block(nn.Module):
    """Two 3x3 convolutions around a shortcut of option A."""

    conv: Layer
    norm: Layer
    features: int
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.features, 3, self.strides, padding=1, use_bias=False, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.features, 3, padding=1, use_bias=False, name="conv2")(y)
        y = self.norm(name="bn2")(y)
        return nn.relu(y + shortcut(x, self.features, self.strides))


def shortcut(x: jax.Array, features: int, strides: int) -> jax.Array:
    """Drops pixels and pads channels with zeros on both sides: the paper's option A."""
    missing = features - x.shape[-1]
    low = missing // 2
    return jnp.pad(x[:, ::strides, ::strides], ((0, 0), (0, 0), (0, 0), (low, missing - low)))


class CifarResNet(Network):
    """Three stages of n blocks with 16, 32 and 64 channels, times `width`."""

    unsaid = "its shortcuts take every other pixel and add as many zero channels in front as behind (option A)"

    blocks: int = 3
    width: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv, norm, block = self.conv_layer(), self.norm_layer(train), self.block(Block)
        x = conv(16 * self.width, 3, padding=1, use_bias=False, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x))
        for stage, (features, first_strides) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            for i in range(self.blocks):
                strides = first_strides if i == 0 else 1
                x = block(conv, norm, features * self.width, strides, name=f"layer{stage}_{i}")(x)
        return Linear(self.n_classes, name="linear")(global_average(x))
