"""VGG networks with BatchNorm and a single linear layer.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2014, table 1,
columns A, B, D and E.
"""

import jax
from flax import linen as nn

from ssoup_jax.models.layers import Linear, Network, flatten, max_pool

CONVS_PER_STAGE: dict[int, tuple[int, ...]] = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
_FEATURES = (64, 128, 256, 512, 512)


class VGG(Network):
    """Five stages of 3x3 convolutions, each ended by a 2x2 max-pool; the linear layer is sized by the image."""

    depth: int = 16

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        index = 0
        for features, convs in zip(_FEATURES, CONVS_PER_STAGE[self.depth], strict=True):
            stage = nn.remat(VGG._stage, static_argnums=(2, 3, 4, 5)) if self.remat else VGG._stage
            x = stage(self, x, train, index, features, convs)
            index += 3 * convs + 1
        return Linear(self.n_classes, name="classifier")(flatten(x))

    def _stage(self, x: jax.Array, train: bool, index: int, features: int, convs: int) -> jax.Array:
        # Names count convolution, BatchNorm, ReLU and pooling as layers of one sequence, as PyTorch's do.
        conv, norm = self.conv_layer(), self.norm_layer(train)
        for i in range(index, index + 3 * convs, 3):
            x = conv(features, 3, padding=1, name=f"features_{i}")(x)
            x = nn.relu(norm(name=f"features_{i + 1}")(x))
        return max_pool(x)
