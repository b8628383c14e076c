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
from ssoup_jax.pruning.prunable import full_mask
from ssoup_jax.stack import executors
from ssoup_jax.training import loop, optimizer
from ssoup_jax.training.state import TrainState, Variables
from ssoup_jax.training.step import Problem


def retrain(problem, feed, variables, mask, keys, n_epochs, batch_size, execution) -> float:
    """Retrains a stack of as many members as there are keys; returns the seconds it took."""
    stack = trees.stack([variables] * len(keys))
    n_steps = n_epochs * n_batches(len(feed.labels["train"]), batch_size)
    recipe = loop.Recipe(
        learning_rates=[np.linspace(0.1, 0, n_steps, endpoint=False)] * len(keys),
        weight_decays=[1e-4] * len(keys),
        keys=keys,
        momentum=0.9,
        batch_size=batch_size,
        names=[f"member {i}" for i in range(len(keys))],
    )
    started = time.perf_counter()
    state = TrainState(stack, optimizer.init(stack.params))
    state, *_ = loop.train(problem, feed, state, mask, recipe, execution)
    jax.block_until_ready(state)
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
    execution = executors.resolve(options.execution)
    model = models.build(options.arch, dataset.n_classes, dataset.image_shape, conv=executors.convolution(execution))
    problem = Problem(model, dataset.transform)
    variables = jax.device_get(Variables(*models.init(model, jax.random.key(0), dataset.image_shape)))
    keys = jax.random.split(jax.random.key(1), options.members)

    def run(stack_keys):
        return retrain(
            problem,
            feed,
            variables,
            full_mask(variables.params),
            stack_keys,
            options.epochs,
            options.batch_size,
            execution,
        )

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
