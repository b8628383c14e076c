"""Mean, deviation and paired differences, against SciPy's own test."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ssoup_jax.studies import statistics

VALUES = st.floats(0, 1, width=32)


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=12))
def test_the_interval_is_that_of_a_paired_t_test(pairs):
    ours, theirs = ({run: pair[i] for run, pair in enumerate(pairs)} for i in range(2))
    found = statistics.difference(ours, theirs)
    differences = [a - b for a, b in pairs]
    assert found.n == len(pairs)
    assert found.mean == pytest.approx(np.mean(differences), abs=1e-12)
    if np.std(differences) > 1e-9:
        expected = stats.ttest_rel(*zip(*pairs, strict=True)).confidence_interval(0.95)
        assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
        assert found.is_better == (expected.low > 0) and found.is_worse == (expected.high < 0)


def test_only_runs_that_both_have_are_compared():
    found = statistics.difference({1: 0.5, 2: 0.7, 3: 0.9}, {2: 0.6, 3: 0.9, 4: 0.1})
    assert (found.n, found.mean) == (2, pytest.approx(0.05))
    assert statistics.difference({1: 0.5}, {2: 0.5}) is None


def test_a_single_run_has_no_interval_and_proves_nothing():
    found = statistics.difference({1: 0.9}, {1: 0.1})
    assert (found.mean, found.low, found.high) == (pytest.approx(0.8), None, None)
    assert not found.is_better and not found.is_worse


def test_the_deviation_is_that_of_a_sample():
    found = statistics.spread([0.1, 0.2, 0.4])
    assert (found.mean, found.n) == (pytest.approx(0.7 / 3), 3)
    assert found.std == pytest.approx(np.std([0.1, 0.2, 0.4], ddof=1))
    assert statistics.spread([0.3]).std is None
    assert statistics.spread([]) is None
