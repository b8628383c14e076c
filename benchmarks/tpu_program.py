"""The training step compiled for TPUs that are not there: `python -m benchmarks.tpu_program --topology v5e:2x4`.

Nothing runs: libtpu compiles for a described topology and says what the program takes. What is looked at is the program
that a dispatch calls, with a block of batches and all training images of it on the device. An executor of one device
takes the first chip of the first topology; one of a mesh, such as `2x4:map`, and `shard`, which stands for the mesh
that suits the members, take all chips of each:

    python -m benchmarks.tpu_program --arch ResNet50 --data imagenet --members 8 --batch-size 256 \
        --executions loop shard --topology v5e:2x4 v5e:4x4 v5e:4x8 v5e:8x8 v5e:8x16 v5e:16x16

Seconds are an estimate from operations, bytes moved and exchanges, not a measurement: see `compiled`.
"""

import argparse
import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies

from benchmarks import compiled, machine
from benchmarks.compiled import CHIPS
from ssoup_jax import models
from ssoup_jax.data.augment import ENCODED_TRANSFORM, TRANSFORMS, Transform
from ssoup_jax.data.feeds import Examples
from ssoup_jax.errors import SettingsError, UserError, unknown
from ssoup_jax.stack import executors, names
from ssoup_jax.training import classify
from ssoup_jax.training.classify import Classifier
from ssoup_jax.training.step import Inputs, Shared, TrainState, train_steps


@dataclasses.dataclass(frozen=True)
class Data:
    """What a program is compiled for.

    Attributes:
        shape: of an image.
        n_classes: how many.
        transform: how the network sees them.
        n_images: on the device.
        n_batches: of a block.
    """

    shape: tuple[int, int, int]
    n_classes: int
    transform: Transform
    n_images: int
    n_batches: int


def data(name: str, m: int, batch_size: int) -> Data:
    """Returns a data set: CIFAR-10 stays on the device; of ImageNet there is a block of one step, each member's own."""
    if name == "cifar10":
        return Data((32, 32, 3), 10, TRANSFORMS["cifar10"], 50_000, 64)
    return Data((224, 224, 3), 1000, ENCODED_TRANSFORM, m * batch_size, 1)


