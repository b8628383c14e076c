"""SGD as the reference runs it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class MomentumState(NamedTuple):
    buffer: optax.Updates  # structure and shapes of the params


def heavy_ball(decay: jax.Array, nesterov: jax.Array) -> optax.GradientTransformation:
    """Heavy-ball momentum, `b = decay * b + g`, with Nesterov's variant chosen by a value instead of by code.

    Args:
        decay: float32 `[]`.
        nesterov: bool `[]`; True gives `g + decay * b`, False gives `b`.

    Returns:
        The transform; its buffers start at zero, so the first buffer is the gradient.
    """

    def init(params):
        return MomentumState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        # The hyperparameters are float32, and the buffers of bfloat16 weights stay bfloat16.
        buffer = jax.tree.map(lambda g, b: (decay * b + g).astype(b.dtype), updates, state.buffer)
        updates = jax.tree.map(lambda g, b: jnp.where(nesterov, g + decay * b, b), updates, buffer)
        return updates, MomentumState(buffer)

    return optax.GradientTransformation(init, update)


def sgd(
    learning_rate: jax.Array, weight_decay: jax.Array, momentum: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """SGD with coupled (L2) decay on every parameter and Nesterov exactly when that decay is positive.

    Built inside the compiled step from traced values, so that none of them is baked into the program.

    Args:
        learning_rate: float32 `[]`.
        weight_decay: float32 `[]`.
        momentum: float32 `[]`.

    Returns:
        The optax chain.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        heavy_ball(momentum, nesterov=weight_decay > 0),
        optax.scale(-learning_rate),
    )
