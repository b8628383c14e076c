"""The members' values."""

import ast
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs import base
from ssoup_jax import variants
from ssoup_jax.config import make_settings
from ssoup_jax.errors import SettingsError

WHOLE = {"pruned_seed": 0, "retrain_length": 1}
RATES = ("weight_decay", "retrain_schedule")


@pytest.mark.parametrize(
    ("ensemble_by", "value", "expected"),
    [
        ("pruned_seed", 0, 0),
        ("pruned_seed", 3.0, 3),
        ("pruned_seed", 2**31 - 1, 2**31 - 1),
        ("retrain_length", 1, 1),
        ("retrain_length", 7.0, 7),
        ("weight_decay", 0, 0.0),
        ("weight_decay", 5e-4, 5e-4),
        ("retrain_schedule", 1, 1.0),
        ("retrain_schedule", 0.05, 0.05),
        ("retrain_schedule", 1e30, 1e30),
    ],
)
def test_a_value_gets_its_type(ensemble_by, value, expected):
    found = variants.check("split_vals", value, ensemble_by)
    assert (found, type(found)) == (expected, type(expected))
    assert variants.check("split_vals", found, ensemble_by) == found


NOT_NUMBERS = [None, "3", "CLR", True, [1], (1,), math.nan, math.inf, -math.inf, 1j]


@pytest.mark.parametrize(
    ("ensemble_by", "value"),
    [
        *((by, value) for by in variants.VARIANTS for value in (*NOT_NUMBERS, -1, -0.5, 10**400)),
        *((by, value) for by in WHOLE for value in (0.5, 2.5, 2**31)),
        ("retrain_length", 0),
        ("retrain_schedule", 0),
        ("retrain_schedule", 0.0),
    ],
)
@pytest.mark.parametrize("setting", ["split_vals", "split_val"])
def test_a_value_that_is_not_allowed(setting, ensemble_by, value):
    with pytest.raises(SettingsError) as error:
        variants.check(setting, value, ensemble_by)
    message = str(error.value)
    assert message.startswith(f"{setting}: found {value!r}; with ensemble_by={ensemble_by!r} it is a")
    assert "\n" not in message


@settings(max_examples=50, deadline=None)
@given(m=st.integers(1, 20))
def test_seeds_count_up_from_zero(m):
    assert variants.complete("pruned_seed", None, m, 0) == tuple(range(m))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("pruned_seed", None, None, 0), (0,)),
        (("pruned_seed", None, None, 4), (4,)),
        (("weight_decay", None, None, 1e-4), (1e-4,)),
        (("weight_decay", None, 1, 1e-4), (1e-4,)),
        (("retrain_length", None, None, 5), (5,)),
        (("pruned_seed", (4, 2.0, 7), None, 0), (4, 2, 7)),
        (("pruned_seed", [4, 2], 3, 0), (4, 2)),
        (("weight_decay", (0, 1e-3), None, 1e-4), (0.0, 1e-3)),
        (("retrain_length", (5, 1), 2, 5), (5, 1)),
        (("retrain_schedule", (1, 0.05), None, None), (1.0, 0.05)),
    ],
)
def test_complete_values(arguments, expected):
    found = variants.complete(*arguments)
    assert found == expected
    assert list(map(type, found)) == list(map(type, expected))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("weight_decay", None, 3, 1e-4), "split_vals: not given; ensemble_by='weight_decay' needs"),
        (("retrain_length", None, 2, 5), "split_vals: not given; ensemble_by='retrain_length' needs"),
        (("retrain_schedule", None, None, None), "split_vals: not given; ensemble_by='retrain_schedule' needs"),
        (("pruned_seed", (), None, 0), r"split_vals: found \(\); at least one value is needed"),
        (("pruned_seed", [], 3, 0), r"split_vals: found \(\); at least one value is needed"),
        (("pruned_seed", (1, 2, 1), None, 0), "split_vals: found 1 more than once"),
        (("pruned_seed", (1, 1.0), None, 0), "split_vals: found 1 more than once"),
        (("weight_decay", (0, 0.0), None, 1e-4), r"split_vals: found 0\.0 more than once"),
        (("pruned_seed", (1, "a"), None, 0), "split_vals: found 'a'"),
        (("retrain_length", None, None, 0), "split_vals: found 0"),
    ],
)
def test_values_that_do_not_fit(arguments, expected):
    with pytest.raises(SettingsError, match=f"^{expected}") as error:
        variants.complete(*arguments)
    assert "\n" not in str(error.value)


BASE = {"seed": 0, "weight_decay": 1e-4, "n_epochs": 5, "schedule": "ALLR", "peak": None}