def devices(topology: str) -> Sequence[Any]:
    """Returns the devices of a topology, described and not there.

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
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # whatever libtpu says of a name it does not know
        raise SettingsError(f"--topology: {topology!r} is not known to libtpu ({str(error).splitlines()[0]})") from None


def arguments(arch: str, m: int, batch_size: int, dtype: str, data: Data) -> tuple[Any, Shared, TrainState, Inputs]:
    """Returns what `executors.run` takes for a block of steps, as shapes: the task, and the arguments of its steps."""
    model = models.build(arch, data.n_classes, data.shape, dtype=jnp.dtype(dtype))
    classifier = Classifier(model, data.transform, data.shape)
    task, constants = classify.task(classifier), ("weight_decay", "momentum")

    def state() -> TrainState:
        variables = classifier.init(jax.random.key(0))
        optimizer = task.optimizer(learning_rate=jnp.float32(0), **dict.fromkeys(constants, jnp.float32(0)))
        mask = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, bool), variables.params)
        return TrainState(variables, optimizer.init(variables.params), mask)

    def stacked(shape: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((m, *shape.shape), shape.dtype)

    def of(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    counter = of((), np.int32)
    examples = Examples(of((data.n_images, math.prod(data.shape)), np.uint8), of((data.n_images,), np.int32))
    inputs = Inputs(
        batches=of((m, data.n_batches, batch_size), np.int32),
        constants={name: of((m,), np.float32) for name in constants},
        schedules={"learning_rate": of((m, data.n_batches), np.float32)},
        key=of((m, 2), np.uint32),
    )
    shared = Shared(examples, counter, counter, counter)
    return task, shared, jax.tree.map(stacked, jax.eval_shape(state)), inputs


def look(execution: str, options: argparse.Namespace, topology: str, chips: Sequence[Any]) -> dict[str, Any]:
    """Compiles one executor's program and reads what it takes.

    Args:
        execution: full name.
        options: what is compiled.
        topology: whose the chips are.
        chips: all of a mesh, or one.
    """
    about, m = data(options.data, options.members, options.batch_size), options.members
    task, *shapes = arguments(options.arch, m, options.batch_size, options.dtype, about)
    fn = executors.bind(train_steps, task, axis=executors.over(execution))
    started = time.perf_counter()
    # Layers ask which backend they are traced for.
    with mock.patch.object(jax, "default_backend", lambda: "tpu"):
        program = executors.lowered(execution, fn, *shapes, chips).compile()
    print(f"{topology} {execution}: compiled in {time.perf_counter() - started:.0f} s", flush=True)
    memory, cost, text = program.memory_analysis(), program.cost_analysis(), program.as_text()
    name, _, mesh = names.parse(execution)
    groups, cut = mesh or (1, 1)
    each = 1 if name == "loop" else -(-m // groups)  # members of a chip
    # A loop's body is counted once, however often it runs, so these are figures of one step.
    counted = 1 if name in ("loop", "map") else each
    found = compiled.collectives(text)
    in_step = [one for one in found if one.in_step] * (each // counted)
    chip = CHIPS[topology.split(":")[0]]
    flops, moved = (each * cost.get(key, math.nan) / counted for key in ("flops", "bytes accessed"))
    compute, exchange = compiled.compute_seconds(flops, moved, chip), compiled.exchange_seconds(in_step, cut, chip)
    return {
        "topology": topology,
        "chips": len(chips),
        "execution": execution,
        "members_per_chip": each,
        "images_per_chip": options.batch_size // cut,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        "copied_images": compiled.copies(text, about.n_images * math.prod(about.shape)),
        "flops": flops,
        "bytes_moved": moved,
        "collectives_per_step": len(in_step),
        "collective_bytes_per_step": sum(one.n_bytes for one in in_step),
        "collectives_per_dispatch": sum(not one.in_step for one in found),
        "compute_seconds": compute,
        "exchange_seconds": exchange,
        "step_seconds": compute + exchange,
    }


def table(rows: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """Lays out what was found, in Markdown."""
    about, m = data(options.data, options.members, options.batch_size), options.members
    alone = next((row for row in rows if row["execution"] == "loop"), None)
    lines = [
        f"# {options.arch}, m = {m}, batch {options.batch_size}, {options.dtype}, for {', '.join(options.topology)}: "
        "compiled, not run",
        "",
        f"{about.n_images:,} images of {'x'.join(map(str, about.shape))} on every chip; jax {jax.__version__}. A step "
        "is one of all members that a chip has; `loop` has one. Its seconds are estimated: operations or bytes moved "
        "at the chip's published rates, whichever is more, and the exchanges between chips one after another, each "
        f"{compiled.SMALL_SECONDS * 1e6:.0f} us x (1 + 0.05 sqrt(chips - 1)) and its bytes over one link. Efficiency: "
        "the time of `loop`, times the members, over the chips' time.",
        "",
        "| chips | executor | members x images a chip | arguments GB | temporaries GB | copies of all images | GFLOP "
        "| GB moved | exchanges a step | MB exchanged | ms computing | ms exchanging | efficiency |",
        "| --- " * 13 + "|",
    ]
    for row in rows:
        share = f"{compiled.efficiency(alone, row, m):.0%}" if alone and row["chips"] > 1 else "-"
        lines.append(
            f"| {row['chips']} ({row['topology']}) | `{row['execution']}` | {row['members_per_chip']} x "
            f"{row['images_per_chip']} | {row['argument_bytes'] / 1e9:.3f} | "
            f"{row['temporary_bytes'] / 1e9:.3f} | {', '.join(row['copied_images']) or 'none'} | "
            f"{row['flops'] / 1e9:.2f} | {row['bytes_moved'] / 1e9:.3f} | {row['collectives_per_step']} | "
            f"{row['collective_bytes_per_step'] / 1e6:.1f} | {1e3 * row['compute_seconds']:.2f} | "
            f"{1e3 * row['exchange_seconds']:.2f} | {share} |"
        )
    return "\n".join(lines) + "\n"


def programs(options: argparse.Namespace) -> list[tuple[str, str, Sequence[Any]]]:
    """Lists what is to be compiled: the executor's full name, the topology, the chips.

    Raises:
        SettingsError: a name or a mesh is not possible.
    """
    found = []
    for number, topology in enumerate(options.topology):
        chips = devices(topology)
        load = names.Load(options.members, True, options.batch_size)
        for asked in options.executions:
            execution = names.rule(asked, "tpu", len(chips), load)
            mesh = names.parse(execution).mesh
            if mesh is not None:
                names.check_mesh(mesh, len(chips), options.batch_size)
                found.append((execution, topology, chips))
            elif not number:
                found.append((execution, topology, chips[:1]))
    return found


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--topology", nargs="+", default=["v5e:2x4"], help="such as v4:2x2x1, v5e:2x4, v5e:16x16, v5p:2x2x1, v6e:2x4"
    )
    parser.add_argument("--arch", default="ResNet18")
    parser.add_argument("--data", choices=("cifar10", "imagenet"), default="cifar10")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--executions", nargs="+", default=["loop", "map", "vmap", "unroll"])
    parser.add_argument("--results", type=Path, default=machine.RESULTS)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Compiles, prints and stores the table; returns the exit code."""
    options = parse(given)
    # The host only traces; a TPU that is there is left alone.
    jax.config.update("jax_platforms", "cpu")
    try:
        models.check_arch(options.arch)
        todo = programs(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    rows = []
    for execution, topology, chips in todo:
        rows.append(look(execution, options, topology, chips))
        store(rows, options)
    print(table(rows, options))
    return 0


def store(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Writes what was found so far as JSON and as a table."""
    largest = options.topology[-1].replace(":", "-")
    stem = options.results / f"tpu-program-{largest}-{options.arch}-m{options.members}".lower()
    stem.with_suffix(".md").write_text(table(rows, options))
    about = {key: value for key, value in vars(options).items() if key != "results"}
    found = {"jax": jax.__version__, "options": about, "programs": rows}
    stem.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
