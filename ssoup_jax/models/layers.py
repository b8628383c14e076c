"""What the networks share: convolution, linear and BatchNorm layers that mean what PyTorch's mean.

Parameters and BatchNorm statistics are float32; `dtype` is what activations are computed in. Padding is an explicit
number of zeros on every side, and initial values follow PyTorch's defaults, so that a network here and its PyTorch
counterpart differ in layout only. Random numbers are drawn flat and then reshaped: the same numbers as at once, but on
CPU a draw of four axes takes ten times as long to compile.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.nn.initializers import Initializer

from ssoup_jax import rows
from ssoup_jax.models.ops.convolution import CONVOLUTIONS
from ssoup_jax.models.ops.features import at_least_float32, normalise, scaled, shift

Layer = Callable[..., nn.Module]


def uniform_by_fan_in(fan_in: int) -> Initializer:
    """PyTorch's default for weights and biases of convolutions and linear layers.

    Args:
        fan_in: number of inputs that one output sums over.

    Returns:
        An initialiser that draws uniformly from +-1/sqrt(fan_in).
    """
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, (math.prod(shape),), dtype, -bound, bound).reshape(shape)

    return init


def normal_by_fan_out(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """PyTorch's `kaiming_normal_(mode='fan_out')` for an HWIO kernel before a ReLU.

    Args:
        key: PRNG key.
        shape: of the kernel.
        dtype: of the kernel.

    Returns:
        Normal values of variance 2 / (H * W * O).
    """
    height, width, _, features = shape
    deviation = (2 / (height * width * features)) ** 0.5
    return deviation * jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


class Conv(nn.Module):
    """2-D convolution of `[B, H, W, C]`; square kernels, `padding` zeros on every side.

    `conv` names one of `CONVOLUTIONS`. `kernel_init` None is PyTorch's default.
    """

    features: int
    kernel_size: int
    strides: int = 1
    padding: int = 0
    use_bias: bool = True
    dtype: Any = jnp.float32
    conv: str = "plain"
    kernel_init: Initializer | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, c = self.kernel_size, x.shape[-1]
        default = uniform_by_fan_in(k * k * c)
        kernel = self.param("kernel", self.kernel_init or default, (k, k, c, self.features), jnp.float32)
        y = CONVOLUTIONS[self.conv](
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.strides, self.strides),
            ((self.padding, self.padding), (self.padding, self.padding)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        if not self.use_bias:
            return y
        bias = self.param("bias", default, (self.features,), jnp.float32)
        return shift(y, bias.astype(self.dtype))


class Linear(nn.Module):
    """Affine map of `[B, C]` with PyTorch's default initial values; `dtype` None is that of `x`, float32 at least."""

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        dtype = self.dtype or at_least_float32(x)
        init = uniform_by_fan_in(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        return x.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype).reshape(1, -1)


class Dropout(nn.Module):
    """Sets a share `rate` of the values to 0 and scales the others up; draws from the stream `'dropout'`.

    `axis_name` names the mesh axis that the batch is spread over, if it is.
    """

    rate: float
    active: bool
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        if not self.active:
            return x
        keep = 1.0 - self.rate
        key, axis = self.make_rng("dropout"), None if self.is_initializing() else self.axis_name

        def draw(n_rows: int) -> jax.Array:
            shape = (n_rows, *x.shape[1:])
            return jax.random.bernoulli(key, keep, (math.prod(shape),)).reshape(shape)

        kept = rows.drawn(draw, x.shape[0], axis)
        return jnp.where(kept, x / keep, 0.0)


class BatchNorm(nn.Module):
    """BatchNorm over all axes but the last, with PyTorch's running statistics.

    Normalisation uses the biased batch variance, `batch_stats/var` keeps the unbiased one:
    running <- momentum * running + (1 - momentum) * batch, so `momentum` 0.9 is PyTorch's 0.1. Statistics are float32
    whatever `dtype` is. In train mode `batch_stats` is updated where it is mutable; where the collection
    `batch_moments` is mutable, it receives this batch's own `mean` and unbiased `var`, from which recalibration can
    form exact averages. `axis_name` names the mesh axis that the batch is spread over, if it is.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if self.use_running_average:
            inverse = lax.rsqrt(running_var.value + self.epsilon)
            return scaled(x, running_mean.value, inverse, scale, bias).astype(self.dtype)
        axis_name = None if self.is_initializing() else self.axis_name
        y, mean, var = normalise(x, scale, bias, self.epsilon, axis_name)
        if not self.is_initializing():
            count = x.size // x.shape[-1] * (1 if axis_name is None else lax.axis_size(axis_name))
            self._record(running_mean, running_var, mean, var * (count / max(count - 1, 1)))
        return y.astype(self.dtype)

    def _record(self, running_mean, running_var, mean: jax.Array, unbiased: jax.Array) -> None:
        if self.is_mutable_collection("batch_stats"):
            keep, take = self.momentum, 1.0 - self.momentum
            running_mean.value = keep * running_mean.value + take * mean
            running_var.value = keep * running_var.value + take * unbiased
        if self.is_mutable_collection("batch_moments"):
            self.put_variable("batch_moments", "mean", mean)
            self.put_variable("batch_moments", "var", unbiased)


def flatten(x: jax.Array) -> jax.Array:
    """Flattens `[B, H, W, C]` to `[B, C*H*W]` in PyTorch's order, so that the next kernel is its weight transposed."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def global_average(x: jax.Array) -> jax.Array:
    """Averages `[B, H, W, C]` over space in float32, to `[B, C]`."""
    return x.mean((1, 2), dtype=at_least_float32(x))


def max_pool(x: jax.Array, size: int = 2, strides: int = 2, padding: int = 0) -> jax.Array:
    """Takes the largest value of each window; the rows and columns that fill no window are dropped."""
    return nn.max_pool(x, (size, size), (strides, strides), ((padding, padding), (padding, padding)))


class Network(nn.Module):
    """The attributes that every network has, and the layers that follow from them.

    Attributes:
        n_classes: number of logits.
        dtype: what activations are computed in; float32 or bfloat16. The last layer and the logits are float32.
        conv: name of the convolution, a key of `CONVOLUTIONS`.
        dropout: False leaves every dropout layer out.
        remat: recompute blocks in the backward pass instead of storing what is inside them. Parameter names stay.
        axis_name: mesh axis that batches are spread over: BatchNorm's statistics and dropout are the whole batch's.
        unsaid: what names and shapes of its weights do not say of it, though others differ in it; a line, or nothing.
    """

    unsaid: ClassVar[str] = ""

    n_classes: int
    dtype: Any = jnp.float32
    conv: str = "plain"
    dropout: bool = True
    remat: bool = False
    axis_name: str | None = None

    @property
    def can_be_cut(self) -> bool:
        """Whether it computes the same of a batch that is spread over a mesh axis, see `axis_name`."""
        return True

    def conv_layer(self) -> Layer:
        """Returns `Conv` with this network's dtype and convolution."""
        return partial(Conv, dtype=self.dtype, conv=self.conv)

    def norm_layer(self, train: bool) -> Layer:
        """Returns `BatchNorm` for this mode."""
        return partial(BatchNorm, use_running_average=not train, dtype=self.dtype, axis_name=self.axis_name)

    def dropout_layer(self, train: bool) -> Layer:
        """Returns `Dropout`, active in train mode unless this network has none."""
        return partial(Dropout, active=train and self.dropout, axis_name=self.axis_name)

    def block(self, block: type[nn.Module]) -> type[nn.Module]:
        """Returns the block's class, rematerialised if asked for."""
        return nn.remat(block) if self.remat else block
