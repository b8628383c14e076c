"""Whether a task can be trained, seen from shapes alone, before anything is compiled; each mistake is one line."""

import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import trees
from ssoup_jax.errors import SettingsError, unknown
from ssoup_jax.training.hyper import Hyper
from ssoup_jax.training.step import TrainState, train_step
from ssoup_jax.training.task import Task
from ssoup_jax.trees import PyTree

ALIKE = 3
"""How many tasks of the same functions, made anew, are taken for an oversight."""


def check_arrays(what: str, tree: PyTree) -> None:
    """Checks that a tree holds arrays of numbers that are still there.

    Args:
        what: what to call it, such as `'params'`.
        tree: parameters or collections, of one model or a stack.

    Raises:
        SettingsError: it is or holds an object of NNX or linen, a PRNG key, a donated array, or no number at all.
    """
    for module in ("flax.nnx", "flax.linen"):
        kind = getattr(sys.modules.get(module), "Module", None)
        if kind is None:
            continue
        for found in jax.tree.leaves(tree, is_leaf=lambda node, kind=kind: isinstance(node, kind)):
            if isinstance(found, kind):
                hint = (
                    "graphdef, params, rest = nnx.split(model, nnx.Param, ...)"
                    if module == "flax.nnx"
                    else "model.init(key, x)['params']"
                )
                raise SettingsError(f"{what}: found a {type(found).__name__}, an object; allowed: its state, {hint}")
    for name, leaf in trees.named_leaves(tree).items():
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer) and leaf.is_deleted():
            raise SettingsError(
                f"{what}: {name} was donated to an earlier call and is gone; go on from what that call returned"
            )
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise SettingsError(f"{what}: {name} is a PRNG key; leave it out: the loss is given a key at every step")
        if leaf is None or np.asarray(leaf).dtype.kind in "OSUM":
            raise SettingsError(f"{what}: {name} is {type(leaf).__name__}; allowed: arrays of numbers")


def check(task: Task, state: TrainState, batch: PyTree, hyper: Hyper) -> None:
    """Checks one training step of one member by shapes.

    Args:
        task: what is trained.
        state: the stack's, leaves `[m, ...]`.
        batch: shapes of a batch.
        hyper: the members'.

    Raises:
        SettingsError: the loss is no scalar or returns something else, the task changes the structure of its
            collections or the optimizer that of its state.
    """
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), state)
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = jax.eval_shape(task.loss, one.variables.params, one.variables.collections, batch, key)
    try:
        loss, (collections, figures) = found
    except (TypeError, ValueError):
        raise SettingsError(
            f"loss: returns {_spell(found)}; allowed: (loss, (collections, figures)), or stateless(loss) around a "
            "function that returns the loss alone"
        ) from None
    if np.shape(loss) or not jnp.issubdtype(getattr(loss, "dtype", None), jnp.floating):
        raise SettingsError(f"loss: found {_spell(loss)}; allowed: one float, such as the mean over the batch")
    if difference := trees.first_difference(collections, one.variables.collections):
        raise SettingsError(f"collections: the loss changes their structure: {difference}")
    for name, leaf in figures.items():
        if np.shape(leaf):
            raise SettingsError(f"figures: {name} is {_spell(leaf)}; allowed: one number for a batch")
    values = dict.fromkeys(hyper.values, jax.ShapeDtypeStruct((), jnp.float32))
    after, _ = jax.eval_shape(functools.partial(train_step, task), one, batch, values, key)
    if difference := trees.first_difference(after.opt_state, one.opt_state):
        raise SettingsError(f"optimizer: its state changes its structure in a step: {difference}")


def check_names(optimizer: Callable, given: Iterable[str]) -> None:
    """Checks that a task's optimizer takes the hyperparameters that are given, and gets those that it needs.

    Raises:
        SettingsError: one is unknown, with the nearest name, or missing.
    """
    try:
        parameters = inspect.signature(optimizer).parameters
    except ValueError:  # a function that is not Python's
        return
    kinds = {name: parameter.kind for name, parameter in parameters.items()}
    takes = [name for name, kind in kinds.items() if kind in (kind.POSITIONAL_OR_KEYWORD, kind.KEYWORD_ONLY)]
    anything = inspect.Parameter.VAR_KEYWORD in kinds.values()
    for name in given:
        if name not in takes and not anything:
            raise unknown("hyper", name, takes)
    for name in takes:
        if parameters[name].default is inspect.Parameter.empty and name not in given:
            raise SettingsError(f"hyper: {name} is not given; the optimizer needs it")


def _spell(found: Any) -> str:
    return trees.spell(found) if hasattr(found, "shape") else type(found).__name__


@functools.cache
def _made(loss: Any, optimizer: Any) -> list[Task]:
    """The tasks of this process that differ in nothing but the identity of their functions."""
    return []


def notice_remade(task: Task) -> None:
    """Warns once if tasks of the same functions are made anew again and again: each is compiled anew."""
    alike = _made(_content(task.loss), _content(task.optimizer))
    if task in alike or len(alike) >= ALIKE:
        return
    alike.append(task)
    if len(alike) == ALIKE:
        function = _innermost(task.loss)
        warnings.warn(
            f"{getattr(function, '__qualname__', type(function).__name__)}: {ALIKE} tasks were made of the same "
            "functions, each defined anew, and each is compiled anew; make the task once, outside of what is repeated",
            stacklevel=3,
        )


def _innermost(function: Any) -> Any:
    while (inner := getattr(function, "func", getattr(function, "function", None))) is not None:
        function = inner
    return function


def _content(function: Any) -> tuple:
    """Returns what two functions have in common that compute the same, as far as that can be compared."""
    inner = _innermost(function)
    code = getattr(inner, "__code__", None)
    if code is None:
        return (inner,) if _hashable(inner) else (id(inner),)
    closed = [cell.cell_contents for cell in getattr(inner, "__closure__", None) or ()]
    return code, *(value if _hashable(value) else id(value) for value in closed)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True
