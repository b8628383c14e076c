"""Members of an experiment: what they differ in, those that diverge, and the soup that is made of them."""

import pytest

from ssoup_jax import pools, variants
from ssoup_jax.errors import RunError
from ssoup_jax.storage.store import Store
from tests.experiment import tiny


def test_members_of_different_lengths_and_one_that_diverges_have_their_own_curves(tmp_path):
    lengths = {"ensemble_by": "retrain_length", "n_splits_total": None, "split_vals": (1, 3), "n_phases": 1}
    tiny.launch(tmp_path / "lengths", evaluate_every=2, **lengths)
    plan = tiny.plan(**lengths)
    found = [tiny.curve(tmp_path / "lengths", stage) for stage in plan.candidates[0]]
    assert [[line.get("val") is not None for line in own] for own in found] == [[True], [False, True, True]]

    rates = {"ensemble_by": "retrain_schedule", "n_splits_total": None, "split_vals": (0.01, 1e30), "n_phases": 1}
    with pytest.raises(RunError, match="a soup needs two"):
        tiny.launch(tmp_path / "rates", evaluate_every=1, **rates)
    (healthy,), (sick,) = (tiny.curve(tmp_path / "rates", stage) for stage in tiny.plan(**rates).candidates[0])
    assert healthy["val"]["accuracy"] > 0.5
    assert "train_loss" in sick and "val" not in sick


def test_greedy_soup_reports_every_accept_and_reject(tmp_path):
    summary, printed = tiny.launch(
        tmp_path,
        n_phases=1,
        ensemble_method="GreedySoup",
        ensemble_by="retrain_schedule",
        n_splits_total=None,
        split_vals=(0.01, 0.05, 20.0),
    )
    soup = summary["phases"][0]["soup"]
    assert len(soup["greedy"]["trials"]) == 2
    accepted = [trial["split_val"] for trial in soup["greedy"]["trials"] if trial["accepted"]]
    assert soup["ingredients"] == [soup["greedy"]["trials"][0]["soup"][0], *accepted]
    assert 20.0 not in soup["ingredients"], "the destructive member must be left out"
    assert printed.count("accepted") == len(accepted)
    assert printed.count("rejected, below") == 2 - len(accepted)


@pytest.mark.parametrize(
    ("changes", "split_vals"),
    [
        ({"ensemble_by": "weight_decay"}, (0.0, 1e-3)),
        ({"ensemble_by": "retrain_length"}, (1, 3)),
        ({"ensemble_by": "retrain_schedule"}, (0.02, 0.1)),
        ({"ensemble_by": "pruned_seed", "retrain_schedule": "ALLR"}, (3, 8)),
    ],
)
def test_members_by_every_hyperparameter(tmp_path, changes, split_vals):
    summary, _ = tiny.launch(tmp_path, n_phases=1, n_splits_total=None, split_vals=split_vals, **changes)
    candidates = summary["phases"][0]["candidates"]
    assert [candidate["split_val"] for candidate in candidates] == list(split_vals)
    losses = [candidate["test"]["loss"] for candidate in candidates]
    assert losses[0] != losses[1]
    if changes["ensemble_by"] == "retrain_length":
        assert [candidate["training"]["n_steps"] for candidate in candidates] == [21, 63]


def test_a_diverging_member_is_named_and_finished_stages_stay(tmp_path):
    changes = {"ensemble_by": "retrain_schedule", "n_splits_total": None, "split_vals": (0.01, 1e30)}
    changes["on_divergence"] = "fail"
    with pytest.raises(RunError, match=r"IMP phase 1, member 1e\+30: .* at step \d+"):
        tiny.launch(tmp_path, **changes)
    plan, store = tiny.plan(**changes), Store(tmp_path)
    assert store.has(plan.dense.name)
    assert not any(store.has(stage.name) for stage in plan.candidates[0])
    _, printed = tiny.launch(tmp_path, **changes | {"split_vals": (0.01, 0.02)})
    assert "Dense: finished earlier" in printed


