"""ResNet18 as used on CIFAR: a 3x3 stem without pooling, and projection shortcuts.

He et al., "Deep Residual Learning for Image Recognition", 2015, section 3.
"""

import jax
from flax import linen as nn

from ssoup_jax.models.layers import Layer, Linear, Network, global_average


class Block(nn.Module):
    """Two 3x3 convolutions; a 1x1 convolution on the shortcut where the shape changes."""

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
        if self.strides != 1 or x.shape[-1] != self.features:
            x = self.conv(self.features, 1, self.strides, use_bias=False, name="shortcut_0")(x)
            x = self.norm(name="shortcut_1")(x)
        return nn.relu(y + x)


class ResNet18(Network):
    """Four stages of two blocks with 64, 128, 256 and 512 channels."""

    unsaid = "nothing is pooled after its 3x3 stem"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv, norm, block = self.conv_layer(), self.norm_layer(train), self.block(Block)
        x = conv(64, 3, padding=1, use_bias=False, name="conv1")(x)
        x = nn.relu(norm(name="bn1")(x))
        for stage, (features, first_strides) in enumerate([(64, 1), (128, 2), (256, 2), (512, 2)], start=1):
            for i in range(2):
                x = block(conv, norm, features, first_strides if i == 0 else 1, name=f"layer{stage}_{i}")(x)
        return Linear(self.n_classes, name="linear")(global_average(x))
