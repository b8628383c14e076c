"""Whole runs against the reference's numbers: dense training, then phases of pruning, stacked retraining and soup."""

import jax
import numpy as np
import pytest

from ssoup_jax import trees
from ssoup_jax.pruning import apply_mask, prunable_leaves
from ssoup_jax.training.recalibrate import n_recalibration_batches
from tests.reference.deviations import largest, record, relative_l2
from tests.reference.scores import record_evaluations, record_summary
from tests.reference.trajectories import Followed, Stored, follow, kind

FILES = ("trajectory_simple", "trajectory_simple_length", "trajectory_resnet")

# The reference's own deviation under noise of rounding's size is one draw; ours is another, and over many more sums.
YARDSTICKS = 3
# Below this, the yardstick is as small as the roundings that any other order of summation makes.
FLOOR = 5e-7
# The first losses of a run, before rounding has grown: after no step, after one without momentum, after one with it.
# A deep network magnifies rounding up to tenfold in every step.
EARLY = (1e-5, 1e-5, 1e-3)
# What float32 rounding leaves of statistics and logits after forward passes in train mode through dozens of layers, all
# of which divide by their own batch's deviation; of logits relative to the largest.
TRAIN_MODE_ROUNDING = 1e-4


@pytest.fixture(
    scope="module",
    params=[
        ("trajectory_simple", "chain", "map", "all"),
        ("trajectory_simple", "chain", "vmap", "all"),
        ("trajectory_simple_length", "chain", "map", "all"),
        ("trajectory_resnet", "by stages", "map", "first"),
        pytest.param(("trajectory_resnet", "by stages", "map", "later"), marks=pytest.mark.slow),
        pytest.param(("trajectory_resnet", "chain", "map", "all"), marks=pytest.mark.slow),
    ],
    ids=", ".join,
)
def followed(request) -> Followed:
    file, way, execution, part = request.param
    stored = Stored(file)
    parts = {
        "all": stored.phases,
        "first": [phase for phase in stored.phases if phase.number == 1],
        "later": [phase for phase in stored.phases if phase.number > 1],
    }
    if not parts[part]:
        pytest.skip(f"{file} has one phase only")
    return follow(stored, way == "by stages", execution, parts[part], dense=part != "later")


def tolerance(followed: Followed, stage: str, quantity: str) -> float:
    return max(FLOOR, YARDSTICKS * followed.stored.yardstick(stage, quantity))


def test_losses(followed):
    for run, losses in followed.losses.items():
        expected = followed.stored.arrays[f"{run}/train_loss"]
        assert np.isnan(losses[len(expected) :]).all(), f"{run} went on after its last step"
        found = losses[: len(expected)]
        if not followed.chaotic or run == "dense":
            for number, rounding in enumerate(EARLY, start=1):
                deviation = largest(found[number - 1 : number], expected[number - 1 : number])
                record(f"{followed.name}: training loss {number} of a run", deviation, rounding)
        allowed = tolerance(followed, run, "largest_difference")
        record(f"{followed.name}: training losses of {kind(run)}", largest(found, expected), allowed)


def test_masks(followed):
    for phase in followed.phases:
        masks = followed.masks[phase.name], followed.stored.mask(phase)
        found, expected = (jax.device_get(prunable_leaves(mask, mask)) for mask in masks)
        n_kept = sum(kept.sum() for kept in expected.values())
        assert sum(kept.sum() for kept in found.values()) == n_kept
        n_differing = sum(np.sum(kept & ~expected[path]) for path, kept in found.items())
        yardstick = followed.stored.yardstick(f"{phase.name}/mask", "fraction_of_kept_weights_that_differ")
        allowed = 0 if followed.by_stages else YARDSTICKS * yardstick
        record(f"{followed.name}: share of kept weights that differ", n_differing / n_kept, allowed)


def test_pruned_weights_stay_zero(followed):
    for phase in followed.phases:
        whole = followed.masks[phase.name]
        mask = jax.device_get(prunable_leaves(whole, whole))
        for stage in (*phase.runs, phase.soup):
            params = followed.stored.case.variables(followed.states[stage]).params
            for path, weights in jax.device_get(prunable_leaves(params, whole)).items():
                assert not weights[~mask[path]].any(), f"{stage}: a pruned weight of {path} is not 0"