def test_a_diverging_member_is_left_out_of_the_soup_and_the_others_do_not_notice(tmp_path):
    changes = {"ensemble_by": "retrain_schedule", "n_splits_total": None, "n_phases": 1}
    summary, printed = tiny.launch(tmp_path / "three", **changes | {"split_vals": (0.01, 1e30, 0.02)})
    phase = summary["phases"][0]
    assert phase["soup"]["ingredients"] == [0.01, 0.02]
    step = phase["candidates"][1]["diverged"]
    assert f"IMP phase 1, member 1e+30: diverged at step {step}, left out" in printed
    assert f"Ensemble phase 1: without member 1e+30, which diverged at step {step}" in printed
    assert "test" not in phase["candidates"][1]
    healthy, _ = tiny.launch(tmp_path / "two", **changes | {"split_vals": (0.01, 0.02)})
    assert healthy["phases"][0]["soup"]["test"] == phase["soup"]["test"]
    assert healthy["phases"][0]["candidates_mean"] == phase["candidates_mean"]
    # The member is finished, as far as it will ever be: it is not trained again.
    _, printed = tiny.launch(tmp_path / "three", **changes | {"split_vals": (0.01, 1e30, 0.02)})
    assert "IMP phase 1, member 1e+30: finished earlier" in printed


def test_a_soup_needs_two_members_that_did_not_diverge(tmp_path):
    changes = {"ensemble_by": "retrain_schedule", "n_splits_total": None, "split_vals": (0.01, 1e30)}
    with pytest.raises(RunError, match="Ensemble phase 1: only 1 of 2 candidates did not diverge"):
        tiny.launch(tmp_path, **changes)


def test_a_member_trained_under_another_name_is_reported_under_its_own(tmp_path):
    tiny.launch(tmp_path, n_phases=1, n_splits_total=1)
    decay = tiny.settings().weight_decay
    changes = {"n_phases": 1, "ensemble_by": "weight_decay", "n_splits_total": None, "split_vals": (decay, 1e-2)}
    summary, printed = tiny.launch(tmp_path, **changes)
    assert f"member {decay}: finished earlier" in printed
    phase = summary["phases"][0]
    assert [candidate["split_val"] for candidate in phase["candidates"]] == [decay, 1e-2]
    assert phase["soup"]["ingredients"] == [decay, 1e-2]


def test_members_that_differ_in_several_things(tmp_path):
    members = [{"seed": 3, "weight_decay": 1e-2}, {"retrain_length": 3, "peak": 0.05}]
    summary, printed = tiny.launch(tmp_path, n_phases=1, members=members)
    assert "members: 0: seed 3, weight_decay 0.01; 1: retrain_length 3, peak 0.05\n" in printed
    assert "m = 2 by seed, weight_decay, retrain_length, peak" in printed
    candidates = summary["phases"][0]["candidates"]
    assert [candidate["member"] for candidate in candidates] == members
    assert [candidate["split_val"] for candidate in candidates] == [0, 1]
    assert [candidate["training"]["n_steps"] for candidate in candidates] == [21, 63]
    assert summary["phases"][0]["soup"]["ingredients"] == [0, 1]
    # A member is the one that it would be if all had what it has of its own.
    _, printed = tiny.launch(tmp_path, strategy="IMP", n_phases=1, split_vals=(3,), retrain_weight_decay=1e-2)
    assert "IMP phase 1, member 3: finished earlier" in printed


def test_what_a_pool_gave_is_said_and_recorded(tmp_path):
    pool = {"pool": "weight_decay:log(1e-5,1e-3), seed:0..9", "pool_seed": 4, "n_phases": 1}
    drawn = pools.draw(pool["pool"], 4, 2)
    summary, printed = tiny.launch(tmp_path, **pool)
    assert [candidate["member"] for candidate in summary["phases"][0]["candidates"]] == list(drawn)
    assert variants.line(drawn) in printed
    assert summary["settings"]["pool"] == pool["pool"] and summary["settings"]["split_vals"] is None
    _, printed = tiny.launch(tmp_path, **pool, strategy="IMP", split_val=1)
    assert "IMP phase 1, member 1: finished earlier" in printed and "member 0" not in printed


def test_a_soup_is_reported_with_what_this_experiment_calls_its_members(tmp_path):
    by_decay = {"ensemble_by": "weight_decay", "split_vals": (0.0, 1e-2), "n_splits_total": None}
    first, _ = tiny.launch(tmp_path, n_phases=1, **by_decay)
    second, printed = tiny.launch(tmp_path, n_phases=1, members=[{"weight_decay": 0.0}, {"weight_decay": 1e-2}])
    assert "Ensemble phase 1: finished earlier" in printed
    assert first["phases"][0]["soup"]["ingredients"] == [0.0, 1e-2]
    assert second["phases"][0]["soup"]["ingredients"] == [0, 1]
    assert second["phases"][0]["selected"] == first["phases"][0]["selected"]
