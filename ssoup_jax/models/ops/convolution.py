"""A 2-D convolution whose two gradients are convolutions of the same plain form as the forward pass.

XLA's CPU backend is fast only at NHWC x HWIO -> NHWC. JAX's own gradient rules ask for permuted forms, which are
many times slower, above all inside a loop over members or steps. Here the permutations are explicit transposes, so
all three convolutions are plain.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from ssoup_jax.models.ops.varying import match_varying

Pads = tuple[tuple[int, int], tuple[int, int]]
Pair = tuple[int, int]
Convolution = Callable[..., jax.Array]

UNROLLED = "unrolled"
"""Under a `jax.vmap` whose axis has this name, `plain` makes one convolution per member instead of a grouped one."""

_DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _plain(
    x, kernel, pads: Pads, precision, *, strides: Pair = (1, 1), dilate_x: Pair = (1, 1), dilate_k: Pair = (1, 1)
):
    return lax.conv_general_dilated(
        x, kernel, strides, pads, dilate_x, dilate_k, dimension_numbers=_DIMENSIONS, precision=precision
    )


def _input_gradient(x_shape, kernel, g, strides: Pair, pads: Pads, precision) -> jax.Array:
    """Convolves the dilated output gradient with the kernel flipped in space and its channel axes swapped."""
    flipped = kernel[::-1, ::-1].transpose(0, 1, 3, 2)

    def pad(axis: int) -> Pair:
        reach = kernel.shape[axis] - 1
        low = reach - pads[axis][0]
        dilated = (g.shape[axis + 1] - 1) * strides[axis] + 1
        return low, x_shape[axis + 1] + reach - dilated - low

    return _plain(g, flipped, (pad(0), pad(1)), precision, dilate_x=strides)


def _kernel_gradient(x, kernel_shape, g, strides: Pair, pads: Pads, precision) -> jax.Array:
    """Convolves the input, channels as batch, with the output gradient as a dilated kernel that sums over the batch."""

    def pad(axis: int) -> Pair:
        low = pads[axis][0]
        dilated = (g.shape[axis + 1] - 1) * strides[axis] + 1
        return low, kernel_shape[axis] - 1 + dilated - x.shape[axis + 1] - low

    gradient = _plain(x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), (pad(0), pad(1)), precision, dilate_k=strides)
    return gradient.transpose(1, 2, 0, 3)


def _unrolled(function: Callable) -> Callable:
    """Makes `vmap` call `function` once for each member and stack what comes back."""
    function = custom_vmap(function)

    @function.def_vmap
    def rule(m: int, batched: Sequence[bool], *args):
        # Calling the wrapped function again, not the bare one, lets a second vmap around the first unroll too.
        outs = [function(*(a[i] if b else a for a, b in zip(args, batched, strict=True))) for i in range(m)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs), jax.tree.map(lambda _: True, outs[0])

    return function


@functools.cache
def _differentiable(strides: Pair, pads: Pads, precision, unroll: bool) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Builds `(x, kernel) -> y` with the plain-form gradients; cached so that JAX sees one function per geometry."""
    wrap = _unrolled if unroll else lambda function: function

    @wrap
    def forward(x, kernel):
        return _plain(x, kernel, pads, precision, strides=strides)

    @wrap
    def gradients(x, kernel, g):
        dx = _input_gradient(x.shape, kernel, g, strides, pads, precision)
        return dx, _kernel_gradient(x, kernel.shape, g, strides, pads, precision)

    def forward_and_save(x, kernel):
        x = _stored(x)
        return forward(x, kernel), (x, kernel)

    convolve = jax.custom_vjp(lambda x, kernel: forward(x, kernel))
    convolve.defvjp(forward_and_save, lambda saved, g: gradients(*saved, _stored(g)))
    return convolve


def _stored(x: jax.Array) -> jax.Array:
    """Returns `x`, which XLA's CPU compiler then computes once and keeps in memory.

    It would otherwise compute an activation again while it transposes it for the kernel's gradient, back through every
    shortcut to the last convolutions, pixel by pixel in the order of the transpose; an optimization barrier is gone
    before it decides that. Operations that it holds to be expensive it does not repeat, and division is one, unless by
    a scalar. That the divisors are 1 it cannot see; LLVM, which comes after it, can, and leaves nothing of them.
    """
    if jax.default_backend() != "cpu":
        return x
    bits = lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return x / ((bits | 1) != 0).astype(x.dtype)


def _in_scope(axis: str) -> bool:
    """Tells whether the code being traced is mapped over an axis of that name."""
    try:
        lax.axis_size(axis)
    except NameError:
        return False
    return True


def _pair(values: Sequence[int] | None) -> Pair:
    return (1, 1) if values is None else (int(values[0]), int(values[1]))


def _pads(padding, x_shape, kernel_shape, strides: Pair) -> Pads:
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x_shape[1:3], kernel_shape[:2], strides, padding)
    (top, bottom), (left, right) = padding
    return (int(top), int(bottom)), (int(left), int(right))


def _general(unroll: bool) -> Convolution:
    def convolution(
        lhs: jax.Array,
        rhs: jax.Array,
        window_strides: Sequence[int],
        padding: str | Sequence[tuple[int, int]],
        lhs_dilation: Sequence[int] | None = None,
        rhs_dilation: Sequence[int] | None = None,
        dimension_numbers: lax.ConvGeneralDilatedDimensionNumbers = None,
        feature_group_count: int = 1,
        batch_group_count: int = 1,
        precision: lax.PrecisionLike = None,
        preferred_element_type: jax.typing.DTypeLike | None = None,
    ) -> jax.Array:
        plain = (
            lhs.ndim == 4
            and lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
            == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _DIMENSIONS)
            and set(lhs_dilation or ()) | set(rhs_dilation or ()) <= {1}
            and feature_group_count == batch_group_count == 1
            and preferred_element_type is None
        )
        if not plain:
            return lax.conv_general_dilated(
                lhs,
                rhs,
                window_strides,
                padding,
                lhs_dilation,
                rhs_dilation,
                dimension_numbers,
                feature_group_count,
                batch_group_count,
                precision,
                preferred_element_type,
            )
        strides = _pair(window_strides)
        pads = _pads(padding, lhs.shape, rhs.shape, strides)
        one_by_one = unroll or _in_scope(UNROLLED)
        return _differentiable(strides, pads, precision, one_by_one)(*match_varying(lhs, rhs))

    return convolution


CONVOLUTIONS: dict[str, Convolution] = {
    "lax": lax.conv_general_dilated,
    "plain": _general(unroll=False),
    "unroll": _general(unroll=True),
}
"""Convolutions by name, each with the signature of `jax.lax.conv_general_dilated`.

`lax` is JAX's own. `plain` has the plain-form gradients, reverse mode and first order only; groups, dilation and other
layouts go to `lax`. `unroll` is `plain` under the axis `UNROLLED`, whatever the axis is called.
"""
