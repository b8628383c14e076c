"""The few pytree verbs everybody uses: stack, unstack, mean."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ssoup_jax.errors import SettingsError

PyTree = jax.typing.ArrayLike | dict | list | tuple


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stacks m trees of one structure along a new leading axis.

    Args:
        trees: m pytrees whose leaves have equal shapes.

    Returns:
        One pytree whose leaves have shape `[m, ...]`; host arrays stay on the host.

    Raises:
        SettingsError: there is no tree, or one is not like the first.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import stack_members
        >>> stack_members([{"w": np.zeros(2)}, {"w": np.ones(2)}])["w"].shape
        (2, 2)
    """
    if not trees:
        raise SettingsError("stack: found no members; allowed: at least one")
    for number, tree in enumerate(trees[1:], start=1):
        if found := first_difference(tree, trees[0]):
            raise SettingsError(f"stack: member {number} is not like member 0: {found}")
    return jax.tree.map(_stacked, *trees)


def _stacked(*leaves: ArrayLike) -> ArrayLike:
    return (jnp if isinstance(leaves[0], jax.Array) else np).stack(leaves)


def member(stacked: PyTree, index: ArrayLike) -> PyTree:
    """Returns the tree at `index` of a stack; the leading axis is gone.

    Args:
        stacked: leaves `[m, ...]`.
        index: one member's number, or an array of them, int `[k]`, for a smaller stack.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import member
        >>> member({"w": np.array([[1.0, 2.0], [3.0, 4.0]])}, 1)
        {'w': array([3., 4.])}
    """
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def unstack(stacked: PyTree) -> list[PyTree]:
    """Splits a stack into its m trees; the inverse of `stack`.

    Args:
        stacked: leaves `[m, ...]`.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import unstack
        >>> [tree["w"].item() for tree in unstack({"w": np.array([1.0, 2.0])})]
        [1.0, 2.0]
    """
    return [member(stacked, i) for i in range(stack_size(stacked))]


def stack_size(stacked: PyTree) -> int:
    """Returns m, the length of the leading axis that every leaf of a stack shares."""
    return len(jax.tree.leaves(stacked)[0])


def mean(stacked: PyTree) -> PyTree:
    """Averages a stack over its leading axis, leaf by leaf: `[m, ...]` to `[...]`; host arrays stay on the host."""
    return jax.tree.map(lambda leaf: leaf.__array_namespace__().mean(leaf, axis=0), stacked)


def distinct(trees: Sequence[PyTree]) -> tuple[list[PyTree], list[int]]:
    """Tells apart which of some trees are one and the same object.

    Returns:
        Each of them once, and for all of them their places among these.
    """
    each = {id(tree): tree for tree in trees}
    places = {key: place for place, key in enumerate(each)}
    return list(each.values()), [places[id(tree)] for tree in trees]


def path_name(path: tuple) -> str:
    """Spells a key path of `jax.tree_util` as `'layer/kernel'`, the name used in reports and errors.

    A variable of NNX holds its array as its `value`, which is no part of the name.
    """
    if len(path) > 1 and path[-1] == jax.tree_util.GetAttrKey("value"):
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/")


class Difference(NamedTuple):
    """Where two trees differ first; `str` says it.

    Attributes:
        path: name of the leaf; empty where the leaves agree and what holds them does not.
        found: what one tree has there, such as `'float32[3, 4]'`.
        wanted: what the other has there.
    """

    path: str
    found: str
    wanted: str

    def __str__(self) -> str:
        place = f"{self.path} is " if self.path else ""
        return f"{place}{self.found}, where {self.wanted} is wanted"


def first_difference(found: PyTree, wanted: PyTree) -> Difference | None:
    """Finds the first path at which two trees differ in structure, shape or dtype; None is a leaf.

    Args:
        found: a tree of arrays, of shapes of arrays, or of traced values.
        wanted: another one.

    Returns:
        The difference, in the order of `wanted`; None: they are alike.
    """
    own, other = named_leaves(found), named_leaves(wanted)
    for name in [*other, *own]:
        pair = Difference(name, describe(own, name), describe(other, name))
        if pair.found != pair.wanted:
            return pair
    structures = [jax.tree.structure(tree, is_leaf=_is_none) for tree in (found, wanted)]
    return None if structures[0] == structures[1] else Difference("", *map(_shortened, structures))


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """Returns all leaves by path name, those that are None too."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree, is_leaf=_is_none)}


def describe(leaves: dict[str, Any], name: str) -> str:
    """Spells the leaf of that name as `'float32[3, 4]'`; `'nothing'` where there is none."""
    if name not in leaves:
        return "nothing"
    return "None" if leaves[name] is None else spell(leaves[name])


def spell(leaf: ArrayLike | jax.ShapeDtypeStruct) -> str:
    """Spells an array, or a number, as `'float32[3, 4]'`."""
    dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
    return f"{dtype}{list(np.shape(leaf))}"


def digest(tree: PyTree) -> str:
    """Returns the SHA-256 of a tree's leaves: their names, shapes, dtypes and bytes; None is a leaf."""
    found = hashlib.sha256()
    for name, leaf in named_leaves(tree).items():
        own = np.ascontiguousarray(jax.device_get(leaf)) if leaf is not None else np.zeros(0)
        found.update(f"{name} {own.dtype} {own.shape if leaf is not None else None}\n".encode())
        found.update(own.tobytes())
    return found.hexdigest()


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _shortened(structure: jax.tree_util.PyTreeDef) -> str:
    text = str(structure).removeprefix("PyTreeDef(").removesuffix(")")
    return text if len(text) <= 120 else f"{text[:120]} ..."
