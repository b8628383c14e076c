"""PyTorch, as the peers of the benchmarks run it: as a user of the reference does, and as well as it can be.

`loader` is what the reference's users run: eager, images from a DataLoader whose transforms work on one Pillow image
at a time, masks that are multiplied into the weights at every forward pass. `eager` spares the data and the masks
their cost: the images are on the device, augmented as a batch, and one fused multiplication after the step keeps the
zeros. `best` is `eager` compiled, with channels last.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn
from torch.utils.data import DataLoader

from ssoup_jax.data.augment import Transform
from ssoup_jax.interop import torch_networks
from tests.interop import twins

HOWS = ("loader", "eager", "best")

LABELS = {
    "loader": "PyTorch, eager, DataLoader",
    "eager": "PyTorch, eager, data on the device",
    "best": "PyTorch, compiled, channels last",
}


def network(arch: str, n_classes: int, image_shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """Builds a network of PyTorch's own layers, without dropout; the same as ours of that name but for the layout."""
    torch.manual_seed(seed)
    return torch_networks.build(arch, n_classes, image_shape)


class PillowImages(torch.utils.data.Dataset):
    """Images that are cropped, mirrored and normalised one at a time, as torchvision's transforms do it.

    Args:
        images: uint8 `[N, H, W, C]`.
        labels: integers `[N]`.
        transform: what happens to an image; rotation is not done.
        moved: whether it is cropped and mirrored.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Transform, moved: bool = True):
        self.images, self.labels, self.transform, self.moved = images, labels, transform, moved
        n_channels = images.shape[-1]
        self.mean = torch.tensor(transform.mean or (0.0,) * n_channels).view(-1, 1, 1)
        self.std = torch.tensor(transform.std or (1.0,) * n_channels).view(-1, 1, 1)
        self.normalised = transform.mean is not None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        values = self.images[index]
        height, width, n_channels = values.shape
        image = Image.fromarray(values if n_channels == 3 else values[..., 0])
        if self.moved and self.transform.pad:
            pad = self.transform.pad
            top, left = torch.randint(0, 2 * pad + 1, (2,)).tolist()
            image = ImageOps.expand(image, border=pad, fill=0).crop((left, top, left + width, top + height))
        if self.moved and self.transform.flip and torch.rand(1) < 0.5:
            image = ImageOps.mirror(image)
        pixels = torch.from_numpy(np.array(image)).view(height, width, n_channels)
        tensor = pixels.permute(2, 0, 1).contiguous().to(torch.float32).div(255)
        return (tensor - self.mean) / self.std if self.normalised else tensor, int(self.labels[index])


def loader(images: PillowImages, batch_size: int, device: torch.device, shuffle: bool = True) -> DataLoader:
    """Makes the loader: worker processes beside a GPU; none on a CPU, where they would only take cores from training.

    Args:
        images: what is loaded.
        batch_size: B; the partial last batch is kept.
        device: what the images go to.
        shuffle: whether in random order.
    """
    if device.type == "cpu":
        return DataLoader(images, batch_size, shuffle=shuffle)
    # Forking a process in which JAX has threads may hang.
    return DataLoader(
        images,
        batch_size,
        shuffle=shuffle,
        num_workers=min(8, len(os.sched_getaffinity(0))),
        pin_memory=True,
        persistent_workers=True,
        multiprocessing_context="forkserver",
    )


def forever(batches: DataLoader) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yields the batches of one epoch after another; a smaller last batch is left out."""
    while True:
        for images, labels in batches:
            if len(labels) == batches.batch_size:
                yield images, labels


def augment(transform: Transform, images: torch.Tensor) -> torch.Tensor:
    """Crops, mirrors and normalises a whole batch on its device.

    Args:
        transform: what happens; rotation is not done.
        images: uint8 `[B, H, W, C]`.

    Returns:
        float32 `[B, C, H, W]`, channels last in memory.
    """
    batch, height, width, _ = images.shape
    device = images.device
    if transform.pad or transform.flip:
        offset = torch.randint(0, 2 * transform.pad + 1, (batch, 2), device=device) - transform.pad
        rows = torch.arange(height, device=device) + offset[:, :1]
        cols = torch.arange(width, device=device).expand(batch, width)
        if transform.flip:
            cols = torch.where(torch.rand(batch, 1, device=device) < 0.5, cols.flip(1), cols)
        cols = cols + offset[:, 1:]
        inside = ((rows >= 0) & (rows < height))[:, :, None] & ((cols >= 0) & (cols < width))[:, None]
        rows, cols = rows.clamp(0, height - 1)[:, :, None], cols.clamp(0, width - 1)[:, None]
        which = torch.arange(batch, device=device)[:, None, None]
        images = images[which, rows, cols] * inside[..., None]
    pixels = images.to(torch.float32) / 255
    if transform.mean is not None:
        pixels = (pixels - torch.tensor(transform.mean, device=device)) / torch.tensor(transform.std, device=device)
    return pixels.permute(0, 3, 1, 2)


