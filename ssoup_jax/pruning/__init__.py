"""Which weights may go, which of them go, and how they stay gone."""

from ssoup_jax.pruning.prunable import full_mask, is_prunable, prunable_leaves
from ssoup_jax.pruning.selectors import (
    SELECTORS,
    global_magnitude,
    phase_amount,
    prune_count,
    random_selection,
    select,
    uniform_magnitude,
)
from ssoup_jax.pruning.transform import apply_mask, keep_masked_zero

__all__ = [
    "SELECTORS",
    "apply_mask",
    "full_mask",
    "global_magnitude",
    "is_prunable",
    "keep_masked_zero",
    "phase_amount",
    "prunable_leaves",
    "prune_count",
    "random_selection",
    "select",
    "uniform_magnitude",
]
