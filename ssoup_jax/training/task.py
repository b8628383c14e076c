"""What is trained: a loss, an optimizer and the figures to report, as pure functions of one member."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import optax

from ssoup_jax.errors import SettingsError
from ssoup_jax.trees import PyTree

Loss = Callable[[PyTree, PyTree, PyTree, jax.Array], tuple[jax.Array, tuple[PyTree, dict[str, jax.Array]]]]
"""`(params, collections, batch, key) -> (loss [], (new collections, figures []))`, in train mode."""

Moments = Callable[[PyTree, PyTree, PyTree, jax.Array], PyTree]
"""`(params, collections, batch, key) -> what this batch alone would make of the collections`, in train mode."""


@dataclass(frozen=True)
class Task:
    """What the members of a stack are trained for.

    Programs are compiled once for a task, so make it once; tasks are equal if their functions are.

    Attributes:
        loss: mean loss of a batch, what training changes beside the parameters, and figures by name. A batch is any
            pytree with leaves `[B, ...]`; the key is a typed PRNG key `[]`, another one at every step.
        optimizer: makes the optimizer of one step from its hyperparameters by name, float32 `[]`, such as
            `learning_rate`: traced values, so that members may differ in them. The structure of its state must not
            depend on them. It need not know of masks.
        moments: for exact recalibration; None: there is nothing to recalibrate.
        cut: returns the same task for a batch whose rows are cut over the mesh axis of the given name: each device
            calls it with its own rows, in their order, and what it returns is averaged over the axis. What is random,
            or is computed of the whole batch, such as BatchNorm's statistics, is to be that of the whole batch. None:
            a batch is never cut.

    Raises:
        SettingsError: what should be a function is none.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from ssoup_jax import Task, stateless
        >>> def loss(params, batch, key):
        ...     return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)
        >>> task = Task(stateless(loss), optax.adamw)
    """

    loss: Loss
    optimizer: Callable[..., optax.GradientTransformation]
    moments: Moments | None = None
    cut: Callable[[str], "Task"] | None = None

    def __post_init__(self):
        for name in ("loss", "optimizer"):
            found = getattr(self, name)
            if not callable(found):
                made = isinstance(found, optax.GradientTransformation)
                hint = ", such as optax.adamw or lambda learning_rate: optax.chain(...)" if made else ""
                raise SettingsError(
                    f"{name}: found {'an optimizer that is made already' if made else type(found).__name__}; "
                    f"allowed: {'the function that makes it' if made else 'a function'}{hint}"
                )


@dataclass(frozen=True)
class _Stateless:
    function: Callable

    def __call__(self, params: PyTree, collections: PyTree, batch: PyTree, key: jax.Array):
        found = self.function(params, batch, key)
        loss, figures = found if isinstance(found, tuple) else (found, {})
        return loss, (collections, figures)


def stateless(loss: Callable[[PyTree, PyTree, jax.Array], jax.Array | tuple[jax.Array, dict]]) -> Loss:
    """Makes the loss of a task from one that changes nothing beside the parameters.

    Args:
        loss: `(params, batch, key) -> loss []`, or `(loss [], figures by name [])`.

    Returns:
        The same as a `Task` takes it; of equal functions, equal ones.

    Example:
        >>> import jax.numpy as jnp
        >>> from ssoup_jax import stateless
        >>> loss = stateless(lambda params, batch, key: jnp.sum(params["w"] * batch))
        >>> loss({"w": 2.0}, {}, jnp.ones(3), None)
        (Array(6., dtype=float32), ({}, {}))
    """
    return _Stateless(loss)
