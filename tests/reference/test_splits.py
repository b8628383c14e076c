"""Which training images validate, against the indices that the reference's own runs had."""

import numpy as np
import pytest

from ssoup_jax.data.splits import TRAIN_SHARE, permutation
from tests.reference import golden
from tests.reference.deviations import record


@pytest.mark.parametrize("file", ["trajectory_simple", "trajectory_resnet", "soups"])
def test_the_split_is_the_references_index_by_index(file):
    arrays = golden.load_npz(file)
    train, val = arrays["split/train"], arrays["split/val"]
    order = permutation(len(train) + len(val), 42, "reference")
    assert len(train) == int(TRAIN_SHARE * len(order))
    different = np.count_nonzero(order != np.concatenate([train, val]))
    record("split of training and validation images: different indices", different, 0)
