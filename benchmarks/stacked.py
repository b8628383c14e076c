"""Retraining m members as one stack against retraining them one after another: `python -m benchmarks.stacked`.

Both train the same epochs of the same network from the same weights, in turn, in one process; compilation is left
out and reported apart. The figure is the ratio of the medians.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from benchmarks import machine
from ssoup_jax import devices, models, trees
from ssoup_jax.data import sources
from ssoup_jax.data.feeds import n_batches, resident
from ssoup_jax.pruning.masks import full_mask
from ssoup_jax.stack import names
from ssoup_jax.training import classify, loop, step
from ssoup_jax.training.classify import Classifier
from ssoup_jax.training.hyper import Hyper
from ssoup_jax.trees import PyTree


def executor(execution: str, params: PyTree, m: int) -> str:
    """Returns the full name of the executor that a setting means for m members."""
    convolutional = any(leaf.ndim == 4 for leaf in jax.tree.leaves(params))
    return names.rule(execution, jax.default_backend(), len(jax.devices()), convolutional, m)


def retrain(classifier, feed, variables, keys, n_epochs, batch_size, execution) -> float:
    """Retrains a stack of as many members as there are keys, nothing pruned; returns the seconds it took."""
    m, task = len(keys), classify.task(classifier)
    n_steps = n_epochs * n_batches(feed.sizes["train"], batch_size)
    hyper = Hyper(
        values={
            "learning_rate": np.tile(np.linspace(0.1, 0, n_steps, endpoint=False), (m, 1)),
            "weight_decay": np.full(m, 1e-4),
            "momentum": np.full(m, 0.9),
        },
        n_steps=np.full(m, n_steps),
        keys=keys,
        names=[f"member {i}" for i in range(m)],
    )
    started = time.perf_counter()
    state = step.init(task, hyper.values, trees.stack([variables] * m), full_mask(variables.params))
    trained = loop.train(task, feed, state, hyper, batch_size, executor(execution, variables.params, m))
    jax.block_until_ready(trained.state)
    return time.perf_counter() - started


def main() -> None:
    """Measures, prints and stores the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="ResNet8")
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--execution", default="auto")
    options = parser.parse_args()
    devices.configure()

    dataset = sources.load("digits")
    feed = resident(dataset)
    model = models.build(options.arch, dataset.n_classes, dataset.image_shape)
    classifier = Classifier(model, dataset.transform, dataset.image_shape)
    variables = jax.device_get(jax.jit(classifier.init)(jax.random.key(0)))
    execution = executor(options.execution, variables.params, options.members)
    keys = jax.random.split(jax.random.key(1), options.members)

    def run(stack_keys):
        return retrain(classifier, feed, variables, stack_keys, options.epochs, options.batch_size, options.execution)

    cold = {"stacked": run(keys), "one": run(keys[:1])}
    times = {"stacked": [], "in turn": []}
    for _ in range(options.rounds):
        times["stacked"].append(run(keys))
        times["in turn"].append(sum(run(keys[i : i + 1]) for i in range(options.members)))
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    ratio = medians["stacked"] / medians["in turn"]
    table = (
        f"{options.arch} on digits, {options.epochs} epochs, batch {options.batch_size}, m = {options.members}, "
        f"execution {execution!r}, median of {options.rounds} rounds\n\n"
        "| how | seconds |\n| --- | --- |\n"
        f"| one stack of {options.members} | {medians['stacked']:.2f} |\n"
        f"| {options.members} single retrains in turn | {medians['in turn']:.2f} |\n"
        f"| ratio | {ratio:.3f} |\n"
    )
    print(table)
    path = machine.save("stacked", {"options": vars(options), "cold": cold, "seconds": times, "ratio": ratio}, table)
    print(f"stored in {path}")


if __name__ == "__main__":
    main()
