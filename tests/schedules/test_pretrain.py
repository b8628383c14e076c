import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from ssoup_jax.errors import SettingsError
from ssoup_jax.schedules import pretrain
from ssoup_jax.schedules.grammar import Constant, Cosine, ExponentialLR, Linear, MultiStepLR, StepLR

# The peak itself is exact; what is left is the rounding of a handful of float64 operations.
ROUNDING = 1e-14


@pytest.mark.parametrize(
    ("schedule", "n_epochs", "steps_per_epoch", "n_epochs_warmup", "expected"),
    [
        ("(Constant, 0.5)", 2, 2, None, [0.5, 0.5, 0.5, 0.5]),
        ("(Constant, 0.5)", 2, 2, 0, [0.5, 0.5, 0.5, 0.5]),
        ("(Linear, 0.8)", 2, 2, None, [0.8, 0.6, 0.4, 0.2]),
        ("(Linear, 0.8, 0.4)", 2, 2, None, [0.8, 0.7, 0.6, 0.5]),
        ("(Linear, 0.8)", 3, 2, 1, [8e-21, 0.4, 0.8, 0.6, 0.4, 0.2]),
        ("(Cosine, 2)", 2, 2, None, [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5]),
        ("(Cosine, 2)", 2, 2, 1, [2e-20, 1, 2, 1]),
        ("(StepLR, 1, 1, 0.5)", 3, 2, None, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        # Its epochs count from the start, so a drop can fall together with the end of the warm-up.
        ("(StepLR, 1, 1, 0.5)", 3, 2, 1, [1e-20, 0.5, 0.5, 0.5, 0.25, 0.25]),
        ("(MultiStepLR, 1, [1|3], 0.1)", 4, 1, None, [1, 0.1, 0.1, 0.01]),
        ("(MultiStepLR, 1, [1|3], 0.1)", 4, 1, 2, [1e-20, 0.05, 0.1, 0.01]),
        ("(MultiStepLR, 1, [7], 0.1)", 2, 2, None, [1, 1, 1, 1]),
        ("(ExponentialLR, 1, 0.5)", 2, 2, None, [1, 0.5, 0.25, 0.125]),
        ("(ExponentialLR, 1, 0.5)", 2, 2, 1, [1e-20, 0.5, 1, 0.5]),
    ],
)
def test_rates_by_hand(schedule, n_epochs, steps_per_epoch, n_epochs_warmup, expected):
    found = pretrain.learning_rates(schedule, n_epochs, steps_per_epoch, n_epochs_warmup)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=ROUNDING)


rates = st.floats(1e-6, 10)
decreasing = st.one_of(
    st.builds(Constant, rates),
    st.builds(Linear, rates),
    st.builds(Cosine, rates),
    st.builds(StepLR, rates, st.integers(1, 5), st.floats(0.1, 1)),
    st.builds(MultiStepLR, rates, st.sets(st.integers(1, 9), min_size=1).map(sorted).map(tuple), st.floats(0.1, 1)),
    st.builds(ExponentialLR, rates, st.floats(0.9, 1)),
)


@hypothesis.given(decreasing, st.integers(1, 9), st.integers(1, 7), st.data())
@hypothesis.settings(deadline=None)
def test_rates_rise_to_the_peak_and_then_only_fall(schedule, n_epochs, steps_per_epoch, data):
    n_epochs_warmup = data.draw(st.integers(0, n_epochs - 1))
    found = pretrain.learning_rates(schedule, n_epochs, steps_per_epoch, n_epochs_warmup)
    end = n_epochs_warmup * steps_per_epoch
    assert found.shape == (n_epochs * steps_per_epoch,)
    assert np.all(found > 0)
    assert found.max() <= schedule.lr
    assert np.all(np.diff(found[end:]) <= 0)
    if not isinstance(schedule, StepLR | MultiStepLR):
        assert found[end] == schedule.lr
        assert np.all(np.diff(found[: end + 1]) > 0)


@hypothesis.given(rates, st.floats(0, 10), st.integers(1, 20), st.integers(1, 20))
@hypothesis.settings(deadline=None)
def test_linear_would_reach_its_final_rate_one_step_after_the_last(lr, final, n_epochs, steps_per_epoch):
    found = pretrain.learning_rates(Linear(lr, final), n_epochs, steps_per_epoch, None)
    step = (lr - final) / len(found)
    # The two ends may lie seven orders of magnitude apart, and both leave their rounding in the difference.
    np.testing.assert_allclose(found[-1] - step, final, rtol=ROUNDING, atol=ROUNDING * max(lr, final))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("(Linear, 0.1)", 10, 7, 10), "n_epochs_warmup: found 10, allowed: 0 to 9"),
        (("(Linear, 0.1)", 10, 7, -1), "n_epochs_warmup: found -1, allowed: 0 to 9"),
        (("(Linear, 0.1)", 0, 7, None), "n_epochs: found 0 epochs of 7 steps, allowed: at least 1 of each"),
        (("(Linear, 0.1)", 10, 0, None), "n_epochs: found 10 epochs of 0 steps, allowed: at least 1 of each"),
        (("(Linaer, 0.1)", 10, 7, None), "learning_rate: unknown value 'Linaer'"),
        ((0.1, 10, 7, None), "learning_rate: found 0.1"),
    ],
)
def test_a_mistake_names_its_setting(arguments, expected):
    with pytest.raises(SettingsError) as caught:
        pretrain.learning_rates(*arguments)
    assert str(caught.value).startswith(expected)
