"""Networks by name: what exists, what fits an image size, and how initial values are made."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ssoup_jax.errors import SettingsError, unknown
from ssoup_jax.models import own
from ssoup_jax.models.cnn import CNN
from ssoup_jax.models.layers import Network
from ssoup_jax.models.ops.convolution import CONVOLUTIONS
from ssoup_jax.models.own import Own
from ssoup_jax.models.resnet18 import ResNet18
from ssoup_jax.models.resnet50 import ResNet50
from ssoup_jax.models.resnet_cifar import CifarResNet
from ssoup_jax.models.simple import Simple
from ssoup_jax.models.vgg import CONVS_PER_STAGE, VGG
from ssoup_jax.models.wide_resnet import WideResNet
from ssoup_jax.own import FORM, is_own
from ssoup_jax.trees import PyTree, named_leaves

ImageShape = tuple[int, int, int]

_NETWORKS: dict[str, Callable[..., Network]] = {
    "Simple": Simple,
    "CNN": CNN,
    "ResNet18": ResNet18,
    "ResNet50": ResNet50,
    "WideResNet20": partial(WideResNet, depth=22),
    "WideResNet": WideResNet,
    **{f"VGG{depth}": partial(VGG, depth=depth) for depth in CONVS_PER_STAGE},
    **{f"ResNet{depth}": partial(CifarResNet, blocks=(depth - 2) // 6) for depth in (20, 32, 44, 56, 110)},
}
_CIFAR_RESNET = re.compile(r"ResNet([1-9]\d*)(?:x([1-9]\d*))?")
_CIFAR_RESNET_RULE = "ResNet<6n+2> and ResNet<6n+2>x<width>"

# The pooling of these leaves nothing of a smaller image.
_SMALLEST_IMAGE = {"CNN": 6} | {f"VGG{depth}": 32 for depth in CONVS_PER_STAGE}

ARCHS: tuple[str, ...] = tuple(_NETWORKS)
"""The names of the architectures; `build` takes other `ResNet<6n+2>`, `ResNet<6n+2>x<width>` and one's own, too."""


def build(
    arch: str,
    n_classes: int,
    image_shape: ImageShape,
    *,
    dtype: Any = jnp.float32,
    remat: bool = False,
    conv: str = "plain",
    dropout: bool = True,
    axis_name: str | None = None,
) -> Network | Own:
    """Makes the network of that name; nothing is computed.

    `model.apply(variables, x, train, rngs={"dropout": key}, mutable=["batch_stats"])` maps normalised images
    `[B, H, W, C]` to float32 logits `[B, n_classes]`.

    Args:
        arch: one of `ARCHS`, any `ResNet<6n+2>` (option A shortcuts), `ResNet<6n+2>x<width>` with that many times the
            channels, or what makes a network of one's own, see `models.own`; that is given the next four only.
        n_classes: number of classes.
        image_shape: height, width and channels of an image.
        dtype: what activations are computed in, float32 or bfloat16; parameters are float32 in any case.
        remat: recompute each residual block (each stage of a VGG) in the backward pass, to save memory. `Simple` and
            `CNN` have no blocks and stay as they are.
        conv: a key of `CONVOLUTIONS`.
        dropout: False leaves dropout out.
        axis_name: mesh axis over which BatchNorm takes its batch statistics.

    Returns:
        The linen module, or one of one's own in our manner.

    Raises:
        SettingsError: `arch` or `conv` is unknown, a size is not positive, or the image is too small for the network.
    """
    if is_own(arch):
        return own.build(arch, n_classes, image_shape, dtype, remat)
    network = _NETWORKS.get(arch) or _cifar_resnet(arch)
    if conv not in CONVOLUTIONS:
        raise unknown("conv", conv, CONVOLUTIONS)
    if n_classes < 1:
        raise SettingsError(f"n_classes: found {n_classes}, must be at least 1")
    smallest = _SMALLEST_IMAGE.get(arch, 1)
    height, width, channels = image_shape
    if min(height, width) < smallest or channels < 1:
        raise SettingsError(
            f"arch: {arch} does not fit images of {height}x{width}x{channels}; "
            f"the smallest it takes is {smallest}x{smallest}x1"
        )
    return network(n_classes=n_classes, dtype=dtype, conv=conv, dropout=dropout, remat=remat, axis_name=axis_name)


def check_arch(arch: str) -> None:
    """Raises a SettingsError if `build` knows no architecture of that name."""
    if is_own(arch):
        own.check(arch)
    else:
        _ = _NETWORKS.get(arch) or _cifar_resnet(arch)


def last_layer(arch: str, n_classes: int, image_shape: ImageShape) -> list[str]:
    """Returns the path names of the parameters whose shapes depend on the number of classes.

    Raises:
        SettingsError: there is none.
    """

    def shapes(n_classes: int) -> dict[str, Any]:
        model = build(arch, n_classes, image_shape)
        params, _ = jax.eval_shape(lambda key: init(model, key, image_shape), jax.random.key(0))
        return {name: leaf.shape for name, leaf in named_leaves(params).items()}

    own_shapes, others = shapes(n_classes), shapes(n_classes + 1)
    found = [name for name, shape in own_shapes.items() if others.get(name) != shape]
    if not found:
        raise SettingsError(f"init_head: no parameter of {arch} depends on the number of classes")
    return found


def _cifar_resnet(arch: str) -> Callable[..., Network]:
    match = _CIFAR_RESNET.fullmatch(arch)
    depth, width = (int(match[1]), int(match[2] or 1)) if match else (0, 1)
    if depth < 8 or (depth - 2) % 6:
        raise unknown("arch", arch, (*ARCHS, _CIFAR_RESNET_RULE, FORM))
    return partial(CifarResNet, blocks=(depth - 2) // 6, width=width)


def init(model: Network | Own, key: jax.Array, image_shape: ImageShape) -> tuple[PyTree, PyTree]:
    """Draws initial values; can be mapped over keys with `jax.vmap`.

    Args:
        model: what `build` returned.
        key: PRNG key.
        image_shape: height, width and channels of an image.

    Returns:
        `(params, batch_stats)`; `batch_stats` is `{}` for a network without BatchNorm.
    """
    variables = model.init(key, jnp.zeros((1, *image_shape), jnp.float32), train=False)
    return variables["params"], variables.get("batch_stats", {})
