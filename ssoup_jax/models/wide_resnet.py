"""Wide ResNets with pre-activation and dropout between a block's two convolutions.

Zagoruyko and Komodakis, "Wide Residual Networks", 2016. As in the PyTorch reference, every convolution has a bias and
the stride sits on a block's second convolution.
"""

import jax
from flax import linen as nn

from ssoup_jax.models.layers import Layer, Linear, Network, global_average


class Block(nn.Module):
    """BatchNorm, ReLU, convolution, dropout, and again; a 1x1 convolution on the shortcut where the shape changes."""

    conv: Layer
    norm: Layer
    dropout: Layer
    features: int
    strides: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.relu(self.norm(name="bn1")(x))
        y = self.conv(self.features, 3, padding=1, name="conv1")(y)
        y = nn.relu(self.norm(name="bn2")(self.dropout(0.3)(y)))
        y = self.conv(self.features, 3, self.strides, padding=1, name="conv2")(y)
        if self.strides != 1 or x.shape[-1] != self.features:
            x = self.conv(self.features, 1, self.strides, name="shortcut_0")(x)
        return y + x


class WideResNet(Network):
    """Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 channels, times `widen`."""

    depth: int = 28
    widen: int = 10

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv, norm, dropout = self.conv_layer(), self.norm_layer(train), self.dropout_layer(train)
        block = self.block(Block)
        x = conv(16, 3, padding=1, name="conv1")(x)
        for stage, (features, first_strides) in enumerate([(16, 1), (32, 2), (64, 2)], start=1):
            for i in range((self.depth - 4) // 6):
                strides = first_strides if i == 0 else 1
                x = block(conv, norm, dropout, features * self.widen, strides, name=f"layer{stage}_{i}")(x)
        # The reference gives its last BatchNorm PyTorch's momentum 0.9: nearly the newest batch alone.
        x = nn.relu(norm(momentum=0.1, name="bn1")(x))
        return Linear(self.n_classes, name="linear")(global_average(x))
