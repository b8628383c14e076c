"""Pools of members: their grammar, and what is drawn from them."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ssoup_jax import pools, variants
from ssoup_jax.errors import SettingsError

BLANKS = st.sampled_from(["", " ", "  "])


@st.composite
def ranges(draw, variant):
    """A range by hand: its text, and what should be read."""
    if variant.type is int:
        ends = sorted(draw(st.lists(st.integers(1, 10**6), min_size=2, max_size=2)))
    else:
        ends = sorted(draw(st.lists(st.floats(1e-9, 1e3), min_size=2, max_size=2)))
    log, blank = draw(st.booleans()), draw(BLANKS)
    low, high = map(repr, ends)
    text = f"log{blank}({low}{blank},{high})" if log else f"{low}{blank}..{blank}{high}"
    name = draw(st.sampled_from([name for name, own in variants.VARIANTS.items() if own is variant] + [variant.name]))
    return f"{blank}{name}:{blank}{text}", (variant.name, *ends, log)


@st.composite
def texts(draw):
    chosen = draw(st.lists(st.sampled_from(list(variants.VARIANTS.values())), min_size=1, unique_by=lambda v: v.name))
    parts = [draw(ranges(variant)) for variant in chosen]
    return ",".join(text for text, _ in parts), [wanted for _, wanted in parts]


@settings(max_examples=100, deadline=None)
@given(texts())
def test_a_pool_is_read_as_it_was_spelled(case):
    text, wanted = case
    assert [(own.variant.name, own.low, own.high, own.log) for own in pools.parse(text)] == wanted


@settings(max_examples=100, deadline=None)
@given(texts(), st.integers(0, 2**31 - 1), st.integers(1, 6))
def test_whatever_is_drawn_is_in_its_range_and_a_smaller_pool_begins_a_larger_one(case, seed, m):
    text, wanted = case
    try:
        members = pools.draw(text, seed, m)
    except SettingsError as error:
        assert "has no more than" in str(error)
        return
    for own in members:
        assert list(own) == [name for name, *_ in wanted]
        for name, low, high, _ in wanted:
            assert low <= own[name] <= high
            assert variants.find("", name).typed(own[name]) is not None
            assert type(own[name]) is variants.find("", name).type
    for fewer in range(1, m):
        assert pools.draw(text, seed, fewer) == members[:fewer]
    assert all(members.count(own) == 1 for own in members)


@settings(max_examples=200, deadline=None)
@given(st.text("abelognthsdy_:.,()0159e- \n\u0665", max_size=40))
@example("weight_decay:log(1e-5,1e-3),")
@example("seed:" + "9" * 5000 + "..1")
@example("seed:1..2:3")
def test_anything_else_is_one_line(text):
    try:
        pools.parse(text)
    except SettingsError as error:
        assert str(error).startswith("pool: ")
        assert "\n" not in str(error)


def test_what_was_drawn_once_is_drawn_everywhere():
    """A change here would give everybody other members."""
    members = pools.draw(pools.EXAMPLE + ", seed:0..1000000, peak:0.01..0.1", 7, 3)
    assert members == EXPECTED
    again = pools.draw("peak:0.01..0.1, retrain_length:5..15", 7, 3)
    assert again == tuple({name: own[name] for name in ("peak", "retrain_length")} for own in members)
    assert pools.draw("peak:0.01..0.1, retrain_length:5..15", 8, 3) != again
    assert json.loads(json.dumps(members)) == list(members)


# By hand from Python's random numbers: 0.5254 of the way from log(1e-5) to log(1e-3) is the logarithm of 1.124e-4.
EXPECTED = (
    {"weight_decay": 0.0001124, "retrain_length": 14, "seed": 961282, "peak": 0.0621},
    {"weight_decay": 9.889e-05, "retrain_length": 7, "seed": 893640, "peak": 0.03724},
    {"weight_decay": 0.0001244, "retrain_length": 8, "seed": 513920, "peak": 0.0781},
)


def test_values_are_spread_evenly_or_evenly_in_their_logarithm():
    drawn = pools.draw("weight_decay:log(1e-4,1e-2), peak:1..3, seed:0..9, retrain_length:log(1,99)", 0, 500)
    decay, peak, seed, length = (np.array([own[name] for own in drawn]) for name in drawn[0])
    # Half of 500 are on either side of the middle, give or take 22; four times that.
    for values, middle in ((decay, 1e-3), (peak, 2), (seed, 4.5), (length, 9.5)):
        assert abs(np.sum(values < middle) - 250) < 45
    assert {*seed} == {*range(10)}
    assert {*pools.draw("retrain_length:3..5", 0, 3)[0]} == {"retrain_length"}
    assert {own["retrain_length"] for own in pools.draw("retrain_length:3..5", 0, 3)} == {3, 4, 5}


def test_rates_have_few_digits():
    for own in pools.draw("weight_decay:log(1e-5,1e-3), peak:0.1..0.2", 0, 50):
        assert all(float(f"{value:.4g}") == value for value in own.values())


def test_a_range_of_one_value_is_that_value():
    assert pools.draw("weight_decay:0.00012345..0.00012345", 0, 1) == ({"weight_decay": 0.00012345},)
    assert pools.draw("weight_decay:0..0", 0, 1) == ({"weight_decay": 0.0},)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "found ''; allowed: NAME:RANGE, such as weight_decay:log(1e-5,1e-3), retrain_length:5..15"),
        ("seed", "found 'seed'; allowed: NAME:RANGE"),
        ("seed:1..2,", "found ''; allowed: NAME:RANGE"),
        ("sed:1..2", "unknown value 'sed'; allowed: seed, weight_decay, retrain_length, peak; did you mean 'seed'?"),
        ("seed:1", "found seed:1; allowed: LOW..HIGH or log(LOW,HIGH)"),
        ("seed:1-2", "found seed:1-2; allowed: LOW..HIGH"),
        ("seed:ln(1,2)", "found seed:ln(1,2); allowed: LOW..HIGH"),
        ("seed:log(1,2", "found seed:log(1; allowed: LOW..HIGH"),
        ("seed:nan..2", "found seed:nan..2; allowed: LOW..HIGH"),
        ("retrain_length:15..5", "found retrain_length:15..5, which is empty; allowed: the lower end first"),
        ("weight_decay:log(1e-3,1e-5)", "found weight_decay:log(1e-3,1e-5), which is empty"),
        ("weight_decay:log(0,1e-3)", "found weight_decay:log(0,1e-3); 0 has no logarithm"),
        ("seed:log(0,5)", "found seed:log(0,5); 0 has no logarithm"),
        ("weight_decay:-1..1", "found weight_decay:-1..1, and -1 is not allowed: it is a weight decay, 0 or more"),
        ("retrain_length:0..5", "found retrain_length:0..5, and 0 is not allowed: it is a whole number of epochs"),
        ("retrain_length:1..2.5", "found retrain_length:1..2.5, and 2.5 is not allowed"),
        ("peak:log(0.1,1e999)", "found peak:log(0.1,1e999), and 1e999 is not allowed"),
        ("seed:1..2, pruned_seed:1..3", "found seed twice; allowed: one range for each name"),
    ],
)
def test_a_mistake_is_one_line(text, expected):
    with pytest.raises(SettingsError) as error:
        pools.parse(text)
    assert str(error.value).startswith(f"pool: {expected}")


@pytest.mark.parametrize(("text", "n"), [("retrain_length:5..6", 2), ("seed:1..2, retrain_length:5..6", 4)])
def test_a_pool_that_is_too_small_says_how_small_it_is(text, n):
    assert len(pools.draw(text, 0, n)) == n
    with pytest.raises(SettingsError, match=f"no more than {n} members; n_splits_total=500 asks for more"):
        pools.draw(text, 0, 500)
