"""The small convolutional network without BatchNorm."""

import jax
from flax import linen as nn

from ssoup_jax.models.layers import Linear, Network, flatten, max_pool


class CNN(Network):
    """Two unpadded 3x3 convolutions, one 2x2 max-pool, two linear layers; the first is sized by the image."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        conv, dropout = self.conv_layer(), self.dropout_layer(train)
        x = nn.relu(conv(32, 3, name="conv1")(x))
        x = nn.relu(conv(128, 3, name="conv2")(x))
        x = dropout(0.25)(flatten(max_pool(x)))
        x = nn.relu(Linear(128, self.dtype, name="fc1")(x))
        return Linear(self.n_classes, name="fc2")(dropout(0.5)(x))
