"""What members differ in, laid side by side."""

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.training import hyper
from ssoup_jax.training.hyper import Hyper

SCHEDULES = st.lists(st.lists(st.floats(0, 1), max_size=6), min_size=1, max_size=4)


def two_members() -> Hyper:
    values = {
        "learning_rate": hyper.per_step([[0.3, 0.2, 0.1], [0.5]]),
        "weight_decay": np.array([0.0, 1e-4]),
        "momentum": np.array([0.9, 0.9]),
    }
    keys = jax.random.split(jax.random.key(0), 2)
    return Hyper(values, np.array([3, 1]), keys, ("a", "b"))


def test_values_by_member_are_constants_and_values_by_step_are_schedules():
    found = two_members()
    assert (found.constants.keys(), found.schedules.keys()) == ({"weight_decay", "momentum"}, {"learning_rate"})
    np.testing.assert_array_equal(found.schedules["learning_rate"], np.float32([[0.3, 0.2, 0.1], [0.5, 0, 0]]))
    np.testing.assert_array_equal(found.constants["weight_decay"], np.float32([0, 1e-4]))
    assert {value.dtype for value in (found.constants | found.schedules).values()} == {np.dtype(np.float32)}


def test_keys_as_numbers_are_the_same_keys():
    found = two_members()
    assert type(found.key_data) is np.ndarray
    assert found.key_data.shape[0] == 2
    assert (jax.random.wrap_key_data(found.key_data) == found.keys).all()


@settings(max_examples=50, deadline=None)
@given(schedules=SCHEDULES)
def test_schedules_lie_side_by_side_and_are_zero_beyond_their_end(schedules):
    table = hyper.per_step([np.array(own) for own in schedules])
    assert table.shape == (len(schedules), max(map(len, schedules)))
    for row, own in zip(table, schedules, strict=True):
        assert row[: len(own)].tolist() == own
        assert not row[len(own) :].any()


@settings(max_examples=100, deadline=None)
@given(schedules=SCHEDULES, start=st.integers(-5, 9), length=st.integers(0, 6))
def test_a_window_is_cut_out_of_zeros_on_both_sides(schedules, start, length):
    tables = {"rate": hyper.per_step([np.array(own) for own in schedules])}
    found = hyper.window(tables, start, length)["rate"]
    assert found.shape == (len(schedules), length)
    for row, own in zip(found, schedules, strict=True):
        assert row.tolist() == [own[i] if 0 <= i < len(own) else 0.0 for i in range(start, start + length)]
