"""What layers do feature by feature: shift and normalise, with gradients of their own.

Both need sums over all axes but the last. XLA's CPU backend walks through the whole tensor once for each feature; a
product with ones is the same sum, several times as fast. And the gradient of the normalisation needs two of them, where
differentiating the formula makes four.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ssoup_jax.models.ops.varying import match_varying


def at_least_float32(x: jax.Array) -> jnp.dtype:
    """Returns the dtype in which sums over `x` are taken.

    Not plain float32, so that a network can also be computed in float64 and compared without rounding.
    """
    return x.dtype if x.dtype.itemsize > 4 else jnp.dtype(jnp.float32)


def row(features: jax.Array, like: jax.Array) -> jax.Array:
    """Gives `[C]` leading axes of length 1, so that it broadcasts over `like` of shape `[..., C]`."""
    return features.reshape((1,) * (like.ndim - 1) + (-1,))


def total(x: jax.Array) -> jax.Array:
    """Sums `[B, ..., C]` over all axes but the last, to `[C]`, float32 at least; over the batch last."""
    x = x.astype(at_least_float32(x))
    if jax.default_backend() != "cpu":
        return x.sum(range(x.ndim - 1))
    examples = x.reshape(x.shape[0], -1, x.shape[-1])
    return jnp.einsum("bnc,bn->bc", examples, jnp.ones(examples.shape[:2], x.dtype)).sum(0)


@jax.custom_vjp
def _shift(x, bias):
    return x + row(bias, x)


_shift.defvjp(lambda x, bias: (_shift(x, bias), None), lambda _, g: (g, total(g).astype(g.dtype)))


def shift(x: jax.Array, bias: jax.Array) -> jax.Array:
    """Adds `bias` `[C]` to every position of `x` `[B, ..., C]`; both of one dtype."""
    return _shift(*match_varying(x, bias))


def scaled(x: jax.Array, mean: jax.Array, inverse: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """Returns `(x - mean) * inverse * scale + bias`, computed in float32 at least, in the dtype of `x`.

    Args:
        x: `[B, ..., C]`.
        mean: `[C]`.
        inverse: `[C]`, of the standard deviation.
        scale: `[C]`.
        bias: `[C]`.
    """
    wide = x.astype(at_least_float32(x))
    return ((wide - row(mean, wide)) * row(inverse * scale, wide) + row(bias, wide)).astype(x.dtype)


def normalise(
    x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float, axis_name: str | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises each feature over the batch, then scales and shifts it (Ioffe and Szegedy 2015, algorithm 1).

    Args:
        x: `[B, ..., C]`; what is computed from it is float32 at least.
        scale: `[C]`.
        bias: `[C]`.
        epsilon: added to the variance.
        axis_name: mesh axis that the batch is spread over; None: it is whole.

    Returns:
        The normalised batch in the dtype of `x`, and its mean and biased variance `[C]`. The last two have no gradient.
    """
    y, mean, var = _normalise(*match_varying(x, scale, bias), epsilon, axis_name)
    return y, lax.stop_gradient(mean), lax.stop_gradient(var)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _normalise(x, scale, bias, epsilon: float, axis_name: str | None):
    return _forward(x, scale, bias, epsilon, axis_name)[0]


def _forward(x, scale, bias, epsilon: float, axis_name: str | None):
    wide = x.astype(at_least_float32(x))
    # Two passes, which rounding cannot ruin.
    mean = _mean(total(wide), x, axis_name)
    var = _mean(total(jnp.square(wide - row(mean, wide))), x, axis_name)
    inverse = lax.rsqrt(var + epsilon)
    return (scaled(x, mean, inverse, scale, bias), mean, var), (x, scale, mean, inverse)


def _backward(epsilon: float, axis_name: str | None, saved, cotangents):
    del epsilon
    x, scale, mean, inverse = saved
    wide = x.astype(at_least_float32(x))
    g = cotangents[0].astype(wide.dtype)
    normalised = (wide - row(mean, wide)) * row(inverse, wide)
    over_batch = [total(g), total(g * normalised)]
    along_mean, along_inverse = (_mean(sums, x, axis_name) for sums in over_batch)
    dx = row(inverse * scale, wide) * (g - row(along_mean, wide) - normalised * row(along_inverse, wide))
    d_bias, d_scale = (sums.astype(scale.dtype) for sums in over_batch)
    return dx.astype(x.dtype), d_scale, d_bias


_normalise.defvjp(_forward, _backward)


def _mean(sums: jax.Array, x: jax.Array, axis_name: str | None) -> jax.Array:
    mean = sums / (x.size // x.shape[-1])
    return mean if axis_name is None else lax.pmean(mean, axis_name)
