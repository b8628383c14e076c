"""What settings of text may be: one of some names, or of a form."""

import functools
from collections.abc import Callable

from ssoup_jax import models, own, pools, soups, variants
from ssoup_jax.config.study import parse_shard
from ssoup_jax.data import sources
from ssoup_jax.errors import unknown
from ssoup_jax.interop import zeros
from ssoup_jax.pruning import masks, selectors
from ssoup_jax.report.trackers import chosen
from ssoup_jax.schedules import retrain
from ssoup_jax.stack import names
from ssoup_jax.training import classify, interval, loop, optimizer, recalibrate

CHOICES: dict[str, tuple[str | None, ...]] = {
    "strategy": ("SMS", "Dense", "IMP", "Ensemble"),
    "optimizer": (*optimizer.OPTIMIZERS, own.FORM),
    "init_mask": zeros.SETTINGS,
    "init_head": ("fresh", None),
    "pruning_selector": (*selectors.SELECTORS, own.FORM),
    "retrain_schedule": retrain.NAMES,
    "ensemble_by": tuple(variants.VARIANTS),
    "ensemble_method": (*soups.SOUPS, own.FORM, None),
    "greedy_metric": ("accuracy", "macro_accuracy"),
    "bn_recalibration": (*recalibrate.METHODS, None),
    "on_divergence": loop.ON_DIVERGENCE,
}

OWN: dict[str, Callable[[str], object]] = {
    "optimizer": optimizer.named,
    "pruning_selector": selectors.named,
    "ensemble_method": soups.named,
}
"""Looks at what is named instead of a choice; `own.FORM` in the table above stands for it."""

_STOP_SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGXCPU")


def signals(text: str) -> tuple[str, ...]:
    """Reads the names of `stop_signals`.

    Raises:
        SettingsError: one that may not be caught, or is none.
    """
    found = tuple(name.strip() for name in text.split(","))
    for name in found:
        if name not in _STOP_SIGNALS:
            raise unknown("stop_signals", name, _STOP_SIGNALS)
    return found


CHECKS: dict[str, Callable[[str], object]] = {
    "arch": models.check_arch,
    "loss": classify.loss_named,
    "dataset": sources.check_name,
    "pool": pools.parse,
    "execution": names.check,
    "mesh": names.parse_mesh,
    "checkpoint_every": interval.parse,
    "stop_signals": signals,
    "shard": parse_shard,
    "trackers": chosen.parse,
    "prune_only": functools.partial(masks.read_patterns, "prune_only"),
    "prune_except": functools.partial(masks.read_patterns, "prune_except"),
}
"""Reads what is no choice; raises what is wrong with it."""
