"""The two-layer perceptron for MNIST."""

import jax
from flax import linen as nn

from ssoup_jax.models.layers import Linear, Network, flatten


class Simple(Network):
    """Pixels, 512 hidden units, classes; dropout 0.2 between the two layers."""

    hidden: int = 512

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.relu(Linear(self.hidden, self.dtype, name="fc1")(flatten(x)))
        x = self.dropout_layer(train)(0.2)(x)
        return Linear(self.n_classes, name="fc2")(x)
