"""A network as an ONNX graph, read off its jaxpr: every operation that JAX would run becomes one of ONNX, or none.

What does not depend on the images is computed here. Values of four axes stay as ONNX's convolutions want them, channels
first, and what JAX calls their axes is kept beside: a transposition is a change of that note, and the graph has none.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from ssoup_jax.errors import SettingsError


@dataclass(frozen=True)
class Known:
    """A value that is the same for all images; `label` is the name of a weight that it is, or empty."""

    array: np.ndarray
    label: str = ""


@dataclass(frozen=True)
class Computed:
    """A value of the graph.

    Attributes:
        name: in the graph.
        shape: as JAX has it, for a batch of `BATCH`.
        order: which of JAX's axes each of its axes is.
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...]


Value = Known | Computed

BATCH = 10007
"""How many images a jaxpr is made for. A prime that no other size is a multiple of: by it the batch is told.

JAX's symbolic sizes would say it outright, but are no numbers to code such as `x.reshape(len(x), -1)`.
"""


@dataclass
class Graph:
    """The nodes and the weights of a graph, in the order in which they are added.

    Attributes:
        nodes: operator, inputs, output and attributes of each.
        weights: arrays by name.
    """

    nodes: list[tuple[str, list[str], str, dict[str, Any]]] = field(default_factory=list)
    weights: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append((operator, list(inputs), name, attributes))
        return name

    def weight(self, array: np.ndarray, label: str = "") -> str:
        """Adds an array; returns its name, which is its label unless another array has that."""
        name = label if label and label not in self.weights else f"constant_{len(self.weights)}"
        self.weights[name] = np.ascontiguousarray(array)
        return name

    def ordered(self, value: Computed, order: Sequence[int]) -> Computed:
        """Returns a value whose axes lie in that order."""
        if value.order == tuple(order):
            return value
        moved = self.add("Transpose", value.name, perm=[value.order.index(axis) for axis in order])
        return dataclasses.replace(value, name=moved, order=tuple(order))


def read(jaxpr: ClosedJaxpr, values: Sequence[Value]) -> tuple[Graph, Value]:
    """Reads a graph off a jaxpr with one result.

    Args:
        jaxpr: of a function of the weights and of images.
        values: its arguments.

    Returns:
        The graph and the result.

    Raises:
        SettingsError: an operation has no counterpart here.
    """
    graph = Graph()
    (result,) = _run(graph, jaxpr.jaxpr, [Known(np.asarray(const)) for const in jaxpr.consts], values)
    return graph, result


def _run(graph: Graph, jaxpr: Any, consts: Iterable[Value], values: Iterable[Value]) -> list[Value]:
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *values], strict=True))

    def look_up(atom: Any) -> Value:
        return Known(np.asarray(atom.val)) if isinstance(atom, Literal) else known[atom]

    for equation in jaxpr.eqns:
        found = _apply(graph, equation, [look_up(atom) for atom in equation.invars])
        known.update(zip(equation.outvars, found, strict=True))
    return [look_up(atom) for atom in jaxpr.outvars]


def _apply(graph: Graph, equation: Any, values: list[Value]) -> list[Value]:
    name, parameters = equation.primitive.name, equation.params
    inner = parameters.get("call_jaxpr", parameters.get("jaxpr"))
    if inner is not None:
        return _run(graph, inner.jaxpr, [Known(np.asarray(const)) for const in inner.consts], values)
    if all(isinstance(value, Known) for value in values):
        if name == "reshape":  # which keeps a weight what it is
            return [dataclasses.replace(values[0], array=values[0].array.reshape(parameters["new_sizes"]))]
        found = equation.primitive.bind(*(value.array for value in values), **parameters)
        found = found if equation.primitive.multiple_results else [found]
        return [Known(np.asarray(one)) for one in found]
    if name not in _OPERATORS:
        raise SettingsError(f"cannot be written as ONNX: no counterpart of {name} is known here")
    return [_OPERATORS[name](graph, equation.outvars[0].aval.shape, parameters, *values)]


