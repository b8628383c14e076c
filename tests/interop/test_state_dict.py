"""State dicts go back and forth without losing a bit, and say what does not fit."""

import jax
import numpy as np
import pytest

from ssoup_jax import models
from ssoup_jax.errors import SettingsError
from ssoup_jax.interop.state_dict import (
    entries,
    from_state_dict,
    from_torch_layout,
    to_state_dict,
    to_torch_layout,
    torch_name,
)

IMAGE = (35, 33, 3)


def random_bits(model, image_shape=IMAGE):
    """A state dict of any float32 patterns, NaNs, infinities and subnormal numbers among them."""
    rng = np.random.default_rng(0)
    return {
        e.name: np.frombuffer(rng.bytes(4 * int(np.prod(e.shape))), np.float32).reshape(e.shape)
        if e.collection
        else np.zeros((), np.int64)
        for e in entries(model, image_shape)
    }


@pytest.mark.parametrize("arch", models.ARCHS)
def test_round_trip_keeps_every_bit_and_the_order(arch):
    model = models.build(arch, 7, IMAGE)
    state = random_bits(model)
    params, batch_stats = from_state_dict(model, IMAGE, dict(reversed(state.items())))
    shapes = jax.eval_shape(lambda: models.init(model, jax.random.key(0), IMAGE))
    assert jax.tree.map(lambda a: (a.shape, a.dtype), (params, batch_stats)) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shapes
    )
    back = to_state_dict(model, IMAGE, params, batch_stats)
    assert list(back) == list(state)
    for name, array in state.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape), name
        assert back[name].tobytes() == array.tobytes(), name


def test_remat_and_dtype_change_nothing():
    model = models.build("WideResNet20", 7, IMAGE)
    assert entries(model.clone(remat=True, dtype=np.float16), IMAGE) == entries(model, IMAGE)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (("conv1", "kernel"), "conv1.weight"),
        (("layer1_10", "bn2", "scale"), "layer1.10.bn2.weight"),
        (("layer2_0", "shortcut_1", "var"), "layer2.0.shortcut.1.running_var"),
        (("features_41", "mean"), "features.41.running_mean"),
        (("fc", "bias"), "fc.bias"),
    ],
)
def test_names_follow_by_rule(path, name):
    assert torch_name(path) == name


def test_layouts():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert to_torch_layout(kernel)[4, 3, 1, 2] == kernel[1, 2, 3, 4]
    matrix = kernel.reshape(6, 20)
    assert to_torch_layout(matrix)[7, 5] == matrix[5, 7]
    for array in (kernel, matrix, matrix[0]):
        np.testing.assert_array_equal(from_torch_layout(to_torch_layout(array)), array)


def test_a_torch_network_with_these_tensors_computes_the_same():
    """What the reference's numbers leave open: a flattened image of more than one pixel and channel."""
    import torch

    functional = torch.nn.functional
    image_shape = (9, 8, 3)
    model = models.build("CNN", 5, image_shape)
    rng = np.random.default_rng(0)
    state = {
        e.name: (rng.normal(size=e.shape) / np.sqrt(np.prod(e.shape[1:]))).astype(np.float32)
        for e in entries(model, image_shape)
    }
    t = {name: torch.from_numpy(array) for name, array in state.items()}
    x = rng.normal(size=(4, *image_shape)).astype(np.float32)
    y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    for name in ("conv1", "conv2"):
        y = functional.conv2d(y, t[f"{name}.weight"], t[f"{name}.bias"]).relu()
    y = functional.max_pool2d(y, 2).flatten(1)
    y = functional.linear(y, t["fc1.weight"], t["fc1.bias"]).relu()
    y = functional.linear(y, t["fc2.weight"], t["fc2.bias"])
    params, _ = from_state_dict(model, image_shape, state)
    logits = jax.jit(lambda params: model.apply({"params": params}, x, train=False))(params)
    # Four layers of float32 sums in another order.
    np.testing.assert_allclose(logits, y.numpy(), rtol=0, atol=1e-5 * float(y.abs().max()))


def test_counters_are_optional():
    model = models.build("ResNet8", 7, IMAGE)
    state = random_bits(model)
    without = {name: array for name, array in state.items() if array.dtype == np.float32}
    assert len(without) < len(state)
    found, wanted = (from_state_dict(model, IMAGE, s) for s in (without, state))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def broken(**changes):
    state = random_bits(models.build("ResNet8", 7, IMAGE))
    for name, array in changes.items():
        if array is None:
            del state[name]
        else:
            state[name] = array
    return state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bn1.running_var": None}, r"1 missing \(bn1.running_var\)$"),
        ({"extra.weight": np.zeros(3)}, r"1 superfluous \(extra.weight\)$"),
        (
            {"conv1.weight": None, "bn1.bias": None, "layer1.0.shortcut.0.weight": np.zeros((1, 1, 1, 1))},
            r"2 missing \(conv1.weight, ...\), 1 superfluous \(layer1.0.shortcut.0.weight\)$",
        ),
        ({"linear.weight": np.zeros((10, 64))}, r"linear.weight has shape \(10, 64\), .* wants \(7, 64\)$"),
        (
            {"linear.bias": np.zeros(10), "layer2.0.conv1.weight": np.zeros((16, 32, 3, 3))},
            r"layer2.0.conv1.weight has shape \(16, 32, 3, 3\), .* wants \(32, 16, 3, 3\)$",
        ),
    ],
    ids=["missing", "superfluous", "both", "shape", "first of two shapes"],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(SettingsError, match=message) as error:
        from_state_dict(models.build("ResNet8", 7, IMAGE), IMAGE, broken(**changes))
    assert "\n" not in str(error.value)


def test_parameters_of_another_network_are_refused():
    model, other = models.build("ResNet8", 7, IMAGE), models.build("ResNet14", 7, IMAGE)
    params, batch_stats = from_state_dict(model, IMAGE, random_bits(model))
    with pytest.raises(SettingsError, match=r"missing \(layer1.1.conv1.weight, ...\)$"):
        to_state_dict(other, IMAGE, params, batch_stats)
    wide = models.build("ResNet8", 9, IMAGE)
    with pytest.raises(SettingsError, match=r"linear.weight has shape \(7, 64\), .* wants \(9, 64\)$"):
        to_state_dict(wide, IMAGE, params, batch_stats)
