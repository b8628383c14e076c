"""Training steps of a stack of members against PyTorch's: `python -m benchmarks.step [--quick]`.

Everything a step does is in the figure: batches gathered and augmented, forward and backward pass, masked SGD, loss
and accuracy. All ways of running it take turns in one process, so that a change of the machine's speed hits them all,
and what is compared are medians over the rounds. Compilation is reported apart. Without options it measures what a
CPU can bear in some minutes; on a GPU, the four networks of the reference with up to ten members.
"""

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssoup_jax import devices

# PyTorch needs room beside JAX, which would otherwise take most of a GPU's memory at its start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine, peers
from ssoup_jax import models, trees
from ssoup_jax.data.augment import TRANSFORMS
from ssoup_jax.data.feeds import Examples
from ssoup_jax.metrics import layer_multiply_adds
from ssoup_jax.pruning.masks import full_mask
from ssoup_jax.stack import executors, memory, names
from ssoup_jax.training import classify
from ssoup_jax.training.classify import Classifier
from ssoup_jax.training.step import Inputs, Shared, init, train_steps

N_CLASSES, IMAGE_SHAPE, N_IMAGES = 10, (32, 32, 3), 2048
TRANSFORM = TRANSFORMS["cifar10"]
# A block of batches on the device; more of them make a program no different.
N_BATCHES = 64

DEFAULTS: dict[str, dict[str, Any]] = {
    "quick": {
        "archs": ["ResNet8"],
        "members": [1, 3],
        "executions": ["loop", "unroll"],
        "peers": ["loader", "eager"],
        "batch_size": 64,
        "dtype": "float32",
        "rounds": 5,
        "round_seconds": 0.5,
        "matmul_size": 2048,
    },
    "cpu": {
        "archs": ["ResNet20", "ResNet8x4"],
        "members": [1, 3],
        "executions": ["loop", "map", "unroll"],
        "peers": list(peers.HOWS),
        "batch_size": 64,
        "dtype": "float32",
        "rounds": 7,
        "round_seconds": 0.5,
        "matmul_size": 2048,
    },
    "gpu": {
        "archs": ["ResNet20", "ResNet56", "ResNet18", "WideResNet20"],
        "members": [1, 3, 5, 10],
        "executions": ["loop", "map", "vmap", "vmap:4", "unroll", "unroll:4"],
        "peers": list(peers.HOWS),
        "batch_size": 128,
        "dtype": "bfloat16",
        "rounds": 7,
        "round_seconds": 0.5,
        "matmul_size": 8192,
    },
}


@dataclass
class Contender:
    """One way to train, and what was found about it.

    Attributes:
        how: an executor, or one of `peers.HOWS`.
        label: what the table calls it.
        m: members that are trained at once.
        steps: takes that many training steps of all members and waits for the end.
        compile_seconds: time before the first step could begin.
        peak_bytes: memory that a step takes; None: unknown.
        note: what a reader should know.
        count: steps in a round.
        seconds: of each round, per step and member.
    """

    how: str
    label: str
    m: int
    steps: Callable[[int], None]
    compile_seconds: float = 0.0
    peak_bytes: int | None = None
    note: str = ""
    count: int = 1
    seconds: list[float] = field(default_factory=list)

    def choose_count(self, budget: float) -> None:
        """Chooses how many steps a round takes, so that it lasts at least the budget, and warms up."""
        self.steps(1)
        started = time.perf_counter()
        self.steps(1)
        self.count = max(1, min(N_BATCHES, round(budget / (time.perf_counter() - started))))

    def round(self) -> None:
        """Measures once."""
        started = time.perf_counter()
        self.steps(self.count)
        self.seconds.append((time.perf_counter() - started) / (self.count * self.m))

    @property
    def median(self) -> float:
        """Seconds per step and member."""
        return statistics.median(self.seconds)


