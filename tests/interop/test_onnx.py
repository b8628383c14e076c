"""Networks as ONNX: onnxruntime computes the same logits of every family, whatever the batch is."""

import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from ssoup_jax import models
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.interop import onnx_file
from ssoup_jax.interop.state_dict import entries, from_state_dict
from ssoup_jax.models.layers import Conv, Network, max_pool
from ssoup_jax.models.variables import Variables
from ssoup_jax.models.wide_resnet import WideResNet
from tests.interop import twins

LARGE = ("ResNet18", "VGG11", "ResNet50", "WideResNet20")
FAMILIES = ("Simple", "CNN", "ResNet8", *LARGE)
# Sums of up to a few thousand products, in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def random_like(model: Network, image_shape) -> Variables:
    """Draws variables of which none is what a fresh network has."""
    random = np.random.default_rng(0)
    params, stats = jax.eval_shape(lambda key: models.init(model, key, image_shape), jax.random.key(0))

    def draw(path, leaf):
        scale = 1 / max(1, np.prod(leaf.shape[:-1])) ** 0.5
        positive = path[-1].key in ("scale", "var")
        return (random.uniform(0.5, 1.5, leaf.shape) if positive else random.normal(0, scale, leaf.shape)).astype("f4")

    return Variables(*(jax.tree_util.tree_map_with_path(draw, tree) for tree in (params, {"batch_stats": stats})))


def compare(model: Network, image_shape, variables: Variables, batch: int = 3) -> onnx.ModelProto:
    """Holds what onnxruntime computes of a network equal to what JAX does; returns the file."""
    data = onnx_file.encode(model, image_shape, variables, {})
    images = np.random.default_rng(1).normal(size=(batch, *image_shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.transpose(0, 3, 1, 2)})
    wanted = jax.jit(lambda tree: model.apply(tree, images, train=False))(variables.as_flax())
    np.testing.assert_allclose(found, wanted, **CLOSE)
    return onnx.load_from_string(data)


def twin_of(arch: str):
    twin, image_shape = twins.make(arch)
    model = models.build(arch, 10, image_shape)
    state = {name: value.numpy() for name, value in twin.state_dict().items()}
    params, batch_stats = from_state_dict(model, image_shape, state)
    return twin, model, image_shape, Variables(params, {"batch_stats": batch_stats})


@pytest.mark.parametrize("arch", [pytest.param(one, marks=[pytest.mark.slow] * (one in LARGE)) for one in FAMILIES])
def test_every_family_has_the_logits_of_jax_and_of_pytorch(arch):
    twin, model, image_shape, variables = twin_of(arch)
    file = compare(model, image_shape, variables)
    images = np.random.default_rng(2).normal(size=(1, *image_shape)).astype(np.float32)
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.transpose(0, 3, 1, 2)})
    np.testing.assert_allclose(found, twins.logits(twin, images), **CLOSE)
    kinds = [node.op_type for node in file.graph.node]
    assert "Transpose" not in kinds, "activations stay as convolutions want them"
    weights = {tensor.name: tuple(tensor.dims) for tensor in file.graph.initializer}
    convolutions = {one.name: one.shape for one in entries(model, image_shape) if len(one.shape) == 4}
    assert convolutions.items() <= weights.items()


def test_wide_networks_with_batch_norm_before_their_convolutions():
    model = WideResNet(n_classes=4, depth=10, widen=1)
    compare(model, (8, 8, 3), random_like(model, (8, 8, 3)))


def test_zeros_stay_zeros():
    _, model, image_shape, variables = twin_of("ResNet8")
    pruned = jax.tree.map(
        lambda leaf: jnp.where(abs(leaf) > 0.1, leaf, 0.0) if leaf.ndim > 1 else leaf, variables.params
    )
    file = compare(model, image_shape, Variables(pruned, variables.collections))
    zeros = {one.name: int((onnx.numpy_helper.to_array(one) == 0).sum()) for one in file.graph.initializer}
    convolutions = [one.name for one in entries(model, image_shape) if len(one.shape) == 4]
    wanted = sum(int((leaf == 0).sum()) for leaf in jax.tree.leaves(pruned) if leaf.ndim == 4)
    assert sum(zeros[name] for name in convolutions) == wanted > 1000


class Odd(Network):
    """A network of one function, for what the others do not do."""

    function: object = None

    def __call__(self, x, train):
        return self.function(x)


def flat(x):
    return x.reshape(x.shape[0], -1)


