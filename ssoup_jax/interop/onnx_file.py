"""A network in a file of ONNX, without TensorFlow or PyTorch, and the check that a runtime computes the same of it.

The graph is made by `onnx_graph` and written by the package `onnx`. The converters that exist do not fit: `jax2onnx`
asks for an older Orbax and brings four more frameworks, and PyTorch's exporter needs PyTorch.
"""

import importlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

from ssoup_jax.errors import RunError, SettingsError, one_line
from ssoup_jax.interop import onnx_graph
from ssoup_jax.interop.onnx_graph import Computed, Known
from ssoup_jax.interop.state_dict import torch_name
from ssoup_jax.models import ImageShape
from ssoup_jax.models.layers import Network
from ssoup_jax.models.own import Own
from ssoup_jax.models.variables import Variables
from ssoup_jax.storage import atomic
from ssoup_jax.version import VERSION

OPSET, IR = 17, 8  # of 2022: what runtimes of today and yesterday read

IMAGES, LOGITS = "images", "logits"
CLOSE = 1e-4
"""How far a runtime's logits may be from ours, relative to the largest, or absolutely if that is below 1."""

_N_CHECKED = 4  # images


def encode(model: Network | Own, image_shape: ImageShape, variables: Variables, notes: Mapping[str, Any]) -> bytes:
    """Writes a network as ONNX.

    Args:
        model: what `models.build` returned.
        image_shape: height, width and channels of an image.
        variables: its parameters and BatchNorm statistics, of one network.
        notes: what else the file is to say: JSON by name, in its metadata.

    Returns:
        The file. It maps `images`, normalised float32 `[batch, C, H, W]`, to `logits`, float32 `[batch, n_classes]`.

    Raises:
        SettingsError: the package `onnx` is not there, or the network has an operation without a counterpart.
    """
    onnx = _import("onnx")
    height, width, channels = image_shape

    def forward(variables: Any, images: jax.Array) -> jax.Array:
        return model.apply(variables, images, train=False)

    tree = variables.as_flax()
    jaxpr = onnx_graph.trace(forward, tree, image_shape)
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    weights = [Known(np.asarray(leaf), _label(tuple(part.key for part in path[1:]))) for path, leaf in leaves]
    # ONNX's convolutions have channels first, and so have people's pipelines for it.
    images = Computed(IMAGES, jaxpr.in_avals[-1].shape, (0, 3, 1, 2))
    graph, logits = onnx_graph.read(jaxpr, [*weights, images])
    helper = onnx.helper
    nodes = [
        helper.make_node(operator, inputs, [output], output, **attributes)
        for operator, inputs, output, attributes in graph.nodes
    ]
    nodes.append(helper.make_node("Identity", [graph.ordered(logits, (0, 1)).name], [LOGITS], LOGITS))
    made = helper.make_graph(
        nodes,
        "network",
        [_tensor(onnx, IMAGES, ("batch", channels, height, width))],
        [_tensor(onnx, LOGITS, ("batch", model.n_classes))],
        [onnx.numpy_helper.from_array(array, name) for name, array in graph.weights.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    origin = {"producer_name": "ssoup_jax", "producer_version": VERSION}
    file = helper.make_model(made, opset_imports=opset, ir_version=IR, **origin)
    helper.set_model_props(file, {name: json.dumps(value) for name, value in notes.items()})
    onnx.checker.check_model(file, full_check=True)
    return file.SerializeToString()


def _label(path: tuple[str, ...]) -> str:
    """Names a weight as PyTorch does; one of somebody else's network by its path."""
    try:
        return torch_name(path)
    except KeyError:
        return "/".join(path)


def _tensor(onnx: ModuleType, name: str, shape: tuple) -> Any:
    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)


def write(path: Path, data: bytes) -> None:
    """Writes a file so that a reader finds all of it or none; raises a SettingsError where it cannot."""
    path = Path(os.path.expanduser(path))
    try:
        with atomic.replacing(path) as beside:
            beside.write_bytes(data)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error.strerror}") from None


def deviation(data: bytes, model: Network | Own, image_shape: ImageShape, variables: Variables) -> float | None:
    """Compares what onnxruntime computes with what JAX does, on a few random images.

    Args:
        data: what `encode` returned.
        model: as it was given there, as are the others.
        image_shape: likewise.
        variables: likewise.

    Returns:
        The largest difference of two logits, in units of the largest logit if that is above 1; None: there is no
        onnxruntime.

    Raises:
        RunError: the difference is larger than `CLOSE`, or onnxruntime cannot run the file.
    """
    try:
        runtime = _import("onnxruntime")
    except SettingsError:
        return None
    images = np.random.default_rng(0).normal(size=(_N_CHECKED, *image_shape)).astype(np.float32)
    wanted = np.asarray(jax.jit(lambda tree: model.apply(tree, images, train=False))(variables.as_flax()))
    try:
        session = runtime.InferenceSession(data, providers=["CPUExecutionProvider"])
        (found,) = session.run([LOGITS], {IMAGES: np.ascontiguousarray(images.transpose(0, 3, 1, 2))})
    except Exception as error:  # whatever the runtime raises
        raise RunError(f"onnxruntime cannot run what was exported: {one_line(error)}") from None
    difference = float(np.max(np.abs(found - wanted)) / max(1.0, np.max(np.abs(wanted))))
    if not difference <= CLOSE:
        raise RunError(f"onnxruntime computes other logits of what was exported: they differ by {difference:.2g}")
    return difference


def _import(name: str) -> ModuleType:
    try:
        module = importlib.import_module(name)
        if name == "onnx":
            importlib.import_module("onnx.checker")
            importlib.import_module("onnx.numpy_helper")
    except ImportError:
        raise SettingsError(f"needs the package {name}, which is not installed; pip install {name}") from None
    return module
