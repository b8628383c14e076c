"""PyTorch files: networks agree with their PyTorch twins, bits survive, and every mistake is one clear line."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch.nn.utils import prune

from ssoup_jax import models
from ssoup_jax.interop import files, fits, pytorch
from ssoup_jax.interop.state_dict import from_state_dict
from ssoup_jax.pruning import apply_mask, full_mask, prunable_leaves
from tests.interop import twins
from tests.interop.made import SUFFIXES, assert_same_bits, network, one_line, random_variables, state_of

# Two frameworks sum in different orders: a few dozen float32 roundings of logits that are about 1.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


def images_for(image_shape):
    return np.random.default_rng(0).normal(size=(4, *image_shape)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def our_logits(model, params, batch_stats, images):
    return model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)


@pytest.mark.parametrize("arch", twins.SMALL)
def test_a_twins_file_gives_the_twins_logits(tmp_path, arch):
    twin, image_shape = twins.make(arch)
    torch.save(twin.state_dict(), tmp_path / "twin.pt")
    model, images = network(arch, image_shape), images_for(image_shape)
    params, batch_stats, mask = pytorch.variables_from(pytorch.read(tmp_path / "twin.pt"), model, image_shape)
    np.testing.assert_allclose(our_logits(model, params, batch_stats, images), twins.logits(twin, images), **CLOSE)
    assert_same_bits(mask, full_mask(params))


@pytest.mark.parametrize("arch", twins.SMALL)
def test_a_pruned_twins_file_gives_its_logits_and_masks(tmp_path, arch):
    twin, image_shape = twins.make(arch)
    twins.prune_globally(twin, 0.75)
    torch.save(twin.state_dict(), tmp_path / "twin.pt")
    checkpoint = pytorch.read(tmp_path / "twin.pt")
    for name, module in twin.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            kept = module.weight_mask.numpy().astype(bool)
            weight = checkpoint.state[f"{name}.weight"]
            np.testing.assert_array_equal(checkpoint.masks[f"{name}.weight"], kept)
            assert np.any(module.weight_orig.detach().numpy()[~kept]), "PyTorch keeps what it pruned"
            assert not np.any(weight[~kept]) and not np.any(np.signbit(weight[~kept]))
    model, images = network(arch, image_shape), images_for(image_shape)
    params, batch_stats, mask = pytorch.variables_from(checkpoint, model, image_shape)
    assert jax.tree.structure(mask) == jax.tree.structure(full_mask(params))
    np.testing.assert_allclose(our_logits(model, params, batch_stats, images), twins.logits(twin, images), **CLOSE)


@pytest.mark.parametrize("pruned", [False, True])
@pytest.mark.parametrize("arch", twins.SMALL)
def test_a_twin_loads_what_was_written(tmp_path, arch, pruned):
    twin, image_shape = twins.make(arch)
    model, images = network(arch, image_shape), images_for(image_shape)
    other = {name: value.numpy() for name, value in twins.make(arch, seed=1)[0].state_dict().items()}
    params, batch_stats = from_state_dict(model, image_shape, other)
    _, _, mask = random_variables(model, image_shape)
    params = apply_mask(params, mask)
    pytorch.write(tmp_path / "ours.pt", model, image_shape, params, batch_stats, mask, pruned=pruned)
    if pruned:
        for module in twins.prunable(twin):
            prune.identity(module, "weight")
    state = torch.load(tmp_path / "ours.pt", weights_only=True)
    assert list(state) == list(twin.state_dict())
    assert {name: value.dtype for name, value in state.items()} == {
        name: value.dtype for name, value in twin.state_dict().items()
    }
    twin.load_state_dict(state, strict=True)
    np.testing.assert_allclose(our_logits(model, params, batch_stats, images), twins.logits(twin, images), **CLOSE)
    assert sum(int((module.weight == 0).sum()) for module in twins.prunable(twin)) == sum(
        int((~leaf).sum()) for leaf in prunable_leaves(mask, mask).values()
    )


ROUND_TRIPS = {
    **{arch: (32, 32, 3) for arch in models.ARCHS},
    "Simple": (28, 28, 1),
    "CNN": (8, 9, 1),
    "ResNet8": (8, 8, 1),
    "ResNet8x2": (8, 8, 3),
}
SMALL = ("Simple", "CNN", "ResNet20", "ResNet8", "ResNet8x2")


@pytest.mark.parametrize(
    ("arch", "image_shape"),
    [
        pytest.param(arch, shape, id=arch, marks=() if arch in SMALL else pytest.mark.slow)
        for arch, shape in ROUND_TRIPS.items()
    ],
)
def test_round_trip_bit_for_bit(tmp_path, arch, image_shape):
    model = network(arch, image_shape, n_classes=7)
    params, batch_stats, mask = random_variables(model, image_shape)
    for suffix in (".pt", ".safetensors"):
        for pruned, wanted_mask in ((True, mask), (False, full_mask(params))):
            path = tmp_path / f"{pruned}{suffix}"
            pytorch.write(path, model, image_shape, params, batch_stats, mask, pruned=pruned)
            checkpoint = pytorch.read(path)
            found = pytorch.variables_from(checkpoint, model, image_shape)
            assert_same_bits(found, (params, batch_stats, wanted_mask))
    assert fits.find(checkpoint.shapes, image_shape) == (arch, 7, image_shape)


def test_nothing_pruned_is_written_as_masks_of_ones(tmp_path):
    model = network("Simple", (8, 8, 1))
    params, batch_stats, _ = random_variables(model, (8, 8, 1))
    pytorch.write(tmp_path / "a.pt", model, (8, 8, 1), params, batch_stats, pruned=True)
    state = torch.load(tmp_path / "a.pt", weights_only=True)
    assert [name for name in state if name.endswith("_mask")] == ["fc1.weight_mask", "fc2.weight_mask"]
    assert state["fc2.weight_mask"].dtype == torch.float32 and bool((state["fc2.weight_mask"] == 1).all())


def test_a_suffix_that_says_nothing_is_not_written(tmp_path):
    model = network("Simple", (8, 8, 1))
    variables = random_variables(model, (8, 8, 1))

    def write(path):
        pytorch.write(path, model, (8, 8, 1), *variables, pruned=False)

    assert "found suffix '.bin'; allowed: .pt, .pth, .safetensors" in one_line(tmp_path / "model.bin", write)
    write(tmp_path / "MODEL.PT")
    assert pytorch.read(tmp_path / "MODEL.PT").shapes["fc2.bias"] == (10,)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_of_classes_lie_beside_the_weights(tmp_path, suffix):
    model = network("Simple", (8, 8, 1))
    variables = random_variables(model, (8, 8, 1))
    for classes in (None, ["aal", "ärger", "zebra"]):
        path = tmp_path / f"a{suffix}"
        pytorch.write(path, model, (8, 8, 1), *variables, pruned=False, classes=classes)
        assert_same_bits(pytorch.variables_from(pytorch.read(path), model, (8, 8, 1))[:2], variables[:2])
        if suffix == ".safetensors":
            with safe_open(path, "numpy") as file:
                assert json.loads(file.metadata().get("classes", "null")) == classes
        else:
            found = torch.load(path, weights_only=True)
            assert list(found) == (list(state_of()) if classes is None else ["state_dict", "classes"])
            assert found.get("classes") == classes


@pytest.mark.parametrize(
    ("held", "wanted", "expected"),
    [
        (
            ("ResNet8", 10, (16, 16, 3)),
            ("ResNet8x4", 10, (16, 16, 3)),
            "does not fit ResNet8x4 with 10 classes on 16x16x3 images: conv1.weight has shape (16, 3, 3, 3), "
            "wanted (64, 3, 3, 3); it fits ResNet8 with 10 classes on 16x16x3 images",
        ),
        (
            ("ResNet8", 10, (16, 16, 3)),
            ("ResNet8", 100, (16, 16, 3)),
            "linear.weight has shape (10, 64), wanted (100, 64); it fits ResNet8 with 10 classes on 16x16x3 images",
        ),
        (
            ("Simple", 10, (28, 28, 1)),
            ("ResNet8", 10, (28, 28, 1)),
            "conv1.weight of shape (16, 1, 3, 3) is missing, its first weight is fc1.weight of shape (512, 784); "
            "it fits Simple with 10 classes on 28x28x1 images",
        ),
        (
            ("ResNet14", 10, (8, 8, 3)),
            ("ResNet8", 10, (8, 8, 3)),
            "layer1.1.conv1.weight of shape (16, 16, 3, 3) has no place in it; it fits ResNet14 with 10 classes",
        ),
        (
            ("Simple", 10, (28, 28, 1)),
            ("Simple", 10, (8, 8, 1)),
            "fc1.weight has shape (512, 784), wanted (512, 64); it fits Simple with 10 classes on 28x28x1 images",
        ),
    ],
)
def test_another_networks_file_is_named_as_what_it_is(tmp_path, held, wanted, expected):
    arch, n_classes, image_shape = held
    model = network(arch, image_shape, n_classes)
    pytorch.write(tmp_path / "a.pt", model, image_shape, *random_variables(model, image_shape), pruned=True)
    arch, n_classes, image_shape = wanted
    other = network(arch, image_shape, n_classes)
    message = one_line(tmp_path / "a.pt", lambda path: pytorch.variables_from(pytorch.read(path), other, image_shape))
    assert expected in message


def test_a_file_that_fits_nothing_says_so(tmp_path):
    torch.save({"encoder.weight": torch.ones(3, 3)}, tmp_path / "a.pt")
    model = network("Simple", (8, 8, 1))
    message = one_line(tmp_path / "a.pt", lambda path: pytorch.variables_from(pytorch.read(path), model, (8, 8, 1)))
    assert "it fits no model known here" in message


def test_a_pruned_bias_is_refused(tmp_path):
    twin, image_shape = twins.make("Simple")
    prune.l1_unstructured(twin.fc1, "bias", amount=3)
    torch.save(twin.state_dict(), tmp_path / "a.pt")
    model = network("Simple", image_shape)
    message = one_line(tmp_path / "a.pt", lambda path: pytorch.variables_from(pytorch.read(path), model, image_shape))
    assert "fc1.bias_mask prunes 3 values" in message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_writing_is_all_or_nothing(tmp_path, monkeypatch, suffix):
    model = network("Simple", (8, 8, 1))
    variables = random_variables(model, (8, 8, 1))
    path = tmp_path / f"a{suffix}"
    pytorch.write(path, model, (8, 8, 1), *variables, pruned=True)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.atomic.os, "fsync", full)
        message = one_line(path, lambda p: pytorch.write(p, model, (8, 8, 1), *variables, pruned=False))
    assert "cannot be written: No space left on device" in message
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_pruned_weight_that_lives_is_not_written(tmp_path):
    model = network("Simple", (8, 8, 1))
    params, batch_stats, mask = random_variables(model, (8, 8, 1))
    mask["fc2"]["kernel"] = jnp.zeros_like(mask["fc2"]["kernel"])
    message = one_line(
        tmp_path / "a.pt", lambda p: pytorch.write(p, model, (8, 8, 1), params, batch_stats, mask, pruned=False)
    )
    assert "fc2.weight: " in message and "weights are not zero where the mask is" in message
    assert not list(tmp_path.iterdir())