OPERATIONS = {
    "pooling with padding": lambda x: flat(max_pool(x, 3, 2, 1)),
    "a slice": lambda x: flat(lax.slice(x, (0, 1, 0, 1), (x.shape[0], 4, 4, 3), (1, 2, 1, 1))),
    "a sum over one axis": lambda x: flat(x.sum(2)),
    "a sum of two layouts": lambda x: flat(x + x.transpose(0, 2, 1, 3)),
    "a difference": lambda x: flat(1.5 - x) - flat(x),
    "the larger of two": lambda x: flat(jnp.maximum(x, 0.5)) + flat(jnp.maximum(x, x.transpose(0, 2, 1, 3))),
    "a constant of four axes": lambda x: flat(x * np.arange(48, dtype="f4").reshape(1, 4, 4, 3)),
    "padding with ones": lambda x: flat(jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 1)), constant_values=1.0)),
    "functions": lambda x: flat(jnp.tanh(x) + jax.nn.sigmoid(-x) + jnp.exp(-abs(x)) + lax.erf(x)),
    "one weight twice": lambda x: flat(x) @ np.eye(48, dtype="f4")[:, ::-1] @ np.eye(48, dtype="f4"),
}


@pytest.mark.parametrize("function", OPERATIONS.values(), ids=OPERATIONS)
def test_other_operations_mean_the_same(function):
    n_classes = jax.eval_shape(function, jax.ShapeDtypeStruct((3, 4, 4, 3), jnp.float32)).shape[-1]
    compare(Odd(n_classes, function=function), (4, 4, 3), Variables({}, {}))


class Convolved(Network):
    """One convolution and one pooling; `sizes` are kernel, strides, padding and window."""

    sizes: tuple[int, int, int, int] = (1, 1, 0, 1)

    @nn.compact
    def __call__(self, x, train):
        kernel, strides, padding, window = self.sizes
        return flat(max_pool(Conv(5, kernel, strides, padding, name="conv")(x), window, window))


@settings(max_examples=8, deadline=None)
@given(
    height=st.integers(6, 9),
    width=st.integers(6, 9),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)),
)
def test_convolutions_of_any_size(height, width, sizes):
    image_shape = (height, width, 2)
    n_classes = 5 * math.prod(
        ((size + 2 * sizes[2] - sizes[0]) // sizes[1] + 1) // sizes[3] for size in (height, width)
    )  # channels times positions
    model = Convolved(n_classes, sizes=sizes)
    compare(model, image_shape, random_like(model, image_shape), batch=2)


def transposed(x):
    padding = ((0, 0), (0, 0))
    return lax.conv_general_dilated(
        x, jnp.ones((2, 2, 3, 3)), (1, 1), padding, (2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (jnp.sin, "no counterpart of sin is known here"),
        (lambda x: x.astype(jnp.bfloat16), "activations in bfloat16; allowed: float32"),
        (lambda x: jnp.einsum("bhwc,bhwd->bcd", x, x), "a product that is not of a batch and a matrix"),
        (lambda x: lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0))), "a padding between values"),
        (
            lambda x: lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 2), (1, 1, 1, 1), "VALID"),
            "a pooling over more than space",
        ),
        (transposed, "a convolution that is transposed"),
    ],
)
def test_what_has_no_counterpart_is_refused_in_one_line(function, said):
    model = Odd(1, function=function)
    with pytest.raises(SettingsError, match=said) as error:
        onnx_file.encode(model, (4, 4, 3), Variables({}, {}), {})
    assert str(error.value).startswith("cannot be written as ONNX: ")


def test_notes_are_in_the_metadata():
    _, model, image_shape, variables = twin_of("Simple")
    notes = {"classes": ["<script>", "b"], "normalisation": None}
    file = onnx.load_from_string(onnx_file.encode(model, image_shape, variables, notes))
    assert {one.key: json.loads(one.value) for one in file.metadata_props} == notes
    assert (file.opset_import[0].version, file.ir_version) == (17, 8)


def test_the_check_finds_other_logits(monkeypatch):
    _, model, image_shape, variables = twin_of("Simple")
    data = onnx_file.encode(model, image_shape, variables, {})
    assert onnx_file.deviation(data, model, image_shape, variables) < 1e-5
    other = jax.tree.map(lambda leaf: leaf * 1.001, variables)
    with pytest.raises(RunError, match="onnxruntime computes other logits"):
        onnx_file.deviation(data, model, image_shape, other)
    with pytest.raises(RunError, match="onnxruntime cannot run"):
        onnx_file.deviation(b"no model", model, image_shape, variables)


def test_without_the_packages(monkeypatch):
    _, model, image_shape, variables = twin_of("Simple")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert onnx_file.deviation(b"", model, image_shape, variables) is None
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SettingsError, match="needs the package onnx, which is not installed; pip install onnx"):
        onnx_file.encode(model, image_shape, variables, {})
