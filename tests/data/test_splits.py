"""Which training images validate: the reference's split is PyTorch's to the last index."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.data.augment import Transform
from ssoup_jax.data.dataset import Contents, Dataset, Split, assemble
from ssoup_jax.data.splits import torch_randperm
from ssoup_jax.errors import SettingsError
from tests.data.sources.test_sources import numbered, rows

GOLDEN = json.loads(Path(__file__).with_name("randperm.json").read_text())["cases"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"{case['n']}-{case['seed']}")
def test_indices_are_those_that_pytorch_gave(case):
    found = torch_randperm(case["n"], case["seed"])
    assert found.dtype == np.int64 and len(found) == case["n"]
    validating = found[int(0.9 * case["n"]) :]
    assert (found[:10].tolist(), validating[:5].tolist()) == (case["first"], case["first_validating"])
    assert hashlib.sha256(found.astype("<i8").tobytes()).hexdigest() == case["sha256"]


@settings(deadline=None)  # the first call imports a part of PyTorch
@given(st.integers(0, 300), st.integers(0, 2**32 - 1))
def test_indices_are_those_that_pytorch_gives(n, seed):
    expected = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    assert torch_randperm(n, seed).tolist() == expected


def toy(n: int, val: Split | None = None, **how) -> Dataset:
    return assemble("toy", Contents(3, numbered(n), numbered(5), val), transform=Transform(), split_seed=42, **how)


def numbers(split: Split) -> list[int]:
    return (256 * split.images[:, 0, 0, 0].astype(int) + split.images[:, 0, 0, 1]).tolist()


def test_a_data_set_is_split_as_the_reference_splits_it():
    own, theirs = toy(400), toy(400, split="reference")
    train, val = torch.utils.data.random_split(range(400), (360, 40), torch.Generator().manual_seed(42))
    assert (numbers(theirs.train), numbers(theirs.val)) == (train.indices, val.indices)
    assert rows(theirs.test) == rows(own.test)
    assert (own.split, theirs.split) == ("own", "reference")
    assert own.fingerprint != theirs.fingerprint
    # By chance a tenth of our validation images is in theirs.
    assert len({*numbers(own.val)} & {*numbers(theirs.val)}) < 12


def test_nothing_is_split_off_where_other_images_validate():
    assert toy(20, val=numbered(6)).split is None
    with pytest.raises(SettingsError, match=r"^data.split: found 'reference'; toy has validation images of its own"):
        toy(20, val=numbered(6), split="reference")
