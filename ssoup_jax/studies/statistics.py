"""What several runs say together: mean and deviation, and paired differences with their interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Spread:
    """Several runs of one thing.

    Attributes:
        mean: over the runs.
        std: with n - 1 in the denominator; None of a single run.
        n: how many runs.
    """

    mean: float
    std: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """How much better one thing is than another in the same runs.

    Attributes:
        mean: of the differences.
        low: lower end of the interval of Student's t for their mean; None of a single run.
        high: upper end.
        n: how many runs have both.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_better(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.low is not None and self.low > 0

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval is below zero."""
        return self.high is not None and self.high < 0


def spread(values: Sequence[float]) -> Spread | None:
    """Summarises the values of several runs; None: there are none."""
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def difference(ours: dict[int, float], theirs: dict[int, float]) -> Difference | None:
    """Compares two things run by run.

    Runs share what has nothing to do with the comparison (the dense model, the data's order), so that the differences
    spread less than the values.

    Args:
        ours: values by run.
        theirs: values by run.

    Returns:
        The mean of `ours - theirs` over the runs that have both, with its interval; None: no run has both.
    """
    runs = sorted(ours.keys() & theirs.keys())
    if not runs:
        return None
    values = [ours[run] - theirs[run] for run in runs]
    mean, n = fmean(values), len(values)
    if n < 2:
        return Difference(mean, None, None, n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(values) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)
