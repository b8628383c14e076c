"""ResNet50 for ImageNet in torchvision's v1.5: the stride sits on the 3x3 convolution of a bottleneck.

He et al., "Deep Residual Learning for Image Recognition", 2015, table 1.
"""

from functools import partial

import jax
from flax import linen as nn

from ssoup_jax.models.layers import Layer, Linear, Network, global_average, max_pool, normal_by_fan_out


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions, the last four times as wide; a 1x1 convolution on the first block's shortcut."""

    conv: Layer
    norm: Layer
    features: int
    strides: int
    project: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(self.features, 1, name="conv1")(x)
        y = nn.relu(self.norm(name="bn1")(y))
        y = self.conv(self.features, 3, self.strides, padding=1, name="conv2")(y)
        y = nn.relu(self.norm(name="bn2")(y))
        y = self.conv(4 * self.features, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y)
        if self.project:
            x = self.conv(4 * self.features, 1, self.strides, name="downsample_0")(x)
            x = self.norm(name="downsample_1")(x)
        return nn.relu(y + x)


class ResNet50(Network):
    """A 7x7 stem with pooling, then 3, 4, 6 and 3 bottlenecks."""

    unsaid = "the stride of a bottleneck sits on its 3x3 convolution (v1.5)"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv = partial(self.conv_layer(), use_bias=False, kernel_init=normal_by_fan_out)
        norm, block = self.norm_layer(train), self.block(Bottleneck)
        x = conv(64, 7, 2, padding=3, name="conv1")(x)
        x = max_pool(nn.relu(norm(name="bn1")(x)), size=3, strides=2, padding=1)
        for stage, (features, blocks) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)], start=1):
            for i in range(blocks):
                strides = 2 if stage > 1 and i == 0 else 1
                x = block(conv, norm, features, strides, project=i == 0, name=f"layer{stage}_{i}")(x)
        return Linear(self.n_classes, name="fc")(global_average(x))
