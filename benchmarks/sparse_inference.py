"""What zeros give in time: `python -m benchmarks.sparse_inference [--quick]`.

One network is run by kept runtimes: dense, with its zeros stored as numbers, and with its zeros left out. Every layer
has the same share of zeros, the smallest weights; all that is run has to give the same logits. The ways to run it take
turns in one process, and what is compared are medians over the rounds. `docs/sparse_inference.md` says what to expect.
"""

import argparse
import os
import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssoup_jax import devices

# PyTorch needs room beside JAX, which would otherwise take most of a GPU's memory at its start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import numpy as np
import onnxruntime
import torch

from benchmarks import machine, peers, sparse_torch
from ssoup_jax import models
from ssoup_jax.errors import RunError
from ssoup_jax.interop import onnx_file, torch_networks
from ssoup_jax.interop.state_dict import to_state_dict
from ssoup_jax.metrics import flops
from ssoup_jax.models.layers import Network
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning import selectors
from ssoup_jax.pruning.masks import full_mask
from ssoup_jax.pruning.transform import apply_mask

N_CLASSES = 10
CLOSE = 1e-3  # of the largest logit; half precision is not compared

DEFAULTS: dict[str, dict[str, Any]] = {
    "quick": {"archs": ["ResNet8"], "sparsities": [0.98], "batch_sizes": [1], "rounds": 5, "round_seconds": 0.1},
    "full": {
        "archs": ["Simple", "ResNet20", "ResNet18"],
        "sparsities": [0.9, 0.95, 0.98],
        "batch_sizes": [1, 64],
        "rounds": 7,
        "round_seconds": 0.5,
    },
}

Run = Callable[[np.ndarray], np.ndarray]


