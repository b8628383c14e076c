"""The loss between models: where to look on the lines and planes through them, and how high a barrier is."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from ssoup_jax.errors import SettingsError
from ssoup_jax.trees import PyTree


class Barrier(NamedTuple):
    """How much worse models are between two others than at these.

    Attributes:
        height: the largest value on the line minus the mean of those at its ends.
        position: where that value is, in [0, 1].
    """

    height: float
    position: float


def line(n_points: int) -> np.ndarray:
    """Returns the weights of two models at points that are evenly spaced from the first to the second.

    Args:
        n_points: at least 2; both ends are among them.

    Returns:
        float64 `[n_points, 2]`, rows that add up to 1.
    """
    position = np.linspace(0, 1, n_points)
    return np.stack([1 - position, position], axis=1)


def barrier(values: Sequence[float]) -> Barrier:
    """Measures the barrier on a line; nothing is below it but what is evenly spaced on it.

    Args:
        values: a loss, or the share of errors, at evenly spaced points of the line, float `[n]`, n at least 2.

    Returns:
        The barrier. Its height is at least half of what the ends differ by; NaN, or infinite, if some value is.

    References:
        Frankle, Dziugaite, Roy, Carbin, "Linear Mode Connectivity and the Lottery Ticket Hypothesis", ICML 2020,
        section 2: the height, which they call the error barrier or instability.
    """
    values = np.asarray(values, np.float64)
    highest = int(values.argmax())
    return Barrier(float(values[highest] - (values[0] + values[-1]) / 2), highest / (len(values) - 1))


class Plane(NamedTuple):
    """Points of the plane through three models, in coordinates whose unit is the L2 distance of parameters.

    Attributes:
        corners: where the models lie, float64 `[3, 2]`; the first at the origin, the second on the positive x axis, the
            third at a positive y.
        x: of the columns of the grid, float64 `[n]`.
        y: of its rows, float64 `[n]`.
        weights: of the three models at each point, float64 `[n, n, 3]`, by row and column; they add up to 1, and are
            negative beyond the side that faces a model.
    """

    corners: np.ndarray
    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray


def plane(params: PyTree, n_points: int, margin: float = 0.2) -> Plane:
    """Lays a grid over the plane through three models.

    Args:
        params: their parameters, leaves `[3, ...]`.
        n_points: of the grid to a side, at least 2.
        margin: how far the grid goes beyond the models on every side, as a share of their extent.

    Returns:
        The plane.

    Raises:
        SettingsError: the models lie on one line, so that there are many planes through them.

    References:
        Garipov, Izmailov, Podoprikhin, Vetrov, Wilson, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs",
        NeurIPS 2018, appendix A.1: the basis.
    """
    gram = np.zeros((2, 2))  # of the ways from the first model to the others
    for leaf in jax.device_get(jax.tree.leaves(params)):
        first, *others = np.reshape(leaf, (3, -1)).astype(np.float64)
        ways = np.stack(others) - first
        gram += ways @ ways.T
    width = np.sqrt(gram[0, 0])
    third_x = gram[0, 1] / width if width else 0.0
    height = np.sqrt(max(gram[1, 1] - third_x**2, 0.0))
    if not min(width, height) > 1e-6 * np.sqrt(gram.max()):
        raise SettingsError("plane: the three models lie on one line, so there is no plane through them")
    corners = np.array([[0, 0], [width, 0], [third_x, height]])
    low, high = corners.min(0), corners.max(0)
    beyond = margin * (high - low).max()
    x, y = (np.linspace(a - beyond, b + beyond, n_points) for a, b in zip(low, high, strict=True))
    columns, rows = np.meshgrid(x, y)
    third = rows / height
    second = (columns - third * third_x) / width
    return Plane(corners, x, y, np.stack([1 - second - third, second, third], axis=-1))


def mixtures(stack: PyTree, weights: np.ndarray) -> PyTree:
    """Mixes the members of a stack; zeros that all of them share stay zeros.

    Args:
        stack: leaves `[m, ...]`.
        weights: of the members in each mixture, float `[k, m]`; where one is 1 and the others are 0, that member is
            returned as it is, if all are finite.

    Returns:
        Leaves `[k, ...]` on the host, of the dtypes of the stack.
    """

    def mixed(leaf: np.ndarray) -> np.ndarray:
        # One by one: a product of matrices would be made in an order of its own on every machine.
        return np.stack([sum(w * own for w, own in zip(row.astype(leaf.dtype), leaf, strict=True)) for row in weights])

    return jax.tree.map(mixed, jax.device_get(stack))
