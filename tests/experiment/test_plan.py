"""Names of stored results: pinned, and changed by exactly the settings that determine them."""

import dataclasses
import json

import pytest

from configs import digits_sms
from ssoup_jax.config import Settings, make_settings
from ssoup_jax.data import sources
from ssoup_jax.experiment import specs
from ssoup_jax.experiment.plan import DOES_NOT_CHANGE_RESULTS, make_plan
from tests.experiment import tiny


def names(plan):
    groups = {"dense": [plan.dense]}
    for phase, members in enumerate(plan.candidates, start=1):
        groups[f"imp{phase}"] = list(members)
        groups[f"soup{phase}"] = list(plan.soups[phase - 1 : phase])
    return {group: [stage.name for stage in stages] for group, stages in groups.items()}


def test_the_default_settings_keep_their_names():
    """A change here makes every stored result unreachable: raise `plan.FORMAT` only if the results really change."""
    plan = make_plan(make_settings(digits_sms.get_config()), sources.load("digits").fingerprint)
    assert plan.dense.name == "dense-c5914668925832dd"
    assert plan.soups[-1].name == "phase3-soup-7c40a1f655daa572"


ALL = ("dense", "imp1", "soup1", "imp2", "soup2")


REDONE = [
    ({"execution": "vmap"}, ()),
    ({"strategy": "Dense"}, ()),
    ({"strategy": "IMP", "phase": 2}, ()),
    ({"greedy_metric": "macro_accuracy"}, ()),
    ({"n_splits_total": None, "split_vals": (0, 1)}, ()),
    ({"learning_rate": "( Linear,0.10 )"}, ()),
    ({"n_splits_total": 3}, ("soup1", "imp2", "soup2")),
    ({"ensemble_method": "GreedySoup"}, ("soup1", "imp2", "soup2")),
    ({"goal_sparsity": 0.8}, ALL[1:]),
    ({"n_phases": 3}, ALL[1:]),
    ({"pruning_selector": "uniform"}, ALL[1:]),
    ({"retrain_schedule": "CLR"}, ALL[1:]),
    ({"n_epochs_per_phase": 2}, ALL[1:]),
    ({"bn_recalibration": "exact"}, ALL[1:]),
    ({"bn_recalibration_frac": 0.5}, ALL[1:]),
    ({"run_id": 2}, ALL),
    ({"arch": "ResNet8"}, ALL),
    ({"use_amp": True}, ALL),
    ({"n_epochs": 3}, ALL),
    ({"batch_size": 32}, ALL),
    ({"learning_rate": "(Linear, 0.2)"}, ALL),
    ({"n_epochs_warmup": 1}, ALL),
    ({"optimizer": "AdamW"}, ALL),
    ({"loss": "optax:squared_error"}, ALL),
    ({"momentum": 0.8}, ALL),
    ({"weight_decay": 0.0}, ALL),
    ({"prune_only": "fc1/*"}, ALL[1:]),
    ({"retrain_batch_size": 32}, ALL[1:]),
    ({"retrain_weight_decay": 0.0}, ALL[1:]),
    ({"retrain_momentum": 0.8}, ALL[1:]),
    ({"retrain_use_amp": True}, ALL[1:]),
    ({"prune_except": "fc2/kernel"}, ALL[1:]),
]


AS_IN_DENSE_TRAINING = ({"batch_size": 64}, {"weight_decay": 1e-4}, {"momentum": 0.9}, {"use_amp": False})


@pytest.mark.parametrize("dense", AS_IN_DENSE_TRAINING)
def test_retraining_as_dense_training_keeps_its_names_however_that_is_said(dense):
    assert names(tiny.plan(**dense, **{f"retrain_{name}": value for name, value in dense.items()})) == names(
        tiny.plan()
    )


@pytest.mark.parametrize(("changes", "redone"), REDONE)
def test_a_setting_redoes_exactly_what_depends_on_it(changes, redone):
    before, after = names(tiny.plan()), names(tiny.plan(**changes))
    # A third member or phase adds stages; those that were there before are compared.
    changed = {group for group in ALL if after[group][: len(before[group])] != before[group]}
    assert changed == set(redone)


def test_other_data_redo_everything():
    settings = tiny.settings()
    one, other = (names(make_plan(settings, fingerprint)) for fingerprint in ("a", "b"))
    assert all(one[group] != other[group] for group in ALL)


def test_a_member_is_named_by_what_it_is_not_by_how_it_was_asked_for():
    by_seed = tiny.plan(n_splits_total=1)
    by_decay = tiny.plan(ensemble_by="weight_decay", n_splits_total=None, split_vals=(tiny.settings().weight_decay,))
    assert by_seed.candidates[0][0].name == by_decay.candidates[0][0].name


