"""The schedules of dense training and of retraining as optax has them: functions of the step."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax.schedules import pretrain, retrain


@dataclass(frozen=True, eq=False)
class Rates:
    """An optax schedule: one learning rate for each step, the last one from there on.

    Attributes:
        rates: float64 `[T]`.
        n_warmup_steps: how many of them, from the first on, are warm-up.
    """

    rates: np.ndarray
    n_warmup_steps: int = 0

    def __call__(self, step: jax.Array | int) -> jax.Array:
        """Returns the rate of a step, float32, traced or not."""
        return jnp.asarray(self.rates, jnp.float32)[jnp.clip(step, 0, len(self.rates) - 1)]


def dense_schedule(text: str, n_epochs: int, steps_per_epoch: int, n_epochs_warmup: int | None = None) -> Rates:
    """Returns the schedule that a string names, for any optax optimizer.

    Args:
        text: such as `'(Linear, 0.1)'`, `'(Cosine, 0.1)'`, `'(MultiStepLR, 0.1, [30|60], 0.2)'`.
        n_epochs: epochs, the warm-up included.
        steps_per_epoch: optimizer steps in one.
        n_epochs_warmup: epochs of linear warm-up; None: none.

    Raises:
        SettingsError: the string names no schedule, or nothing is left after the warm-up.

    Example:
        >>> from ssoup_jax import dense_schedule
        >>> schedule = dense_schedule("(Linear, 0.1)", n_epochs=2, steps_per_epoch=5)
        >>> [round(float(schedule(step)), 3) for step in (0, 5, 9)]
        [0.1, 0.05, 0.01]
    """
    rates = pretrain.learning_rates(text, n_epochs, steps_per_epoch, n_epochs_warmup)
    return Rates(rates, (n_epochs_warmup or 0) * steps_per_epoch)


def retrain_schedule(
    name: str,
    dense: Rates | Sequence[float],
    n_steps: int,
    *,
    relative_norm_drop: float | None = None,
    fraction_pruned: float | None = None,
) -> Rates:
    """Returns a schedule of retraining after pruning, derived from the rates that dense training used.

    Args:
        name: `'FT'`, `'LRW'`, `'SLR'`, `'CLR'`, `'LLR'` or `'ALLR'`, see `schedules.retrain.learning_rates`.
        dense: the schedule of dense training, or its rates `[T]`; of these LLR takes the largest only.
        n_steps: optimizer steps of retraining, at least 1.
        relative_norm_drop: for ALLR: by how much pruning shrank the norm of the parameters, relative to it.
        fraction_pruned: for ALLR: share of the weights left that were pruned.

    Raises:
        SettingsError: the name is unknown, or it needs what is not given.

    Example:
        >>> from ssoup_jax import retrain_schedule
        >>> schedule = retrain_schedule("LLR", [0.1], n_steps=4)
        >>> [round(float(schedule(step)), 3) for step in range(4)]
        [0.1, 0.075, 0.05, 0.025]
    """
    dense = dense if isinstance(dense, Rates) else Rates(np.asarray(dense, np.float64))
    history = retrain.DenseHistory(dense.rates, dense.n_warmup_steps)
    rates = retrain.learning_rates(
        name, history, n_steps, relative_norm_drop=relative_norm_drop, fraction_pruned=fraction_pruned
    )
    return Rates(rates)
