"""From weights to masks: a selector is a score, an allocation and a pattern.

The score ranks the weights that are left, the allocation says how many go from where, the pattern which may go
together. A mask only ever loses entries, the number lost is exact, and of entries with equal scores those that come
first (leaf order, then C order) go first.

They run between compiled programs, on the host, because that is where selection is fast: the threshold among 26.8
million float32 magnitudes takes NumPy 0.1 s on one CPU core, XLA's CPU backend 1.3 s by bisection and 18 s by sorting.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from ssoup_jax import own
from ssoup_jax.errors import Diverged, RunError, unknown
from ssoup_jax.pruning import allocation, patterns, scores
from ssoup_jax.pruning.masks import check_mask, prunable_leaves
from ssoup_jax.pruning.scores import Leaves
from ssoup_jax.trees import PyTree, path_name, spell


@dataclass(frozen=True)
class Selector:
    """How weights are chosen.

    Attributes:
        score: what each weight is worth.
        allocation: which layers compete, and how many weights they lose.
        pattern: which of them may go together.
    """

    score: scores.Score
    allocation: allocation.Allocation
    pattern: patterns.Pattern = patterns.unstructured


SELECTORS = {
    "global": Selector(scores.magnitude, allocation.global_),
    "uniform": Selector(scores.magnitude, allocation.uniform),
    "random": Selector(scores.random, allocation.global_),
}
"""By the names of the setting `pruning_selector`."""


def named(selector: str | Selector, setting: str = "pruning_selector") -> Selector:
    """Returns the selector of that name; one that is given as itself stays.

    One's own, see `ssoup_jax.own`, is a `Selector` or a score, by which all weights then compete.

    Raises:
        SettingsError: no selector has that name; the error calls what it was given for `setting`.
    """
    if isinstance(selector, Selector):
        return selector
    if own.is_own(selector):
        return _own(selector, setting)
    if not isinstance(selector, str) or selector not in SELECTORS:
        raise unknown(setting, selector, [*SELECTORS, own.FORM])
    return SELECTORS[selector]


def _own(name: str, setting: str) -> Selector:
    found = own.load(setting, name)
    if isinstance(found, Selector):
        return found
    own.check_positional(setting, name, found, ("weights", "key"))
    return Selector(found, allocation.global_)


def select(
    selector: str | Selector,
    params: PyTree,
    mask: PyTree,
    amount: float,
    key: jax.Array,
    *,
    among: PyTree | None = None,
) -> PyTree:
    """Prunes with a selector.

    Args:
        selector: a key of `SELECTORS`, as the setting `pruning_selector` has it, or one of one's own.
        params: parameters of one model, float leaves.
        mask: says what is prunable; entries that are False stay False.
        amount: fraction of the kept prunable weights to prune, 0 to 1.
        key: typed PRNG key, shape `[]`.
        among: `mask` restricted to the layers that may lose weights, see `masks.restrict`; None: all of them.
            The others keep theirs, and do not count.

    Returns:
        The new mask, same structure and shapes as `mask`.

    Raises:
        RunError: a kept weight is NaN, or there is nothing to prune.
        SettingsError: no selector has that name, `amount` is outside its range, or `mask` does not fit `params`.
    """
    check_mask(mask, params)
    among = mask if among is None else among
    weights = {name: _rankable(leaf) for name, leaf in prunable_leaves(params, among).items()}
    kept = {name: np.asarray(leaf) for name, leaf in prunable_leaves(mask, among).items()}
    _check_weights(weights, kept)
    arguments = named(selector), weights, kept, amount, key
    if own.is_own(selector):
        kept = own.call("pruning_selector", selector, _left, *arguments, error=RunError)
    else:
        kept = _left(*arguments)

    def replace(path: tuple, leaf: jax.Array) -> jax.Array:
        return jax.device_put(kept.get(path_name(path), leaf))

    return jax.tree_util.tree_map_with_path(replace, mask)


def _left(selector: Selector, weights: Leaves, kept: Leaves, amount: float, key: jax.Array) -> Leaves:
    """Returns what is left of the weights that are kept."""
    found = _like("scores", selector.score(weights, key), weights, "biuf")
    if odd := [name for name, leaf in found.items() if np.isnan(leaf[kept[name]]).any()]:
        raise RunError(f"pruning: the selector's scores of {odd[0]} hold NaN")
    left = dict(kept)
    for layers, n_cut in selector.allocation(kept, amount):
        left |= selector.pattern(_of(found, layers), _of(left, layers), n_cut)
    left = _like("masks", left, kept, "b")
    for name, leaf in left.items():
        if np.any(leaf & ~kept[name]):
            raise RunError(f"pruning: the selector revives weights of {name}")
    return left


def _like(what: str, found: Leaves, wanted: Leaves, kinds: str) -> Leaves:
    """Checks what a selector makes, which may be somebody's own."""
    if not isinstance(found, Mapping) or found.keys() != wanted.keys():
        names = list(found) if isinstance(found, Mapping) else type(found).__name__
        raise RunError(f"pruning: the selector's {what} are {names}; wanted: a dict of arrays, {list(wanted)}")
    for name, leaf in wanted.items():
        if np.shape(found[name]) != leaf.shape or np.asarray(found[name]).dtype.kind not in kinds:
            raise RunError(
                f"pruning: the selector's {what} of {name} are {spell(found[name])}; wanted: numbers {list(leaf.shape)}"
            )
    return {name: np.asarray(found[name]) for name in wanted}


def _of(leaves: Leaves, layers: list[str]) -> Leaves:
    return {name: leaves[name] for name in layers}


def _rankable(leaf: jax.Array) -> np.ndarray:
    weights = np.asarray(leaf)
    # NumPy cannot partition bfloat16; widening it is exact.
    return weights.astype(np.promote_types(weights.dtype, np.float32), copy=False)


def _check_weights(weights: Leaves, kept: Leaves) -> None:
    if not weights:
        raise RunError(
            "pruning: the model has no convolution or linear kernel to prune; for names of another kind say what is "
            "prunable: full_mask(params, '*/w')"
        )
    for name, leaf in weights.items():
        n_nan = np.count_nonzero(np.isnan(leaf) & kept[name])
        if n_nan:
            raise Diverged(f"pruning: {name} holds NaN in {n_nan} of {leaf.size} weights; training has diverged")
