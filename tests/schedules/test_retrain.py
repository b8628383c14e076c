import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.schedules import retrain
from ssoup_jax.schedules.retrain import DenseHistory

# A handful of float64 operations.
ROUNDING = 1e-14
ALLR = {"relative_norm_drop": 0.2, "fraction_pruned": 0.25}

# Peak 4, floor 1; two warm-up steps, of which the first is lower than the floor.
DENSE = DenseHistory(np.array([0.0, 2.0, 4.0, 3.0, 2.0, 1.0]), n_warmup_steps=2)
COSINE_QUARTERS = [4, 2.5 + 1.5 * 0.5**0.5, 2.5, 2.5 - 1.5 * 0.5**0.5]


@pytest.mark.parametrize(
    ("name", "n_steps", "expected"),
    [
        ("FT", 3, [1, 1, 1]),
        ("LRW", 2, [2, 1]),
        ("LRW", 6, [0, 2, 4, 3, 2, 1]),
        ("SLR", 3, [4, 4, 2]),
        # The last warm-up rate (2) stays, as in the reference.
        ("SLR", 6, [4, 2, 4, 3, 2, 1]),
        ("SLR", 9, [4, 4, 2, 4, 4, 3, 2, 2, 1]),
        ("CLR", 4, COSINE_QUARTERS),
        ("LLR", 4, [4, 3, 2, 1]),
        # The drop (0.2 / sqrt(0.25) = 0.4) is below the share of the steps (3 / 6), then above it (2 / 6).
        ("ALLR", 3, [2, 4 / 3, 2 / 3]),
        ("ALLR", 2, [1.6, 0.8]),
        # More steps than dense training had: the peak is never exceeded.
        ("ALLR", 8, [4, 3.5, 3, 2.5, 2, 1.5, 1, 0.5]),
    ],
)
def test_rates_by_hand(name, n_steps, expected):
    found = retrain.learning_rates(name, DENSE, n_steps, **ALLR)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "n_steps", "n_dense_steps", "expected"),
    [
        # Half as many steps to the same share of dense training, and twice as many.
        ("LRW", 1, 3, [2]),
        ("LRW", 3, 3, [0, 4, 2]),
        ("LRW", 4, 12, [2, 2, 1, 1]),
        # A third of dense training, whatever its steps; the drop asks for less.
        ("ALLR", 4, 12, [4 / 3, 1, 2 / 3, 1 / 3]),
        ("ALLR", 1, 3, [4 / 3]),
    ],
)
def test_other_batches_leave_the_share_of_dense_training_as_it_is(name, n_steps, n_dense_steps, expected):
    drop = {"relative_norm_drop": 0.01, "fraction_pruned": 0.25}
    found = retrain.learning_rates(name, DENSE, n_steps, n_dense_steps=n_dense_steps, **drop)
    np.testing.assert_allclose(found, expected, rtol=ROUNDING)


@pytest.mark.parametrize("name", ["SLR", "CLR", "LLR", "ALLR"])
def test_a_tenth_of_the_steps_rises_from_zero_as_half_a_cosine(name):
    found = retrain.learning_rates(name, DENSE, 40, relative_norm_drop=1.0, fraction_pruned=1.0)
    rise = [2 - 2 * 0.5**0.5, 2, 2 + 2 * 0.5**0.5, 4]
    assert found[0] == 0
    np.testing.assert_allclose(found[1:5], rise, rtol=ROUNDING)


@hypothesis.given(
    st.sampled_from(retrain.NAMES),
    st.lists(st.floats(1e-6, 10), min_size=1, max_size=60),
    st.integers(0, 80),
    st.floats(0, 1),
    st.floats(1e-3, 1),
    st.data(),
)
@hypothesis.settings(deadline=None)
def test_rates_stay_between_zero_and_the_dense_peak(name, dense, n_steps, drop, pruned, data):
    n_warmup_steps = data.draw(st.integers(0, len(dense) - 1))
    history = DenseHistory(np.array(dense), n_warmup_steps)
    hypothesis.assume(name != "LRW" or n_steps <= len(dense))
    found = retrain.learning_rates(name, history, n_steps, relative_norm_drop=drop, fraction_pruned=pruned)
    end = 0 if name in ("FT", "LRW") else n_steps // 10
    assert found.shape == (n_steps,)
    assert np.all(found >= 0)
    assert np.all(found <= history.peak)
    assert np.all(np.diff(found[:end]) > 0)
    if name in ("FT", "CLR"):
        assert np.all(found[end:] >= history.floor * (1 - ROUNDING))
    if name in ("CLR", "LLR") and n_steps:
        assert found[end] == history.peak
    if name == "ALLR" and n_steps:
        assert found[end] >= history.peak * min(1, n_steps / len(dense)) * (1 - ROUNDING)
    if name in ("CLR", "LLR", "ALLR"):
        assert np.all(np.diff(found[end:]) <= 0)


def test_a_member_s_own_peak_is_the_peak_of_llr():
    found = retrain.learning_rates_to_peak(0.5, 4)
    np.testing.assert_allclose(found, [0.5, 0.375, 0.25, 0.125], rtol=ROUNDING)
    own_peak = retrain.learning_rates_to_peak(DENSE.peak, 25)
    np.testing.assert_array_equal(own_peak, retrain.learning_rates("LLR", DENSE, 25))


def test_rates_are_no_view_of_the_history():
    rates = np.array([3.0, 2.0, 1.0])
    retrain.learning_rates("LRW", DenseHistory(rates), 3)[:] = 0
    retrain.learning_rates("SLR", DenseHistory(rates, 2), 3)
    np.testing.assert_array_equal(rates, [3, 2, 1])


@pytest.mark.parametrize(
    ("name", "n_steps", "arguments", "error", "expected"),
    [
        (
            "LLRR",
            3,
            {},
            SettingsError,
            r"retrain_schedule: unknown value 'LLRR'; allowed: FT, LRW, .*did you mean 'LLR'",
        ),
        ("LRW", 7, {}, SettingsError, "retrain_schedule: LRW .*found 7 steps .*at most the 6 of dense training"),
        ("ALLR", 3, {}, SettingsError, "retrain_schedule: ALLR .*found None and None"),
        ("ALLR", 3, {**ALLR, "fraction_pruned": 0.0}, SettingsError, "retrain_schedule: ALLR .*above 0.*and 0.0"),
        ("ALLR", 3, {**ALLR, "fraction_pruned": 1.5}, SettingsError, "retrain_schedule: ALLR .*at most 1.*and 1.5"),
        ("ALLR", 3, {**ALLR, "relative_norm_drop": float("nan")}, RunError, "retrain_schedule: ALLR .*nan.*diverged"),
    ],
)
def test_a_mistake_names_its_setting(name, n_steps, arguments, error, expected):
    with pytest.raises(error, match=f"^{expected}"):
        retrain.learning_rates(name, DENSE, n_steps, **arguments)


@pytest.mark.parametrize(("n_rates", "n_warmup_steps"), [(0, 0), (3, 3), (3, -1)])
def test_a_history_needs_rates_after_its_warmup(n_rates, n_warmup_steps):
    with pytest.raises(SettingsError, match=rf"^n_epochs: .*found {n_rates} rates, {n_warmup_steps} of them warm-up"):
        DenseHistory(np.ones(n_rates), n_warmup_steps)
