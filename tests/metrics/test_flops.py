import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ssoup_jax import models
from ssoup_jax.errors import SettingsError
from ssoup_jax.metrics import flops, layer_multiply_adds

IMAGE = (9, 8, 4)


class Calls(nn.Module):
    """Calls the layers one after another; the image is flattened before a linear one."""

    layers: tuple[nn.Module, ...]

    def __call__(self, x, train):
        for layer in self.layers:
            if isinstance(layer, nn.Dense):
                x = x.reshape(x.shape[0], -1)
            x = layer(x)
        return x


class Own(nn.Module):
    """A layer of a user's own; its kernel's last axis is `features` long."""

    features: int

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.ones, (x.shape[-1], self.features))
        return x @ kernel if self.features > 1 else (x @ kernel).squeeze(-1)


class Scanned(nn.Module):
    """The same linear layer, each time with a kernel of its own, inside a device loop."""

    @nn.compact
    def __call__(self, x, train):
        def step(layer, carry, _):
            return layer(carry), None

        scan = nn.scan(step, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return scan(nn.Dense(x.shape[-1]), x, None)[0]


SAME, VALID = "SAME", "VALID"
SINGLE_LAYERS = {
    "3x3 same": (nn.Conv(6, (3, 3), padding=SAME), 9 * 8 * 3 * 3 * 4 * 6),
    "3x3 unpadded": (nn.Conv(6, (3, 3), padding=VALID), 7 * 6 * 3 * 3 * 4 * 6),
    "1x1": (nn.Conv(6, (1, 1)), 9 * 8 * 4 * 6),
    "3x2": (nn.Conv(6, (3, 2), padding=VALID), 7 * 7 * 3 * 2 * 4 * 6),
    "stride 2, same": (nn.Conv(6, (3, 3), strides=2, padding=SAME), 5 * 4 * 3 * 3 * 4 * 6),
    "stride 2, one zero around": (nn.Conv(6, (3, 3), strides=2, padding=1), 5 * 4 * 3 * 3 * 4 * 6),
    "stride 2, unpadded": (nn.Conv(6, (3, 3), strides=2, padding=VALID), 4 * 3 * 3 * 3 * 4 * 6),
    "strides 3 and 1": (nn.Conv(6, (3, 3), strides=(3, 1), padding=SAME), 3 * 8 * 3 * 3 * 4 * 6),
    "dilated kernel": (nn.Conv(6, (3, 3), kernel_dilation=2, padding=VALID), 5 * 4 * 3 * 3 * 4 * 6),
    "two groups": (nn.Conv(6, (3, 3), feature_group_count=2), 9 * 8 * 3 * 3 * 2 * 6),
    "depthwise": (nn.Conv(4, (3, 3), feature_group_count=4), 9 * 8 * 3 * 3 * 4),
    "no bias": (nn.Conv(6, (3, 3), use_bias=False), 9 * 8 * 3 * 3 * 4 * 6),
    "linear": (nn.Dense(5), 9 * 8 * 4 * 5),
    "own": (Own(5), 9 * 8 * 4 * 5),
    "transposed": (nn.ConvTranspose(6, (3, 3), strides=(2, 2)), 9 * 8 * 3 * 3 * 4 * 6),
    "a kernel for each place": (nn.ConvLocal(6, (3, 3), padding=VALID), 7 * 6 * 3 * 3 * 4 * 6),
    "over two axes": (nn.DenseGeneral((2, 3), axis=(-2, -1)), 9 * (8 * 4) * (2 * 3)),
}


@pytest.mark.parametrize("layer, expected", SINGLE_LAYERS.values(), ids=SINGLE_LAYERS)
def test_single_layers(layer, expected):
    assert layer_multiply_adds(Calls((layer,)), IMAGE) == {"layers_0/kernel": expected}


def test_a_layer_applied_pixel_by_pixel_counts_every_pixel():
    assert layer_multiply_adds(nn.Dense(5), IMAGE) == {"kernel": 9 * 8 * 4 * 5}


def test_layers_follow_one_another():
    model = Calls((nn.Conv(6, (3, 3), strides=2), nn.BatchNorm(use_running_average=True), nn.relu, nn.Dense(10)))
    expected = {"layers_0/kernel": 5 * 4 * 3 * 3 * 4 * 6, "layers_3/kernel": 5 * 4 * 6 * 10}
    assert layer_multiply_adds(model, IMAGE) == expected
    assert list(layer_multiply_adds(model, IMAGE)) == list(expected)


def test_a_layer_that_is_called_twice_counts_twice():
    class Shared(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            layer = nn.Conv(4, (3, 3), name="shared")
            return layer(layer(x)[:, ::2])

    assert layer_multiply_adds(Shared(), IMAGE) == {"shared/kernel": (9 * 8 + 5 * 8) * 3 * 3 * 4 * 4}


def test_a_second_count_gives_the_same():
    # JAX reuses traces of functions it has seen; a reused trace would count nothing.
    model = Calls((nn.Conv(6, (3, 3)),))
    assert layer_multiply_adds(model, IMAGE) == layer_multiply_adds(Calls((nn.Conv(6, (3, 3)),)), IMAGE) != {}


@pytest.mark.parametrize("model", [Calls((Own(1),)), Scanned()], ids=["own layer", "scan"])
def test_what_cannot_be_counted_is_refused(model):
    with pytest.raises(SettingsError, match=r"flops: .*/kernel.* cannot be counted"):
        layer_multiply_adds(model, IMAGE)


@pytest.mark.parametrize("arch", ["ResNet20", "VGG16", "WideResNet20"])
@pytest.mark.parametrize("settings", [{"remat": True}, {"conv": "lax"}, {"dtype": jnp.bfloat16}], ids=str)
def test_how_a_network_is_computed_does_not_matter(arch, settings):
    shape = (32, 32, 3)
    plain = layer_multiply_adds(models.build(arch, 10, shape), shape)
    assert layer_multiply_adds(models.build(arch, 10, shape, **settings), shape) == plain


@pytest.fixture
def two_layers():
    model = Calls((nn.Conv(2, (1, 1)), nn.Dense(3)))
    conv, linear = np.ones((1, 1, 4, 2), np.float32), np.ones((9 * 8 * 2, 3), np.float32)
    conv[0, 0, :3, 0], linear[10:, 1:] = 0, 0
    params = {"layers_0": {"kernel": conv, "bias": np.zeros(2)}, "layers_1": {"kernel": linear, "bias": np.ones(3)}}
    return model, params


def test_zeros_are_skipped(two_layers):
    model, params = two_layers
    dense = {"layers_0/kernel": 9 * 8 * 8, "layers_1/kernel": 9 * 8 * 2 * 3}
    nonzero = 9 * 8 * 5 + (9 * 8 * 2 + 2 * 10)
    assert flops(model, params, IMAGE) == {
        "dense": sum(dense.values()),
        "nonzero": nonzero,
        "speedup": sum(dense.values()) / nonzero,
        "per_layer": dense,
    }


def test_when_nothing_is_left_there_is_no_speedup(two_layers):
    model, params = two_layers
    found = flops(model, jax.tree.map(np.zeros_like, params), IMAGE)
    assert (found["nonzero"], found["speedup"]) == (0, None)


def test_params_of_another_model(two_layers):
    model, params = two_layers
    with pytest.raises(SettingsError, match="layers_1/kernel is in only one of model and params"):
        flops(model, {"layers_0": params["layers_0"]}, IMAGE)


def test_figures_are_plain_python(two_layers):
    assert {type(leaf) for leaf in jax.tree.leaves(flops(*two_layers, IMAGE))} == {int, float}
