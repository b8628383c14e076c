"""SGD as the reference runs it, with the mask as the chain's last link."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssoup_jax.pruning.transform import keep_masked_zero
from ssoup_jax.trees import PyTree


class MomentumState(NamedTuple):
    buffer: optax.Updates  # structure and shapes of the params


def momentum(decay: jax.Array, nesterov: jax.Array) -> optax.GradientTransformation:
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
        buffer = jax.tree.map(lambda g, b: decay * b + g, updates, state.buffer)
        updates = jax.tree.map(lambda g, b: jnp.where(nesterov, g + decay * b, b), updates, buffer)
        return updates, MomentumState(buffer)

    return optax.GradientTransformation(init, update)


def sgd(
    learning_rate: jax.Array, weight_decay: jax.Array, momentum_decay: jax.Array, mask: PyTree
) -> optax.GradientTransformationExtraArgs:
    """SGD with coupled (L2) decay on every parameter and Nesterov exactly when that decay is positive.

    Built inside the compiled step from traced values, so that neither rate is baked into the program.

    Args:
        learning_rate: float32 `[]`.
        weight_decay: float32 `[]`.
        momentum_decay: float32 `[]`.
        mask: structure and shapes of the params; False where a weight stays zero.

    Returns:
        The optax chain.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        momentum(momentum_decay, nesterov=weight_decay > 0),
        optax.scale(-learning_rate),
        keep_masked_zero(mask),
    )


@jax.jit
def init(params: PyTree) -> PyTree:
    """Returns the optimizer's empty state, for one member or a stack; it does not depend on any hyperparameter."""
    return sgd(jnp.float32(0), jnp.float32(0), jnp.float32(0), None).init(params)