@dataclass
class Contender:
    """One way to run one network.

    Attributes:
        label: what the table calls it.
        runtime: whose dense time it is compared with.
        sparsity: share of the weights that are zero.
        run: maps images `[B, H, W, C]` to logits.
        checked: whether its logits have to be those of the others.
        seconds: of each round, per batch.
    """

    label: str
    runtime: str
    sparsity: float
    run: Run
    checked: bool = True
    seconds: list[float] = field(default_factory=list)

    def round(self, images: np.ndarray, budget: float) -> None:
        """Measures once: as many batches as fit into the budget, one at least."""
        started = now = time.perf_counter()
        count = 0
        while count == 0 or now - started < budget:
            self.run(images)
            count += 1
            now = time.perf_counter()
        self.seconds.append((now - started) / count)

    @property
    def median(self) -> float:
        """Seconds per batch."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Subject:
    """A network with initial values: what they are does not change the speed.

    Attributes:
        arch: its name.
        image_shape: height, width and channels of an image.
        model: the network.
        dense: its variables.
    """

    arch: str
    image_shape: tuple[int, int, int]
    model: Network
    dense: Variables

    @classmethod
    def named(cls, arch: str, image_size: int) -> "Subject":
        """Makes the network of that name."""
        image_shape = (image_size, image_size, 3)
        model = models.build(arch, N_CLASSES, image_shape)
        draw = jax.jit(lambda key: models.init(model, key, image_shape))
        params, batch_stats = jax.device_get(draw(jax.random.key(0)))
        return cls(arch, image_shape, model, Variables(params, {"batch_stats": batch_stats}))

    def state(self, variables: Variables) -> dict[str, np.ndarray]:
        """Returns the state dict of its variables."""
        return to_state_dict(self.model, self.image_shape, variables.params, variables.collections["batch_stats"])

    def in_torch(self, variables: Variables, device: str) -> torch.nn.Module:
        """Returns it as a module of PyTorch."""
        network = torch_networks.build(self.arch, N_CLASSES, self.image_shape).eval()
        network.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in self.state(variables).items()})
        return network.to(device)


def pruned(variables: Variables, sparsity: float) -> Variables:
    """Sets the smallest weights of every layer to zero; 0: none."""
    if not sparsity:
        return variables
    mask = selectors.select("uniform", variables.params, full_mask(variables.params), sparsity, jax.random.key(0))
    return Variables(apply_mask(variables.params, mask), variables.collections)


def xla(model: Network, variables: Variables) -> Run:
    """Runs a network with JAX."""
    tree = jax.device_put(variables.as_flax())
    forward = jax.jit(lambda tree, images: model.apply(tree, images, train=False))
    return lambda images: np.asarray(forward(tree, images))


def onnx(subject: Subject, variables: Variables) -> Run:
    """Runs a network with onnxruntime, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    data = onnx_file.encode(subject.model, subject.image_shape, variables, {})
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> np.ndarray:
        feed = {onnx_file.IMAGES: np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
        return session.run([onnx_file.LOGITS], feed)[0]

    return run


def in_torch(network: torch.nn.Module, device: str, dtype: torch.dtype = torch.float32) -> Run:
    """Runs a network with PyTorch."""

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            channels_first = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
            return network(channels_first.to(device, dtype)).float().cpu().numpy()

    return run


def contenders(subject: Subject, sparsities: list[float], device: str) -> Iterator[Contender]:
    """Yields every way to run a network, dense first."""
    dense = subject.dense
    network = subject.in_torch(dense, device)
    yield Contender("XLA, dense", "XLA", 0.0, xla(subject.model, dense))
    yield Contender("onnxruntime, dense", "onnxruntime", 0.0, onnx(subject, dense))
    yield Contender("PyTorch, dense", "PyTorch", 0.0, in_torch(network, device))
    if sparse_torch.has_two_of_four(device):
        half = subject.in_torch(dense, device).half()
        yield Contender("PyTorch, dense, half", "PyTorch half", 0.0, in_torch(half, device, torch.half), False)
        found = in_torch(sparse_torch.two_of_four(half), device, torch.half)
        yield Contender("PyTorch, 2:4, half", "PyTorch half", 0.5, found, False)
    for sparsity in sparsities:
        variables = pruned(dense, sparsity)
        yield Contender("onnxruntime, zeros stored", "onnxruntime", sparsity, onnx(subject, variables))
        network = sparse_torch.csr(subject.in_torch(variables, device))
        yield Contender("PyTorch, CSR", "PyTorch", sparsity, in_torch(network, device))


def compare(subject: Subject, batch_size: int, options: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    """Lets all ways to run a network take turns; returns their figures, JSON-ready.

    Raises:
        RunError: two ways give different logits of the same weights.
    """
    images = np.random.default_rng(0).normal(size=(batch_size, *subject.image_shape)).astype(np.float32)
    found = list(contenders(subject, options.sparsities, device))
    check(subject, images, found)
    for _ in range(options.rounds):
        for contender in found:
            contender.round(images, options.round_seconds)
    dense = {contender.runtime: contender.median for contender in found if contender.sparsity == 0}
    return [
        {
            "arch": subject.arch,
            "batch_size": batch_size,
            "label": contender.label,
            "sparsity": contender.sparsity,
            "seconds": contender.median,
            "images_per_second": batch_size / contender.median,
            "time_to_dense": contender.median / dense[contender.runtime],
            "rounds": contender.seconds,
        }
        for contender in found
    ]


def check(subject: Subject, images: np.ndarray, found: list[Contender]) -> None:
    """Holds the logits of all contenders equal to XLA's of the same weights; warms them up by that."""
    for contender in found:
        logits = contender.run(images)
        if contender.checked:
            wanted = xla(subject.model, pruned(subject.dense, contender.sparsity))(images)
            difference = np.max(np.abs(logits - wanted)) / np.max(np.abs(wanted))
            if not difference <= CLOSE:
                raise RunError(f"{subject.arch}: {contender.label}: its logits are off by {difference:.2g}")


def sizes(subject: Subject, sparsities: list[float]) -> list[dict[str, Any]]:
    """Returns what zeros give in size and in multiply-adds, which no clock decides."""
    rows = []
    for sparsity in (0.0, *sparsities):
        variables = pruned(subject.dense, sparsity)
        data = b"".join(array.tobytes() for array in subject.state(variables).values())
        cost = flops(subject.model, variables.params, subject.image_shape)
        rows.append(
            {"arch": subject.arch, "sparsity": sparsity, "bytes": len(data), "deflated_bytes": len(zlib.compress(data))}
            | {"multiply_adds": cost["nonzero"], "theoretical_speedup": cost["speedup"]}
        )
    return rows


def table(found: list[dict[str, Any]], sized: list[dict[str, Any]], about: dict[str, Any], rounds: int) -> str:
    """Writes the figures as Markdown."""
    heads = ["network", "batch", "how", "zeros", "ms per batch", "images/s", "time / dense of the same runtime"]
    lines = [heads, ["---"] * len(heads)]
    for row in found:
        cells = [row["arch"], str(row["batch_size"]), row["label"], f"{row['sparsity']:.0%}"]
        cells += [f"{1e3 * row['seconds']:.2f}", f"{row['images_per_second']:.0f}", f"{row['time_to_dense']:.2f}"]
        lines.append(cells)
    heads = ["network", "zeros", "multiply-adds of dense / of this", "MB as float32", "MB compressed (zlib)"]
    more = [heads, ["---"] * len(heads)]
    for row in sized:
        cells = [row["arch"], f"{row['sparsity']:.0%}", f"{row['theoretical_speedup']:.1f}"]
        more.append([*cells, f"{row['bytes'] / 1e6:.2f}", f"{row['deflated_bytes'] / 1e6:.2f}"])
    text, sizes = ("".join(f"| {' | '.join(cells)} |\n" for cells in rows) for rows in (lines, more))
    return (
        f"Inference in float32; median of {rounds} rounds in which all take turns. {about['device']}, "
        f"{about['processor']}, {about['n_cores']} threads; onnxruntime {about['onnxruntime']} (on the CPU), PyTorch "
        f"{about['torch']}, jax {about['jax']}; load {about['load']:.1f} at the start.\n\n{text}\n{sizes}\n"
        "Every layer has the same share of zeros. Where they are left out, a convolution is a product with unfolded "
        "images, and the unfolding is in its time.\n"
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small network, some seconds")
    parser.add_argument("--archs", nargs="+", help="names as for --config.arch")
    parser.add_argument("--sparsities", nargs="+", type=float, help="shares of zeros")
    parser.add_argument("--batch-sizes", nargs="+", type=int)
    parser.add_argument("--image-size", type=int, default=32, help="pixels to a side")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--round-seconds", type=float, help="least time that one round of one contender takes")
    parser.add_argument("--results", type=Path, default=machine.RESULTS, help="where the table is stored")
    options = parser.parse_args(arguments)
    for name, value in DEFAULTS["quick" if options.quick else "full"].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and stores the comparison."""
    devices.configure()
    options = parse(arguments)
    device = peers.device(jax.default_backend())
    peers.prepare(device)
    about = machine.describe() | peers.describe(device) | {"load": os.getloadavg()[0]}
    about["onnxruntime"] = onnxruntime.__version__
    found, sized = [], []
    for arch in options.archs:
        subject = Subject.named(arch, options.image_size)
        for batch_size in options.batch_sizes:
            found += compare(subject, batch_size, options, device)
        sized += sizes(subject, options.sparsities)
    text = table(found, sized, about, options.rounds)
    print(text)
    settings = {name: value for name, value in vars(options).items() if name != "results"}
    result = {"about": about, "options": settings, "rows": found, "sizes": sized}
    name = "sparse-inference-quick" if options.quick else "sparse-inference"
    print(f"stored in {machine.save(name, result, text, options.results)}")


if __name__ == "__main__":
    main()
