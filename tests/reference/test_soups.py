"""Averages, recalibration, evaluation and greedy choices against the reference's numbers.

Every comparison starts from the candidates that the reference stored, so that nothing but the rounding of one forward
pass, or of the running averages of one recalibration, lies between its numbers and ours.
"""

import functools

import jax
import numpy as np
import pytest

from ssoup_jax import metrics, soups, trees
from ssoup_jax.data.feeds import cut
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning import full_mask, prunable_leaves
from ssoup_jax.soups import greedy
from ssoup_jax.training.recalibrate import n_recalibration_batches
from ssoup_jax.trees import PyTree
from tests.reference import golden, served
from tests.reference.deviations import record
from tests.reference.scores import SCORE_ROUNDING, record_evaluations, record_summary

CASE = served.load("soups")
SOUPS = CASE.meta["soups"]
MEMBERS = sorted({member for soup in SOUPS.values() for member in soup["members"]})
FRACTION = CASE.case["bn_recalibration_frac"]
N_TRAIN, BATCH_SIZE = len(CASE.positions["train"]), CASE.case["batch_size"]

# What float32 rounding leaves of a forward pass through dozens of layers, relative to the largest logit: of the order
# of 100 roundings of 6e-8. In train mode each layer divides by its own batch's deviation, which magnifies it.
ROUNDING, TRAIN_MODE_ROUNDING = 1e-5, 1e-4

greedy_soups = pytest.mark.parametrize("name", [name for name, soup in SOUPS.items() if "greedy" in soup])


def stored(array: str) -> list[str]:
    """Names of the soups that the file has that array of."""
    return [name for name in SOUPS if f"phase1/{name}/{array}" in CASE.arrays]


def ingredients(soup: dict) -> tuple[int, ...]:
    """The members of a soup, in the order they were taken."""
    member = dict(zip(soup["candidate_order"], soup["members"], strict=True))
    return tuple(member[value] for value in soup.get("greedy", {}).get("selected", soup["candidate_order"]))


@functools.cache
def candidate(member: int) -> Variables:
    return CASE.variables(CASE.arrays[f"phase1/member{member}/final"])


def average(members: tuple[int, ...]) -> Variables:
    return soups.average(
        trees.stack([candidate(member) for member in members]), dict.fromkeys(range(len(members)), 1.0)
    )


def recalibrated(variables: Variables, fraction: float | None) -> Variables:
    # One model at a time, so that all of this file needs one program; stacks are the trajectories' business.
    return trees.member(CASE.recalibrated(trees.stack([variables]), fraction), 0)


@functools.cache
def soup_of(members: tuple[int, ...], fraction: float | None) -> Variables:
    return recalibrated(average(members), fraction)


