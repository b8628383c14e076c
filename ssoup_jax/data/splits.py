"""Which training images validate, and in which order all are used: a fixed shuffle, ours or the reference's."""

import numpy as np

TRAIN_SHARE = 0.9

SPLITS = ("reference",)
"""What the setting `data.split` may ask for beside our own, which is None."""


def permutation(n: int, seed: int, split: str | None = None) -> np.ndarray:
    """Returns the fixed order that decides who is in which split, int64 `[n]`.

    NumPy freezes the stream of this generator for good; that of `default_rng` may change with a release, and stored
    results would no longer be found.

    Args:
        n: how many images there are.
        seed: decides the order.
        split: one of `SPLITS`; None: our own.
    """
    return torch_randperm(n, seed) if split == "reference" else np.random.RandomState(seed).permutation(n)


def torch_randperm(n: int, seed: int) -> np.ndarray:
    """Returns what `torch.randperm` gives on a CPU with a generator of that seed, which `random_split` shuffles by.

    Both are the Mersenne Twister MT19937, seeded alike. Each step of the shuffle (Fisher and Yates, from the front)
    takes one 32-bit number modulo what is left; PyTorch does so for all n below 2^32 / 20.

    Args:
        n: how many there are.
        seed: of `torch.Generator().manual_seed`; at least 0 and below 2^32.

    Returns:
        The permutation, int64 `[n]`.
    """
    drawn = np.random.RandomState(seed).randint(0, 2**32, max(n - 1, 0), np.uint32)
    order = list(range(n))  # a list, because NumPy takes ten times as long to swap single entries
    for place, steps in enumerate((drawn % np.arange(n, 1, -1, dtype=np.uint32)).tolist()):
        order[place], order[place + steps] = order[place + steps], order[place]
    return np.array(order, np.int64)