def _convolution(graph: Graph, shape: tuple, parameters: dict, images: Value, kernel: Value) -> Value:
    numbers = parameters["dimension_numbers"]
    plain = parameters["batch_group_count"] == 1 and set(parameters["lhs_dilation"]) == {1}
    if not (plain and isinstance(images, Computed) and isinstance(kernel, Known)):
        raise SettingsError("cannot be written as ONNX: a convolution that is transposed, or whose kernel is computed")
    weight = graph.weight(np.transpose(kernel.array, numbers.rhs_spec), kernel.label)
    name = graph.add(
        "Conv",
        graph.ordered(images, numbers.lhs_spec).name,
        weight,
        strides=list(parameters["window_strides"]),
        pads=[int(low) for low, _ in parameters["padding"]] + [int(high) for _, high in parameters["padding"]],
        dilations=list(parameters["rhs_dilation"]),
        group=parameters["feature_group_count"],
    )
    return Computed(name, shape, tuple(numbers.out_spec))


def _product(graph: Graph, shape: tuple, parameters: dict, left: Value, right: Value) -> Value:
    usual = parameters["dimension_numbers"] == (((1,), (0,)), ((), ()))
    if not (usual and isinstance(left, Computed) and isinstance(right, Known)):
        raise SettingsError("cannot be written as ONNX: a product that is not of a batch and a matrix")
    name = graph.add("MatMul", graph.ordered(left, (0, 1)).name, graph.weight(right.array, right.label))
    return Computed(name, shape, (0, 1))


def _elementwise(operator: str) -> Callable[..., Value]:
    def add(graph: Graph, shape: tuple, _: dict, left: Value, right: Value) -> Value:
        order = next(value.order for value in (left, right) if isinstance(value, Computed))
        names = [_operand(graph, value, order) for value in (left, right)]
        return Computed(graph.add(operator, *names), shape, order)

    return add


def _operand(graph: Graph, value: Value, order: tuple[int, ...]) -> str:
    if isinstance(value, Computed):
        return graph.ordered(value, order).name
    return graph.weight(np.transpose(value.array, order) if value.array.ndim else value.array)


def _unary(operator: str) -> Callable[..., Value]:
    def add(graph: Graph, shape: tuple, _: dict, value: Computed) -> Value:
        return Computed(graph.add(operator, value.name), shape, value.order)

    return add


def _difference(graph: Graph, shape: tuple, parameters: dict, left: Value, right: Value) -> Value:
    if isinstance(right, Known):  # runtimes fuse what is added to a convolution with it, and not what is taken off
        return _elementwise("Add")(graph, shape, parameters, left, Known(-right.array))
    return _elementwise("Sub")(graph, shape, parameters, left, right)


def _maximum(graph: Graph, shape: tuple, parameters: dict, left: Value, right: Value) -> Value:
    if isinstance(right, Known) and isinstance(left, Computed) and not right.array.any():
        return Computed(graph.add("Relu", left.name), shape, left.order)
    return _elementwise("Max")(graph, shape, parameters, left, right)


def _transpose(graph: Graph, shape: tuple, parameters: dict, value: Computed) -> Value:
    return Computed(value.name, shape, tuple(parameters["permutation"].index(axis) for axis in value.order))


def _reshape(graph: Graph, shape: tuple, _: dict, value: Computed, *sizes: Value) -> Value:
    straight = graph.ordered(value, range(len(value.shape)))
    target = graph.weight(np.array([size if size % BATCH else -1 for size in shape], np.int64))
    return Computed(graph.add("Reshape", straight.name, target), shape, tuple(range(len(shape))))


