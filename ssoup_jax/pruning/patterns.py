"""Which entries may go together: so far any, as unstructured pruning has it.

A pattern takes the scores and the mask of the layers that compete with one another and the number of entries that they
lose, and gives their new mask.
"""

from collections.abc import Callable

import numpy as np

from ssoup_jax.pruning.scores import Leaves, flatten, split

Pattern = Callable[[Leaves, Leaves, int], Leaves]


def unstructured(scores: Leaves, kept: Leaves, n_cut: int) -> Leaves:
    """Cuts the lowest scores wherever they are; of equal ones, those that come first (leaf order, then C order)."""
    if n_cut == 0:
        return kept
    flat, flat_kept = flatten(scores), flatten(kept)
    # Ranks the kept entries alone: marking the others by one low value would be a mass of ties, on which NumPy's
    # partition is 30 times slower.
    candidates = flat[flat_kept]
    threshold = np.partition(candidates, n_cut - 1)[n_cut - 1]
    n_tied = n_cut - np.count_nonzero(candidates < threshold)
    left = flat_kept & (flat >= threshold)
    left[np.flatnonzero(left & (flat == threshold))[:n_tied]] = False
    return split(left, kept)
