"""Retraining m members as one stack against retraining them one after another: `python -m benchmarks.stacked`.

Both take the same steps of the same network from the same weights, in turn, in one process; compilation is left out and
reported apart. The figure is the ratio of the medians. `--arch transformer` is that of `examples/transformer.py`.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import machine
from examples import transformer
from ssoup_jax import devices, from_arrays, hyper, models, stack_members, train_members
from ssoup_jax.data import sources
from ssoup_jax.data.batches import Batches
from ssoup_jax.data.feeds import resident
from ssoup_jax.library.members import executor, load
from ssoup_jax.models.variables import Variables
from ssoup_jax.training import classify
from ssoup_jax.training.classify import Classifier
from ssoup_jax.training.task import Task


def digits(arch: str, batch_size: int) -> tuple[Task, Batches, Variables, dict[str, Any], str]:
    """Returns a network on digits: its task, data, initial values, hyperparameters and what it is."""
    dataset = sources.load("digits")
    feed = resident(dataset)
    classifier = Classifier(
        models.build(arch, dataset.n_classes, dataset.image_shape), dataset.transform, dataset.image_shape
    )
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype), feed.examples)
    batches = Batches(feed, batch_size, like, True, lambda: dataset.fingerprint)
    values = {"learning_rate": lambda step: 0.1 / (1 + step), "weight_decay": 1e-4, "momentum": 0.9}
    start = jax.device_get(jax.jit(classifier.init)(jax.random.key(0)))
    return classify.task(classifier), batches, start, values, f"{arch} on digits"


def text(batch_size: int) -> tuple[Task, Batches, Variables, dict[str, Any], str]:
    """The same for the transformer of the examples."""
    rows, _ = transformer.data(transformer.LARGEST)
    start = Variables(transformer.NETWORK.init(jax.random.key(0), rows[:1, :-1].astype(np.int32))["params"], {})
    what = "the transformer of the examples"
    return transformer.TASK, from_arrays(rows, batch_size), start, {"learning_rate": 1e-3}, what


def main() -> None:
    """Measures, prints and stores the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="ResNet8")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--execution", default="auto")
    options = parser.parse_args()
    devices.configure()
    m = options.members
    made = text(options.batch_size) if options.arch == "transformer" else digits(options.arch, options.batch_size)
    task, batches, start, values, what = made
    keys = jax.random.split(jax.random.key(1), m)
    execution = executor(options.execution, load(task, stack_members([start] * m).params, m, options.batch_size))

    def run(keys: jax.Array) -> float:
        own = hyper(len(keys), options.steps, keys, **values)
        started = time.perf_counter()
        train_members(task, stack_members([start] * len(keys)), batches, own, execution=options.execution)
        return time.perf_counter() - started

    cold = {"stacked": run(keys), "one": run(keys[:1])}
    times = measure(run, keys, options.rounds)
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    ratio = medians["stacked"] / medians["in turn"]
    table = (
        f"{what}, {options.steps} steps, batch {options.batch_size}, m = {m}, "
        f"execution {execution!r}, median of {options.rounds} rounds\n\n"
        "| how | seconds |\n| --- | --- |\n"
        f"| one stack of {m} | {medians['stacked']:.2f} |\n"
        f"| {m} single retrains in turn | {medians['in turn']:.2f} |\n"
        f"| ratio | {ratio:.3f} |\n"
    )
    print(table)
    name = "stacked-transformer" if options.arch == "transformer" else "stacked"
    path = machine.save(name, {"options": vars(options), "cold": cold, "seconds": times, "ratio": ratio}, table)
    print(f"stored in {path}")


def measure(run: Callable[[jax.Array], float], keys: jax.Array, rounds: int) -> dict[str, list[float]]:
    """Runs both in turn, so that a slow minute of the machine does not fall on one of them alone."""
    times = {"stacked": [], "in turn": []}
    for _ in range(rounds):
        times["stacked"].append(run(keys))
        times["in turn"].append(sum(run(keys[i : i + 1]) for i in range(len(keys))))
    return times


if __name__ == "__main__":
    main()
