"""The same weights through `torch.nn.utils.prune`, alive."""

import jax
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import prune

from ssoup_jax.pruning import full_mask, select


@st.composite
def cases(draw):
    """Layer shapes, float32 weights without ties of magnitude, and the amounts of one to three phases."""
    shape = st.lists(st.integers(1, 5), min_size=2, max_size=4).map(tuple)
    shapes = draw(st.lists(shape, min_size=1, max_size=4))
    sizes = [int(np.prod(shape)) for shape in shapes]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = (random.permutation(sum(sizes)) + 1) * random.choice([-0.01, 0.01], sum(sizes))
    pieces = np.split(values.astype(np.float32), np.cumsum(sizes)[:-1])
    weights = [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]
    return weights, draw(st.lists(st.floats(0, 1), min_size=1, max_size=3))


def torch_layers(weights):
    layers = [torch.nn.Module() for _ in weights]
    for layer, weight in zip(layers, weights, strict=True):
        layer.weight = torch.nn.Parameter(torch.from_numpy(weight.copy()))
    return layers


def torch_prune(layers, selector, amount):
    if selector == "uniform":
        for layer in layers:
            prune.l1_unstructured(layer, "weight", amount=amount)
    else:
        method = {"global": prune.L1Unstructured, "random": prune.RandomUnstructured}[selector]
        prune.global_unstructured([(layer, "weight") for layer in layers], pruning_method=method, amount=amount)


@settings(max_examples=30, deadline=None)
@given(case=cases(), selector=st.sampled_from(["global", "uniform", "random"]))
def test_masks_of_torch(case, selector):
    weights, amounts = case
    layers = torch_layers(weights)
    params = {f"layer{i}": {"kernel": weight} for i, weight in enumerate(weights)}
    mask = full_mask(params)
    for phase, amount in enumerate(amounts):
        torch_prune(layers, selector, amount)
        mask = select(selector, params, mask, amount, jax.random.key(phase))
        ours = [np.asarray(mask[name]["kernel"]) for name in params]
        theirs = [layer.weight_mask.numpy().astype(bool) for layer in layers]
        if selector == "random":
            assert sum(leaf.sum() for leaf in ours) == sum(leaf.sum() for leaf in theirs)
        else:
            for found, expected in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(found, expected)
