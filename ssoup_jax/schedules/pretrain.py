"""Learning rates of dense training: the schedule of a settings string, after an optional linear warm-up."""

import numpy as np

from ssoup_jax.errors import SettingsError
from ssoup_jax.schedules import grammar
from ssoup_jax.schedules.grammar import Constant, Cosine, ExponentialLR, Linear, MultiStepLR, Schedule, StepLR

# Not 0, from which PyTorch's linear warm-up refuses to start: the reference takes this instead.
WARMUP_START = 1e-20


def learning_rates(
    schedule: str | Schedule, n_epochs: int, steps_per_epoch: int, n_epochs_warmup: int | None
) -> np.ndarray:
    """Returns the learning rate of every step of dense training.

    With W warm-up steps, step j < W runs at about lr * j / W and step W is the first at the full rate. Linear, Cosine
    and ExponentialLR begin at step W and span what is left; StepLR and MultiStepLR count their epochs from step 0.

    Args:
        schedule: a schedule or its string, see `grammar.parse`.
        n_epochs: epochs of dense training, the warm-up included.
        steps_per_epoch: optimiser steps in one epoch.
        n_epochs_warmup: whole epochs of warm-up; None or 0 for none.

    Returns:
        float64 `[n_epochs * steps_per_epoch]`.

    Raises:
        SettingsError: the string is no schedule, or there is nothing left to train after the warm-up.
    """
    if not isinstance(schedule, Schedule):
        schedule = grammar.parse(schedule)
    if n_epochs < 1 or steps_per_epoch < 1:
        raise SettingsError(
            f"n_epochs: found {n_epochs} epochs of {steps_per_epoch} steps, allowed: at least 1 of each"
        )
    n_epochs_warmup = n_epochs_warmup or 0
    if not 0 <= n_epochs_warmup < n_epochs:
        raise SettingsError(f"n_epochs_warmup: found {n_epochs_warmup}, allowed: 0 to {n_epochs - 1} (below n_epochs)")

    n_warmup_steps = n_epochs_warmup * steps_per_epoch
    n_steps = n_epochs * steps_per_epoch - n_warmup_steps
    step = np.arange(n_warmup_steps + n_steps)
    ramp = step[:n_warmup_steps] / max(n_warmup_steps, 1)
    warmup = np.concatenate([WARMUP_START + (1 - WARMUP_START) * ramp, np.ones(n_steps)])
    return warmup * _without_warmup(schedule, step, n_warmup_steps, n_steps, steps_per_epoch)


def _without_warmup(
    schedule: Schedule, step: np.ndarray, n_warmup_steps: int, n_steps: int, steps_per_epoch: int
) -> np.ndarray:
    epoch = step // steps_per_epoch
    since_warmup = np.maximum(step - n_warmup_steps, 0)
    progress = since_warmup / n_steps
    match schedule:
        case Constant(lr):
            return np.full(len(step), lr)
        case Linear(lr, final):
            return lr + (final - lr) * progress
        case Cosine(lr):
            return lr * np.cos(np.pi / 2 * progress) ** 2
        case StepLR(lr, epochs, gamma):
            return lr * gamma ** (epoch // epochs)
        case MultiStepLR(lr, milestones, gamma):
            return lr * gamma ** np.searchsorted(milestones, epoch, side="right")
        case ExponentialLR(lr, gamma):
            return lr * gamma**since_warmup
