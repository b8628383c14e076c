"""The wide and deep networks made of PyTorch's own layers, with the names that the state dicts of ours have."""

import torch.nn.functional as F
from torch import nn


def _conv(before, after, size, stride=1, bias=False):
    return nn.Conv2d(before, after, size, stride, size // 2, bias=bias)


class Basic(nn.Module):
    """Two 3x3 convolutions; a projection where the shape changes."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1, self.bn1 = _conv(before, after, 3, stride), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = _conv(after, after, 3), nn.BatchNorm2d(after)
        changes = stride != 1 or before != after
        self.shortcut = (
            nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after)) if changes else nn.Sequential()
        )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1; torchvision's names."""

    def __init__(self, before, inner, stride):
        super().__init__()
        after = 4 * inner
        self.conv1, self.bn1 = _conv(before, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = _conv(inner, inner, 3, stride), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = _conv(inner, after, 1), nn.BatchNorm2d(after)
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(_conv(before, after, 1, stride), nn.BatchNorm2d(after))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(F.relu(self.bn2(self.conv2(y)))))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class Wide(nn.Module):
    """Pre-activation, biases on every convolution, stride on the second."""

    def __init__(self, before, after, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(before), _conv(before, after, 3, bias=True)
        self.bn2, self.conv2 = nn.BatchNorm2d(after), _conv(after, after, 3, stride, bias=True)
        changes = stride != 1 or before != after
        self.shortcut = nn.Sequential(_conv(before, after, 1, stride, bias=True)) if changes else nn.Sequential()

    def forward(self, x):
        y = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(y))) + self.shortcut(x)


def _stages(network, block, before, stages, expansion=1):
    for number, (features, blocks, stride) in enumerate(stages, start=1):
        layers = [block(before, features, stride)]
        before = features * expansion
        layers += [block(before, features, 1) for _ in range(blocks - 1)]
        setattr(network, f"layer{number}", nn.Sequential(*layers))
    return before


class ResNet18(nn.Module):
    def __init__(self, n_classes, image_shape):
        super().__init__()
        self.conv1, self.bn1 = _conv(image_shape[-1], 64, 3), nn.BatchNorm2d(64)
        last = _stages(self, Basic, 64, [(64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)])
        self.linear = nn.Linear(last, n_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean((2, 3)))


class ResNet50(nn.Module):
    def __init__(self, n_classes, image_shape):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(image_shape[-1], 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        stages = [(64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)]
        self.fc = nn.Linear(_stages(self, Bottleneck, 64, stages, expansion=4), n_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class WideResNet(nn.Module):
    def __init__(self, n_classes, image_shape, depth):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = _conv(image_shape[-1], 16, 3, bias=True)
        last = _stages(self, Wide, 16, [(160, blocks, 1), (320, blocks, 2), (640, blocks, 2)])
        self.bn1 = nn.BatchNorm2d(last, momentum=0.9)
        self.linear = nn.Linear(last, n_classes)

    def forward(self, x):
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.linear(F.relu(self.bn1(x)).mean((2, 3)))


class VGG(nn.Module):
    def __init__(self, n_classes, image_shape, convs_per_stage):
        super().__init__()
        layers, before = [], image_shape[-1]
        for features, convs in zip((64, 128, 256, 512, 512), convs_per_stage, strict=True):
            for _ in range(convs):
                layers += [_conv(before, features, 3, bias=True), nn.BatchNorm2d(features), nn.ReLU()]
                before = features
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(512, n_classes)

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))


CASES = {
    "ResNet18": (ResNet18, (8, 8, 3)),
    # Smaller images leave the last BatchNorms a single position each, and rounding takes over in train mode.
    "ResNet50": (ResNet50, (96, 96, 3)),
    "WideResNet20": (lambda *sizes: WideResNet(*sizes, depth=22), (8, 8, 3)),
    "WideResNet": (lambda *sizes: WideResNet(*sizes, depth=28), (8, 8, 3)),
    "VGG11": (lambda *sizes: VGG(*sizes, (1, 1, 2, 2, 2)), (32, 32, 3)),
    "VGG13": (lambda *sizes: VGG(*sizes, (2, 2, 2, 2, 2)), (32, 32, 3)),
    "VGG16": (lambda *sizes: VGG(*sizes, (2, 2, 3, 3, 3)), (32, 32, 3)),
    "VGG19": (lambda *sizes: VGG(*sizes, (2, 2, 4, 4, 4)), (32, 32, 3)),
}
