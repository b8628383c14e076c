"""From weights to masks: each selector takes a fraction of the weights that are left.

All selectors give the prunable entries a score and cut the lowest of those still kept. A mask only ever loses
entries, the number lost is exact, and of entries with equal scores those that come first (leaf order, then C order)
go first.

They run between compiled programs, on the host, because that is where selection is fast: the threshold among 26.8
million float32 magnitudes takes NumPy 0.1 s on one CPU core, XLA's CPU backend 1.3 s by bisection and 18 s by sorting.
"""

from collections.abc import Callable

import jax
import numpy as np

from ssoup_jax.errors import RunError, SettingsError, unknown
from ssoup_jax.pruning.prunable import prunable_leaves
from ssoup_jax.trees import PyTree, path_name

Leaves = dict[str, np.ndarray]  # prunable leaves by path name, in tree order


def phase_amount(goal_sparsity: float, n_phases: int) -> float:
    """Returns the fraction of the remaining weights to prune in each phase: `1 - (1 - goal)^(1 / n)`.

    Args:
        goal_sparsity: fraction of the prunable weights that is zero after the last phase, 0 to 1.
        n_phases: number of phases, at least 1.

    Returns:
        The fraction, the same in every phase.

    Raises:
        SettingsError: either argument is outside its range.
    """
    if not 0 <= goal_sparsity <= 1:
        raise SettingsError(f"goal_sparsity: found {goal_sparsity!r}; allowed: a number from 0 to 1")
    if n_phases < 1:
        raise SettingsError(f"n_phases: found {n_phases!r}; allowed: a whole number from 1 on")
    return 1 - (1 - goal_sparsity) ** (1 / n_phases)


def prune_count(amount: float, n_kept: int) -> int:
    """Returns how many of `n_kept` weights the fraction `amount` is; halves are rounded to the even number.

    Raises:
        SettingsError: `amount` is not a number from 0 to 1.
    """
    if not 0 <= amount <= 1:
        raise SettingsError(f"amount to prune: found {amount!r}; allowed: a number from 0 to 1")
    return round(float(amount) * int(n_kept))


def global_magnitude(params: PyTree, mask: PyTree, amount: float, key: jax.Array | None = None) -> PyTree:
    """Prunes the smallest `|w|` of all layers taken together.

    Args:
        params: parameters of one model, float leaves.
        mask: structure and shapes of `params`, bool leaves; entries that are False stay False.
        amount: fraction of the kept prunable weights to prune, 0 to 1.
        key: not used; here so that every selector is called alike.

    Returns:
        The new mask, same structure and shapes.

    Raises:
        RunError: a kept weight is NaN, or there is nothing to prune.
        SettingsError: `amount` is outside its range.
        ValueError: `mask` does not fit `params`.
    """
    del key
    scores, kept = _magnitudes(params, mask)
    return _with_leaves(mask, _cut(scores, kept, amount))


def uniform_magnitude(params: PyTree, mask: PyTree, amount: float, key: jax.Array | None = None) -> PyTree:
    """Prunes the smallest `|w|` of each layer, the same fraction everywhere.

    Args, returns and errors are those of `global_magnitude`; the count is rounded layer by layer.
    """
    del key
    scores, kept = _magnitudes(params, mask)
    layers = [_cut({name: scores[name]}, {name: kept[name]}, amount) for name in scores]
    return _with_leaves(mask, {name: left for layer in layers for name, left in layer.items()})


def random_selection(params: PyTree, mask: PyTree, amount: float, key: jax.Array) -> PyTree:
    """Prunes uniformly at random over all layers, as many weights as `global_magnitude` would.

    Args, returns and errors are those of `global_magnitude`, and:

    Args:
        key: typed PRNG key, shape `[]`; the choice depends on it and on the mask, never on the weights.
    """
    magnitudes, kept = _magnitudes(params, mask)
    n_entries = sum(leaf.size for leaf in magnitudes.values())
    # Each new length would be a new program for jax.random; NumPy's raw stream is frozen and the same everywhere.
    stream = np.random.PCG64(np.asarray(jax.random.key_data(key)))
    return _with_leaves(mask, _cut(_split(stream.random_raw(n_entries), magnitudes), kept, amount))


