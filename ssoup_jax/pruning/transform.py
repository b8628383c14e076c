"""How pruned weights stay zero: the mask as the first and the last link of an optax chain."""

import jax
import jax.numpy as jnp
import optax

from ssoup_jax.errors import SettingsError
from ssoup_jax.pruning.masks import check_mask
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
        SettingsError: `update` was called without params, or with params that the mask does not fit.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from ssoup_jax import keep_masked_zero
        >>> params, mask = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])}
        >>> optimizer = optax.chain(optax.sgd(0.5, momentum=0.9), keep_masked_zero(mask))
        >>> updates, _ = optimizer.update({"w": jnp.array([1.0, 1.0])}, optimizer.init(params), params)
        >>> optax.apply_updates(params, updates)["w"].tolist()
        [0.5, 0.0]
    """

    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(updates, state, params=None, **extra_args):
        del extra_args
        if params is None:
            raise SettingsError("keep_masked_zero needs the current weights: call update(updates, state, params)")
        check_mask(mask, params)
        # An update may be wider than its weight, which is then zero all the same.
        return jax.tree.map(lambda u, w, m: _where(m, u, (-w).astype(u.dtype)), updates, params, mask), state

    return optax.GradientTransformationExtraArgs(init, update)


def mask_gradients(mask: PyTree) -> optax.GradientTransformation:
    """Zeroes the gradients of pruned weights; the first link of a chain.

    What looks at a whole gradient needs it: clipping by the global norm, the norms of layers in LARS and LAMB, the step
    of SAM, which gradients of weights that are not there would change otherwise.

    Args:
        mask: as for `keep_masked_zero`.

    Returns:
        The transform; it has no state.

    Raises:
        SettingsError: `update` was called with gradients that the mask does not fit.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from ssoup_jax import mask_gradients
        >>> first = mask_gradients({"w": jnp.array([True, False])})
        >>> updates, _ = first.update({"w": jnp.array([3.0, 4.0])}, optax.EmptyState())
        >>> updates["w"].tolist()
        [3.0, 0.0]
    """

    def update(updates, params):
        del params
        return apply_mask(updates, mask)

    return optax.stateless(update)


def masked(optimizer: optax.GradientTransformation, mask: PyTree) -> optax.GradientTransformationExtraArgs:
    """Runs an optimizer between `mask_gradients` and `keep_masked_zero`.

    Args:
        optimizer: any optax transformation.
        mask: as for `keep_masked_zero`.

    Returns:
        The transformation; its state is the optimizer's own, whatever the mask.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from ssoup_jax import masked
        >>> params, mask = {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])}
        >>> optimizer = masked(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)), mask)
        >>> updates, _ = optimizer.update({"w": jnp.array([1.0, 1.0])}, optimizer.init(params), params)
        >>> optax.apply_updates(params, updates)["w"][1].item()
        0.0
    """
    optimizer, last = optax.with_extra_args_support(optimizer), keep_masked_zero(mask)

    def update(updates, state, params=None, **extra_args):
        updates = apply_mask(updates, mask)
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

    Raises:
        SettingsError: the mask does not fit, with the first path at which it differs.

    Example:
        >>> import jax.numpy as jnp
        >>> from ssoup_jax import apply_mask
        >>> apply_mask({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})["w"].tolist()
        [1.0, 0.0]
    """
    check_mask(mask, params)
    return jax.tree.map(lambda w, m: _where(m, w, jnp.zeros_like(w)), params, mask)


def _where(mask: jax.Array | None, kept: jax.Array, pruned: jax.Array) -> jax.Array:
    # Unlike jnp.where, lax.select does not stretch a mask of another shape over the weights: it refuses it.
    return kept if mask is None else jax.lax.select(mask, kept, pruned)
