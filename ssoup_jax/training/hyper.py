"""What the members of a stack may differ in; every value is data to the compiled step, never code."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np


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