SELECTORS: dict[str, Callable[[PyTree, PyTree, float, jax.Array], PyTree]] = {
    "global": global_magnitude,
    "uniform": uniform_magnitude,
    "random": random_selection,
}


def select(name: str, params: PyTree, mask: PyTree, amount: float, key: jax.Array) -> PyTree:
    """Calls the selector that the setting `pruning_selector` names.

    Args:
        name: a key of `SELECTORS`.
        params, mask, amount, key: as for `random_selection`.

    Returns:
        The new mask.

    Raises:
        SettingsError: no selector has that name.
    """
    if name not in SELECTORS:
        raise unknown("pruning_selector", name, SELECTORS)
    return SELECTORS[name](params, mask, amount, key)


def _magnitudes(params: PyTree, mask: PyTree) -> tuple[Leaves, Leaves]:
    """Returns `|w|` and the mask of every prunable leaf, after checking that they can be ranked."""
    jax.tree_util.tree_map_with_path(_check_fit, params, mask)
    scores = {name: _magnitude(leaf) for name, leaf in prunable_leaves(params).items()}
    kept = {name: np.asarray(leaf) for name, leaf in prunable_leaves(mask).items()}
    if not scores:
        raise RunError("pruning: the model has no convolution or linear kernel to prune")
    for name, score in scores.items():
        n_nan = np.count_nonzero(np.isnan(score) & kept[name])
        if n_nan:
            raise RunError(f"pruning: {name} holds NaN in {n_nan} of {score.size} weights; training has diverged")
    return scores, kept


def _check_fit(path: tuple, leaf: jax.Array, kept: jax.Array) -> None:
    if kept.shape != leaf.shape or kept.dtype != bool:
        found, allowed = f"{kept.dtype}{list(kept.shape)}", f"bool{list(leaf.shape)}"
        raise ValueError(f"mask: {path_name(path)} is {found}; allowed: {allowed}, the shape of its weights")


def _magnitude(leaf: jax.Array) -> np.ndarray:
    weights = np.abs(np.asarray(leaf))
    # NumPy cannot partition bfloat16; widening it is exact.
    return weights.astype(np.promote_types(weights.dtype, np.float32), copy=False)


def _cut(scores: Leaves, kept: Leaves, amount: float) -> Leaves:
    """Returns `kept` without the lowest-scoring `amount` of all entries it keeps, over all tensors together."""
    flat, flat_kept = _flat(scores), _flat(kept)
    # Ranks the kept entries alone: marking the others by one low value would be a mass of ties, on which NumPy's
    # partition is 30 times slower.
    candidates = flat[flat_kept]
    n_cut = prune_count(amount, candidates.size)
    if n_cut == 0:
        return kept
    threshold = np.partition(candidates, n_cut - 1)[n_cut - 1]
    n_tied = n_cut - np.count_nonzero(candidates < threshold)
    left = flat_kept & (flat >= threshold)
    left[np.flatnonzero(left & (flat == threshold))[:n_tied]] = False
    return _split(left, kept)


def _flat(leaves: Leaves) -> np.ndarray:
    return np.concatenate([leaf.ravel() for leaf in leaves.values()])


def _split(flat: np.ndarray, like: Leaves) -> Leaves:
    """Cuts a vector into tensors with the names and shapes of `like`; the inverse of `_flat`."""
    pieces = np.split(flat, np.cumsum([leaf.size for leaf in like.values()])[:-1])
    return {name: piece.reshape(leaf.shape) for (name, leaf), piece in zip(like.items(), pieces, strict=True)}


def _with_leaves(mask: PyTree, kept: Leaves) -> PyTree:
    """Returns `mask` with its prunable leaves replaced by those in `kept`."""

    def replace(path: tuple, leaf: jax.Array) -> jax.Array:
        return jax.device_put(kept.get(path_name(path), leaf))

    return jax.tree_util.tree_map_with_path(replace, mask)