@functools.cache
def logits_of(members: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Logits by split of one candidate or of the recalibrated soup of several."""
    variables = candidate(*members) if len(members) == 1 else soup_of(members, FRACTION)
    return {split: found[0] for split, found in CASE.logits(trees.stack([variables])).items()}


def macro_accuracy(members: tuple[int, ...]) -> float:
    return metrics.prediction_metrics(logits_of(members)["val"], CASE.labels["val"])["macro_accuracy"]


def kernels(tree: PyTree) -> dict[str, np.ndarray]:
    return jax.device_get(prunable_leaves(tree, full_mask(tree)))


def record_statistics(
    what: str, found: Variables, expected: np.ndarray, tolerance: float = TRAIN_MODE_ROUNDING
) -> None:
    deviation = CASE.bn_deviation(CASE.flat_bn(CASE.flat(found)), expected)
    record(f"soups: recalibrated statistics {what}", deviation, tolerance)


@pytest.mark.parametrize("name", stored("soup_before_recalibration"))
def test_average(name):
    members = ingredients(SOUPS[name])
    expected = CASE.arrays[f"phase1/{name}/soup_before_recalibration"]
    largest_candidate = np.max([np.abs(CASE.arrays[f"phase1/member{m}/final"]) for m in members], axis=0)
    deviation = np.abs(CASE.flat(average(members)) - expected)
    assert not deviation[largest_candidate == 0].any()
    roundings = deviation[largest_candidate > 0] / (np.finfo(np.float32).eps * largest_candidate[largest_candidate > 0])
    # The reference scales, then adds; we add, then scale: at most a rounding for each candidate.
    record("soups: average, in roundings of the largest candidate", roundings.max(), len(members))


@pytest.mark.parametrize("name", SOUPS)
def test_mask_and_zeros(name):
    members = ingredients(SOUPS[name])
    mask = CASE.mask(CASE.arrays["phase1/mask"])
    mask = jax.device_get(prunable_leaves(mask, mask))
    alive = [jax.tree.map(lambda w: w != 0, kernels(candidate(m).params)) for m in members]
    for number, other in enumerate(alive, start=1):
        soups.check_same_mask(alive[0], other, number)
    soup = kernels(soup_of(members, FRACTION).params)
    assert mask.keys() == alive[0].keys() == soup.keys()
    for path, kept in mask.items():
        np.testing.assert_array_equal(alive[0][path], kept, err_msg=path)
        assert not soup[path][~kept].any(), f"{path}: a pruned weight of the soup is not 0"


@pytest.mark.parametrize("recalibration", CASE.meta["recalibration"], ids=lambda one: str(one["fraction"]))
def test_recalibration_at_a_fraction(recalibration):
    fraction, key = recalibration["fraction"], recalibration["key"]
    sizes = [block.shape[1] for block in cut(CASE.positions["train"], BATCH_SIZE) for _ in block]
    assert len(sizes) == recalibration["n_batches"]
    count = n_recalibration_batches(N_TRAIN, BATCH_SIZE, fraction)
    assert sizes[:count] == recalibration["batch_sizes_used"]
    np.testing.assert_array_equal(CASE.arrays[f"{key}_counters"], count)
    members = ingredients(SOUPS[golden.load_json("spec")["soups"]["recalibrate"]])
    tolerance = TRAIN_MODE_ROUNDING if count else 0
    record_statistics("at several fractions", soup_of(members, fraction), CASE.arrays[key], tolerance)


@pytest.mark.parametrize("name", stored("bn_after_recalibration"))
def test_recalibration_of_soups(name):
    found = soup_of(ingredients(SOUPS[name]), FRACTION)
    record_statistics("of soups", found, CASE.arrays[f"phase1/{name}/bn_after_recalibration"])


@pytest.mark.parametrize("member", MEMBERS)
def test_recalibration_of_candidates(member):
    arrays = {array: CASE.arrays[f"phase1/member{member}/{array}"] for array in ("final", "bn_after_retraining")}
    retrained = CASE.variables(arrays["final"], arrays["bn_after_retraining"])
    record_statistics("of candidates", recalibrated(retrained, FRACTION), CASE.flat_bn(arrays["final"]))


@pytest.mark.parametrize("name", SOUPS)
def test_evaluations(name):
    soup = SOUPS[name]
    roundings = ROUNDING, TRAIN_MODE_ROUNDING
    record_evaluations("soups", CASE, soup, f"phase1/{name}", soup["members"], logits_of, *roundings)


@pytest.mark.parametrize("name", SOUPS)
def test_final_scores(name):
    found = logits_of(ingredients(SOUPS[name]))
    record_summary("soups: final", CASE, SOUPS[name]["summary"], found, TRAIN_MODE_ROUNDING)


@greedy_soups
def test_greedy(name):
    soup, expected = SOUPS[name], SOUPS[name]["greedy"]
    names = soup["candidate_order"]
    scores = [macro_accuracy((member,)) for member in soup["members"]]
    chosen, trials = greedy.select(scores, lambda tried: macro_accuracy(tuple(soup["members"][i] for i in tried)))

    ranked = [names[chosen[0]], *(names[trial.candidate] for trial in trials)]
    assert ranked == [value for value, _ in expected["ranked"]]
    assert [names[i] for i in chosen] == expected["selected"]
    assert [[names[i] for i in trial.members] for trial in trials] == [trial["soup"] for trial in expected["trials"]]
    assert [trial.accepted for trial in trials] == [trial["accepted"] for trial in expected["trials"]]
    pairs = [(ours.score, theirs["accuracy"]) for ours, theirs in zip(trials, expected["trials"], strict=True)]
    by_name = dict(zip(names, scores, strict=True))
    pairs += [(by_name[value], accuracy) for value, accuracy in expected["ranked"]]
    # Accuracies are ratios of counts; the reference's are float32.
    record("soups: validation accuracy in greedy", max(abs(a - b) for a, b in pairs), SCORE_ROUNDING)
