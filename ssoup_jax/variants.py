"""What the members of a stack may differ in: one table, and the values (`split_vals`) that the members take."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssoup_jax.errors import SettingsError


@dataclass(frozen=True)
class Variant:
    """One hyperparameter that members may differ in.

    Attributes:
        sets: the field of a member's retraining that its value takes.
        type: int for whole numbers, float for rates.
        allows: says whether a finite number of that type is allowed.
        meaning: what a value is, for errors.
        example: values of three members.
        own: the value of the only member, from the experiment's settings; None: there is none.
        implies: further fields of the retraining that such a member sets.
        counted: whether m members without values have the values 0 .. m-1.
    """

    sets: str
    type: type[int] | type[float]
    allows: Callable[[float], bool]
    meaning: str
    example: str
    own: Callable[[Any], int | float | None]
    implies: dict[str, Any] = field(default_factory=dict)
    counted: bool = False


VARIANTS = {
    "pruned_seed": Variant(
        sets="seed",
        type=int,
        allows=lambda seed: seed >= 0,
        meaning="a whole number from 0, added to the run's seed",
        example="(0, 1, 2)",
        own=lambda settings: 0,
        counted=True,
    ),
    "weight_decay": Variant(
        sets="weight_decay",
        type=float,
        allows=lambda decay: decay >= 0,
        meaning="a weight decay, 0 or more",
        example="(1e-4, 5e-4, 1e-3)",
        own=lambda settings: settings.of_retraining("weight_decay"),
    ),
    "retrain_length": Variant(
        sets="n_epochs",
        type=int,
        allows=lambda n_epochs: n_epochs >= 1,
        meaning="a whole number of epochs, 1 or more",
        example="(5, 10, 15)",
        own=lambda settings: max(1, settings.n_epochs_per_phase),
    ),
    "retrain_schedule": Variant(
        sets="peak",
        type=float,
        allows=lambda peak: peak > 0,
        meaning="a positive peak learning rate",
        example="(0.01, 0.05, 0.1)",
        own=lambda settings: None,
        implies={"schedule": "LLR"},
    ),
}
"""By the names of the setting `ensemble_by`."""


def apply(ensemble_by: str, split_val: int | float, base: dict[str, Any]) -> dict[str, Any]:
    """Puts a member's value in the place of what the settings say.

    Args:
        ensemble_by: what the value is for.
        split_val: the member's, checked.
        base: the fields of a retraining by the settings alone.

    Returns:
        The fields of the member's retraining.
    """
    variant = VARIANTS[ensemble_by]
    return base | {variant.sets: split_val} | variant.implies


def check(setting: str, value: object, ensemble_by: str) -> int | float:
    """Checks one value and gives it its type: whole numbers for seeds and lengths, floats for rates.

    Args:
        setting: the setting's name, for the error.
        value: as the user gave it.
        ensemble_by: what the value is for.

    Returns:
        The value.

    Raises:
        SettingsError: no number, or outside the allowed range.
    """
    variant = VARIANTS[ensemble_by]
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    fits = number and (variant.type is float or (value == int(value) and value < 2**31))
    if fits and variant.allows(value):
        return variant.type(value)
    raise SettingsError(f"{setting}: found {value!r}; with ensemble_by={ensemble_by!r} it is {variant.meaning}")


def complete(
    ensemble_by: str, split_vals: Sequence | None, n_splits_total: int | None, default: int | float | None
) -> tuple[int | float, ...]:
    """Returns the values of all members.

    Args:
        ensemble_by: what the values are for.
        split_vals: all values, if given.
        n_splits_total: how many there are, where the values are not given; enough where they are counted.
        default: the value of the only member when neither says anything; None if there is none.

    Raises:
        SettingsError: no value, a repeated one or one that is not allowed.
    """
    variant = VARIANTS[ensemble_by]
    if split_vals is None:
        if variant.counted and n_splits_total is not None:
            return tuple(range(n_splits_total))
        if default is None or (n_splits_total or 1) > 1:
            raise SettingsError(
                f"split_vals: not given; ensemble_by={ensemble_by!r} needs every member's value, "
                f"such as {variant.example}"
            )
        return (check("split_vals", default, ensemble_by),)
    if not split_vals:
        raise SettingsError(f"split_vals: found (); at least one value is needed, such as {variant.example}")
    values = tuple(check("split_vals", value, ensemble_by) for value in split_vals)
    for value in values:
        if values.count(value) > 1:
            raise SettingsError(f"split_vals: found {value} more than once; every member needs a value of its own")
    return values
