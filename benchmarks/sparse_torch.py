"""PyTorch networks whose weights are stored sparse: CSR anywhere, 2:4 on GPUs that have hardware for it.

A convolution becomes what its definition says, a product of the kernels with the unfolded images: PyTorch has no sparse
convolution.
"""

import copy
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Product = Callable[[Tensor], Tensor]
"""Multiplies a layer's weights `[O, K]` with columns `[K, N]`."""

# What the sparse tensor cores of PyTorch take: rows and columns of a half-precision matrix in multiples of these.
_ROWS, _COLUMNS = 32, 64


class Product2d(nn.Module):
    """A linear layer or a convolution whose weights are multiplied in some way of their own."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, product: Product):
        super().__init__()
        self.product, self.bias = product, layer.bias
        self.kernel = None if isinstance(layer, nn.Linear) else layer.kernel_size
        if self.kernel:
            self.options = {"dilation": layer.dilation, "padding": layer.padding, "stride": layer.stride}

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel is None:
            y = self.product(x.T).T
            return y if self.bias is None else y + self.bias
        options = zip(x.shape[2:], self.kernel, *self.options.values(), strict=True)
        sizes = [
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, dilation, padding, stride in options
        ]
        columns = F.unfold(x, self.kernel, **self.options)  # [B, K, N]
        y = self.product(columns.transpose(0, 1).reshape(columns.shape[1], -1))
        y = y.reshape(y.shape[0], x.shape[0], *sizes).transpose(0, 1)
        return y if self.bias is None else y + self.bias.view(1, -1, 1, 1)


def replaced(network: nn.Module, product: Callable[[Tensor], Product | None]) -> nn.Module:
    """Copies a network and gives its linear layers and convolutions products of their own.

    Args:
        network: what is copied.
        product: makes the product of a weight `[O, K]`; None: the layer stays as it is.
    """
    network = copy.deepcopy(network)
    for name, layer in list(network.named_modules()):
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        made = product(layer.weight.detach().flatten(1))
        if made is not None:
            parent, _, own = name.rpartition(".")
            setattr(network.get_submodule(parent), own, Product2d(layer, made))
    return network


def csr(network: nn.Module) -> nn.Module:
    """Stores the weights of a network as compressed sparse rows."""

    def product(weight: Tensor) -> Product:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it says that CSR is in beta
            rows = weight.to_sparse_csr()
        return lambda columns: rows @ columns

    return replaced(network, product)


def has_two_of_four(device: str) -> bool:
    """Tells whether a device multiplies 2:4 sparse matrices: NVIDIA's from Ampere on."""
    return device == "cuda" and torch.cuda.get_device_capability() >= (8, 0)


def keep_two_of_four(weight: Tensor) -> Tensor:
    """Sets the two smallest of any four weights that lie side by side in a row `[O, K]` to zero; K in fours."""
    groups = weight.reshape(weight.shape[0], -1, 4)
    kept = torch.zeros_like(groups).scatter(-1, groups.abs().topk(2, dim=-1).indices, 1.0)
    return (groups * kept).reshape(weight.shape)


def two_of_four(network: nn.Module) -> nn.Module:
    """Stores the weights of a network in half precision on a GPU as 2:4 sparse, where their sizes allow it."""

    def product(weight: Tensor) -> Product | None:
        if weight.shape[0] % _ROWS or weight.shape[1] % _COLUMNS:
            return None
        sparse = torch.sparse.to_sparse_semi_structured(keep_two_of_four(weight))
        return lambda columns: torch.mm(sparse, columns)

    return replaced(network, product)
