"""Pruned weights in a file without masks: weights that are exactly zero."""

import dataclasses
from collections.abc import Callable

import numpy as np

from ssoup_jax.interop.pytorch import Checkpoint

SETTINGS = ("auto", "zeros", "none")
"""Values of the setting `init_mask`."""

LEAST_SHARE = 0.1
"""The share of a layer that is exactly zero from which on the file is taken for pruned.

Training in floating point leaves practically no weight at exactly zero, in half precision a few in a million. Rounding
to 8 bits leaves up to some six in a hundred; layers that start as zeros are zero throughout, and do not count. Pruning
takes more than a tenth of some layer, even where it takes less of the network.
"""

_WORTH_A_NOTE = 1e-3


def as_masks(
    checkpoint: Checkpoint, init_mask: str, prunable: Callable[[str], bool] | None = None
) -> tuple[Checkpoint, str | None]:
    """Makes masks of a checkpoint's zeros, of the layers that have no mask of their own.

    Args:
        checkpoint: what `pytorch.read` returned.
        init_mask: 'zeros': every weight that is exactly zero is pruned; 'auto': if so many are that it cannot be by
            chance; 'none': none is.
        prunable: says by its name what may be pruned; None: whatever has two axes or more.

    Returns:
        The checkpoint with the masks that were made; the same object if none was. And what is to be said of it.
    """
    own = checkpoint.masks or {}
    layers = [name for name, w in checkpoint.tensors.items() if (prunable(name) if prunable else w.ndim > 1)]
    zero = {name: checkpoint.state[name] == 0 for name in layers if name not in own}
    share = float(sum(map(np.count_nonzero, zero.values())) / max(1, sum(layer.size for layer in zero.values())))
    if init_mask == "none" or share == 0:
        return checkpoint, None
    found = f"{share:.2%} of the weights{' without a mask' * bool(own)} are exactly zero"
    sparsest = max((layer.mean() for layer in zero.values() if not layer.all()), default=0)
    if init_mask == "auto" and sparsest < LEAST_SHARE:
        too_few = f"{found}, too few to be pruned ones; init_mask='zeros' takes them for pruned"
        return checkpoint, too_few if share >= _WORTH_A_NOTE else None
    masks = own | {name: ~layer for name, layer in zero.items()}
    # A product with a mask has zeros of both signs.
    state = checkpoint.state | {
        name: np.where(layer, np.float32(0), checkpoint.state[name]) for name, layer in zero.items()
    }
    masked = dataclasses.replace(checkpoint, state=state, masks=masks)
    return masked, f"{found}: pruned, and kept so (init_mask='none' revives them)"
