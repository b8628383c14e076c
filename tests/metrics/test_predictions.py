import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax import trees
from ssoup_jax.metrics import ensemble_metrics, prediction_metrics
from ssoup_jax.metrics.predictions import (
    N_BINS,
    Sums,
    add_block,
    bin_boundaries,
    bin_index,
    ensemble_sums,
    no_sums,
    prediction_sums,
    summarise,
)

KEYS = {"loss", "accuracy", "macro_accuracy", "worst_class_accuracy", "ece", "mce"}

BLOCK = 16
EACH = jax.vmap(prediction_sums, in_axes=(0, None, None))

# Logits are float32: a sum of a handful of exponentials carries a few roundings of 6e-8.
FLOAT32 = 1e-6


def log(probabilities) -> np.ndarray:
    return np.log(np.asarray(probabilities, np.float32))


@st.composite
def predictions(draw, max_examples=40):
    n, c = draw(st.integers(1, max_examples)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = rng.normal(size=(n, c)) * draw(st.sampled_from([0.1, 2.0, 30.0]))
    return logits.astype(np.float32), rng.integers(0, c, n)


def naive(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The definitions, example by example and class by class, in float64."""
    exponentials = np.exp(logits.astype(np.float64))
    probabilities = exponentials / exponentials.sum(-1, keepdims=True)
    predicted = [int(np.argmax(row)) for row in logits]
    hits = [p == y for p, y in zip(predicted, labels, strict=True)]
    recalls, mentioned = {}, set(predicted) | set(labels.tolist())
    for label in set(labels.tolist()):
        recalls[label] = np.mean([hit for hit, y in zip(hits, labels, strict=True) if y == label])
    gaps, shares = [], []
    for low in range(N_BINS):
        inside = [i for i, p in enumerate(probabilities.max(-1)) if low < p * N_BINS <= low + 1]
        if inside:
            gaps.append(abs(np.mean([hits[i] for i in inside]) - np.mean([probabilities[i].max() for i in inside])))
            shares.append(len(inside) / len(labels))
    return {
        "loss": -np.mean([math.log(row[y]) for row, y in zip(probabilities, labels, strict=True)]),
        "accuracy": np.mean(hits),
        "macro_accuracy": sum(recalls.values()) / len(mentioned),
        "worst_class_accuracy": min(recalls.values()),
        "ece": float(np.dot(gaps, shares)),
        "mce": max(gaps),
    }


def test_hand_computed():
    probabilities = [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]
    found = prediction_metrics(log(probabilities), np.array([0, 1, 1, 1]))
    assert found == pytest.approx(
        {
            "loss": -(math.log(0.5) + math.log(0.75) + math.log(0.25) + math.log(0.5)) / 4,
            "accuracy": 3 / 4,
            "macro_accuracy": (1 + 2 / 3) / 2,  # class 2 is neither a label nor a prediction
            "worst_class_accuracy": 2 / 3,
            "ece": 3 / 4 * abs(2 / 3 - 0.5) + 1 / 4 * abs(1 - 0.75),
            "mce": 0.25,
        },
        rel=FLOAT32,
    )
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize(
    "labels, predicted, macro, worst",
    [
        ([0, 0, 1], [0, 0, 0], 1 / 2, 0),
        ([0, 0, 1], [0, 0, 1], 1, 1),  # class 2 is absent: it does not count
        ([0, 0, 1], [0, 2, 1], (1 / 2 + 1 + 0) / 3, 1 / 2),  # class 2 is predicted without being a label
        ([2, 2, 2], [2, 2, 2], 1, 1),
        ([1, 1, 2, 2], [1, 2, 2, 2], (1 / 2 + 1) / 2, 1 / 2),
    ],
)
def test_recalls(labels, predicted, macro, worst):
    found = prediction_metrics(np.eye(3, dtype=np.float32)[predicted], np.array(labels))
    assert (found["macro_accuracy"], found["worst_class_accuracy"]) == pytest.approx((macro, worst), abs=0, rel=1e-15)
    assert found["accuracy"] == np.mean(np.equal(labels, predicted))


def test_the_first_of_tied_classes_is_predicted():
    assert prediction_metrics(np.zeros((2, 3), np.float32), np.array([0, 1]))["accuracy"] == 0.5


def test_bins_are_closed_on_the_right():
    boundaries = bin_boundaries()
    assert boundaries.dtype == np.float32 and boundaries[0] == 0 and boundaries[-1] == 1
    # Within one float32 step of k/15.
    np.testing.assert_allclose(boundaries, np.arange(16) / 15, rtol=0, atol=6e-8)
    np.testing.assert_array_equal(bin_index(boundaries[1:]), np.arange(N_BINS))
    np.testing.assert_array_equal(bin_index(np.nextafter(boundaries[:-1], np.float32(1))), np.arange(N_BINS))
    assert bin_index(np.float32([0]))[0] == 0


@pytest.mark.parametrize("tied", [1, 3, 5, 15])
def test_a_confidence_on_a_boundary_counts_in_the_lower_bin(tied):
    n_classes, below = 20, 0.999 / tied
    on_boundary = np.where(np.arange(n_classes) < tied, np.float32(0), np.float32(-200))
    just_below = log([below] + [(1 - below) / (n_classes - 1)] * (n_classes - 1))
    # A hit on the boundary and a miss below it: 1/2 if they share a bin, 1 and 0 if they do not.
    found = prediction_metrics(np.stack([on_boundary, just_below]), np.array([0, 1]))
    assert found["mce"] == pytest.approx(abs(1 / 2 - (1 + 0.999) / (2 * tied)), rel=FLOAT32)


@pytest.mark.parametrize("scale", [1e2, 1e4, 1e30])
def test_huge_logits_stay_finite(scale):
    logits = np.float32([[scale, 0], [0, scale]])
    found = prediction_metrics(logits, np.array([0, 0]))
    assert found["loss"] == pytest.approx(scale / 2, rel=FLOAT32)
    assert all(math.isfinite(value) for value in found.values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_diverged_model_shows(value):
    logits, labels = np.float32([[value, 0], [0, 0]]), np.array([0, 0])
    assert math.isnan(prediction_metrics(logits, labels)["loss"])
    assert math.isnan(ensemble_metrics(np.stack([logits, np.zeros_like(logits)]), labels)["loss"])


def test_a_class_that_is_ruled_out():
    logits = np.float32([[0, 0, -np.inf]])
    assert prediction_metrics(logits, np.array([0]))["loss"] == pytest.approx(math.log(2), rel=FLOAT32)
    assert prediction_metrics(logits, np.array([2]))["loss"] == math.inf
    assert ensemble_metrics(np.stack([logits, logits]), np.array([2]))["loss"] == math.inf


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_agrees_with_the_definitions(case):
    # ECE subtracts numbers of order 1 that carry float32 roundings: an absolute tolerance.
    assert prediction_metrics(*case) == pytest.approx(naive(*case), rel=FLOAT32, abs=FLOAT32)


def sums_over(blocks, logits: np.ndarray, labels: np.ndarray, sums_of=prediction_sums) -> Sums:
    """Sums block by block; what fills up a block is as harmful as can be."""
    sums = no_sums(logits.shape[-1])
    for rows in blocks:
        filled = np.full((*logits.shape[:-2], BLOCK, logits.shape[-1]), np.nan, np.float32)
        filled[..., : len(rows), :] = logits[..., rows, :]
        own = np.zeros(BLOCK, np.int32)
        own[: len(rows)] = labels[rows]
        sums = add_block(sums_of, sums, filled, own, np.arange(BLOCK) < len(rows))
    return jax.device_get(sums)


@given(predictions(max_examples=3 * BLOCK), st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=30, deadline=None)
def test_any_cutting_into_blocks_gives_the_same_sums(case, random, ensemble):
    logits, labels = case
    n = len(labels)
    order = np.array(random.sample(range(n), n))
    ends = sorted({n, *range(BLOCK, n, BLOCK), *random.sample(range(n), random.randint(0, min(n, 5)))} - {0})
    blocks = np.split(order, ends[:-1])
    sums_of, scored, metrics_of = prediction_sums, logits, prediction_metrics
    if ensemble:
        sums_of, scored, metrics_of = ensemble_sums, np.stack([logits, logits[:, ::-1]]), ensemble_metrics
    found = sums_over(blocks, scored, labels, sums_of)
    straight = sums_over(np.split(np.arange(n), range(BLOCK, n, BLOCK)), scored, labels, sums_of)
    for own, expected in zip(found[:5], straight[:5], strict=True):
        np.testing.assert_array_equal(own, expected)
    # Compensated sums: the order shows in the last of 48 bits.
    np.testing.assert_allclose(found.bin_confidence.exact(), straight.bin_confidence.exact(), rtol=1e-12)
    assert found.loss.exact() == pytest.approx(straight.loss.exact(), rel=1e-12)
    assert summarise(found) == pytest.approx(metrics_of(scored, labels), rel=FLOAT32, abs=FLOAT32)


@given(predictions(max_examples=BLOCK), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_what_does_not_count_never_shows(case, seed):
    logits, labels = (np.resize(part, (BLOCK, *part.shape[1:])) for part in case)
    random = np.random.default_rng(seed)
    counted = random.random(BLOCK) < 0.5
    counted[0] = True
    found = add_block(prediction_sums, no_sums(logits.shape[-1]), logits, labels.astype(np.int32), counted)
    assert found.n_labels.sum() == found.n_predicted.sum() == found.bin_count.sum() == counted.sum()
    expected = prediction_metrics(logits[counted], labels[counted])
    assert summarise(found) == pytest.approx(expected, rel=FLOAT32, abs=FLOAT32)


def test_members_side_by_side_have_the_sums_that_each_has_alone():
    random = np.random.default_rng(0)
    logits = (3 * random.normal(size=(4, BLOCK, 5))).astype(np.float32)
    labels, counted = random.integers(0, 5, BLOCK, np.int32), random.random(BLOCK) < 0.8
    found = jax.device_get(add_block(EACH, no_sums(5, 4), logits, labels, counted))
    for own, alone in zip(trees.unstack(found), logits, strict=True):
        expected = jax.device_get(add_block(prediction_sums, no_sums(5), alone, labels, counted))
        for member, single in zip(own[:5], expected[:5], strict=True):
            np.testing.assert_array_equal(member, single)
        np.testing.assert_allclose(own.bin_confidence.exact(), expected.bin_confidence.exact(), rtol=1e-7)
        assert own.loss.exact() == pytest.approx(expected.loss.exact(), rel=1e-7)


def test_a_million_examples_are_summed_as_one():
    logits = np.float32([[0.3, 0, -1]] * BLOCK)
    labels, counted = np.zeros(BLOCK, np.int32), np.ones(BLOCK, bool)
    sums = no_sums(3)
    for _ in range(4096):
        sums = add_block(prediction_sums, sums, logits, labels, counted)
    once = prediction_metrics(logits[:1], labels[:1])
    # Float32 alone would be off by 1e-4.
    assert summarise(sums) == pytest.approx(once, rel=1e-12)


def test_bfloat16_logits_are_scored_in_float32():
    logits = jax.numpy.asarray(np.random.default_rng(0).normal(size=(40, 4)), jax.numpy.bfloat16)
    labels = np.arange(40) % 4
    assert prediction_metrics(logits, labels) == prediction_metrics(logits.astype(np.float32), labels)


@given(predictions(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_examples_and_classes_does_not_matter(case, random):
    logits, labels = case
    examples = random.sample(range(len(labels)), len(labels))
    classes = random.sample(range(logits.shape[1]), logits.shape[1])
    found = prediction_metrics(logits[examples][:, classes], np.argsort(classes)[labels[examples]])
    # The sum over classes is taken in another order: one float32 rounding of a confidence may change, and with it
    # the figures, but no bin, for confidences are not on boundaries.
    assert found == pytest.approx(prediction_metrics(logits, labels), rel=FLOAT32, abs=FLOAT32)


@given(predictions())
@settings(max_examples=60, deadline=None)
def test_bounds(case):
    found = prediction_metrics(*case)
    assert found.keys() == KEYS
    assert found["loss"] >= 0
    assert all(0 <= found[key] <= 1 for key in KEYS - {"loss"})
    # A weighted mean of the bins' gaps; 1e-12 for the last bits of float64 sums.
    assert found["ece"] <= found["mce"] + 1e-12
    assert found["worst_class_accuracy"] <= found["accuracy"]


@given(predictions(), st.sampled_from([1, 3]))
@settings(max_examples=40, deadline=None)
def test_an_ensemble_of_copies_is_the_model(case, m):
    logits, labels = case
    assert ensemble_metrics(np.stack([logits] * m), labels) == pytest.approx(
        prediction_metrics(logits, labels), rel=FLOAT32, abs=FLOAT32
    )


def test_an_ensemble_averages_probabilities():
    first, second = [[0.9, 0.1], [0.6, 0.4]], [[0.4, 0.6], [0.1, 0.9]]
    found = ensemble_metrics(np.stack([log(first), log(second)]), np.array([1, 1]))
    # Averages: (0.65, 0.35) and (0.35, 0.65); the mean of the logits would put the second at (0.29, 0.71).
    assert found == pytest.approx(
        {
            "loss": -(math.log(0.35) + math.log(0.65)) / 2,
            "accuracy": 0.5,
            "macro_accuracy": 0.25,
            "worst_class_accuracy": 0.5,
            "ece": abs(0.5 - 0.65),
            "mce": abs(0.5 - 0.65),
        },
        rel=FLOAT32,
    )


def test_an_ensemble_is_scored_against_the_true_labels():
    sure, unsure = log([[0.99, 0.01]]), log([[0.4, 0.6]])
    stack = np.stack([sure, unsure])
    assert ensemble_metrics(stack, np.array([0]))["accuracy"] == 1
    assert ensemble_metrics(stack[::-1], np.array([1]))["accuracy"] == 0


@given(predictions(), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_order_of_members_does_not_matter(case, random):
    logits, labels = case
    stack = np.stack([logits, logits[::-1], logits * 0.5])
    found = ensemble_metrics(stack[random.sample(range(3), 3)], labels)
    assert found == pytest.approx(ensemble_metrics(stack, labels), rel=FLOAT32, abs=FLOAT32)


def test_a_probability_below_the_smallest_float_has_a_finite_loss():
    stack = np.float32([[[0, -2000]], [[0, -1000]]])
    # The mean of exp(-2000) and exp(-1000) is exp(-1000) / 2.
    assert ensemble_metrics(stack, np.array([1]))["loss"] == pytest.approx(1000 + math.log(2), rel=FLOAT32)


LOGITS = np.zeros((2, 3), np.float32)


@pytest.mark.parametrize(
    "function, logits, labels, message",
    [
        (prediction_metrics, LOGITS[:0], np.zeros(0, int), "no examples"),
        (prediction_metrics, LOGITS[:, :0], np.zeros(2, int), "no examples"),
        (ensemble_metrics, LOGITS[None, :0], np.zeros(0, int), "no examples"),
        (ensemble_metrics, LOGITS[None][:0], np.zeros(2, int), "no examples"),
        (prediction_metrics, LOGITS, np.zeros(3, int), r"found \(2, 3\) and \(3,\)"),
        (prediction_metrics, LOGITS[None], np.zeros(2, int), r"\[N, C\] and labels \[N\] expected"),
        (ensemble_metrics, LOGITS, np.zeros(2, int), r"\[m, N, C\] and labels \[N\] expected"),
        (prediction_metrics, LOGITS, np.array([0, 3]), r"in 0 \.\. 2, found 0 \.\. 3"),
        (prediction_metrics, LOGITS, np.array([-1, 2]), r"in 0 \.\. 2, found -1 \.\. 2"),
        (prediction_metrics, LOGITS, np.zeros(2), "must be integers, found float64"),
    ],
)
def test_what_cannot_be_scored(function, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        function(logits, labels)
