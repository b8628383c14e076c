"""The training step compiled for TPUs that are not there: `python -m benchmarks.tpu_program --topology v5e:2x4`.

Nothing runs: libtpu compiles for a described topology and says what the program takes. The first device of the topology
trains all members, under each executor; what is looked at is the program that a dispatch calls, with a block of batches
and all training images on the device. Seconds are an estimate from operations and bytes moved, not a measurement.
"""

import argparse
import json
import math
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from benchmarks import machine
from ssoup_jax import models
from ssoup_jax.data.augment import TRANSFORMS
from ssoup_jax.data.feeds import Examples
from ssoup_jax.errors import SettingsError, UserError, unknown
from ssoup_jax.stack import executors
from ssoup_jax.training import classify
from ssoup_jax.training.classify import Classifier
from ssoup_jax.training.step import Inputs, Shared, TrainState, train_steps

IMAGE_SHAPE, N_CLASSES, N_IMAGES, N_BATCHES = (32, 32, 3), 10, 50_000, 64


# An operation of a compiled program: its result's type and shape, and what it does.
_RESULT = re.compile(r"\s*(?:ROOT )?%?\S+ = (\w+)\[([\d,]+)\]\S* ([\w-]+)\(")


class Chip(NamedTuple):
    """A chip's published figures: bfloat16 operations and bytes of memory traffic a second, and bytes of memory."""

    flops: float
    bandwidth: float
    memory: float


CHIPS = {
    "v4": Chip(275e12, 1.2e12, 32e9),
    "v5e": Chip(197e12, 0.82e12, 16e9),
    "v5p": Chip(459e12, 2.77e12, 95e9),
    "v6e": Chip(918e12, 1.64e12, 32e9),
}


def device(topology: str) -> Any:
    """Returns the first device of a topology, described and not there.

    Raises:
        SettingsError: no such chip or topology, or libtpu is missing.
    """
    if topology.split(":")[0] not in CHIPS:
        raise unknown("--topology", topology, [f"{chip}:2x4" for chip in CHIPS])
    try:
        import libtpu  # noqa: F401
    except ImportError:
        raise SettingsError(
            "libtpu: not installed, and it is what compiles for TPUs; pip install -r requirements-tpu.txt"
        ) from None
    # Without these it looks for the machine that it believes to be on, for minutes.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices[0]
    except Exception as error:  # whatever libtpu says of a name it does not know
        raise SettingsError(f"--topology: {topology!r} is not known to libtpu ({str(error).splitlines()[0]})") from None


