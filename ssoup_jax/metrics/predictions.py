"""How good predictions are: loss, accuracies and calibration, of one model or of an ensemble of models."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

N_BINS = 15

# Enough values to keep the vector units busy, few enough that the temporaries stay in cache.
_BLOCK_VALUES = 1 << 18


class _Scores(NamedTuple):
    """What the metrics need to know of each example; leaves `[N]`."""

    loss: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray


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
    logits, labels = _host(logits, labels, ndim=2)
    return _summary([_scores(logits[rows], labels[rows]) for rows in _blocks(logits)], labels, logits.shape[-1])


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
    logits, labels = _host(logits, labels, ndim=3)
    scores = [_ensemble_scores(logits[:, rows], labels[rows]) for rows in _blocks(logits)]
    return _summary(scores, labels, logits.shape[-1])


def bin_boundaries() -> np.ndarray:
    """Returns the float32 edges `[16]` of the calibration bins.

    They are counted in float32 steps from the nearer end, each rounded once, as `torch.linspace` does: a confidence
    of exactly 1/3 has to fall into the same bin as in PyTorch.
    """
    step = np.float64(np.float32(1) / np.float32(N_BINS))
    index = np.arange(N_BINS + 1)
    nearer_to_zero = index < (N_BINS + 1) // 2
    return np.where(nearer_to_zero, index * step, 1 - (N_BINS - index) * step).astype(np.float32)


def bin_index(confidence: np.ndarray) -> np.ndarray:
    """Returns the bin, `0 .. 14`, of each float32 confidence."""
    return np.clip(np.searchsorted(bin_boundaries()[:-1], confidence, side="left") - 1, 0, N_BINS - 1)


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


def _blocks(logits: np.ndarray) -> Iterator[slice]:
    n = logits.shape[-2]
    rows = max(1, _BLOCK_VALUES * n // logits.size)
    return (slice(start, start + rows) for start in range(0, n, rows))


def _softmax_parts(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the top class, the exponentials `[..., n, C]`, their sum and the label's log-probability `[..., n]`."""
    logits = logits.astype(np.float32, copy=False)
    top = logits.argmax(-1)
    exponents = logits - np.take_along_axis(logits, top[..., None], -1)
    of_labels = np.take_along_axis(exponents, np.broadcast_to(labels, top.shape)[..., None], -1)[..., 0]
    exponentials = np.exp(exponents, out=exponents)
    totals = exponentials.sum(-1, dtype=np.float64)
    return top, exponentials, totals, of_labels - np.log(totals)


# A diverged model has logits that are not finite; that must show in the figures, not as a warning.
@np.errstate(invalid="ignore")
def _scores(logits: np.ndarray, labels: np.ndarray) -> _Scores:
    top, _, totals, log_probability = _softmax_parts(logits, labels)
    # The largest exponential is 1 by construction.
    return _Scores(-log_probability, top, (1 / totals).astype(np.float32))


@np.errstate(invalid="ignore")
def _ensemble_scores(logits: np.ndarray, labels: np.ndarray) -> _Scores:
    _, exponentials, totals, log_probability = _softmax_parts(logits, labels)
    probabilities = np.mean(exponentials / totals[..., None], axis=0)
    predicted = probabilities.argmax(-1)
    confidence = np.take_along_axis(probabilities, predicted[..., None], -1)[..., 0]
    # Averaged as logarithms: a probability too small for a float still has a finite loss.
    loss = np.log(len(logits)) - np.logaddexp.reduce(log_probability, axis=0)
    return _Scores(loss, predicted, confidence.astype(np.float32))


def _summary(blocks: list[_Scores], labels: np.ndarray, n_classes: int) -> dict[str, float]:
    loss, predicted, confidence = map(np.concatenate, zip(*blocks, strict=True))
    correct = predicted == labels
    n_labels = np.bincount(labels, minlength=n_classes)
    present, seen = n_labels > 0, (n_labels > 0) | (np.bincount(predicted, minlength=n_classes) > 0)
    recall = np.bincount(labels[correct], minlength=n_classes) / np.maximum(n_labels, 1)
    ece, mce = _calibration_errors(confidence, correct)
    return {
        "loss": float(loss.mean()),
        "accuracy": float(correct.mean()),
        "macro_accuracy": float(recall[seen].mean()),
        "worst_class_accuracy": float(recall[present].min()),
        "ece": ece,
        "mce": mce,
    }


def _calibration_errors(confidence: np.ndarray, correct: np.ndarray) -> tuple[float, float]:
    bins = bin_index(confidence)
    count = np.bincount(bins, minlength=N_BINS)
    # |sum of correct - sum of confidence| is a bin's |accuracy - confidence| times its count.
    gap = np.abs(np.bincount(bins, weights=correct - confidence.astype(np.float64), minlength=N_BINS))
    return float(gap.sum() / len(bins)), float((gap / np.maximum(count, 1)).max())
