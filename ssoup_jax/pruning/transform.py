"""How pruned weights stay zero: the mask as the last link of an optax chain."""

import jax
import jax.numpy as jnp
import optax

from ssoup_jax.trees import PyTree


def keep_masked_zero(mask: PyTree) -> optax.GradientTransformationExtraArgs:
    r"""Makes every parameter that the mask prunes exactly zero after the update.

    The update becomes

    .. math::
        u_i \leftarrow u_i \text{ where } m_i, \quad -w_i \text{ elsewhere},

    and :math:`w_i + (-w_i)` is +0.0 in floating point for every finite :math:`w_i`, whatever the links before made
    of the gradient: momentum, Adam's moments and weight decay included. Must be the last link of the chain.

    Args:
        mask: structure of the params; bool leaves of their shapes, False where a weight stays zero, or None where none
            does. May be traced; under `jax.vmap` over members one mask serves them all.

    Returns:
        The transform. It has no state, and its `update` needs `params`.

    Raises:
        ValueError: `update` was called without params.

    Example:
        >>> optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), keep_masked_zero(mask))
    """

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise ValueError("keep_masked_zero needs the current weights: call update(updates, state, params)")
        return jax.tree.map(lambda u, w, m: _where(m, u, -w), updates, params, mask), state

    return optax.GradientTransformationExtraArgs(init, update)


def masked(optimizer: optax.GradientTransformation, mask: PyTree) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer and then keeps pruned weights zero, see `keep_masked_zero`.

    Args:
        optimizer: any optax transformation.
        mask: as for `keep_masked_zero`.

    Returns:
        The transformation; its state is the optimizer's own, whatever the mask.

    Example:
        >>> optimizer = masked(optax.adam(1e-3), mask)
    """
    optimizer, last = optax.with_extra_args_support(optimizer), keep_masked_zero(mask)

    def update(updates, state, params=None, **extra_args):
        updates, state = optimizer.update(updates, state, params, **extra_args)
        return last.update(updates, optax.EmptyState(), params)[0], state

    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def apply_mask(params: PyTree, mask: PyTree) -> PyTree:
    """Zeroes the pruned weights: +0.0 where the mask is False, even for a weight that is NaN.

    Args:
        params: any float leaves.
        mask: structure of `params`; bool leaves of their shapes, or None where nothing is pruned.

    Returns:
        The masked parameters, same structure, shapes and dtypes.
    """
    return jax.tree.map(lambda w, m: _where(m, w, jnp.zeros_like(w)), params, mask)


def _where(mask: jax.Array | None, kept: jax.Array, pruned: jax.Array) -> jax.Array:
    # Unlike jnp.where, lax.select does not stretch a mask of another shape over the weights: it refuses it.
    return kept if mask is None else jax.lax.select(mask, kept, pruned)
