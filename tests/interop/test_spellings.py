"""Well-known public ResNets: what computes the same is taken under its own names, and all else is refused by name."""

import jax
import numpy as np
import pytest
import torch

from ssoup_jax import models
from ssoup_jax.errors import SettingsError
from ssoup_jax.interop import fits, pytorch
from ssoup_jax.interop.spellings import respelled
from tests.interop import twins


@pytest.fixture(scope="module")
def state():
    """State dicts of ours by architecture, on images of 32 x 32."""
    return {arch: twins.make(arch, image_shape=(32, 32, 3))[0].state_dict() for arch in ("ResNet8", "ResNet18")}


def torchvision(state, stem=3):
    """A residual network of basic blocks under torchvision's names."""
    renamed = {name.replace("shortcut", "downsample").replace("linear", "fc"): value for name, value in state.items()}
    return renamed | {"conv1.weight": torch.ones(64, 3, stem, stem)} if stem != 3 else renamed


def option_b(state):
    """A thin CIFAR ResNet with projections, as chenyaofo's pytorch-cifar-models have it."""
    found = {name.replace("linear", "fc"): value for name, value in state.items()}
    for stage, (before, after) in ((2, (16, 32)), (3, (32, 64))):
        at = f"layer{stage}.0.downsample"
        found |= {f"{at}.0.weight": torch.ones(after, before, 1, 1)}
        found |= {f"{at}.1.{name}": torch.ones(after) for name in ("weight", "bias", "running_mean", "running_var")}
    return found


SAME = {
    "akamaster's": ("ResNet8", lambda s: {"state_dict": {f"module.{n}": v for n, v in s.items()}, "best_prec1": 91.7}),
    "one whose last layer is fc": ("ResNet8", lambda s: {n.replace("linear", "fc"): v for n, v in s.items()}),
    "kuangliu's": ("ResNet18", lambda s: {"net": {f"module.{n}": v for n, v in s.items()}, "acc": 95.2, "epoch": 199}),
    "torchvision's with a 3x3 stem": ("ResNet18", torchvision),
}


@pytest.mark.parametrize("case", SAME)
def test_what_computes_the_same_is_taken(tmp_path, state, case):
    arch, dress = SAME[case]
    torch.save(state[arch], tmp_path / "ours.pt")
    torch.save(dress(state[arch]), tmp_path / "theirs.pt")
    model = models.build(arch, 10, (32, 32, 3))
    ours, theirs = (
        pytorch.variables_from(pytorch.read(tmp_path / name), model, (32, 32, 3)) for name in ("ours.pt", "theirs.pt")
    )
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    assert fits.find(pytorch.read(tmp_path / "theirs.pt").shapes) == (arch, 10, (32, 32, 3))
    assert model.unsaid, "what the file cannot say is said"


def test_masks_are_taken_under_their_names_too(tmp_path):
    twin, image_shape = twins.make("ResNet8")
    twins.prune_globally(twin, 0.5)
    torch.save({n.replace("linear", "fc"): v for n, v in twin.state_dict().items()}, tmp_path / "a.pt")
    model = models.build("ResNet8", 10, image_shape)
    _, _, mask = pytorch.variables_from(pytorch.read(tmp_path / "a.pt"), model, image_shape)
    np.testing.assert_array_equal(mask["linear"]["kernel"].T, twin.linear.weight_mask)


OTHER = {
    "chenyaofo's": (
        "ResNet8",
        "ResNet8",
        option_b,
        "layer2.0.downsample.0.weight of shape (32, 16, 1, 1) has no place",
    ),
    "torchvision's ResNet18": (
        "ResNet18",
        "ResNet18",
        lambda s: torchvision(s, stem=7),
        "conv1.weight has shape (64, 3, 7, 7), wanted (64, 3, 3, 3)",
    ),
    "torchvision's ResNet34": (
        "ResNet18",
        "ResNet18",
        lambda s: torchvision(s) | {f"layer1.2.conv1.{n}": torch.ones(64, 64, 3, 3) for n in ("weight",)},
        "layer1.2.conv1.weight of shape (64, 64, 3, 3) has no place in it",
    ),
    "kuangliu's with pre-activation": (
        "ResNet18",
        "ResNet18",
        lambda s: {n: v for n, v in s.items() if not n.startswith("bn1.") and "shortcut.1" not in n},
        "bn1.weight of shape (64,) is missing",
    ),
    "a thin ResNet for ResNet18": ("ResNet8", "ResNet18", dict, "conv1.weight has shape (16, 3, 3, 3), wanted (64,"),
    "ResNet18 without weights on its shortcuts": (
        "ResNet18",
        "ResNet18",
        lambda s: {n: v for n, v in s.items() if "shortcut" not in n},
        "layer2.0.shortcut.0.weight of shape (128, 64, 1, 1) is missing",
    ),
}


@pytest.mark.parametrize("case", OTHER)
def test_another_network_is_refused_with_the_first_name_that_does_not_fit(tmp_path, state, case):
    held, wanted, dress, expected = OTHER[case]
    torch.save(dress(state[held]), tmp_path / "theirs.pt")
    with pytest.raises(SettingsError) as error:
        model = models.build(wanted, 10, (32, 32, 3))
        pytorch.variables_from(pytorch.read(tmp_path / "theirs.pt"), model, (32, 32, 3))
    assert f"does not fit {wanted} with 10 classes" in str(error.value)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_the_large_one_is_taken_under_the_names_of_the_small_ones(tmp_path):
    twin, image_shape = twins.make("ResNet50")
    state = twin.state_dict()
    torch.save(
        {n.replace("fc", "linear").replace("downsample", "shortcut"): state[n] for n in state}, tmp_path / "a.pt"
    )
    model = models.build("ResNet50", 10, image_shape)
    params, _, _ = pytorch.variables_from(pytorch.read(tmp_path / "a.pt"), model, image_shape)
    np.testing.assert_array_equal(params["fc"]["kernel"].T, twin.fc.weight.detach())


def test_only_a_name_that_is_missing_is_found_under_another():
    wanted = ("fc.weight", "layer1.0.shortcut.0.weight")
    assert respelled({"linear.weight": 1, "layer1.0.downsample.0.weight": 2}, wanted) == dict(
        zip(wanted, (1, 2), strict=True)
    )
    both = {"fc.weight": 1, "linear.weight": 2, "other": 3}
    assert respelled(both, wanted) == both
