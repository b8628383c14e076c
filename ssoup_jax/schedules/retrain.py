"""Learning rates of retraining after pruning, derived from the rates that dense training used."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ssoup_jax.errors import RunError, SettingsError, unknown

NAMES = ("FT", "LRW", "SLR", "CLR", "LLR", "ALLR")


@dataclass(frozen=True, eq=False)
class DenseHistory:
    """The rates that dense training used.

    Attributes:
        rates: float64 `[T]`, one per step.
        n_warmup_steps: how many of them, from the first on, belong to the warm-up.
    """

    rates: np.ndarray
    n_warmup_steps: int = 0

    def __post_init__(self):
        if not 0 <= self.n_warmup_steps < len(self.rates):
            raise SettingsError(
                f"n_epochs: retraining needs rates of dense training after its warm-up, "
                f"found {len(self.rates)} rates, {self.n_warmup_steps} of them warm-up"
            )

    @property
    def peak(self) -> float:
        """The largest rate."""
        return float(np.max(self.rates))

    @property
    def floor(self) -> float:
        """The smallest rate after the warm-up."""
        return float(np.min(self.rates[self.n_warmup_steps :]))


def learning_rates(
    name: str,
    history: DenseHistory,
    n_steps: int,
    *,
    n_dense_steps: int | None = None,
    relative_norm_drop: float | None = None,
    fraction_pruned: float | None = None,
) -> np.ndarray:
    """Returns the learning rate of every step of one phase's retraining.

    FT stays at the dense floor and LRW repeats the last dense rates (Renda et al., 2020, arXiv 2003.02389). The others
    warm up over the first tenth of the steps: SLR then replays the dense rates in the steps left and CLR takes a cosine
    from peak to floor (Le and Hua, 2021, arXiv 2105.03193); LLR is linear from peak to zero, and ALLR scales that peak
    by max(relative norm drop / sqrt(fraction pruned), retraining steps / dense steps), at most 1
    (Zimmer et al., 2023, arXiv 2111.00843).

    Where an epoch of retraining has another number of steps, as with batches of another size, LRW repeats the rates of
    the same share of dense training, and ALLR compares epochs.

    Args:
        name: one of `NAMES`.
        history: the rates of dense training.
        n_steps: optimiser steps of retraining; 0 gives an empty array.
        n_dense_steps: how many steps dense training would take at the retraining's pace; None: as many as it took.
        relative_norm_drop: by how much this phase's pruning shrank the norm of all parameters, relative to the norm
            before; only for ALLR.
        fraction_pruned: share of the weights left that this phase pruned, above 0 and at most 1; only for ALLR.

    Returns:
        float64 `[n_steps]`.

    Raises:
        SettingsError: the name is unknown, the history is too short for LRW, or ALLR lacks what it needs.
        RunError: the norm drop is not a finite number, so the pruned model is not one either.
    """
    if name not in NAMES:
        raise unknown("retrain_schedule", name, NAMES)
    n_dense = len(history.rates) if n_dense_steps is None else n_dense_steps
    match name:
        case "FT":
            return np.full(n_steps, history.floor)
        case "LRW":
            return _last_rates(history, n_steps, n_dense)
        case "SLR":
            return _warmed_up(history.peak, n_steps, lambda step, n_left: _resampled(history, step, n_left))
        case "CLR":
            peak, span = history.peak, history.peak - history.floor
            return _warmed_up(peak, n_steps, lambda step, n_left: peak - span * np.sin(np.pi / 2 * step / n_left) ** 2)
        case "LLR":
            return _linear(history.peak, n_steps)
        case "ALLR":
            share = n_steps / n_dense
            scale = min(max(_norm_drop_scale(relative_norm_drop, fraction_pruned), share), 1.0)
            return _linear(history.peak * scale, n_steps)


def learning_rates_to_peak(peak: float, n_steps: int) -> np.ndarray:
    """Returns the rates of a member of `ensemble_by='retrain_schedule'`: LLR with the member's own peak.

    Args:
        peak: above 0; it may exceed the peak of dense training.
        n_steps: optimiser steps of retraining.

    Returns:
        float64 `[n_steps]`.
    """
    return _linear(peak, n_steps)


def _warmed_up(peak: float, n_steps: int, decay: Callable[[np.ndarray, int], np.ndarray]) -> np.ndarray:
    n_warmup_steps = n_steps // 10
    rise = peak * np.sin(np.pi / 2 * np.arange(n_warmup_steps) / max(n_warmup_steps, 1)) ** 2
    n_left = n_steps - n_warmup_steps
    return np.concatenate([rise, decay(np.arange(n_left), n_left)])


def _linear(peak: float, n_steps: int) -> np.ndarray:
    return _warmed_up(peak, n_steps, lambda step, n_left: peak * (1 - step / n_left))


def _last_rates(history: DenseHistory, n_steps: int, n_dense: int) -> np.ndarray:
    if n_steps > n_dense:
        raise SettingsError(
            f"retrain_schedule: LRW repeats the last steps of dense training, found {n_steps} steps of retraining, "
            f"allowed: at most the {n_dense} of dense training (n_epochs_per_phase up to n_epochs)"
        )
    rates = np.array(history.rates, dtype=np.float64)
    return rates[np.arange(n_dense - n_steps, n_dense) * len(rates) // n_dense]


def _resampled(history: DenseHistory, step: np.ndarray, n_left: int) -> np.ndarray:
    # The reference counts steps from 1 and replaces those below the warm-up's end, so the last warm-up rate stays.
    rates = np.array(history.rates, dtype=np.float64)
    rates[: max(history.n_warmup_steps - 1, 0)] = history.peak
    return rates[step * len(rates) // max(n_left, 1)]


def _norm_drop_scale(relative_norm_drop: float | None, fraction_pruned: float | None) -> float:
    if relative_norm_drop is None or fraction_pruned is None or not 0 < fraction_pruned <= 1:
        raise SettingsError(
            f"retrain_schedule: ALLR needs a relative norm drop and a fraction pruned above 0 and at most 1, "
            f"found {relative_norm_drop!r} and {fraction_pruned!r}"
        )
    if not math.isfinite(relative_norm_drop):
        raise RunError(f"retrain_schedule: ALLR found a relative norm drop of {relative_norm_drop!r}: weights diverged")
    return relative_norm_drop / math.sqrt(fraction_pruned)
