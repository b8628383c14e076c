"""Scores of every member of a stack, or of all as an ensemble: sums over blocks, which never leave the device."""

import contextlib
from collections.abc import Callable, Generator, Iterator

import jax
import numpy as np

from ssoup_jax import rows, trees
from ssoup_jax.data.feeds import Examples, Feed
from ssoup_jax.metrics import predictions
from ssoup_jax.metrics.predictions import Sums
from ssoup_jax.models.variables import Variables
from ssoup_jax.stack import executors, memory, mesh
from ssoup_jax.stack.held import Held, together
from ssoup_jax.training.classify import Classifier

BLOCK_SIZE = 256

_Block = tuple[Examples, jax.Array, jax.Array]


def splits(evaluate_train: bool | None, feed: Feed) -> tuple[str, ...]:
    """Returns the splits that a finished model is scored on.

    Args:
        evaluate_train: whether the training split is one of them; None: if its images are on the device already.
        feed: has the images.
    """
    train = feed.whole if evaluate_train is None else evaluate_train
    return ("train", "val", "test") if train else ("val", "test")


def score(
    classifier: Classifier,
    feed: Feed,
    variables: Held,
    split: str,
    execution: str,
    on_line: Callable[[str], None] = lambda line: None,
) -> list[dict[str, float]]:
    """Scores every member on a split; no augmentation, no dropout, BatchNorm's running statistics.

    Args:
        classifier: the network, and how it sees images.
        feed: has the split's images.
        variables: the stack's, leaves `[m, ...]` or held, see `stack.held`.
        split: its name.
        execution: full name of an executor; where it does not fit into memory, the next smaller one scores.
        on_line: told what does not fit.

    Returns:
        Each member's metrics, see `metrics.prediction_metrics`.
    """
    return [predictions.summarise(own) for own in count(classifier, feed, variables, split, execution, on_line)]


def count(
    classifier: Classifier,
    feed: Feed,
    variables: Held,
    split: str,
    execution: str,
    on_line: Callable[[str], None] = lambda line: None,
    fits: bool = False,
) -> list[Sums]:
    """Counts what metrics are made of for every member on a split, see `score`.

    Args:
        classifier, feed, variables, split, execution, on_line: see `score`.
        fits: that the executor fits into memory is known, see `fit`, and not asked again.

    Returns:
        Each member's, on the host.
    """
    fn, sums = _counting(classifier, variables, execution)
    for fitting, held, block in _blocks(fn, sums, feed, variables, split, execution, on_line, fits):
        # The host waits for nothing here: it only asks for the next block.
        sums, _ = executors.run(fitting, fn, block, sums, held)
    return trees.unstack(jax.device_get(together(sums)))


def fit(
    classifier: Classifier, feed: Feed, variables: Held, split: str, execution: str, on_line: Callable[[str], None]
) -> str:
    """Returns the executor by which `count` runs, see `score`; its program is compiled, and nothing is computed."""
    fn, sums = _counting(classifier, variables, execution)
    with contextlib.closing(_blocks(fn, sums, feed, variables, split, execution, on_line)) as blocks:
        return next(blocks)[0]


def _counting(classifier: Classifier, variables: Held, execution: str) -> tuple[executors.MemberFn, Sums]:
    """Returns the function that counts a block, and each member's sums before the first."""
    sums = predictions.no_sums(classifier.model.n_classes, trees.stack_size(variables))
    return executors.bind(_add_block, classifier, axis=executors.over(execution)), sums


def ensemble_score(
    classifier: Classifier,
    feed: Feed,
    variables: Held,
    split: str,
    execution: str,
    on_line: Callable[[str], None] = lambda line: None,
) -> dict[str, float]:
    """Scores the members' averaged predictions on a split, see `score` and `metrics.ensemble_metrics`."""
    sums = predictions.no_sums(classifier.model.n_classes)
    for block, logits in logits_by_block(classifier, feed, variables, split, execution, on_line):
        examples, positions, counted = block
        # Labels lie on all devices that their images were copied to.
        sums = _add_to_ensemble(sums, *jax.device_put(mesh.on_one((logits, examples.labels, positions, counted))))
    return predictions.summarise(sums)


def logits_by_block(
    classifier: Classifier,
    feed: Feed,
    variables: Held,
    split: str,
    execution: str,
    on_line: Callable[[str], None] = lambda line: None,
) -> Iterator[tuple[_Block, jax.Array]]:
    """Forwards a split through every member, block by block, see `score`.

    Yields:
        The block: examples, positions in them, and which of these count, all `[BLOCK_SIZE]`; and the logits, float32
        `[m, BLOCK_SIZE, C]`.
    """
    fn = executors.bind(_block_logits, classifier)
    for fitting, held, block in _blocks(fn, (), feed, variables, split, execution, on_line):
        yield mesh.on_one((block, executors.run(fitting, fn, block, (), held)[1]))


def _blocks(
    fn: executors.MemberFn,
    state,
    feed: Feed,
    variables: Held,
    split: str,
    execution: str,
    on_line: Callable[[str], None],
    fits: bool = False,
) -> Generator[tuple[str, Held, _Block], None, None]:
    """Yields a split block by block: the executor that fits, the variables as it holds them, and the block."""
    n_examples, held = feed.sizes[split], None
    for number, (examples, positions) in enumerate(feed.evaluation(split, BLOCK_SIZE)):
        counted = jax.device_put(number * BLOCK_SIZE + np.arange(BLOCK_SIZE) < n_examples)
        block = (executors.place(execution, examples), positions, counted)
        if held is None:
            if not fits:
                execution = memory.fit(execution, fn, block, state, variables, on_line=on_line)
            held = executors.hold(execution, variables)
        yield execution, held, block


def _add_block(
    classifier: Classifier, block: _Block, sums: Sums, variables: Variables, axis: str | None
) -> tuple[Sums, tuple]:
    examples, positions, counted = block
    own = rows.take(examples, positions, axis)
    found = predictions.prediction_sums(classifier.logits(variables, own.images), own.labels, rows.own(counted, axis))
    return predictions.add(sums, predictions.over(found, axis) if rows.divide(len(counted), axis) else found), ()


def _block_logits(classifier: Classifier, block: _Block, state: tuple, variables: Variables):
    examples, positions, _ = block
    return state, classifier.logits(variables, examples.images[positions])


@jax.jit
def _add_to_ensemble(
    sums: Sums, logits: jax.Array, labels: jax.Array, positions: jax.Array, counted: jax.Array
) -> Sums:
    return predictions.add(sums, predictions.ensemble_sums(logits, labels[positions], counted))