@pytest.mark.parametrize(
    ("ensemble_by", "split_val", "changed"),
    [
        ("pruned_seed", 2, {"seed": 2}),
        ("weight_decay", 0.0, {"weight_decay": 0.0}),
        ("retrain_length", 7, {"n_epochs": 7}),
        ("retrain_schedule", 0.05, {"peak": 0.05, "schedule": "LLR"}),
    ],
)
def test_a_value_takes_the_place_of_one_hyperparameter(ensemble_by, split_val, changed):
    before = dict(BASE)
    assert variants.apply({variants.VARIANTS[ensemble_by].name: split_val}, BASE) == BASE | changed
    assert before == BASE


@pytest.mark.parametrize("ensemble_by", variants.VARIANTS)
def test_each_variant_allows_its_own_example_and_says_what_it_is(ensemble_by):
    variant = variants.VARIANTS[ensemble_by]
    values = ast.literal_eval(variant.example)
    assert variants.complete(ensemble_by, values, None, None) == values
    assert all(type(value) is variant.type for value in values)
    assert variants.listed([{variant.name: values[0]}]) == variants.listed([{ensemble_by: values[0]}])
    assert variant.sets in BASE
    assert variant.implies.keys() <= BASE.keys()


@pytest.mark.parametrize("ensemble_by", variants.VARIANTS)
def test_settings_read_every_row_of_the_table(ensemble_by):
    variant = variants.VARIANTS[ensemble_by]
    values = ast.literal_eval(variant.example)
    settings = make_settings(dict(base.get_config()) | {"ensemble_by": ensemble_by, "split_vals": values})
    assert settings.all_splits == values
    for value in values:
        member = settings.retraining_of(value)
        assert member.items() >= {variant.sets: value, **variant.implies}.items()


def test_values_take_the_places_of_several_hyperparameters():
    own = {"seed": 3, "peak": 0.05, "retrain_length": 7}
    assert variants.apply(own, BASE) == BASE | {"seed": 3, "n_epochs": 7, "peak": 0.05, "schedule": "LLR"}
    assert variants.apply({}, BASE) == BASE


TWO = ({"seed": 1, "weight_decay": 0}, {"retrain_length": 7.0, "retrain_schedule": 1})
CANONICAL = ({"seed": 1, "weight_decay": 0.0}, {"retrain_length": 7, "peak": 1.0})


@pytest.mark.parametrize("value", [TWO, list(TWO), (list(TWO),), json.dumps(TWO), (json.dumps(TWO),)])
def test_members_are_listed_in_many_ways(value):
    found = variants.listed(value)
    assert found == CANONICAL
    assert [list(map(type, own.values())) for own in found] == [[int, float], [int, float]]
    assert variants.listed(found) == found


def test_a_member_may_be_alone_or_have_nothing_of_its_own():
    assert variants.listed(({"seed": 1},)) == variants.listed([{"pruned_seed": 1}]) == ({"seed": 1},)
    assert variants.listed([{}]) == ({},)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((), "found (); allowed: a list with what each member has, such as [{"),
        ([], "found []; allowed: a list"),
        ("[]", "found []; allowed: a list"),
        ("[{", "found '[{'; allowed: a list"),
        (("{seed: 1}",), "found '{seed: 1}'; allowed: a list"),
        ([{"seed": 1}, 2], "found [{'seed': 1}, 2]; allowed: a list"),
        (5, "found 5; allowed: a list"),
        ({"seed": 1}, "found {'seed': 1}; allowed: a list"),
        (
            [{"seed": 1}, {"sed": 2}],
            "member 1: unknown value 'sed'; allowed: seed, weight_decay, retrain_length, peak; did",
        ),
        ([{3: 2}], "member 0: unknown value 3; allowed: seed, "),
        ([{"seed": -1}], "found seed=-1 in member 0; it is a whole number from 0, added to the run's seed"),
        ([{}, {"weight_decay": "1e-4"}], "found weight_decay='1e-4' in member 1; it is a weight decay, 0 or more"),
        ([{"peak": True}], "found peak=True in member 0; it is a positive peak learning rate"),
        ([{"retrain_length": math.nan}], "found retrain_length=nan in member 0; it is a whole number of epochs"),
        ([{"seed": 1, "pruned_seed": 1}], "found seed twice in member 0, once as pruned_seed"),
    ],
)
def test_members_that_cannot_be(value, expected):
    with pytest.raises(SettingsError) as error:
        variants.listed(value)
    assert str(error.value).startswith(f"members: {expected}")
    assert "\n" not in str(error.value)


def test_the_first_members_that_are_equal_are_found():
    assert variants.first_equal([{"a": 1}, {"a": 2}, {"a": 1}, {"a": 2}]) == (0, 2)
    assert variants.first_equal([{"a": 1}, {"a": 2}]) is None
    assert variants.first_equal(iter([])) is None


def test_members_are_said_in_one_line():
    own = ({"seed": 1, "weight_decay": 1e-4}, {}, {"peak": 0.5})
    assert variants.line(own) == "members: 0: seed 1, weight_decay 0.0001; 1: as the settings say; 2: peak 0.5"
