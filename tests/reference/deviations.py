"""How far the project's numbers lie from the reference's: asserted, and on demand written down for the docs."""

import json
import os

import numpy as np
from numpy.typing import ArrayLike

LOG_VARIABLE = "SSOUP_DEVIATIONS"


def record(comparison: str, deviation: float, tolerance: float) -> None:
    """Asserts that a deviation is within its tolerance; NaN never is.

    Where the environment variable `SSOUP_DEVIATIONS` names a file, a line `{"comparison", "deviation", "tolerance"}`
    is appended to it first, so that a table of the largest deviations can be made from a whole run of the tests.

    Args:
        comparison: what was compared; equal names belong together.
        deviation: the largest one seen.
        tolerance: the largest one allowed.
    """
    line = {"comparison": comparison, "deviation": float(deviation), "tolerance": float(tolerance)}
    if path := os.environ.get(LOG_VARIABLE):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    assert deviation <= tolerance, f"{comparison}: deviation {deviation:.3g}, tolerance {tolerance:.3g}"


def largest(found: ArrayLike, expected: ArrayLike) -> float:
    """Returns the largest absolute difference; the shapes must be equal."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape, f"shapes {found.shape} and {expected.shape}"
    return float(np.max(np.abs(found.astype(np.float64) - expected), initial=0))


def relative_l2(found: ArrayLike, expected: ArrayLike) -> float:
    """Returns |found - expected| / |expected| in float64, the measure of the reference's rounding yardstick."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"shapes {found.shape} and {expected.shape}"
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def relative_max(found: ArrayLike, expected: ArrayLike) -> float:
    """Returns the largest relative difference of any entry; equal entries, zeros included, differ by 0."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape, f"shapes {found.shape} and {expected.shape}"
    differ = found != expected
    with np.errstate(divide="ignore"):
        return float(np.max(np.abs(found - expected)[differ] / np.abs(expected)[differ], initial=0))
