"""Hyperparameters made of numbers, schedules and lists of them."""

import jax
import numpy as np
import optax
import pytest

from ssoup_jax import SettingsError, dense_schedule, hyper, retrain_schedule
from ssoup_jax.schedules import pretrain, retrain

KEY = jax.random.key(0)


def test_numbers_schedules_and_lists_of_them():
    def python(step):
        return 0.5 if step < 2 else 0.25

    found = hyper(2, [3, 2], KEY, a=1.0, b=[1, 2], c=optax.linear_schedule(1, 0, 4), d=[python, 0.1])
    np.testing.assert_array_equal(found.constants["a"], [1, 1])
    np.testing.assert_array_equal(found.constants["b"], [1, 2])
    np.testing.assert_array_equal(found.schedules["c"], [[1, 0.75, 0.5], [1, 0.75, 0]])
    np.testing.assert_array_equal(found.schedules["d"], np.float32([[0.5, 0.5, 0.25], [0.1, 0.1, 0]]))
    assert len({tuple(key) for key in found.key_data.tolist()}) == 2


def test_schedules_of_the_experiments_keep_their_digits():
    rates = pretrain.learning_rates("(Cosine, 0.1)", 3, 7, 1)
    schedule = dense_schedule("(Cosine, 0.1)", 3, 7, 1)
    found = hyper(1, 21, KEY, learning_rate=schedule).schedules["learning_rate"][0]
    np.testing.assert_array_equal(found, np.float32(rates))
    for name in ("FT", "LRW", "SLR", "CLR", "LLR"):
        expected = retrain.learning_rates(name, retrain.DenseHistory(rates, 7), 12)
        found = hyper(1, 12, KEY, learning_rate=retrain_schedule(name, schedule, 12)).schedules["learning_rate"][0]
        np.testing.assert_array_equal(found, np.float32(expected))
    assert float(jax.jit(schedule)(100)) == np.float32(rates[-1])


@pytest.mark.parametrize(
    ("arguments", "values", "says"),
    [
        ((0, 3, KEY), {}, "^m: found 0; allowed: at least 1 member$"),
        ((2, [1, 2, 3], KEY), {}, r"^n_steps: found \[1, 2, 3\]; allowed: a whole number from 1, or 2"),
        ((2, 0, KEY), {}, "^n_steps: found 0"),
        ((2, 1.5, KEY), {}, "^n_steps: found 1.5"),
        ((2, 3, jax.random.split(KEY, 3)), {}, r"^key: found key<fry>\[3\]; allowed: jax.random.key\(n\), or 2"),
        ((3, 3, KEY), {"rate": [1, 2]}, "^rate: found 2 values for 3 members$"),
        ((1, 3, KEY), {"rate": np.zeros((1, 2))}, r"^rate: found an array of \(1, 2\); allowed: \[1\] or \[1, 3\]$"),
    ],
)
def test_what_is_not_there_once_for_each_member(arguments, values, says):
    with pytest.raises(SettingsError, match=says):
        hyper(*arguments, **values)
