"""How good predictions are: loss, accuracies and calibration, of one model or of an ensemble of models.

All figures are made of sums over examples, which the device takes block by block; the host only divides.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from ssoup_jax.metrics import compensated
from ssoup_jax.metrics.compensated import Sum

N_BINS = 15

# How many examples of given logits are summed in one call; the last call is filled up to it.
_BLOCK_SIZE = 256


class Sums(NamedTuple):
    """What the metrics of any number of examples are made of; a stack of them has leaves `[m, ...]`.

    Attributes:
        n_labels: how many examples have each class as label, int32 `[C]`.
        n_predicted: for how many it is the prediction, int32 `[C]`.
        n_correct: for how many it is both, int32 `[C]`.
        bin_count: how many examples are in each calibration bin, int32 `[15]`.
        bin_correct: for how many of them the prediction is correct, int32 `[15]`.
        bin_confidence: their confidences, `[15]`.
        loss: the cross-entropies, `[]`.
    """

    n_labels: jax.Array
    n_predicted: jax.Array
    n_correct: jax.Array
    bin_count: jax.Array
    bin_correct: jax.Array
    bin_confidence: Sum
    loss: Sum


SumsOf = Callable[[jax.Array, jax.Array, jax.Array], Sums]


class _Scores(NamedTuple):
    """What the sums need to know of each example; leaves `[B]`."""

    loss: Sum
    predicted: jax.Array
    confidence: jax.Array


def prediction_metrics(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Scores the predictions of one model.

    Args:
        logits: float32 `[N, C]`. Of tied classes the first is the predicted one.
        labels: int `[N]`, in `0 .. C-1`.

    Returns:
        `loss`: mean cross-entropy in nats. `accuracy`: share of correct predictions. `macro_accuracy`: mean recall
        over the classes that are a label or a prediction of any example. `worst_class_accuracy`: smallest recall over
        the classes that are a label of any example. `ece` and `mce`: expected and maximum calibration error over 15
        equal bins of confidence, each open on the left and closed on the right. A logit that is not finite makes
        the affected figures NaN or infinite.

    Raises:
        ValueError: there are no examples, the shapes do not fit, or a label is no class.

    References:
        Guo et al., "On Calibration of Modern Neural Networks", 2017, equations 3 and 5.
    """
    return _metrics(prediction_sums, *_host(logits, labels, ndim=2))