@pytest.mark.parametrize(
    ("members", "by"),
    [
        ([{"seed": 0}, {"seed": 1}], {}),
        ([{}, {"seed": 1, "weight_decay": 1e-4, "retrain_length": 1}], {}),
        ([{"weight_decay": 0}, {"weight_decay": 1e-3}], {"ensemble_by": "weight_decay", "split_vals": (0.0, 1e-3)}),
        ([{"retrain_length": 2}, {}], {"ensemble_by": "retrain_length", "split_vals": (2, 1)}),
        ([{"peak": 0.5}, {"peak": 0.1}], {"ensemble_by": "retrain_schedule", "split_vals": (0.5, 0.1)}),
    ],
)
def test_members_that_differ_in_one_thing_have_the_names_that_they_have_by_it(members, by):
    assert names(tiny.plan(members=members)) == names(tiny.plan(**by))


def test_a_larger_pool_trains_only_the_members_that_a_smaller_one_does_not_have():
    pool = {"pool": "weight_decay:log(1e-5,1e-3), retrain_length:1..9"}
    three, five = (tiny.plan(**pool, n_splits_total=m, n_phases=1) for m in (3, 5))
    assert [stage.name for stage in five.candidates[0][:3]] == [stage.name for stage in three.candidates[0]]
    other = tiny.plan(**pool, n_splits_total=3, n_phases=1, pool_seed=1)
    assert not {stage.name for stage in other.candidates[0]} & {stage.name for stage in five.candidates[0]}


def test_every_stage_of_a_plan_has_a_name_of_its_own():
    plan = tiny.plan(n_phases=4, n_splits_total=5)
    stages = [stage.name for stage in plan.wanted]
    assert len(stages) == len(set(stages)) == 1 + 4 * 6


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"strategy": "SMS"}, ["Dense", "IMP", "IMP", "Ensemble", "IMP", "IMP", "Ensemble"]),
        ({"strategy": "Dense"}, ["Dense"]),
        ({"strategy": "IMP", "phase": 2}, ["IMP", "IMP"]),
        ({"strategy": "IMP", "split_val": 1}, ["IMP"]),
        ({"strategy": "Ensemble"}, ["Ensemble"]),
        ({"ensemble_method": None}, ["Dense", "IMP", "IMP", "IMP", "IMP"]),
    ],
)
def test_a_strategy_wants_its_own_stages(changes, wanted):
    assert [stage.kind for stage in tiny.plan(**changes).wanted] == wanted


def test_a_stage_is_hashed_once_however_many_ways_lead_back_to_the_dense_model():
    # A hash of all fields would go 5 ** 30 ways.
    plan = make_plan(tiny.settings(n_phases=30, split_vals=(0, 1, 2, 3, 4), n_splits_total=5), "data")
    assert len({*plan.wanted}) == len(plan.wanted) == 1 + 30 * 6


def test_every_setting_is_in_a_spec_or_says_why_it_is_in_none():
    """One that is new must be added to a spec, and to `REDONE`, or to the list of those that change no result."""
    in_a_spec = {name for changes, redone in REDONE if redone for name in changes}
    indirectly = {
        "init_from",
        "init_mask",
        "init_head",
        "greedy_metric",
    }  # a file, and what is made of it; only for greedy soups: tested elsewhere
    found = in_a_spec | indirectly | DOES_NOT_CHANGE_RESULTS.keys()
    assert found == Settings.model_fields.keys()
    assert (in_a_spec | indirectly) & DOES_NOT_CHANGE_RESULTS.keys() == {"n_splits_total", "n_phases"}


def test_specs_are_hashed_under_the_names_of_their_fields():
    dense, member, soup = (
        stage.spec for stage in (tiny.plan().dense, tiny.plan().candidates[0][0], tiny.plan().soups[0])
    )
    for spec in (dense, member, soup):
        fields = {field.name for field in dataclasses.fields(spec)}
        may_be_left_out = {field.name for field in dataclasses.fields(spec) if field.metadata.get("when_given")}
        assert fields - json.loads(specs.canonical(spec)).keys() <= may_be_left_out
    given = dataclasses.replace(member, prune_only="fc1/*")
    assert json.loads(specs.canonical(given)) == json.loads(specs.canonical(member)) | {"prune_only": "fc1/*"}


def test_retraining_is_named_by_its_own_optimizer():
    sgd, adamw = (tiny.plan(optimizer=name).candidates[0][0].spec for name in ("SGD", "AdamW"))
    assert (sgd.optimizer, adamw.optimizer) == (None, "AdamW")
    assert json.loads(specs.canonical(adamw)) == json.loads(specs.canonical(sgd)) | {"optimizer": "AdamW"}


def test_a_greedy_soup_is_named_by_its_metric():
    one, other = (
        tiny.plan(ensemble_method="GreedySoup", greedy_metric=name) for name in ("accuracy", "macro_accuracy")
    )
    assert one.candidates[0] == other.candidates[0]
    assert one.soups[0].name != other.soups[0].name
