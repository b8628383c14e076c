"""What an epoch's line says of the models beside their training: validation, sparsity, how far they have come.

Programs of their own compute it from the weights as they are; training takes the same steps with or without.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import trees
from ssoup_jax.data.feeds import Feed, n_batches
from ssoup_jax.metrics import compensated
from ssoup_jax.metrics.predictions import summarise
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning.masks import prunable_leaves
from ssoup_jax.stack import executors, held
from ssoup_jax.stack.held import Held
from ssoup_jax.training import evaluate
from ssoup_jax.training.classify import Classifier
from ssoup_jax.training.loop import Progress, Snapshot
from ssoup_jax.trees import PyTree

MOST = 0.03
"""Share of a training's cost that its curves may have where nobody says how often they are drawn."""

PASSES = 3
"""What a training step takes of an image, in forward passes: one, and twice as many multiply-adds backward."""


def cost(feed: Feed) -> float:
    """Returns what one validation costs as a share of an epoch of training: counted, never timed.

    On the device an image of either costs its passes; of streamed ones it is decoding that counts, once for either.

    Args:
        feed: has the splits; the last block of a validation counts as full.
    """
    n_forwarded = evaluate.BLOCK_SIZE * n_batches(feed.sizes["val"], evaluate.BLOCK_SIZE)
    return n_forwarded / (PASSES * feed.sizes["train"]) if feed.whole else feed.sizes["val"] / feed.sizes["train"]


def interval(evaluate_every: int | None, feed: Feed) -> int:
    """Returns after how many epochs each there is a validation.

    Args:
        evaluate_every: the setting; 0: never. None: as often as costs at most `MOST` of training.
        feed: see `cost`.
    """
    return max(1, math.ceil(cost(feed) / MOST)) if evaluate_every is None else evaluate_every


def said(every: int, feed: Feed) -> str:
    """Says in a line how often there is a validation, and what that costs."""
    how_often = "epoch" if every == 1 else f"{every} epochs"
    return f"validation: every {how_often}, {cost(feed) / every:.1%} of training by count (evaluate_every)"


class Curves:
    """Looks at the members of a stack at the end of an epoch.

    Args:
        classifier: the network, and how it sees images.
        feed: has the validation split.
        starts: the parameters that each member started from, on the host; one object where they are the same.
        mask: says what is prunable, see `metrics.sparsity`.
        n_steps: how many steps each member takes, int `[m]`.
        batch_size: of these steps.
        every: epochs between two looks; a member is looked at after its last one, too. 0: never.
        on_line: told what does not fit into memory.
    """

    def __init__(
        self,
        classifier: Classifier,
        feed: Feed,
        starts: Sequence[PyTree],
        mask: PyTree,
        n_steps: np.ndarray,
        batch_size: int,
        every: int,
        on_line: Callable[[str], None] = lambda line: None,
    ):
        self._classifier, self._feed, self._on_line = classifier, feed, on_line
        each, places = trees.distinct(starts)
        self._starts, self._start_of = trees.stack(jax.device_get(each)), np.array(places, np.int32)
        per_epoch = n_batches(feed.sizes["train"], batch_size)
        self._n_epochs = -(-np.asarray(n_steps) // per_epoch)
        self._every = every
        self._prunable = tuple(prunable_leaves(starts[0], mask))
        sizes = {name: int(np.size(leaf)) for name, leaf in trees.named_leaves(starts[0]).items()}
        self._sizes = sum(sizes.values()), sum(sizes[name] for name in self._prunable)
        self._fitting: dict[str, str] = {}  # the executor of a validation, by that of the training

    def at(self, progress: Progress, snapshot: Snapshot) -> dict[int, dict[str, Any]]:
        """Returns the figures of the members that are to be looked at now, by index; all processes ask for them.

        One that diverged has none: what became of it depends on where a chunk of steps happened to end.

        Returns:
            For each member `val`, see `metrics.prediction_metrics`, with the time it took for the whole stack;
            `sparsity`, of all and of the prunable weights; `distance_to_start`, the L2 distance of all parameters;
            `distance_to_origin`, the L2 norm of the prunable weights.
        """
        epoch = progress.epoch + 1
        if not progress.epoch_done or not self._every:
            return {}
        due = (self._n_epochs >= epoch) & ((epoch % self._every == 0) | (self._n_epochs == epoch))
        looked_at = [int(i) for i in np.flatnonzero(due) if int(i) not in snapshot.diverged]
        return self._look(held.combine(_variables, snapshot.state), progress.execution, looked_at) if looked_at else {}

    def _look(self, stack: Held, execution: str, members: list[int]) -> dict[int, dict[str, Any]]:
        """Forwards all members, so that one program serves however many are left, and reports some."""
        arguments = self._classifier, self._feed, stack, "val"
        if execution not in self._fitting:
            self._fitting[execution] = evaluate.fit(*arguments, execution, self._on_line)
        started = time.perf_counter()
        sums = evaluate.count(*arguments, self._fitting[execution], fits=True)
        seconds = time.perf_counter() - started
        speed = {"seconds": seconds, "images_per_second": len(sums) * self._feed.sizes["val"] / seconds}
        weights = self._weights(stack, execution)
        return {i: {"val": summarise(sums[i]) | speed, **weights[i]} for i in members}

    def _weights(self, stack: Held, execution: str) -> list[dict[str, Any]]:
        starts = executors.place(execution, self._starts)
        inputs = stack, self._start_of
        found = executors.run(execution, executors.bind(_of_weights, self._prunable), starts, (), inputs)[1]
        return [self._of_member(own) for own in trees.unstack(jax.device_get(held.together(found)))]

    def _of_member(self, found: dict[str, Any]) -> dict[str, Any]:
        shares = [int(zeros) / size if size else 0.0 for zeros, size in zip(found["zeros"], self._sizes, strict=True)]
        return {
            "sparsity": dict(zip(("global", "prunable"), shares, strict=True)),
            "distance_to_start": math.sqrt(found["moved"].exact()),
            "distance_to_origin": math.sqrt(found["square"].exact()),
        }


def _variables(state) -> Variables:
    return state.variables


def _of_weights(
    prunable: tuple[str, ...], starts: PyTree, state: tuple, inputs: tuple[Variables, jax.Array]
) -> tuple[tuple, PyTree]:
    """Counts zeros, of all and of the prunable weights, and sums squares, of one member."""
    variables, start_of = inputs
    own, before = trees.named_leaves(variables.params), trees.named_leaves(trees.member(starts, start_of))

    def zeros(names) -> jax.Array:
        return sum((jnp.sum(own[name] == 0, dtype=jnp.int32) for name in names), jnp.int32(0))

    return state, {
        "zeros": (zeros(own), zeros(prunable)),
        "moved": _square([own[name] - before[name] for name in own]),
        "square": _square([own[name] for name in prunable]),
    }


def _square(arrays: list[jax.Array]) -> compensated.Sum:
    parts = [compensated.total(jnp.ravel(array).astype(jnp.float32) ** 2, axis=0) for array in arrays]
    found = compensated.Sum(jnp.float32(0), jnp.float32(0))
    for part in parts:
        found = compensated.add(found, part)
    return found