def ensemble_metrics(logits: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Scores the prediction ensemble: the average of the members' class probabilities.

    Args:
        logits: float32 `[m, N, C]`.
        labels: int `[N]`, the true labels.

    Returns:
        The keys of `prediction_metrics`. `loss` is the mean negative logarithm of the averaged probability.

    Raises:
        ValueError: as `prediction_metrics`.
    """
    return _metrics(ensemble_sums, *_host(logits, labels, ndim=3))


def prediction_sums(logits: jax.Array, labels: jax.Array, counted: jax.Array) -> Sums:
    """Sums up the predictions of one model; pure, for use under `jit` and `vmap`.

    Args:
        logits: float32 `[B, C]`.
        labels: int32 `[B]`, in `0 .. C-1`.
        counted: which examples count, bool `[B]`; the others may hold anything.

    Returns:
        The sums over the examples that count.
    """
    _, total, loss = _softmax_parts(logits, labels)
    scores = _Scores(loss, logits.argmax(-1), compensated.reciprocal(total))
    return _sums(scores, labels, counted, logits.shape[-1])


def ensemble_sums(logits: jax.Array, labels: jax.Array, counted: jax.Array) -> Sums:
    """Sums up the predictions of an ensemble, see `ensemble_metrics`.

    Args:
        logits: float32 `[m, B, C]`.
        labels: int32 `[B]`, in `0 .. C-1`.
        counted: which examples count, bool `[B]`; the others may hold anything.

    Returns:
        The sums over the examples that count.
    """
    exponentials, totals, losses = _softmax_parts(logits, jnp.broadcast_to(labels, logits.shape[:-1]))
    probabilities = _mean(exponentials / totals.rounded()[..., None])
    # Averaged as logarithms: a probability too small for a float still has a finite loss.
    own = -losses.rounded()
    largest = own.max(0)
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    loss = compensated.two_sum(-largest, -jnp.log1p(_mean(jnp.expm1(own - largest[None]))))
    scores = _Scores(loss, probabilities.argmax(-1), probabilities.max(-1))
    return _sums(scores, labels, counted, logits.shape[-1])


def no_sums(n_classes: int, *stack: int) -> Sums:
    """Returns the sums over no examples, on the host.

    Args:
        n_classes: C.
        stack: leading axes of all leaves: `m` for a stack, none for one model.
    """
    classes, bins = np.zeros((*stack, n_classes), np.int32), np.zeros((*stack, N_BINS), np.int32)
    return Sums(classes, classes, classes, bins, bins, compensated.zeros(bins.shape), compensated.zeros(stack))


@functools.partial(jax.jit, static_argnames="sums_of")
def add_block(sums_of: SumsOf, sums: Sums, logits: jax.Array, labels: jax.Array, counted: jax.Array) -> Sums:
    """Adds a block of examples to the sums over those before it.

    Args:
        sums_of: `prediction_sums`, `ensemble_sums`, or one of them under `vmap`; always the same object for the same
            work, or it is compiled again.
        sums: over the examples so far.
        logits: see `sums_of`, as for the other arguments.
        labels: the block's.
        counted: which of its examples count.

    Returns:
        The sums over all of them.
    """

    return add(sums, sums_of(logits, labels, counted))


def add(sums: Sums, more: Sums) -> Sums:
    """Adds the sums over some examples to those over others; pure."""

    def is_sum(node) -> bool:
        return isinstance(node, Sum)

    def each(a, b):
        return compensated.add(a, b) if is_sum(a) else a + b

    return jax.tree.map(each, sums, more, is_leaf=is_sum)


def over(sums: Sums, axis: str) -> Sums:
    """Adds up what the devices along a mesh axis have summed; pure."""

    def is_sum(node) -> bool:
        return isinstance(node, Sum)

    def each(parts):
        return compensated.total(parts, axis=0) if is_sum(parts) else parts.sum(0)

    return jax.tree.map(each, jax.lax.all_gather(sums, axis), is_leaf=is_sum)


def summarise(sums: Sums) -> dict[str, float]:
    """Makes the metrics of sums, on the host in float64.

    Args:
        sums: over at least one example.

    Returns:
        See `prediction_metrics`.
    """
    sums = jax.device_get(sums)
    n_labels, n_predicted, n_correct, bin_count, bin_correct = sums[:5]
    n = n_labels.sum()
    present, seen = n_labels > 0, (n_labels > 0) | (n_predicted > 0)
    recall = n_correct / np.maximum(n_labels, 1)
    # |sum of correct - sum of confidence| is a bin's |accuracy - confidence| times its count.
    gap = np.abs(bin_correct - sums.bin_confidence.exact())
    return {
        "loss": float(sums.loss.exact() / n),
        "accuracy": float(n_correct.sum() / n),
        "macro_accuracy": float(recall[seen].mean()),
        "worst_class_accuracy": float(recall[present].min()),
        "ece": float(gap.sum() / n),
        "mce": float((gap / np.maximum(bin_count, 1)).max()),
    }


def bin_boundaries() -> np.ndarray:
    """Returns the float32 edges `[16]` of the calibration bins.

    They are counted in float32 steps from the nearer end, each rounded once, as `torch.linspace` does: a confidence
    of exactly 1/3 has to fall into the same bin as in PyTorch.
    """
    step = np.float64(np.float32(1) / np.float32(N_BINS))
    index = np.arange(N_BINS + 1)
    nearer_to_zero = index < (N_BINS + 1) // 2
    return np.where(nearer_to_zero, index * step, 1 - (N_BINS - index) * step).astype(np.float32)


def bin_index(confidence: ArrayLike) -> jax.Array:
    """Returns the bin, `0 .. 14`, of each float32 confidence."""
    return jnp.searchsorted(bin_boundaries()[1:-1], confidence, side="left", method="compare_all")


def _host(logits: ArrayLike, labels: ArrayLike, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    logits, labels = (np.asarray(jax.device_get(a)) for a in (logits, labels))
    wanted = "[m, N, C]" if ndim == 3 else "[N, C]"
    if logits.ndim != ndim or logits.shape[-2:-1] != labels.shape:
        raise ValueError(f"metrics: logits {wanted} and labels [N] expected, found {logits.shape} and {labels.shape}")
    if not logits.size:
        raise ValueError(f"metrics: no examples to score, logits have shape {logits.shape}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"metrics: labels must be integers, found {labels.dtype}")
    if labels.min() < 0 or labels.max() >= logits.shape[-1]:
        raise ValueError(
            f"metrics: labels must be in 0 .. {logits.shape[-1] - 1}, found {labels.min()} .. {labels.max()}"
        )
    return logits, labels


def _metrics(sums_of: SumsOf, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    sums = no_sums(logits.shape[-1])
    for start in range(0, len(labels), _BLOCK_SIZE):
        rows = slice(start, start + _BLOCK_SIZE)
        own, own_labels = logits[..., rows, :].astype(np.float32), labels[rows].astype(np.int32)
        missing = _BLOCK_SIZE - len(own_labels)
        own = np.pad(own, [*[(0, 0)] * (own.ndim - 2), (0, missing), (0, 0)])
        counted = np.arange(_BLOCK_SIZE) < len(own_labels)
        sums = add_block(sums_of, sums, *jax.device_put((own, np.pad(own_labels, (0, missing)), counted)))
    return summarise(sums)


def _softmax_parts(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array, Sum]:
    """Compares every class with the top one, whose exponential is 1.

    Args:
        logits: `[..., C]`.
        labels: `[...]`.

    Returns:
        The exponentials `[..., C]`, their sum `[...]` and the label's cross-entropy `[...]`.
    """
    logits = logits.astype(jnp.float32)
    exponents = logits - logits.max(-1, keepdims=True)
    exponentials = jnp.exp(exponents)
    total = compensated.total(exponentials, axis=-1)
    of_label = jnp.take_along_axis(exponents, labels[..., None], -1)[..., 0]
    return exponentials, total, compensated.add(compensated.log(total), Sum(-of_label, jnp.zeros_like(of_label)))


def _sums(scores: _Scores, labels: jax.Array, counted: jax.Array, n_classes: int) -> Sums:
    # As labels are, where x64 is enabled too.
    predicted = scores.predicted.astype(jnp.int32)
    correct = predicted == labels
    bins = bin_index(scores.confidence)

    def count(index: jax.Array, which: jax.Array, length: int) -> jax.Array:
        return jnp.zeros(length, jnp.int32).at[index].add(which.astype(jnp.int32))

    in_bin = jax.nn.one_hot(bins, N_BINS, dtype=bool) & counted[:, None]
    losses = jax.tree.map(lambda part: jnp.where(counted, part, 0.0), scores.loss)
    return Sums(
        n_labels=count(labels, counted, n_classes),
        n_predicted=count(predicted, counted, n_classes),
        n_correct=count(labels, counted & correct, n_classes),
        bin_count=count(bins, counted, N_BINS),
        bin_correct=count(bins, counted & correct, N_BINS),
        bin_confidence=compensated.total(jnp.where(in_bin, scores.confidence[:, None], 0.0), axis=0),
        loss=compensated.total(losses, axis=0),
    )


def _mean(members: jax.Array) -> jax.Array:
    """Averages over the leading axis; equal members have exactly the average that they are."""
    rough = members.mean(0)
    # A second pass takes back the rounding of the first.
    return rough + (members - rough[None]).mean(0)
