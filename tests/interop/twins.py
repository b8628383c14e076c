"""Networks made of PyTorch's own layers, with the names that the state dicts of ours have."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from tests.interop import large_twins


class Simple(nn.Module):
    def __init__(self, n_classes, image_shape):
        super().__init__()
        self.fc1 = nn.Linear(int(np.prod(image_shape)), 512)
        self.fc2 = nn.Linear(512, n_classes)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class CNN(nn.Module):
    def __init__(self, n_classes, image_shape):
        super().__init__()
        height, width, channels = image_shape
        self.conv1 = nn.Conv2d(channels, 32, 3)
        self.conv2 = nn.Conv2d(32, 128, 3)
        self.fc1 = nn.Linear(128 * ((height - 4) // 2) * ((width - 4) // 2), 128)
        self.fc2 = nn.Linear(128, n_classes)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc2(F.relu(self.fc1(F.max_pool2d(x, 2).flatten(1))))


class Block(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.missing = stride, (after - before) // 2

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(shortcut, (0, 0, 0, 0, self.missing, self.missing)))


class CifarResNet(nn.Module):
    def __init__(self, n_classes, image_shape, blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(image_shape[-1], 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        for stage, (before, after) in enumerate([(16, 16), (16, 32), (32, 64)], start=1):
            first = Block(before, after, 1 + (stage > 1))
            rest = (Block(after, after, 1) for _ in range(blocks - 1))
            setattr(self, f"layer{stage}", nn.Sequential(first, *rest))
        self.linear = nn.Linear(64, n_classes)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


CASES = {
    "Simple": (Simple, (8, 8, 1)),
    "CNN": (CNN, (9, 8, 3)),
    "ResNet8": (lambda *sizes: CifarResNet(*sizes, blocks=1), (16, 16, 3)),
}


def make(arch, n_classes=10, image_shape=None, seed=0):
    """Returns a network in evaluation mode and its image shape; BatchNorm's statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    build, own_shape = (CASES | large_twins.CASES)[arch]
    image_shape = image_shape or own_shape
    twin = build(n_classes, image_shape)
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                nn.init.normal_(values, std=0.1)
    return twin.eval(), image_shape


def prunable(twin):
    """Lists the layers whose weights are pruned."""
    return [module for module in twin.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def prune_globally(twin, amount):
    """Prunes by magnitude, as people do it with PyTorch."""
    weights = [(module, "weight") for module in prunable(twin)]
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=amount)


def logits(twin, images):
    """Computes the logits of images `[B, H, W, C]`."""
    with torch.no_grad():
        return twin(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