class Trainer:
    """One network and its optimizer; `steps(n)` trains and waits until it is done.

    Args:
        how: one of `HOWS`.
        arch: name of the network.
        images: uint8 `[N, H, W, C]`.
        labels: integers `[N]`.
        n_classes: number of classes.
        transform: what happens to the images.
        batch_size: images per step.
        dtype: `'float32'`, or `'bfloat16'` for mixed precision.
        device: `'cpu'` or `'cuda'`.
    """

    def __init__(self, how, arch, images, labels, n_classes, transform, batch_size, dtype, device):
        self.how, self.transform, self.batch_size = how, transform, batch_size
        self.device = torch.device(device)
        self.dtype = getattr(torch, dtype)
        self.note = ""
        model = network(arch, n_classes, images.shape[1:]).train().to(self.device)
        if how == "best":
            model = model.to(memory_format=torch.channels_last)
        prunable = twins.prunable(model)
        if how == "loader":
            twins.prune_globally(model, 0.5)
            self.batches = forever(loader(PillowImages(images, labels, transform), batch_size, self.device))
        else:
            self.weights = [layer.weight for layer in prunable]
            self.masks = [(torch.rand_like(weight) < 0.5).to(weight.dtype) for weight in self.weights]
            self.images = torch.from_numpy(images).to(self.device)
            self.labels = torch.from_numpy(labels).long().to(self.device)
        # The fused optimizer is the faster one wherever it exists.
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            0.01,
            momentum=0.9,
            weight_decay=1e-4,
            nesterov=True,
            fused=True if how == "best" else None,
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self.n_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.model, self.function, self.compile_seconds = model, self._loss, 0.0
        if how == "best":
            self._compile()

    def _compile(self) -> None:
        # Inside a CUDA graph a small network's kernels need no launching, which is what holds it up.
        modes = ["reduce-overhead", "default"] if self.device.type == "cuda" else ["default"]
        started = time.perf_counter()
        for mode in modes:
            self.function = torch.compile(self._loss, mode=mode)
            try:
                self.steps(2)
            except Exception as error:  # whatever the compiler stumbles over, the eager step still runs
                self.note += f"torch.compile({mode=}) failed: {str(error).splitlines()[0][:80]}; "
                self.function = self._loss
                self.optimizer.zero_grad()
            else:
                self.note += f"torch.compile({mode=})"
                break
        self.compile_seconds = time.perf_counter() - started

    def _loss(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.how != "loader":
            images = augment(self.transform, images)
        mixed = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if mixed else contextlib.nullcontext():
            logits = self.model(images)
            loss = F.cross_entropy(logits, labels)
        return loss, (logits.argmax(1) == labels).float().mean()

    def _batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        if self.how == "loader":
            return tuple(tensor.to(self.device, non_blocking=True) for tensor in next(self.batches))
        index = torch.randint(0, len(self.labels), (self.batch_size,), device=self.device)
        return self.images[index], self.labels[index]

    def steps(self, count: int) -> None:
        """Takes `count` training steps."""
        figures = []
        for _ in range(count):
            images, labels = self._batch()
            self.optimizer.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.compiler.cudagraph_mark_step_begin()
            loss, accuracy = self.function(images, labels)
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            if self.how != "loader":
                with torch.no_grad():
                    torch._foreach_mul_(self.weights, self.masks)
            figures += [loss.detach().clone(), accuracy.detach().clone()]
        torch.stack(figures).cpu()  # what the user looks at; it waits for the device

    def peak_bytes(self) -> int | None:
        """Returns the most memory that two steps take on a GPU; None on a CPU, where PyTorch keeps no account."""
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats()
        self.steps(2)
        return torch.cuda.max_memory_allocated()


def matmul_seconds(size: int, dtype: str, device: str) -> Callable[[], float]:
    """Returns a function that times one square matrix multiplication."""
    a = torch.rand(size, size, device=device).to(getattr(torch, dtype))
    repeats = 1 if device == "cpu" else 20

    def once() -> float:
        started = time.perf_counter()
        for _ in range(repeats):
            product = a @ a
        if not math.isfinite(float(product[0, 0])):
            raise FloatingPointError("the product is not finite")
        return (time.perf_counter() - started) / repeats

    return once


def describe(device: str) -> dict[str, str | int]:
    """Returns what PyTorch is and runs on."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"torch": torch.__version__, "torch_device": name, "torch_threads": torch.get_num_threads()}


def device(backend: str) -> str:
    """Returns PyTorch's name for the device of a JAX backend.

    Raises:
        RuntimeError: this PyTorch cannot use it.
    """
    if backend == "cpu":
        return "cpu"
    if backend != "gpu" or not torch.cuda.is_available():
        raise RuntimeError(f"JAX runs on {backend!r}, and PyTorch {torch.__version__} finds no GPU to compare with")
    return "cuda"


def prepare(device: str) -> None:
    """Lets PyTorch choose its fastest convolutions, and multiply float32 as JAX does on a GPU by default."""
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
