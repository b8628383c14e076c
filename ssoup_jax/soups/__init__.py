"""Soups: weighted averages of candidates."""

from ssoup_jax.soups.averaging import Weights, average, check_same_mask
from ssoup_jax.soups.greedy import Trial
from ssoup_jax.soups.methods import SOUPS, Method, named
from ssoup_jax.soups.soup import soup, weigh

__all__ = ["SOUPS", "Method", "Trial", "Weights", "average", "check_same_mask", "named", "soup", "weigh"]
