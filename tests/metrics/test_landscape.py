"""Lines, planes and barriers between models."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssoup_jax.errors import SettingsError
from ssoup_jax.metrics import landscape

VALUES = st.lists(st.floats(0, 100), min_size=2, max_size=12)


@pytest.mark.parametrize(
    ("values", "height", "position"),
    [
        ([1, 1, 1], 0, 0),
        ([1, 4, 2], 2.5, 0.5),
        ([1, 2, 3], 1, 1),
        ([3, 0, 1], 1, 0),
        ([0, 1, 2, 8, 0], 8, 0.75),
        ([1, 7], 3, 1),
    ],
)
def test_barriers_by_hand(values, height, position):
    assert landscape.barrier(values) == (height, position)


@pytest.mark.parametrize("sick", [math.nan, math.inf])
def test_a_barrier_over_what_is_not_finite_is_not_finite(sick):
    assert not math.isfinite(landscape.barrier([1, sick, 1]).height)


@given(VALUES, st.floats(-10, 10), st.floats(0, 10))
def test_a_barrier_is_what_the_values_make_of_it(values, shift, scale):
    height, position = landscape.barrier(values)
    assert height >= abs(values[0] - values[-1]) / 2 - 1e-9
    assert values[round(position * (len(values) - 1))] == max(values)
    assert landscape.barrier(values[::-1]).height == height
    other = landscape.barrier([scale * value + shift for value in values]).height
    assert other == pytest.approx(scale * height, abs=1e-9)


def test_a_line_has_both_ends_and_even_steps():
    assert landscape.line(2).tolist() == [[1, 0], [0, 1]]
    assert landscape.line(5).tolist() == [[1, 0], [0.75, 0.25], [0.5, 0.5], [0.25, 0.75], [0, 1]]


MODELS = hnp.arrays(np.float32, (3, 7), elements=st.floats(-4, 4, width=32))


def as_tree(rows):
    return {"a": {"kernel": rows[:, :4].reshape(-1, 2, 2)}, "b": rows[:, 4:]}


def as_rows(tree):
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in (tree["a"]["kernel"], tree["b"])], axis=1)


def on_one_line(rows):
    ways = (rows[1:] - rows[0]).astype(np.float64)
    _, sizes, _ = np.linalg.svd(ways)
    return sizes[1] < 1e-3 * max(sizes[0], 1e-3)


@settings(max_examples=50, deadline=None)
@given(MODELS)
def test_coordinates_on_a_plane_are_distances_between_models(rows):
    if on_one_line(rows):
        return
    plane = landscape.plane(as_tree(rows), 4)
    points = np.array([[x, y] for y in plane.y for x in plane.x] + [*plane.corners])
    weights = np.concatenate([plane.weights.reshape(-1, 3), np.eye(3)])
    models = weights @ rows.astype(np.float64)
    apart = np.linalg.norm(models[:, None] - models[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - points[None], axis=-1), apart, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(weights.sum(1), 1)


def test_a_plane_by_hand():
    rows = np.zeros((3, 7), np.float32)
    rows[1, 0], rows[2, 0], rows[2, 5] = 4, 1, 2
    plane = landscape.plane(as_tree(rows + 1), 3, margin=0.5)
    np.testing.assert_allclose(plane.corners, [[0, 0], [4, 0], [1, 2]])
    np.testing.assert_allclose(plane.x, [-2, 2, 6])
    np.testing.assert_allclose(plane.y, [-2, 1, 4])
    # Half way up, so half of the third; from below it, at 0.5, another 1.5 to the right.
    np.testing.assert_allclose(plane.weights[1, 1], [0.125, 0.375, 0.5])


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((3, 7)),
        np.eye(7)[[0, 0, 1]],
        np.eye(7)[[0, 1, 1]],
        np.eye(7)[[0, 1, 0]],
        np.arange(3)[:, None] * np.ones(7),
    ],
)
def test_models_on_one_line_have_no_plane(rows):
    with pytest.raises(SettingsError, match="plane: the three models lie on one line"):
        landscape.plane(as_tree(rows.astype(np.float32)), 3)


@settings(max_examples=50, deadline=None)
@given(MODELS, st.lists(st.floats(-1, 2, width=32), min_size=3, max_size=3))
def test_mixtures_are_weighted_sums(rows, weights):
    mixed = landscape.mixtures(as_tree(rows), np.array([weights, [0, 1, 0]]))
    expected = np.array(weights) @ rows.astype(np.float64)
    np.testing.assert_allclose(as_rows(mixed)[0], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(as_rows(mixed)[1], rows[1])
    assert mixed["b"].dtype == np.float32
    shared = as_tree(rows * (np.arange(7) > 2))
    assert not as_rows(landscape.mixtures(shared, np.array([weights])))[0, :3].any()
