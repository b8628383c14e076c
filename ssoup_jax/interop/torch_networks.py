"""The networks of `ssoup_jax` in PyTorch, with the names that its state dicts have; dropout is left out.

This file needs PyTorch alone, and `python -m ssoup_jax.interop export` puts a copy of it beside what it exports:

    net = build("ResNet20", n_classes=10, image_shape=(32, 32, 3))
    net.load_state_dict(...)
    logits = net.eval()(images)  # images [B, C, H, W], normalised
"""

import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ImageShape = Sequence[int]  # height, width, channels


def build(arch: str, n_classes: int, image_shape: ImageShape) -> nn.Module:
    """Makes a network with PyTorch's own initial values.

    Args:
        arch: its name, such as 'ResNet20', 'ResNet56x2' (twice the channels), 'VGG16' or 'WideResNet20'.
        n_classes: number of logits.
        image_shape: height, width and channels of an image.

    Returns:
        The module, in train mode.

    Raises:
        ValueError: there is no network of that name.
    """
    if arch in _NETWORKS:
        return _NETWORKS[arch](n_classes, image_shape)
    match = re.fullmatch(r"ResNet(\d+)(?:x(\d+))?", arch)
    if match is None or int(match[1]) < 8 or (int(match[1]) - 2) % 6:
        raise ValueError(f"arch: unknown value {arch!r}; allowed: {', '.join(_NETWORKS)}, ResNet<6n+2>[x<width>]")
    return CifarResNet(n_classes, image_shape, blocks=(int(match[1]) - 2) // 6, width=int(match[2] or 1))


class Simple(nn.Module):
    """Pixels, 512 hidden units, classes."""

    def __init__(self, n_classes: int, image_shape: ImageShape):
        super().__init__()
        self.fc1 = nn.Linear(math.prod(image_shape), 512)
        self.fc2 = nn.Linear(512, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class CNN(nn.Module):
    """Two unpadded 3x3 convolutions, one 2x2 max-pool, two linear layers."""

    def __init__(self, n_classes: int, image_shape: ImageShape):
        super().__init__()
        height, width, channels = image_shape
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 128, 3)
        self.fc1 = nn.Linear(128 * ((height - 4) // 2) * ((width - 4) // 2), 128)
        self.fc2 = nn.Linear(128, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc2(F.relu(self.fc1(F.max_pool2d(x, 2).flatten(1))))


def _conv(before: int, after: int, size: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(before, after, size, stride, size // 2, bias=bias)


class Thin(nn.Module):
    """Two 3x3 convolutions; a shortcut that drops pixels and pads channels on both sides (option A)."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(before, after, 3, stride), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = _conv(after, after, 3), nn.BatchNorm2d(after)
        self.stride, self.low, self.high = stride, (after - before) // 2, after - before - (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(shortcut, (0, 0, 0, 0, self.low, self.high)))


class Basic(nn.Module):
    """Two 3x3 convolutions; a projection where the shape changes."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = _conv(before, after, 3, stride), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = _conv(after, after, 3), nn.BatchNorm2d(after)
        changes = stride != 1 or before != after
        projection = (_conv(before, after, 1, stride), nn.BatchNorm2d(after)) if changes else ()
        self.shortcut = nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1; torchvision's names."""

    def __init__(self, before: int, inner: int, stride: int):
        super().__init__()
        after = 4 * inner
        self.conv1, self.bn1 = _conv(before, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = _conv(inner, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = _conv(inner, after, 1), nn.BatchNorm2d(after)
        changes = stride != 1 or before != after
        self.downsample = nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class Wide(nn.Module):
    """Pre-activation, biases on every convolution, stride on the second."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), _conv(before, after, 3, bias=True)
        self.bn2, self.conv2 = nn.BatchNorm2d(after), _conv(after, after, 3, stride, bias=True)
        changes = stride != 1 or before != after
        self.shortcut = nn.Sequential(*((_conv(before, after, 1, stride, bias=True),) if changes else ()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(y))) + self.shortcut(x)


def _stages(network: nn.Module, block: type, before: int, stages: Sequence, expansion: int = 1) -> int:
    """Gives a network its `layer1`, `layer2`, ...; returns how many channels leave the last one."""
    for number, (features, blocks, stride) in enumerate(stages, start=1):
        layers = [block(before, features, stride)]
        before = features * expansion
        layers += [block(before, features, 1) for _ in range(blocks - 1)]
        setattr(network, f"layer{number}", nn.Sequential(*layers))
    return before


class CifarResNet(nn.Module):
    """Three stages of thin blocks with 16, 32 and 64 channels, times `width`."""

    def __init__(self, n_classes: int, image_shape: ImageShape, blocks: int, width: int = 1):
        super().__init__()
        self.conv1, self.bn1 = _conv(image_shape[-1], 16 * width, 3), nn.BatchNorm2d(16 * width)
        stages = [(16 * width, blocks, 1), (32 * width, blocks, 2), (64 * width, blocks, 2)]
        self.linear = nn.Linear(_stages(self, Thin, 16 * width, stages), n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class ResNet18(nn.Module):
    """That of CIFAR: a 3x3 stem without pooling."""

    def __init__(self, n_classes: int, image_shape: ImageShape):
        super().__init__()
        self.conv1, self.bn1 = _conv(image_shape[-1], 64, 3), nn.BatchNorm2d(64)
        last = _stages(self, Basic, 64, [(64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)])
        self.linear = nn.Linear(last, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


class ResNet50(nn.Module):
    """That of torchvision (v1.5), by its names."""

    def __init__(self, n_classes: int, image_shape: ImageShape):
        super().__init__()
        self.conv1, self.bn1 = _conv(image_shape[-1], 64, 7, 2), nn.BatchNorm2d(64)
        stages = [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]
        self.fc = nn.Linear(_stages(self, Bottleneck, 64, stages, expansion=4), n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class WideResNet(nn.Module):
    """Three stages of (depth - 4) / 6 wide blocks with 160, 320 and 640 channels."""

    def __init__(self, n_classes: int, image_shape: ImageShape, depth: int):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = _conv(image_shape[-1], 16, 3, bias=True)
        last = _stages(self, Wide, 16, [(160, blocks, 1), (320, blocks, 2), (640, blocks, 2)])
        self.bn1 = nn.BatchNorm2d(last, momentum=0.9)
        self.linear = nn.Linear(last, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.linear(F.relu(self.bn1(x)).mean((2, 3)))


class VGG(nn.Module):
    """Five stages of 3x3 convolutions with BatchNorm, each ended by a 2x2 max-pool, and a single linear layer."""

    def __init__(self, n_classes: int, image_shape: ImageShape, convs_per_stage: Sequence[int]):
        super().__init__()
        height, width, before = image_shape
        layers: list[nn.Module] = []
        for features, convs in zip((64, 128, 256, 512, 512), convs_per_stage, strict=True):
            for _ in range(convs):
                layers += [_conv(before, features, 3, bias=True), nn.BatchNorm2d(features), nn.ReLU()]
                before = features
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512 * (height // 32) * (width // 32), n_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.features(x), 1))


_NETWORKS = {
    "Simple": Simple,
    "CNN": CNN,
    "ResNet18": ResNet18,
    "ResNet50": ResNet50,
    "WideResNet20": lambda n_classes, image_shape: WideResNet(n_classes, image_shape, depth=22),
    "WideResNet": lambda n_classes, image_shape: WideResNet(n_classes, image_shape, depth=28),
    "VGG11": lambda n_classes, image_shape: VGG(n_classes, image_shape, (1, 1, 2, 2, 2)),
    "VGG13": lambda n_classes, image_shape: VGG(n_classes, image_shape, (2, 2, 2, 2, 2)),
    "VGG16": lambda n_classes, image_shape: VGG(n_classes, image_shape, (2, 2, 3, 3, 3)),
    "VGG19": lambda n_classes, image_shape: VGG(n_classes, image_shape, (2, 2, 4, 4, 4)),
}
