"""Figures of merit: predictions, sparsity, multiply-adds, distances."""

from ssoup_jax.metrics.distances import (
    Drop,
    distance_to_origin,
    distance_to_pruned,
    norm_drop,
    pruning_instability,
    soup_distances,
)
from ssoup_jax.metrics.flops import flops, layer_multiply_adds
from ssoup_jax.metrics.predictions import ensemble_metrics, prediction_metrics
from ssoup_jax.metrics.sparsity import sparsity

__all__ = [
    "Drop",
    "distance_to_origin",
    "distance_to_pruned",
    "ensemble_metrics",
    "flops",
    "layer_multiply_adds",
    "norm_drop",
    "prediction_metrics",
    "pruning_instability",
    "soup_distances",
    "sparsity",
]
