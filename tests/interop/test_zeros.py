"""Zeros of a file without masks: taken for pruned weights where they cannot be by chance, and said."""

import numpy as np
import pytest
import torch
from torch.nn.utils import prune

from ssoup_jax.interop import pytorch, zeros
from tests.interop import twins


def pruned_by(amount):
    """Prunes a network by magnitude over all layers and leaves the zeros where the weights were."""

    def change(twin):
        twins.prune_globally(twin, amount)
        for module in twins.prunable(twin):
            prune.remove(module, "weight")
            assert torch.signbit(module.weight[module.weight == 0]).any(), "PyTorch leaves zeros of both signs"

    return change


def one_layer(twin):
    prune.l1_unstructured(twin.layer3[0].conv2, "weight", amount=0.2)
    prune.remove(twin.layer3[0].conv2, "weight")


def rounded_to_8_bits(twin):
    for module in twins.prunable(twin):
        step = module.weight.abs().max() / 127
        module.weight.copy_((module.weight / step).round() * step)


def first_layer_of_zeros(twin):
    twin.linear.weight.zero_()


def in_half_precision(twin):
    twin.half().float()


def no_change(twin):
    pass


def checkpoint(tmp_path, *changes):
    twin, _ = twins.make("ResNet8")
    with torch.no_grad():
        for change in changes:
            change(twin)
    torch.save(twin.state_dict(), tmp_path / "a.pt")
    return pytorch.read(tmp_path / "a.pt")


def n_weights(of):
    return sum(array.size for array in of.tensors.values() if array.ndim > 1)


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.9, 0.98])
@pytest.mark.parametrize("init_mask", ["auto", "zeros"])
def test_what_was_pruned_is_masked_to_the_weight(tmp_path, amount, init_mask):
    plain = checkpoint(tmp_path, pruned_by(amount))
    assert plain.masks is None
    masked, note = zeros.as_masks(plain, init_mask)
    for name, mask in masked.masks.items():
        np.testing.assert_array_equal(mask, plain.state[name] != 0)
        assert not np.any(np.signbit(masked.state[name][~mask]))
    n_pruned = sum(int((~mask).sum()) for mask in masked.masks.values())
    assert n_pruned == round(amount * n_weights(plain))
    assert note.startswith(f"{n_pruned / n_weights(plain):.2%} of the weights are exactly zero: pruned, and kept so")
    for name, array in plain.state.items():
        np.testing.assert_array_equal(masked.state[name], array)


DENSE = {
    "as trained": (no_change, False),
    "half precision": (in_half_precision, False),
    "rounded to 8 bits": (rounded_to_8_bits, True),
    "a last layer that starts as zeros": (first_layer_of_zeros, True),
}


@pytest.mark.parametrize("case", DENSE)
def test_what_was_not_pruned_is_not_masked(tmp_path, case):
    change, is_said = DENSE[case]
    plain = checkpoint(tmp_path, change)
    masked, note = zeros.as_masks(plain, "auto")
    assert masked is plain
    if not is_said:
        assert note is None
    else:
        assert "of the weights are exactly zero, too few to be pruned ones; init_mask='zeros' takes them" in note


def test_a_single_pruned_layer_is_seen(tmp_path):
    plain = checkpoint(tmp_path, one_layer)
    masked, note = zeros.as_masks(plain, "auto")
    assert not masked.masks["layer3.0.conv2.weight"].all()
    share = np.mean(plain.state["layer3.0.conv2.weight"] == 0)
    assert share == pytest.approx(0.2, abs=1e-4), "a fifth of it, to the weight"
    assert note.startswith(f"{share * 36864 / n_weights(plain):.2%} of the weights")


def test_none_takes_no_zero(tmp_path):
    plain = checkpoint(tmp_path, pruned_by(0.9))
    assert zeros.as_masks(plain, "none") == (plain, None)


def test_zeros_takes_every_zero(tmp_path):
    plain = checkpoint(tmp_path, first_layer_of_zeros)
    masked, note = zeros.as_masks(plain, "zeros")
    assert not masked.masks["linear.weight"].any()
    assert f"{640 / n_weights(plain):.2%} of the weights are exactly zero: pruned" in note
    dense = checkpoint(tmp_path, no_change)
    assert zeros.as_masks(dense, "zeros") == (dense, None)


@pytest.mark.parametrize("init_mask", ["auto", "zeros"])
def test_masks_of_the_file_win(tmp_path, init_mask):
    """A kept weight may be zero; layers without a mask have only their zeros to tell."""

    def keep_a_zero(twin):
        prune.l1_unstructured(twin.conv1, "weight", amount=0.5)
        twin.conv1.weight_orig[twin.conv1.weight_mask.bool()] = 0.0

    plain = checkpoint(tmp_path, one_layer, keep_a_zero)
    masked, note = zeros.as_masks(plain, init_mask)
    np.testing.assert_array_equal(masked.masks["conv1.weight"], plain.masks["conv1.weight"])
    assert masked.masks["conv1.weight"].any() and not plain.state["conv1.weight"].any()
    assert "of the weights without a mask are exactly zero" in note
    only = checkpoint(tmp_path, keep_a_zero)
    assert zeros.as_masks(only, init_mask) == (only, None)