def images(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws images and labels; what is on them does not change the speed."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (N_IMAGES, *IMAGE_SHAPE)).astype(np.uint8)
    return pixels, random.integers(0, N_CLASSES, N_IMAGES).astype(np.int32)


def ours(arch: str, m: int, execution: str, batch_size: int, dtype: str) -> Contender:
    """Makes a stack of members that are trained by the package's own step."""
    # The networks that PyTorch trains here have no dropout either.
    model = models.build(arch, N_CLASSES, IMAGE_SHAPE, dtype=jnp.dtype(dtype), dropout=False)
    classifier = Classifier(model, TRANSFORM, IMAGE_SHAPE)
    task = classify.task(classifier)
    fn = executors.bind(train_steps, task)
    variables = jax.device_get(jax.jit(classifier.init)(jax.random.key(0)))
    random = np.random.default_rng(1)
    mask = jax.tree.map(lambda leaf: random.random(leaf.shape) < 0.5, full_mask(variables.params))
    inputs = Inputs(
        batches=random.integers(0, N_IMAGES, (m, N_BATCHES, batch_size)).astype(np.int32),
        constants={"weight_decay": np.full(m, 1e-4, np.float32), "momentum": np.full(m, 0.9, np.float32)},
        schedules={"learning_rate": np.full((m, N_BATCHES), 0.01, np.float32)},
        key=jax.device_get(jax.random.key_data(jax.random.split(jax.random.key(1), m))),
    )
    start = init(task, [*inputs.constants, *inputs.schedules], trees.stack([variables] * m), mask)
    pixels, labels = images()
    examples = executors.place(execution, Examples(pixels.reshape(N_IMAGES, -1), labels))
    state, inputs = executors.hold(execution, start), executors.hold(execution, inputs)

    def shared(count: int) -> Shared:
        return Shared(examples, *jax.device_put(tuple(np.array([0, 0, count], np.int32))))

    def steps(count: int) -> None:
        nonlocal state
        state, figures = executors.run(execution, fn, shared(count), state, inputs)
        jax.device_get(figures)

    started = time.perf_counter()
    programs = executors.compiled(execution, fn, shared(0), state, inputs)
    seconds = time.perf_counter() - started
    peak = memory.n_bytes((start, examples)) + max(map(memory.beyond_arguments, programs))
    return Contender(execution, f"ours, `{execution}`", m, steps, seconds, peak)


def theirs(how: str, arch: str, batch_size: int, dtype: str, device: str) -> Contender:
    """Makes a PyTorch trainer; members are trained one after another, so that one of them is all there is to time."""
    trainer = peers.Trainer(how, arch, *images(), N_CLASSES, TRANSFORM, batch_size, dtype, device)
    return Contender(
        how, peers.LABELS[how], 1, trainer.steps, trainer.compile_seconds, trainer.peak_bytes(), trainer.note
    )


def compare(arch: str, options: argparse.Namespace, device: str) -> list[Contender]:
    """Lets all ways to train one network take turns."""
    contenders = [theirs(how, arch, options.batch_size, options.dtype, device) for how in options.peers]
    for m in options.members:
        # One member is one member, however a stack executes.
        for execution in options.executions[: 1 if m == 1 else None]:
            contenders.append(ours(arch, m, execution, options.batch_size, options.dtype))
            print(f"{arch}, m = {m}, {execution}: compiled in {contenders[-1].compile_seconds:.1f} s", flush=True)
    for contender in contenders:
        contender.choose_count(options.round_seconds)
    for _ in range(options.rounds):
        for contender in contenders:
            contender.round()
    return contenders


def peak_rate(dtype: str, device: str, size: int) -> float:
    """Measures the fastest large matrix multiplication, by JAX or by PyTorch, in floating-point operations a second."""
    operand = jnp.ones((size, size), dtype)
    repeats = 1 if device == "cpu" else 20
    multiply = jax.jit(lambda a: a @ a)

    def once() -> float:
        started = time.perf_counter()
        products = [multiply(operand) for _ in range(repeats)]
        jax.block_until_ready(products)
        return (time.perf_counter() - started) / repeats

    torch_once = peers.matmul_seconds(size, dtype, device)
    once(), torch_once()
    return 2 * size**3 / min(min(once(), torch_once()) for _ in range(5))


def rows(arch: str, contenders: list[Contender], options: argparse.Namespace, peak: float) -> list[dict[str, Any]]:
    """Returns the figures of one network, JSON-ready."""
    model = models.build(arch, N_CLASSES, IMAGE_SHAPE, dropout=False)
    # The backward pass is two convolutions for each one of the forward pass, and a multiply-add is two operations.
    work = 3 * 2 * sum(layer_multiply_adds(model, IMAGE_SHAPE).values()) * options.batch_size
    medians = {contender.how: contender.median for contender in contenders if contender.how in peers.HOWS}
    return [
        {
            "arch": arch,
            "m": contender.m,
            "how": contender.how,
            "label": contender.label,
            "seconds_per_member_step": contender.median,
            "images_per_second": options.batch_size / contender.median,
            "images_per_second_and_member": options.batch_size / contender.median / contender.m,
            "ratio_to": {how: contender.median / median for how, median in medians.items()},
            "compile_seconds": contender.compile_seconds,
            "peak_bytes": contender.peak_bytes,
            "flops_per_member_step": work,
            "share_of_peak": work / contender.median / peak,
            "note": contender.note,
            "rounds": contender.seconds,
            "steps_per_round": contender.count,
        }
        for contender in contenders
    ]


def table(found: list[dict[str, Any]], options: argparse.Namespace, peak: float, about: dict[str, Any]) -> str:
    """Writes the figures as a Markdown table."""
    hows = [how for how in options.peers if any(how in row["ratio_to"] for row in found)]
    heads = ["network", "m", "how", "ms per member and step", "images/s in all", "images/s per member"]
    heads += [f"time / {how}" for how in hows] + ["compile s", "peak MiB", "share of matmul rate"]
    lines = [heads, ["---"] * len(heads)]
    for row in found:
        cells = [row["arch"], str(row["m"]), row["label"], f"{1e3 * row['seconds_per_member_step']:.1f}"]
        cells += [f"{row['images_per_second']:.0f}", f"{row['images_per_second_and_member']:.0f}"]
        cells += [f"{row['ratio_to'][how]:.2f}" for how in hows]
        memory = "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}"
        lines.append([*cells, f"{row['compile_seconds']:.1f}", memory, f"{row['share_of_peak']:.0%}"])
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    notes = sorted({f"{row['label']}: {row['note']}" for row in found if row["note"]})
    limited = options.scale != "gpu"
    return (
        f"Training steps on random images of {' x '.join(map(str, IMAGE_SHAPE))}, batch {options.batch_size}, "
        f"{options.dtype}; median of {options.rounds} rounds in which all take turns. "
        f"{about['device']}, {about['processor']}, {about['n_cores']} threads for JAX, "
        f"{about['torch_threads']} for PyTorch {about['torch']}; load {about['load']:.1f} at the start. "
        f"Largest matrix multiplication: {peak / 1e9:.0f} GFLOP/s.\n\n{text}\n"
        "PyTorch trains members one after another: a member's time is the same for every m. "
        "Peak memory: of ours, the stack, the images and what the program takes beyond them; PyTorch on a CPU does not "
        "tell.\n"
        + ("The set is limited to what a CPU finishes in some minutes; `--help` names what else there is.\n" * limited)
        + "".join(f"{note}\n" for note in notes)
    )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line; what is not given depends on the device and on `--quick`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small network, under two minutes on two cores")
    parser.add_argument("--archs", nargs="+", help="names as for --config.arch")
    parser.add_argument("--members", nargs="+", type=int)
    parser.add_argument("--executions", nargs="+", help="executors: " + ", ".join(names.FORMS))
    parser.add_argument("--peers", nargs="*", choices=peers.HOWS)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--round-seconds", type=float, help="least time that one round of one contender takes")
    parser.add_argument("--matmul-size", type=int, help="rows of the square matrices that give the highest rate")
    parser.add_argument("--results", type=Path, default=machine.RESULTS, help="where the table is stored")
    options = parser.parse_args(arguments)
    options.scale = "quick" if options.quick else "cpu" if jax.default_backend() == "cpu" else "gpu"
    for name, value in DEFAULTS[options.scale].items():
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
    peak = peak_rate(options.dtype, device, options.matmul_size)
    found = []
    for arch in options.archs:
        found += rows(arch, compare(arch, options, device), options, peak)
        gc.collect()
    text = table(found, options, peak, about)
    print(text)
    settings = {name: value for name, value in vars(options).items() if name != "results"}
    result = {"about": about, "options": settings, "peak_flops_per_second": peak, "rows": found}
    name = "step-quick" if options.quick else "step"
    print(f"stored in {machine.save(name, result, text, options.results)}")


if __name__ == "__main__":
    main()
