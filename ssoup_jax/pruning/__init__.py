"""Which weights may go, which of them go, and how they stay gone."""

from ssoup_jax.pruning.allocation import phase_amount, prune_count
from ssoup_jax.pruning.masks import dense_form, from_dense_form, full_mask, is_kernel, prunable_leaves, restrict
from ssoup_jax.pruning.prune import prune
from ssoup_jax.pruning.selectors import SELECTORS, Selector, select
from ssoup_jax.pruning.transform import apply_mask, keep_masked_zero, mask_gradients, masked

__all__ = [
    "SELECTORS",
    "Selector",
    "apply_mask",
    "dense_form",
    "from_dense_form",
    "full_mask",
    "is_kernel",
    "keep_masked_zero",
    "mask_gradients",
    "masked",
    "phase_amount",
    "prunable_leaves",
    "prune",
    "prune_count",
    "restrict",
    "select",
]