def _max_pool(graph: Graph, shape: tuple, parameters: dict, value: Computed) -> Value:
    window = parameters["window_dimensions"]
    alone = [axis for axis in value.order if window[axis] == 1]
    if len(alone) < 2 or {*parameters["base_dilation"], *parameters["window_dilation"]} != {1}:
        raise SettingsError("cannot be written as ONNX: a pooling over more than space, or a dilated one")
    order = (*alone[:2], *(axis for axis in value.order if axis not in alone[:2]))
    pads = [parameters["padding"][axis] for axis in order[2:]]
    name = graph.add(
        "MaxPool",
        graph.ordered(value, order).name,
        kernel_shape=[window[axis] for axis in order[2:]],
        strides=[parameters["window_strides"][axis] for axis in order[2:]],
        pads=[int(low) for low, _ in pads] + [int(high) for _, high in pads],
    )
    return Computed(name, shape, order)


def _sum(graph: Graph, shape: tuple, parameters: dict, value: Computed) -> Value:
    gone = set(parameters["axes"])
    axes = graph.weight(np.array(sorted(value.order.index(axis) for axis in gone), np.int64))
    left = sorted(set(value.order) - gone)
    order = tuple(left.index(axis) for axis in value.order if axis not in gone)
    return Computed(graph.add("ReduceSum", value.name, axes, keepdims=0), shape, order)


def _pad(graph: Graph, shape: tuple, parameters: dict, value: Computed, filling: Value) -> Value:
    config = [tuple(map(int, parameters["padding_config"][axis])) for axis in value.order]
    if not any(map(any, config)):
        return value
    if any(interior for *_, interior in config) or not isinstance(filling, Known):
        raise SettingsError("cannot be written as ONNX: a padding between values, or with computed ones")
    pads = np.array([low for low, _, _ in config] + [high for _, high, _ in config], np.int64)
    name = graph.add("Pad", value.name, graph.weight(pads), graph.weight(filling.array))
    return Computed(name, shape, value.order)


def _slice(graph: Graph, shape: tuple, parameters: dict, value: Computed) -> Value:
    strides = parameters["strides"] or (1,) * len(shape)
    cut = [axis for axis, size in enumerate(value.shape) if size != shape[axis]]
    starts, ends, steps = (
        graph.weight(np.array([own[axis] for axis in cut], np.int64))
        for own in (parameters["start_indices"], parameters["limit_indices"], strides)
    )
    axes = graph.weight(np.array([value.order.index(axis) for axis in cut], np.int64))
    return Computed(graph.add("Slice", value.name, starts, ends, axes, steps), shape, value.order)


def _convert(graph: Graph, shape: tuple, parameters: dict, value: Computed) -> Value:
    if parameters["new_dtype"] != np.float32:
        raise SettingsError(f"cannot be written as ONNX: activations in {parameters['new_dtype']}; allowed: float32")
    return value


_OPERATORS: dict[str, Callable[..., Value]] = {
    "add": _elementwise("Add"),
    "sub": _difference,
    "mul": _elementwise("Mul"),
    "div": _elementwise("Div"),
    "max": _maximum,
    **{name.lower(): _unary(name) for name in ("Neg", "Abs", "Exp", "Log", "Sqrt", "Tanh", "Erf")},
    "logistic": _unary("Sigmoid"),
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "transpose": _transpose,
    "reshape": _reshape,
    "reduce_window_max": _max_pool,
    "reduce_sum": _sum,
    "pad": _pad,
    "slice": _slice,
    "convert_element_type": _convert,
}


def trace(function: Callable, variables: Any, image_shape: Sequence[int]) -> ClosedJaxpr:
    """Makes the jaxpr of a function of weights and of a batch of `BATCH` images; nothing is computed.

    Args:
        function: `(variables, images [B, H, W, C]) -> logits`.
        variables: arrays, or their shapes.
        image_shape: height, width and channels.
    """
    return jax.make_jaxpr(function)(variables, jax.ShapeDtypeStruct((BATCH, *image_shape), np.float32))
