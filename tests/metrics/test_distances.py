import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.errors import SettingsError
from ssoup_jax.metrics import (
    distance_to_origin,
    distance_to_pruned,
    norm_drop,
    pruning_instability,
    soup_distances,
)
from ssoup_jax.pruning import full_mask, restrict

# Sums are float64: what is left are a few roundings of 1e-16, more where a distance is far below the norms.
FLOAT64 = 1e-12

PARAMS = {
    "conv": {"kernel": jnp.array([3.0, -1.0, 0.0, 2.0]).reshape(1, 1, 2, 2), "bias": jnp.array([100.0, 100.0])},
    "bn": {"scale": jnp.array([50.0, 50.0]), "bias": jnp.array([7.0, 7.0])},
    "fc": {"kernel": jnp.array([[4.0], [-5.0]]), "bias": jnp.array([9.0])},
}
MASK = full_mask(PARAMS)
MAGNITUDES = [0, 1, 2, 3, 4, 5]


def norm(values) -> float:
    return math.sqrt(sum(v * v for v in values))


def test_distance_to_origin_is_over_prunable_weights():
    assert distance_to_origin(PARAMS, MASK) == pytest.approx(norm(MAGNITUDES), rel=FLOAT64)


@pytest.mark.parametrize("sparsity, n_removed", [(0, 0), (0.1, 1), (0.5, 3), (0.6, 4), (0.75, 5), (1, 6)])
def test_distance_to_pruned(sparsity, n_removed):
    # int((1 - sparsity) * 6) weights stay: 0.1 leaves 5.4, 0.6 leaves 2.4, 0.75 leaves 1.5.
    distance = norm(MAGNITUDES[:n_removed])
    assert distance_to_pruned(PARAMS, MASK, sparsity) == pytest.approx(
        (distance, distance / norm(MAGNITUDES)), rel=FLOAT64
    )


def test_a_model_that_is_sparse_already_is_its_pruned_self():
    kernel = np.zeros((100, 10), np.float32)
    kernel[:25] = 1e3
    mask = full_mask({"kernel": kernel})
    assert distance_to_pruned({"kernel": kernel}, mask, 0.75) == (0.0, 0.0)
    assert distance_to_pruned({"kernel": kernel * 0}, mask, 0.5) == (0.0, 0.0)


def test_layers_that_the_mask_leaves_out_do_not_count():
    mask = restrict(MASK, except_="fc/kernel")
    assert distance_to_origin(PARAMS, mask) == pytest.approx(norm([0, 1, 2, 3]), rel=FLOAT64)
    expected = norm([0, 1]), norm([0, 1]) / norm([0, 1, 2, 3])
    assert distance_to_pruned(PARAMS, mask, 0.5) == pytest.approx(expected, rel=FLOAT64)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, float("nan")])
def test_a_sparsity_that_is_none(sparsity):
    with pytest.raises(SettingsError, match=r"sparsity: found .*, must be in \[0, 1\]"):
        distance_to_pruned(PARAMS, MASK, sparsity)


def test_norm_drop_counts_every_parameter():
    after = jax.tree.map(jnp.array, PARAMS)
    after["fc"]["kernel"] = jnp.array([[4.0], [0.0]])
    after["bn"]["scale"] = jnp.array([0.0, 50.0])
    everything = norm([*MAGNITUDES, 100, 100, 50, 50, 7, 7, 9])
    assert norm_drop(PARAMS, after) == pytest.approx((norm([5, 50]), norm([5, 50]) / everything), rel=FLOAT64)
    assert norm_drop(PARAMS, PARAMS) == (0.0, 0.0)


def test_a_drop_far_below_the_norm_keeps_its_digits():
    before = {"kernel": np.full((1000, 1000), 1e3, np.float32)}
    before["kernel"][0, 0] = 1e-3
    after = {"kernel": before["kernel"].copy()}
    after["kernel"][0, 0] = 0
    assert norm_drop(before, after).absolute == pytest.approx(float(np.float32(1e-3)), rel=FLOAT64)


def test_a_long_sum_keeps_its_digits():
    # In float32 the sum of these squares is off by 1e-4 of itself.
    kernel = np.full((3000, 1000), 0.1, np.float32)
    exact = math.sqrt(kernel.size) * float(np.float32(0.1))
    params = {"kernel": kernel}
    assert distance_to_origin(params, full_mask(params)) == pytest.approx(exact, rel=FLOAT64)


@pytest.mark.parametrize(
    "before, after, instability", [(0.8, 0.6, 0.25), (0.8, 0.8, 0), (0.5, 0, 1), (0.5, 0.75, -0.5)]
)
def test_pruning_instability(before, after, instability):
    assert pruning_instability(before, after) == pytest.approx(instability, rel=FLOAT64)


def test_a_model_that_was_never_right_has_no_instability():
    assert pruning_instability(0.0, 0.1) is None


