"""The networks of PyTorch's own layers, with numbers that are not those of fresh ones."""

import torch
from torch import nn
from torch.nn.utils import prune

from ssoup_jax.interop import torch_networks

SMALL = {"Simple": (8, 8, 1), "CNN": (9, 8, 3), "ResNet8": (16, 16, 3)}
"""Image shapes of networks that take no time."""

LARGE = {
    "ResNet18": (8, 8, 3),
    # Smaller images leave the last BatchNorms a single position each, and rounding takes over in train mode.
    "ResNet50": (96, 96, 3),
    "WideResNet20": (8, 8, 3),
    "WideResNet": (8, 8, 3),
    "VGG11": (32, 32, 3),
    "VGG13": (32, 32, 3),
    "VGG16": (32, 32, 3),
    "VGG19": (32, 32, 3),
}
"""The same of the others; every family is in one of the two."""


def make(arch, n_classes=10, image_shape=None, seed=0):
    """Returns a network in evaluation mode and its image shape; BatchNorm's statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    image_shape = image_shape or (SMALL | LARGE)[arch]
    twin = torch_networks.build(arch, n_classes, image_shape)
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
