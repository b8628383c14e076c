"""Pruning to a sparsity, for one's own loop: weights and mask in, weights and mask out."""

import jax

from ssoup_jax.errors import SettingsError
from ssoup_jax.pruning.masks import check_mask, count
from ssoup_jax.pruning.selectors import Selector, named, select
from ssoup_jax.pruning.transform import apply_mask
from ssoup_jax.trees import PyTree


def prune(
    params: PyTree,
    mask: PyTree,
    sparsity: float,
    selector: str | Selector = "global",
    *,
    key: jax.Array | None = None,
    among: PyTree | None = None,
) -> tuple[PyTree, PyTree]:
    """Prunes one model until a fraction of its prunable weights is zero.

    Args:
        params: any pytree of float arrays: dicts, lists, Flax's variables, the state of an NNX model.
        mask: says what is prunable and what is pruned already, see `full_mask`; what is pruned stays so.
        sparsity: fraction of the prunable weights that is zero afterwards, from what it is already to 1.
        selector: `'global'`: the smallest magnitudes of all; `'uniform'`: of each layer; `'random'`; or one's own.
        key: typed PRNG key `[]`, for a selector that draws; None: `jax.random.key(0)`.
        among: `mask` restricted to the layers that may lose weights, see `restrict`; the sparsity is then of those.

    Returns:
        The pruned parameters and their mask.

    Raises:
        SettingsError: the mask does not fit, no selector has that name, or the sparsity is below what it is already.
        RunError: a weight is NaN, or nothing is prunable.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import full_mask, prune
        >>> params = {"kernel": np.array([3.0, -1.0, 0.5, 2.0])}
        >>> params, mask = prune(params, full_mask(params), 0.5)
        >>> params["kernel"].tolist()
        [3.0, 0.0, 0.0, 2.0]
    """
    selector = named(selector, "selector")
    check_mask(mask, params)
    n_weights, n_kept = count(mask, among)
    if not 0 <= sparsity <= 1:
        raise SettingsError(f"sparsity: found {sparsity!r}; allowed: a number from 0 to 1")
    n_cut = n_kept - (n_weights - round(sparsity * n_weights))
    if n_cut < 0:
        raise SettingsError(f"sparsity: found {sparsity!r}; the mask prunes {1 - n_kept / n_weights:.6g} already")
    amount = n_cut / n_kept if n_kept else 0.0
    key = jax.random.key(0) if key is None else key
    mask = select(selector, params, mask, amount, key, among=among)
    return apply_mask(params, mask), mask