def arguments(arch: str, m: int, batch_size: int, dtype: str) -> tuple[Any, Shared, TrainState, Inputs]:
    """Returns what `executors.run` takes for a block of steps, as shapes: the member's function and its arguments."""
    model = models.build(arch, N_CLASSES, IMAGE_SHAPE, dtype=jnp.dtype(dtype))
    classifier = Classifier(model, TRANSFORMS["cifar10"], IMAGE_SHAPE)
    task, names = classify.task(classifier), ("weight_decay", "momentum")

    def state() -> TrainState:
        variables = classifier.init(jax.random.key(0))
        optimizer = task.optimizer(learning_rate=jnp.float32(0), **dict.fromkeys(names, jnp.float32(0)))
        mask = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), variables.params)
        return TrainState(variables, optimizer.init(variables.params), mask)

    def stacked(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((m, *shape.shape), shape.dtype)

    def of(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    counter = of((), np.int32)
    examples = Examples(of((N_IMAGES, math.prod(IMAGE_SHAPE)), np.uint8), of((N_IMAGES,), np.int32))
    inputs = Inputs(
        batches=of((m, N_BATCHES, batch_size), np.int32),
        constants={name: of((m,), np.float32) for name in names},
        schedules={"learning_rate": of((m, N_BATCHES), np.float32)},
        key=of((m, 2), np.uint32),
    )
    shared = Shared(examples, counter, counter, counter)
    return executors.bind(train_steps, task), shared, jax.tree.map(stacked, jax.eval_shape(state)), inputs


def look(execution: str, options: argparse.Namespace, chip: Any) -> dict[str, Any]:
    """Compiles one executor's program and reads what it takes."""
    fn, *shapes = arguments(options.arch, options.members, options.batch_size, options.dtype)
    started = time.perf_counter()
    # Layers ask which backend they are traced for.
    with mock.patch.object(jax, "default_backend", lambda: "tpu"):
        program = executors.lowered(execution, fn, *shapes, [chip]).compile()
    seconds = time.perf_counter() - started
    memory, cost, text = program.memory_analysis(), program.cost_analysis(), program.as_text()
    # A loop's body is counted once, however often it runs, so these are figures of one step.
    m = 1 if execution in ("loop", "map") else options.members
    return {
        "execution": execution,
        "compile_seconds": seconds,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "copied_images": copied_images(text),
        "flops": cost.get("flops", float("nan")) / m,
        "bytes_moved": cost.get("bytes accessed", float("nan")) / m,
    }


def copied_images(text: str) -> list[str]:
    """Finds the operations of a compiled program whose result is as large as all images, parameters left out."""
    found = []
    for line in text.splitlines():
        match = _RESULT.match(line)
        if match is None or match[3] in ("parameter", "get-tuple-element", "tuple", "bitcast"):
            continue
        if math.prod(map(int, match[2].split(","))) >= N_IMAGES * math.prod(IMAGE_SHAPE):
            found.append(f"{match[3]} {match[1]}[{match[2]}]")
    return found


def step_seconds(row: dict[str, Any], chip: Chip) -> float:
    """Estimates seconds per step and member: operations or traffic at the chip's published rates, whichever is more."""
    return max(row["flops"] / chip.flops, row["bytes_moved"] / chip.bandwidth)


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Lays out what was found, in Markdown."""
    chip = CHIPS[options.topology.split(":")[0]]
    lines = [
        f"# {options.arch}, m = {options.members}, batch {options.batch_size}, {options.dtype}, on one chip of "
        f"{options.topology}: compiled, not run",
        "",
        f"{N_IMAGES:,} images of {'x'.join(map(str, IMAGE_SHAPE))} on the device; jax {jax.__version__}. Seconds are "
        "estimated: operations or bytes moved of one step and member at the chip's published rates, whichever is more.",
        "",
        "| executor | compile s | arguments GB | temporaries GB | copies of all images | GFLOP | GB moved "
        "| ms per step and member |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| `{row['execution']}` | {row['compile_seconds']:.0f} | {row['argument_bytes'] / 1e9:.3f} | "
            f"{row['temporary_bytes'] / 1e9:.3f} | {', '.join(row['copied_images']) or 'none'} | "
            f"{row['flops'] / 1e9:.2f} | {row['bytes_moved'] / 1e9:.3f} | {1e3 * step_seconds(row, chip):.2f} |"
        )
    return "\n".join(lines) + "\n"


def main(given: list[str] | None = None) -> int:
    """Compiles, prints and stores the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--topology", default="v5e:2x4", help="such as v4:2x2x1, v5e:2x4, v5p:2x2x1, v6e:2x4")
    parser.add_argument("--arch", default="ResNet18")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--executions", nargs="+", default=["loop", "map", "vmap", "unroll"])
    parser.add_argument("--results", type=Path, default=machine.RESULTS)
    options = parser.parse_args(given)
    # The host only traces; a TPU that is there is left alone.
    jax.config.update("jax_platforms", "cpu")
    try:
        models.check_arch(options.arch)
        chip = device(options.topology)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    rows = []
    for execution in options.executions:
        rows.append(look(execution, options, chip))
        print(f"{execution}: compiled in {rows[-1]['compile_seconds']:.0f} s", flush=True)
    text = table(rows, options)
    print(text)
    name = f"tpu-program-{options.topology.replace(':', '-')}-{options.arch}-m{options.members}".lower()
    (options.results / f"{name}.md").write_text(text)
    about = {key: value for key, value in vars(options).items() if key != "results"}
    found = {"jax": jax.__version__, "options": about, "programs": rows}
    (options.results / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
