"""What the members of a stack may differ in; every value is data to the compiled step, never code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax.errors import SettingsError
from ssoup_jax.trees import spell

Value = float | Callable[[int], float]
"""A number, or an optax schedule: a function of the step."""


@dataclass(frozen=True)
class Hyper:
    """The hyperparameters of a stack of m members.

    Attributes:
        values: arguments of the task's optimizer by name: float `[m]`, or `[m, T]` with one value for each step.
        n_steps: how many steps each member takes, int `[m]`, at most T.
        keys: typed PRNG keys `[m]`; members with equal keys see the same batches, augmentation and dropout.
        names: what to call each member in an error.
    """

    values: dict[str, np.ndarray]
    n_steps: np.ndarray
    keys: jax.Array
    names: Sequence[str]

    @property
    def constants(self) -> dict[str, np.ndarray]:
        """The values that stay over the whole training, float32 `[m]`."""
        return {name: np.float32(value) for name, value in self.values.items() if np.ndim(value) == 1}

    @property
    def schedules(self) -> dict[str, np.ndarray]:
        """The values that change from step to step, float32 `[m, T]`."""
        return {name: np.float32(value) for name, value in self.values.items() if np.ndim(value) == 2}

    @property
    def key_data(self) -> np.ndarray:
        """The keys as plain numbers, uint32 `[m, ...]`, which can be cut and put anywhere without a program."""
        return jax.device_get(jax.random.key_data(self.keys))


def hyper(
    m: int, n_steps: int | Sequence[int], key: jax.Array, **values: Value | Sequence[Value] | np.ndarray
) -> Hyper:
    """Makes the hyperparameters of m members.

    Args:
        m: number of members.
        n_steps: steps that all of them take, or one number for each.
        key: typed PRNG key `[]`, of which each member gets its own, or keys `[m]`; members with equal keys see the same
            batches and the same random numbers.
        **values: arguments of the task's optimizer by name: a number or an optax schedule for all members, one of
            either for each, or an array `[m, T]`.

    Raises:
        SettingsError: something is not there once for each member, or no step is to be taken.

    Example:
        >>> import jax, optax
        >>> from ssoup_jax import hyper
        >>> three = hyper(3, 100, jax.random.key(0), learning_rate=optax.linear_schedule(0.1, 0, 100),
        ...               weight_decay=[1e-4, 5e-4, 1e-3])
        >>> three.schedules["learning_rate"].shape, three.constants["weight_decay"].shape
        ((3, 100), (3,))
    """
    if m < 1:
        raise SettingsError(f"m: found {m}; allowed: at least 1 member")
    steps = np.broadcast_to(n_steps, m) if np.shape(n_steps) in ((), (1,)) else np.asarray(n_steps)
    if steps.shape != (m,) or steps.dtype.kind not in "iu" or steps.min() < 1:
        raise SettingsError(f"n_steps: found {n_steps!r}; allowed: a whole number from 1, or {m}, one for each member")
    keys = jax.random.split(key, m) if key.ndim == 0 else key
    if keys.shape != (m,) or not jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        raise SettingsError(f"key: found {spell(key)}; allowed: jax.random.key(n), or {m} such keys")
    found = {name: _table(name, value, steps) for name, value in values.items()}
    return Hyper(found, steps, keys, [f"member {i}" for i in range(m)])


def _table(name: str, value: Value | Sequence[Value] | np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Returns values `[m]` or, where one depends on the step, `[m, T]`."""
    m, longest = len(steps), int(steps.max())
    if callable(value) or np.ndim(value) == 0:
        value = [value] * m
    if len(value) != m:
        raise SettingsError(f"{name}: found {len(value)} values for {m} member{'s' * (m > 1)}")
    if any(map(callable, value)):
        return per_step(
            [_rates(own, n) if callable(own) else np.full(n, own) for own, n in zip(value, steps, strict=True)]
        )
    table = np.asarray(value, np.float64)
    if table.ndim > 2 or (table.ndim == 2 and table.shape[1] < longest):
        raise SettingsError(f"{name}: found an array of {table.shape}; allowed: [{m}] or [{m}, {longest}]")
    return table


def _rates(schedule: Callable[[int], float], n_steps: int) -> np.ndarray:
    try:
        return np.asarray(jax.vmap(schedule)(jnp.arange(n_steps)), np.float64)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError, TypeError, ValueError):
        # A schedule may be plain Python that asks what its step is, or return a plain number.
        return np.array([float(schedule(step)) for step in range(n_steps)])


def per_step(schedules: Sequence[np.ndarray]) -> np.ndarray:
    """Lays schedules of different lengths side by side.

    Args:
        schedules: one value for each step of a member, float `[T_i]`.

    Returns:
        `[m, T]` with T the longest; zero beyond a member's own end, where nothing is trained.
    """
    table = np.zeros((len(schedules), max(map(len, schedules))))
    for row, schedule in zip(table, schedules, strict=True):
        row[: len(schedule)] = schedule
    return table


def window(schedules: dict[str, np.ndarray], start: int, length: int) -> dict[str, np.ndarray]:
    """Cuts `[m, length]` out of schedules `[m, T]`; zeros before the first step and beyond the last."""

    def cut(table: np.ndarray) -> np.ndarray:
        found = np.zeros((table.shape[0], length), table.dtype)
        first = max(0, start)
        last = max(first, min(table.shape[1], start + length))
        found[:, first - start : last - start] = table[:, first:last]
        return found

    return {name: cut(table) for name, table in schedules.items()}