def test_states(followed):
    stored = followed.stored
    for stage, state in followed.states.items():
        expected, what = stored.state(stage), kind(stage)
        allowed = tolerance(followed, stage, "relative_l2")
        if what == "soups" and followed.by_stages:
            # An average of the reference's own candidates: a rounding for each of them.
            allowed = np.finfo(np.float32).eps * max(len(phase.runs) for phase in followed.phases)
        record(f"{followed.name}: {what}, relative distance", relative_l2(state, expected), allowed)
        if stored.case.meta["bn"]:
            found, expected_statistics = stored.case.flat_bn(state), stored.case.flat_bn(expected)
            # Statistics are part of the state, and so of what its tolerance allows.
            share = np.linalg.norm(expected_statistics) / np.linalg.norm(expected)
            deviation = relative_l2(found, expected_statistics)
            record(f"{followed.name}: statistics of {what}, relative distance", deviation, allowed / share)


def test_recalibrated_statistics(followed):
    case, fraction = followed.stored.case, followed.stored.settings["bn_recalibration_frac"]
    if not case.meta["bn"] or followed.chaotic:
        pytest.skip("no BatchNorm" if not case.meta["bn"] else "rounding has grown too large for a comparison")
    count = n_recalibration_batches(len(case.positions["train"]), followed.stored.settings["batch_size"], fraction)
    for stage in [stage for phase in followed.phases for stage in (*phase.runs, phase.soup)]:
        found = case.flat_bn(case.flat(followed.finished[stage]))
        deviation = case.bn_deviation(found, followed.stored.statistics(stage))
        record(f"{followed.name}: recalibrated statistics of {kind(stage)}", deviation, TRAIN_MODE_ROUNDING)
        counters = "bn_after_recalibration_counters" if kind(stage) == "soups" else "final_bn_counters"
        np.testing.assert_array_equal(followed.stored.arrays[f"{stage}/{counters}"], count)


def test_evaluations(followed):
    if followed.chaotic:
        pytest.skip("rounding has grown too large for a comparison")
    case, stages = followed.stored.case, followed.stored.case.meta["stages"]

    def rounding(stage: str) -> float:
        """A chain's logits are as far off as its weights, through each of two layers."""
        return TRAIN_MODE_ROUNDING if followed.by_stages else 2 * tolerance(followed, stage, "relative_l2")

    for stage, logits in followed.logits.items():
        if stage in stages:
            record_summary(f"{followed.name}: logged", case, stages[stage]["summary"], logits, rounding(stage))
    for phase in followed.phases:
        for run in phase.runs:
            pruned, summary = followed.logits[phase.name], stages[run]["summary"]
            record_summary(f"{followed.name}: logged", case, summary, pruned, rounding(phase.soup), "pruned")
        split_vals, order = phase.ensemble["split_vals"], stages[phase.soup]["candidate_order"]
        record_evaluations(
            followed.name,
            case,
            stages[phase.soup],
            phase.soup,
            [split_vals.index(value) for value in order],
            lambda members, phase=phase: followed.logits[phase.runs[members[0]]],
            rounding(phase.soup),
            rounding(phase.soup),
        )


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("execution", ["map", "vmap"])
def test_shorter_members_are_frozen_where_they_stop(file, execution):
    # A rate of 0 would freeze the weights too, but not the momentum.
    stored = Stored(file)
    phases = [phase for phase in stored.phases if phase.ensemble["ensemble_by"] == "retrain_length"]
    if not phases:
        pytest.skip(f"{file} has no members of different lengths")
    for phase in phases:
        mask, decay = stored.mask(phase), stored.settings["weight_decay"]
        start = stored.trained()
        start = start.replace(params=apply_mask(start.params, mask))
        runs, lengths = phase.runs, [len(stored.arrays[f"{run}/lr"]) for run in phase.runs]
        assert len(set(lengths)) > 1
        together, _ = stored.case.train(start, mask, runs, [decay] * len(runs), execution)
        for i, run in enumerate(runs):
            alone, _ = stored.case.train(start, mask, [run], [decay], execution, width=len(runs))
            for own, other in zip(jax.tree.leaves(trees.member(together, i)), jax.tree.leaves(alone), strict=True):
                # Under vmap one member and several are different programs, which may round differently.
                allowed = 0 if execution == "map" else 1e-6
                record(f"{file}, {execution}: member beside longer ones or alone", largest(own, other[0]), allowed)
