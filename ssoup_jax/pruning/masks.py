"""Masks, which say themselves what is prunable: a bool array for each leaf that may be pruned, None for any other.

True where a weight lives, False where it is pruned. Prunable are by default the kernels of convolutions and linear
layers, as Flax names them, the first and the last layer included; never biases or BatchNorm.
"""

import difflib
from collections.abc import Callable
from fnmatch import fnmatchcase

import jax
import numpy as np

from ssoup_jax.errors import RunError, SettingsError, one_line
from ssoup_jax.trees import PyTree, describe, named_leaves, path_name


def is_kernel(name: str) -> bool:
    """Says whether the parameter of that path name (`'layer/kernel'`) is a kernel: its own name is the last part."""
    return name.rpartition("/")[2] == "kernel"


def full_mask(params: PyTree, prunable: str | Callable[[str], bool] = is_kernel) -> PyTree:
    """Returns the mask that keeps everything, which says for an own network what may be pruned.

    Args:
        params: pytree whose leaves have shapes.
        prunable: says by path name which leaves may be pruned: a function, or patterns such as `'*/w, head'`, see
            `read_patterns`.

    Returns:
        Structure of `params`; bool arrays of their shapes, all True, for the prunable leaves and None for the others.

    Raises:
        SettingsError: a pattern matches no parameter.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import full_mask
        >>> full_mask({"hidden": {"w": np.zeros(2), "b": np.zeros(2)}}, "*/w")
        {'hidden': {'b': None, 'w': Array([ True,  True], dtype=bool)}}
    """
    if isinstance(prunable, str):
        prunable = _matching("prunable", prunable, list(named_leaves(params))).__contains__

    def keep_all(path: tuple, leaf: jax.Array) -> jax.Array | None:
        # Moved rather than made on the device, where each shape would be a program to compile.
        return jax.device_put(np.ones(np.shape(leaf), bool)) if prunable(path_name(path)) else None

    return jax.tree_util.tree_map_with_path(keep_all, params)


def check_mask(mask: PyTree, params: PyTree) -> None:
    """Checks that a mask fits; costs nothing in a compiled program.

    Args:
        mask: should have the structure of `params`, with bool leaves of their shapes or None.
        params: of one model; traced values or shapes do.

    Raises:
        SettingsError: it does not, with the first path at which it differs.
    """
    own, weights = named_leaves(mask), named_leaves(params)
    for name in [*weights, *own]:
        found = describe(own, name)
        if name not in weights:
            raise SettingsError(f"mask: {name} is {found}; the params have no leaf of that name")
        allowed = f"bool{list(np.shape(weights[name]))}"
        if found not in ("None", allowed):
            raise SettingsError(f"mask: {name} is {found}; allowed: {allowed}, the shape of its weights, or None")
    try:
        jax.tree.structure(params).flatten_up_to(mask)
    except ValueError as error:  # leaves of the same names in another kind of container
        raise SettingsError(f"mask: has not the structure of the params: {one_line(error)}") from None


def prunable_leaves(tree: PyTree, mask: PyTree) -> dict[str, jax.Array]:
    """Picks out the leaves that may be pruned.

    Args:
        tree: parameters, of one model or a stack, or a mask; the structure of `mask`.
        mask: says which leaves are prunable.

    Returns:
        The leaves of `tree` by path name, in tree order.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    kept = structure.flatten_up_to(mask)
    return {path_name(path): leaf for (path, leaf), own in zip(leaves, kept, strict=True) if own is not None}


def count(mask: PyTree, among: PyTree | None = None) -> tuple[int, int]:
    """Counts the weights that may be pruned, of those that `among` leaves if it is given, and how many a mask keeps."""
    kept = [np.asarray(leaf) for leaf in prunable_leaves(mask, mask if among is None else among).values()]
    return sum(leaf.size for leaf in kept), sum(map(np.count_nonzero, kept))


def restrict(mask: PyTree, only: str | None = None, except_: str | None = None) -> PyTree:
    """Leaves layers out of what may be pruned; for `select`, which takes it beside the mask that is carried on.

    Args:
        mask: says what is prunable.
        only: the setting `prune_only`: patterns, see `read_patterns`; what none of them matches is left out.
        except_: the setting `prune_except`: what one of these matches is left out.

    Returns:
        `mask` with None for the layers that are left out.

    Raises:
        SettingsError: a pattern matches no prunable parameter, or nothing is left to prune.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import restrict
        >>> restrict({"body": np.ones(2, bool), "head": np.ones(2, bool)}, except_="head")
        {'body': array([ True,  True]), 'head': None}
    """
    names = list(prunable_leaves(mask, mask))
    wanted = set(names if only is None else _matching("prune_only", only, names))
    if except_ is not None:
        wanted -= _matching("prune_except", except_, names)
        if not wanted:
            raise SettingsError(f"prune_except: found {except_!r}; it leaves no parameter to prune")
    return jax.tree_util.tree_map_with_path(lambda path, kept: kept if path_name(path) in wanted else None, mask)


def read_patterns(setting: str, text: str) -> tuple[str, ...]:
    """Reads the value of `prune_only` or `prune_except`.

    Args:
        setting: its name, for the error.
        text: shell patterns over path names of parameters, separated by commas; `*` matches slashes, too.

    Returns:
        The patterns.

    Raises:
        SettingsError: a pattern is empty.
    """
    patterns = tuple(pattern.strip() for pattern in text.split(","))
    if not all(patterns):
        raise SettingsError(
            f"{setting}: found {text!r}; allowed: patterns over parameter names, separated by commas, "
            "such as 'layer1_*, fc/kernel'"
        )
    return patterns


def dense_form(mask: PyTree, params: PyTree) -> PyTree:
    """Returns the form in which masks are stored: bool arrays for all leaves of `params`, True where `mask` is None."""
    return jax.tree.map(lambda leaf, kept: np.ones(leaf.shape, bool) if kept is None else kept, params, mask)


def from_dense_form(stored: PyTree, like: PyTree) -> PyTree:
    """Inverts `dense_form`.

    Args:
        stored: bool arrays for all leaves.
        like: a mask that says what is prunable, such as `full_mask`.

    Returns:
        `stored` with None where `like` has it.

    Raises:
        RunError: `stored` prunes what `like` says is never pruned.
    """

    def thin(path: tuple, kept: jax.Array, own: jax.Array | None) -> jax.Array | None:
        if own is None and not np.all(kept):
            raise RunError(f"mask: {path_name(path)} has pruned weights, and is never pruned")
        return None if own is None else kept

    return jax.tree_util.tree_map_with_path(thin, stored, like)


def _matching(setting: str, text: str, names: list[str]) -> set[str]:
    matching = set()
    for pattern in read_patterns(setting, text):
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            nearest = difflib.get_close_matches(pattern, names, n=1, cutoff=0)
            hint = f"; the nearest is {nearest[0]!r}" if nearest else ""
            raise SettingsError(f"{setting}: pattern {pattern!r} matches no prunable parameter{hint}")
        matching.update(found)
    return matching