def naive(members: list[np.ndarray]) -> dict[str, float]:
    """The definitions in float64, pair by pair; angles from unit vectors, which keep small angles exact."""
    members = [member.astype(np.float64) for member in members]
    pairs = list(itertools.combinations(members, 2))
    l2 = [np.linalg.norm(a - b) for a, b in pairs] or [0]
    units = [(a / np.linalg.norm(a), b / np.linalg.norm(b)) for a, b in pairs]
    angles = [2 * np.degrees(np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))) for a, b in units] or [0]
    barycentre = [np.linalg.norm(member - np.mean(members, axis=0)) for member in members]
    return {
        "l2_max": max(l2),
        "l2_min": min(l2),
        "l2_mean": np.mean(l2),
        "angle_max": max(angles),
        "angle_min": min(angles),
        "angle_mean": np.mean(angles),
        "barycentre_max": max(barycentre),
        "barycentre_min": min(barycentre),
    }


def as_tree(rows: np.ndarray) -> dict:
    """Spreads the rows `[m, 24]` over leaves of several shapes."""
    m = len(rows)
    return {
        "fc": {"kernel": jnp.asarray(rows[:, :20].reshape(m, 5, 4)), "bias": jnp.asarray(rows[:, 20:23])},
        "scalar": jnp.asarray(rows[:, 23]),
    }


def test_soup_distances_hand_computed():
    found = soup_distances({"a": {"kernel": jnp.array([[[3.0], [0.0]], [[0.0], [4.0]], [[-3.0], [0.0]]])}})
    centre = (0, 4 / 3)
    # A pair at right angles, another, and one opposite.
    assert found == pytest.approx(
        {
            "l2_max": 6,
            "l2_min": 5,
            "l2_mean": 16 / 3,
            "angle_max": 180,
            "angle_min": 90,
            "angle_mean": 120,
            "barycentre_max": norm([3, centre[1]]),
            "barycentre_min": 4 - centre[1],
        },
        rel=FLOAT64,
    )
    assert all(type(value) is float for value in found.values())


@given(
    st.integers(1, 10),
    st.sampled_from([1e-6, 1e-3, 1.0, 1e3]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 7, 1 << 18]),
)
@settings(max_examples=60, deadline=None)
def test_soup_distances_agree_with_the_definitions(m, spread, seed, block_columns):
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=24) + spread * rng.normal(size=(m, 24))).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssoup_jax.metrics.distances._BLOCK_COLUMNS", block_columns)
        found = soup_distances(as_tree(rows))
    # Squared offsets of 1e-6 beside squared norms of 1 leave 1e-16 / 1e-6 of an angle.
    assert found == pytest.approx(naive(list(rows)), rel=1e-8)
    for name in ("l2", "angle"):
        assert found[f"{name}_min"] <= found[f"{name}_mean"] * (1 + FLOAT64)
        assert found[f"{name}_mean"] <= found[f"{name}_max"] * (1 + FLOAT64)
    # No point of a set is further from its mean than from the point furthest away.
    assert found["barycentre_min"] <= found["barycentre_max"] <= found["l2_max"] * (1 + FLOAT64)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_order_and_scale_of_candidates(m, seed, random):
    rows = np.random.default_rng(seed).normal(size=(m, 24)).astype(np.float32)
    found = soup_distances(as_tree(rows))
    assert soup_distances(as_tree(rows[random.sample(range(m), m)])) == pytest.approx(found, rel=FLOAT64)
    # A power of two scales without rounding: lengths double, angles stay.
    scaled = {name: value * (1 if "angle" in name else 2) for name, value in found.items()}
    assert soup_distances(as_tree(rows * 2)) == pytest.approx(scaled, rel=FLOAT64)


def test_one_candidate_and_equal_candidates_are_at_no_distance():
    row = np.random.default_rng(0).normal(size=(1, 24)).astype(np.float32)
    assert set(soup_distances(as_tree(row)).values()) == {0.0}
    assert set(soup_distances(as_tree(np.repeat(row, 3, axis=0))).values()) == {0.0}


def test_close_candidates_beside_a_far_one_keep_their_distance():
    rng = np.random.default_rng(0)
    close = rng.normal(size=(1, 24)) + 1e-3 * rng.normal(size=(2, 24))
    rows = np.concatenate([close, 1e3 * rng.normal(size=(1, 24))]).astype(np.float32)
    # Squared distances of 1e-5 beside 1e7: 1e-16 of the large leaves 1e-4 of nothing smaller than 1e-9.
    assert soup_distances(as_tree(rows))["l2_min"] == pytest.approx(np.linalg.norm(rows[0] - rows[1]), rel=1e-4)


def test_a_diverged_candidate_shows():
    rows = np.ones((3, 24), np.float32)
    rows[1, 3] = np.inf
    assert math.isnan(soup_distances(as_tree(rows))["l2_max"])


def test_an_angle_with_a_zero_vector_is_zero():
    rows = np.zeros((2, 24), np.float32)
    rows[1] = 1
    found = soup_distances(as_tree(rows))
    assert (found["l2_max"], found["angle_max"]) == (pytest.approx(norm([1] * 24), rel=FLOAT64), 0.0)
