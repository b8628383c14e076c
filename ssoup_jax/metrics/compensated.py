"""Float32 sums that know what rounding took from them, where the device has no float64 to spare."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Sum(NamedTuple):
    """An unevaluated sum of two float32 arrays of one shape: twice the digits of either.

    Attributes:
        high: the rounded sum.
        low: what rounding took from it; 0 where the sum is not finite.
    """

    high: jax.Array
    low: jax.Array

    def rounded(self) -> jax.Array:
        """Returns the sum in float32."""
        return self.high + self.low

    def exact(self) -> np.ndarray:
        """Returns the sum in float64, on the host."""
        high, low = jax.device_get(self)
        return np.float64(high) + np.float64(low)


# The first part has so few digits that its product with a power of two's exponent is exact.
_LOG2 = Sum(np.float32(0.693359375), np.float32(np.log(2) - 0.693359375))


def two_sum(a: jax.Array, b: jax.Array) -> Sum:
    """Adds two float32 numbers without any error; neither may be a constant, for XLA folds those as if it did no harm.

    References:
        Knuth, "The Art of Computer Programming", volume 2, section 4.2.2, theorem B.
    """
    high = a + b
    of_b = high - a
    low = (a - (high - of_b)) + (b - of_b)
    return Sum(high, jnp.where(jnp.isfinite(high), low, 0.0))


def add(a: Sum, b: Sum) -> Sum:
    """Adds two sums, entry by entry."""
    high, low = two_sum(a.high, b.high)
    # Carried over at once, for a low part that grows would be rounded more and more coarsely.
    return two_sum(high, low + (a.low + b.low))


def total(values: jax.Array | Sum, axis: int) -> Sum:
    """Sums over an axis.

    Args:
        values: float32, or sums themselves.
        axis: the axis, which goes.

    Returns:
        The sum, as good as one in float64 that is rounded to 48 bits.
    """
    values = values if isinstance(values, Sum) else Sum(values, jnp.zeros_like(values))
    zero = jnp.zeros((), jnp.float32)
    return jax.lax.reduce(values, Sum(zero, zero), add, (axis % values.high.ndim,))


def reciprocal(x: Sum) -> jax.Array:
    """Returns 1 / x for x >= 1 in float32, rounded correctly but for near ties; 1 / x.high may be off by twice that."""
    rough = 1 / x.high
    (rough_a, rough_b), (x_a, x_b) = _halves(rough), _halves(x.high)
    # 1 - rough * x.high: of halves, every product is exact.
    missing = ((1 - rough_a * x_a) - (rough_a * x_b + rough_b * x_a)) - rough_b * x_b
    return rough + rough * (missing - rough * x.low)


def log(x: Sum) -> Sum:
    """Returns log(x) for x > 0, with an error of some roundings of a number below 0.4."""
    _, power = jnp.frexp(x.high * np.float32(np.sqrt(0.5)))
    fraction = jnp.ldexp(x.high, -power)  # between 0.7 and 1.5
    power = power.astype(jnp.float32)
    whole = two_sum(power * _LOG2.high, jnp.log(fraction))
    return Sum(whole.high, whole.low + x.low / x.high + power * _LOG2.low)


def _halves(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Splits float32 numbers into a first part of 12 bits and the rest."""
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) & np.uint32(0xFFFFF000)
    first = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return first, x - first


def zeros(shape: tuple[int, ...]) -> Sum:
    """Returns sums of nothing, on the host."""
    return Sum(np.zeros(shape, np.float32), np.zeros(shape, np.float32))
