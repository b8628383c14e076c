"""Multiply-adds of one image, counted on the traced model."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ssoup_jax.errors import SettingsError
from ssoup_jax.models.own import Own, takes_train
from ssoup_jax.trees import PyTree, path_name


@functools.cache
def layer_multiply_adds(model: nn.Module | Own, image_shape: tuple[int, ...]) -> dict[str, int]:
    """Counts the multiply-adds of every kernel for one image, padding included; nothing is computed.

    Every module that owns a parameter `kernel` counts, each time it is called: flax's layers, and a user's own whose
    outputs each sum over the kernel's axes but the last. Biases, BatchNorm and activations count nothing.

    Args:
        model: maps `[1, *image_shape]`, and `train=False` if it takes that, to logits.
        image_shape: height, width and channels of an image.

    Returns:
        Multiply-adds by the kernel's path, in the order of the first calls.

    Raises:
        SettingsError: a kernel is used in a way that cannot be counted.
    """
    counts: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}

    def count(call, args, kwargs, context):
        y = call(*args, **kwargs)
        module = context.module
        if context.method_name == "__call__" and module.has_variable("params", "kernel"):
            kernel = module.get_variable("params", "kernel")
            if isinstance(kernel, jax.Array):
                name = "/".join((*module.path, "kernel"))
                x = next(iter((*args, *kwargs.values())))
                counts[name] = counts.get(name, 0) + _multiply_adds(module, name, kernel.shape, x.shape, y.shape)
                shapes[name] = kernel.shape
        return y

    def trace() -> PyTree:
        mode = {"train": False} if takes_train(model) else {}
        with nn.intercept_methods(count):
            return model.init(jax.random.key(0), jnp.zeros((1, *image_shape), jnp.float32), **mode)

    for name, kernel in _kernels(jax.eval_shape(trace).get("params", {})).items():
        # Under nn.scan or nn.vmap a call sees a slice of the kernel and says nothing of how often it happens.
        if shapes.get(name) != kernel.shape:
            raise SettingsError(
                f"flops: {name} of shape {kernel.shape} is used outside a plain __call__ of its module, "
                "which cannot be counted; call the layer once per use"
            )
    return counts


def flops(
    model: nn.Module | Own, params: PyTree, image_shape: tuple[int, ...]
) -> dict[str, int | float | dict[str, int] | None]:
    """Counts the multiply-adds of one image that a model does, and that its nonzero weights need.

    The ratio is what a machine that skips every zero for free would gain; unstructured zeros do not make common
    hardware faster.

    Args:
        model: as in `layer_multiply_adds`.
        params: its parameters.
        image_shape: height, width and channels of an image.

    Returns:
        `dense` and `nonzero` multiply-adds; `speedup`, their ratio, None when no weight is left; `per_layer`, the
        dense ones by the kernel's path.

    Raises:
        SettingsError: `params` do not belong to `model`, or a kernel cannot be counted.
    """
    dense = layer_multiply_adds(model, image_shape)
    kernels = _kernels(params)
    if kernels.keys() != dense.keys():
        name = min(kernels.keys() ^ dense.keys())
        raise SettingsError(f"flops: {name} is in only one of model and params; the params belong to another model")
    nonzero = sum(
        # In integers, so that no rounding of the share can lose one.
        dense[name] * int(np.count_nonzero(jax.device_get(kernel))) // np.size(kernel)
        for name, kernel in kernels.items()
    )
    total = sum(dense.values())
    return {"dense": total, "nonzero": nonzero, "speedup": total / nonzero if nonzero else None, "per_layer": dense}


def _kernels(params: PyTree) -> dict[str, jax.Array]:
    """Returns what multiplies, prunable or not, by path."""
    leaves = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return {name: leaf for name, leaf in leaves.items() if name.split("/")[-1] == "kernel"}


def _multiply_adds(module: nn.Module, name: str, kernel: tuple, x: tuple, y: tuple) -> int:
    match module:
        case nn.ConvTranspose():
            # Each input is spread over the window and the output features.
            return math.prod(x[:-1]) * math.prod(kernel)
        case nn.ConvLocal():
            return math.prod(y) * kernel[-2]
        case nn.DenseGeneral():
            axes = module.axis if isinstance(module.axis, tuple) else (module.axis,)
            return math.prod(y) * math.prod(x[axis] for axis in axes)
    if kernel[-1] != y[-1]:
        raise SettingsError(
            f"flops: {name}, shape {kernel}, of {type(module).__name__} cannot be counted; "
            f"its last axis must be that of the output, shape {y}"
        )
    return math.prod(y) * math.prod(kernel[:-1])
