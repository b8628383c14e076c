"""Compares every learning rate with the reference's numbers, and the dense ones with a live PyTorch."""

import contextlib

import numpy as np
import pytest

from ssoup_jax import variants
from ssoup_jax.errors import SettingsError
from ssoup_jax.schedules import grammar, pretrain, retrain
from ssoup_jax.schedules.grammar import Constant, Cosine, ExponentialLR, Linear, MultiStepLR, StepLR
from tests.reference import golden
from tests.reference.deviations import record, relative_max

# PyTorch computes each float64 rate from the one before, so its rounding adds up, and the smallest rates of a cosine
# keep all of it: 5e-14 over 70 steps and 1e-11 over 2000. A step too early or too late is 1e-3 or more.
ACCUMULATED_ROUNDING = 1e-10

RULE = "_torch1.12.1"
LATER_RELEASES = ["", "_torch2.0.1"]


def dense_rates(case: dict) -> np.ndarray:
    return pretrain.learning_rates(
        case["learning_rate"], case["n_epochs"], case["iterations_per_epoch"], case["n_epochs_warmup"]
    )


def peak_of(case: dict) -> float:
    """A member's own peak; the reference reads numbers from text, which is the command line's business here."""
    value = case["split_val"]
    with contextlib.suppress(TypeError, ValueError):
        value = float(value)
    return variants.check("split_val", value, "retrain_schedule")


def retraining_rates(group: dict, case: dict, dense: np.ndarray) -> np.ndarray:
    n_steps = case["n_epochs_retrain"] * group["iterations_per_epoch"]
    if case["ensemble_by"] == "retrain_schedule":
        return retrain.learning_rates_to_peak(peak_of(case), n_steps)
    n_warmup_steps = (group["history"]["n_epochs_warmup"] or 0) * group["iterations_per_epoch"]
    return retrain.learning_rates(
        case["retrain_schedule"],
        retrain.DenseHistory(dense, n_warmup_steps),
        n_steps,
        relative_norm_drop=case["relative_norm_drop"],
        fraction_pruned=case["pruning_sparsity"],
    )


def name_of(case: dict) -> str:
    return str({key: value for key, value in case.items() if key != "lr"})


def assert_same_rates(found: np.ndarray, case: dict, n_compared: int | None = None):
    assert len(found) == len(case["lr"]), name_of(case)
    comparison = f"learning rates, {'retraining' if 'retrain_schedule' in case else 'dense'}: relative, every step"
    record(comparison, relative_max(found[:n_compared], case["lr"][:n_compared]), ACCUMULATED_ROUNDING)


def test_dense_rates_equal_the_reference_at_every_step():
    cases = golden.load_json(f"pretrain_schedules{RULE}")["cases"]
    assert cases
    for case in cases:
        if case["crash"]:
            with pytest.raises(SettingsError):
                dense_rates(case)
        else:
            assert_same_rates(dense_rates(case), case)


@pytest.mark.parametrize("release", LATER_RELEASES)
def test_dense_rates_equal_later_releases_up_to_the_peak_and_where_nothing_follows_a_warmup(release):
    cases = [case for case in golden.load_json(f"pretrain_schedules{release}")["cases"] if not case["crash"]]
    assert cases
    for case in cases:
        counts_from_the_start = isinstance(grammar.parse(case["learning_rate"]), Constant | StepLR | MultiStepLR)
        everywhere = counts_from_the_start or not case["n_epochs_warmup"]
        to_peak = None if everywhere else case["n_epochs_warmup"] * case["iterations_per_epoch"] + 1
        assert_same_rates(dense_rates(case), case, to_peak)


@pytest.mark.parametrize("from_own_dense_rates", [False, True])
def test_retraining_rates_equal_the_reference_at_every_step(from_own_dense_rates):
    groups = golden.load_json(f"retrain_schedules{RULE}")["groups"]
    assert any(group["cases"] for group in groups)
    for group in groups:
        history = group["history"]
        dense = dense_rates(history) if from_own_dense_rates else np.array(history["lr"])
        for case in group["cases"]:
            if case["crash"]:
                setting = "split_val" if case["ensemble_by"] == "retrain_schedule" else "retrain_schedule"
                with pytest.raises(SettingsError, match=f"^{setting}: "):
                    retraining_rates(group, case, dense)
            else:
                assert_same_rates(retraining_rates(group, case, dense), case)


@pytest.mark.parametrize("release", LATER_RELEASES)
def test_retraining_rates_equal_later_releases_up_to_the_peak_and_without_a_warmup(release):
    groups = golden.load_json(f"retrain_schedules{release}")["groups"]
    assert any(group["cases"] for group in groups)
    for group in groups:
        for case in group["cases"]:
            if case["crash"]:
                continue
            found = retraining_rates(group, case, np.array(group["history"]["lr"]))
            without = case["retrain_schedule"] in ("FT", "LRW") and case["ensemble_by"] != "retrain_schedule"
            n_warmup_steps = len(found) // 10
            assert_same_rates(found, case, None if without or not n_warmup_steps else n_warmup_steps + 1)


@pytest.mark.parametrize(
    ("schedule", "n_epochs", "steps_per_epoch"),
    [
        (Constant(0.3), 4, 5),
        (Linear(0.3), 9, 13),
        (Linear(0.3, 0.02), 8, 11),
        (Cosine(0.3), 6, 17),
        (StepLR(0.3, 2, 0.25), 9, 4),
        (MultiStepLR(0.3, (1, 4, 5), 0.25), 8, 6),
        (ExponentialLR(0.3, 0.97), 12, 10),
    ],
)
def test_dense_rates_equal_a_live_pytorch(schedule, n_epochs, steps_per_epoch):
    import torch

    schedulers = torch.optim.lr_scheduler
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=schedule.lr)
    n_steps = n_epochs * steps_per_epoch
    match schedule:
        case Constant():
            scheduler = schedulers.ConstantLR(optimizer, factor=1.0)
        case Linear(lr, final):
            scheduler = schedulers.LinearLR(optimizer, start_factor=1.0, end_factor=final / lr, total_iters=n_steps)
        case Cosine():
            scheduler = schedulers.CosineAnnealingLR(optimizer, T_max=n_steps)
        case StepLR(_, epochs, gamma):
            scheduler = schedulers.StepLR(optimizer, step_size=epochs * steps_per_epoch, gamma=gamma)
        case MultiStepLR(_, milestones, gamma):
            steps = [epoch * steps_per_epoch for epoch in milestones]
            scheduler = schedulers.MultiStepLR(optimizer, milestones=steps, gamma=gamma)
        case ExponentialLR(_, gamma):
            scheduler = schedulers.ExponentialLR(optimizer, gamma=gamma)

    expected = []
    for _ in range(n_steps):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    found = pretrain.learning_rates(schedule, n_epochs, steps_per_epoch, None)
    np.testing.assert_allclose(found, expected, rtol=ACCUMULATED_ROUNDING, atol=0)
