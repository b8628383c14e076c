"""Compares evaluations: logits, the metrics made of them, and prediction ensembles, in the reference's order."""

from collections.abc import Callable

import jax
import numpy as np

from ssoup_jax.metrics import ensemble_metrics
from ssoup_jax.metrics.predictions import bin_boundaries, prediction_metrics
from tests.reference.deviations import largest, record
from tests.reference.served import Served

# The reference's scores are float32 sums over examples or classes: some roundings of 6e-8.
SCORE_ROUNDING = 1e-6
# With more near-ties than this a comparison of predictions would say little.
CLOSE_CALLS = 0.05

KINDS = {
    "loss": "loss",
    "accuracy": "accuracies",
    "worst_class_accuracy": "accuracies",
    "ece": "calibration errors",
    "mce": "calibration errors",
}

Members = tuple[int, ...]
LogitsOf = Callable[[Members], dict[str, np.ndarray]]


def record_scores(name: str, logits: np.ndarray, labels: np.ndarray, expected: dict, tolerance: float) -> None:
    """Compares the metrics of our logits with those that the reference reports of its own.

    Counts are compared exactly, or not at all where rounding decides them: which of two classes is predicted, or into
    which bin a confidence falls.

    Args:
        name: names the comparison.
        logits: `[n, n_classes]`.
        labels: `[n]`.
        expected: some of `loss`, `accuracy` (which is the macro accuracy), `worst_class_accuracy`, `ece`, `mce`.
        tolerance: how far a logit may be off.
    """
    found = prediction_metrics(logits, labels)
    n_labels = np.bincount(labels, minlength=logits.shape[-1])
    recall = np.bincount(labels[logits.argmax(-1) == labels], minlength=logits.shape[-1]) / np.maximum(n_labels, 1)
    # The reference's variant: a class that is no label of any example counts as 0.
    found |= {"accuracy": found["macro_accuracy"], "worst_class_accuracy": float(recall.min())}

    wide = logits.astype(np.float64)
    second, first = np.sort(wide, -1)[:, -2:].T
    tied = _rounding_decides(first - second, 2 * tolerance)
    confidence = np.exp(first - np.logaddexp.reduce(wide, -1))
    on_edge = np.abs(confidence[:, None] - bin_boundaries()[None, 1:-1]).min(-1) <= tolerance
    # A cross-entropy is off by two logits at most, a confidence by less than one, the error of a bin by a mean of
    # confidences; an example that changes bins moves at most its share from one to the other.
    tolerances = {"loss": 2 * tolerance + SCORE_ROUNDING}
    if not tied:
        tolerances |= {"accuracy": SCORE_ROUNDING, "worst_class_accuracy": SCORE_ROUNDING}
        tolerances |= {"ece": tolerance + 2 * on_edge.mean() + SCORE_ROUNDING}
        if not on_edge.any():
            tolerances |= {"mce": tolerance + SCORE_ROUNDING}
    for key in expected.keys() & tolerances.keys():
        record(f"{name}: {KINDS[key]}", abs(found[key] - expected[key]), tolerances[key])


def record_evaluations(
    name: str,
    case: Served,
    stage: dict,
    prefix: str,
    candidates: list[int],
    logits_of: LogitsOf,
    rounding: float,
    soup_rounding: float,
) -> None:
    """Compares every evaluation that an Ensemble stage of the reference made.

    Args:
        name: names the comparisons.
        case: the golden file.
        stage: that stage's entry in the JSON file.
        prefix: where the arrays are.
        candidates: the members among which the soup chose, in the order of the run.
        logits_of: our logits, by split, of one candidate or of the recalibrated soup of several.
        rounding: how far a candidate's logit may be off, in units of the largest.
        soup_rounding: the same for a recalibrated soup.
    """
    planned = _plan(stage, candidates)
    assert [evaluation["data"] for evaluation in stage["evaluations"]] == [split for split, _, _ in planned]
    for i, (evaluation, (split, members, ensemble)) in enumerate(zip(stage["evaluations"], planned, strict=True)):
        assert evaluation["against_ensemble_labels"] == bool(ensemble)
        if split not in case.positions:
            assert not evaluation["result"], f"{split} was evaluated, but is not in the file"
            continue
        found, labels = logits_of(members)[split], case.labels[split]
        what = "candidates" if len(members) == 1 else "trial soups"
        expected = case.arrays.get(f"{prefix}/evaluation{i}_logits")
        relative = rounding if len(members) == 1 else soup_rounding
        tolerance = relative * np.abs(found).max()
        if expected is not None:
            record(f"{name}: logits of {what} / largest", largest(found, expected) / np.abs(expected).max(), relative)
        if ensemble:
            what = "prediction ensemble"
            labels = _ensemble_labels([logits_of((m,))[split] for m in ensemble], tolerance)
        if labels is not None:
            record_scores(f"{name}: {what}", found, labels, evaluation["result"], tolerance)


def record_summary(
    name: str, case: Served, summary: dict, found: dict[str, np.ndarray], rounding: float, moment: str = "final"
) -> None:
    """Compares what the reference logged of a model on each split, of `final` models or `pruned` ones.

    Args:
        name: names the comparisons.
        case: the golden file.
        summary: a stage's, from the JSON file.
        found: our logits by split.
        rounding: how far a logit may be off, in units of the largest.
        moment: which of the summary's entries.
    """
    for split, logits in found.items():
        logged = summary.get(f"{moment}.{split}", {})
        # The reference leaves entries that it never filled at null or 0; those without a loss are all of that kind.
        filled = ("loss", "accuracy") if logged.get("ece") is None else tuple(logged)
        if logged.get("loss") is not None:
            expected = {key: logged[key] for key in filled}
            record_scores(name, logits, case.labels[split], expected, rounding * np.abs(logits).max())


def _plan(stage: dict, candidates: list[int]) -> list[tuple[str, Members, Members]]:
    """Lists (split, members of the evaluated model, members of the prediction ensemble that gave the labels)."""
    member = dict(zip(stage["candidate_order"], candidates, strict=True))
    planned = [(split, (one,), ()) for one in candidates for split in ("test", "ood", "val")]
    # Where an ensemble is the judge, the judged is the candidate that happens to be loaded last.
    planned.append(("test", (candidates[-1],), tuple(candidates)))
    if "greedy" in stage:
        planned += [("val", tuple(member[value] for value in trial["soup"]), ()) for trial in stage["greedy"]["trials"]]
        chosen = tuple(member[value] for value in stage["greedy"]["selected"])
        if len(chosen) < len(candidates):
            planned.append(("test", chosen[-1:], chosen))
    return planned


def _ensemble_labels(logits: list[np.ndarray], tolerance: float) -> np.ndarray | None:
    """Labels by the averaged probabilities of several candidates; None if rounding decides one of them."""
    probabilities = np.mean([jax.nn.softmax(own) for own in logits], axis=0)
    labels = probabilities.argmax(-1)
    assert ensemble_metrics(np.stack(logits), labels)["accuracy"] == 1
    second, first = np.sort(probabilities, -1)[:, -2:].T
    return None if _rounding_decides(first - second, 2 * tolerance) else labels


def _rounding_decides(margins: np.ndarray, tolerance: float) -> bool:
    """Says whether rounding may decide a prediction, and asserts that this is rare."""
    close = margins <= tolerance
    assert close.mean() <= CLOSE_CALLS, f"{close.mean():.0%} of the predictions are too close to call"
    return bool(close.any())
