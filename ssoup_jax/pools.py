"""Members drawn at random: ranges of what they may differ in, and the first m of an endless list of draws.

A pool is spelled `weight_decay:log(1e-5,1e-3), retrain_length:5..15`: evenly from 5 to 15, both included, and evenly in
the logarithm.
"""

import functools
import itertools
import math
import random
import re
from typing import NamedTuple

from ssoup_jax import variants
from ssoup_jax.errors import SettingsError
from ssoup_jax.variants import Own, Variant

EXAMPLE = "weight_decay:log(1e-5,1e-3), retrain_length:5..15"

_DIGITS = 4
"""Significant digits of a rate: enough to tell members apart, too few to see how machines round a logarithm."""

_PATIENCE = 30
"""Draws in vain, as a multiple of the members found, after which there are no others: one in 10^13 times there are."""

_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_ENDS = rf"\s*({_NUMBER})\s*{{}}\s*({_NUMBER})\s*"
_EVEN, _LOG = re.compile(_ENDS.format(r"\.\.")), re.compile(rf"\s*log\s*\({_ENDS.format(',')}\)\s*")


class Range(NamedTuple):
    """What one thing is drawn from.

    Attributes:
        variant: what it is.
        low: the smallest value.
        high: the largest one.
        log: whether values are spread evenly in their logarithm.
    """

    variant: Variant
    low: int | float
    high: int | float
    log: bool

    def at(self, share: float) -> int | float:
        """Returns the value at a share in [0, 1) of the way from the smallest to the largest."""
        whole = self.variant.type is int
        low, high = self.low, self.high + whole  # so that the largest whole number has as much room as any
        if self.log:
            value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
        else:
            value = low + share * (high - low)
        value = math.floor(value) if whole else float(f"{value:.{_DIGITS}g}")
        return min(max(value, self.low), self.high)


def parse(pool: str) -> tuple[Range, ...]:
    """Reads a pool.

    Args:
        pool: `NAME:LOW..HIGH` or `NAME:log(LOW,HIGH)`, separated by commas; the names as in `members`.

    Returns:
        Its ranges.

    Raises:
        SettingsError: it is spelled otherwise, a name is unknown or given twice, a range is empty or has values that
            are not allowed.
    """
    ranges: dict[str, Range] = {}
    for part in re.split(r",(?![^(]*\))", pool):
        name, colon, given = map(str.strip, part.partition(":"))
        if not colon:
            raise SettingsError(f"pool: found {part.strip()!r}; allowed: NAME:RANGE, such as {EXAMPLE}")
        own = _range(variants.find("pool", name), given)
        if own.variant.name in ranges:
            raise SettingsError(f"pool: found {own.variant.name} twice; allowed: one range for each name")
        ranges[own.variant.name] = own
    return tuple(ranges.values())


def _range(variant: Variant, given: str) -> Range:
    log = _LOG.fullmatch(given)
    match = log or _EVEN.fullmatch(given)
    if match is None:
        raise SettingsError(
            f"pool: found {variant.name}:{given}; allowed: LOW..HIGH or log(LOW,HIGH), such as {EXAMPLE}"
        )
    low, high = (variant.typed(float(text)) for text in match.groups())
    for text, value in zip(match.groups(), (low, high), strict=True):
        if value is None:
            raise SettingsError(
                f"pool: found {variant.name}:{given}, and {text} is not allowed: it is {variant.meaning}"
            )
    if log and not low:
        raise SettingsError(f"pool: found {variant.name}:{given}; 0 has no logarithm, allowed: a lower end above 0")
    if low > high:
        raise SettingsError(f"pool: found {variant.name}:{given}, which is empty; allowed: the lower end first")
    return Range(variant, low, high, log is not None)


@functools.cache
def draw(pool: str, seed: int, m: int) -> tuple[Own, ...]:
    """Draws members, no two of which are equal; the first of many are those that fewer would be.

    What is drawn for a name depends on the seed, the name, its range and the number of the draw alone, whatever the
    machine and whatever else the pool has.

    Args:
        pool: see `parse`.
        seed: another one draws other members.
        m: how many.

    Returns:
        What each member has of its own.

    Raises:
        SettingsError: the pool is not well formed, or too small for so many members.
    """
    ranges, found, in_vain = parse(pool), [], 0
    for number in itertools.count():
        if len(found) == m:
            return tuple(found)
        if in_vain > _PATIENCE * (len(found) + 1):
            raise SettingsError(
                f"pool: found {pool!r}, which has no more than {len(found)} members; n_splits_total={m} asks for more"
            )
        # Python keeps what `random` makes of a text, on every machine and in every version.
        own = {r.variant.name: r.at(random.Random(f"{seed} {r.variant.name} {number}").random()) for r in ranges}
        found, in_vain = (found, in_vain + 1) if own in found else ([*found, own], 0)
