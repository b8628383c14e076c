"""The values that make members differ: `split_vals` of the hyperparameter named by `ensemble_by`."""

import sys
from collections.abc import Sequence

from ssoup_jax.errors import SettingsError

_MEANINGS = {
    "pruned_seed": ("a whole number from 0, added to the run's seed", "(0, 1, 2)"),
    "weight_decay": ("a weight decay, 0 or more", "(1e-4, 5e-4, 1e-3)"),
    "retrain_length": ("a whole number of epochs, 1 or more", "(5, 10, 15)"),
    "retrain_schedule": ("a positive peak learning rate", "(0.01, 0.05, 0.1)"),
}
ENSEMBLE_BY = tuple(_MEANINGS)


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
    whole = ensemble_by in ("pruned_seed", "retrain_length")
    lowest = 1 if ensemble_by == "retrain_length" else 0
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and lowest <= value <= sys.float_info.max:
        if whole and value == int(value) and value < 2**31:
            return int(value)
        if not whole and (value > 0 or ensemble_by == "weight_decay"):
            return float(value)
    raise SettingsError(
        f"{setting}: found {value!r}; with ensemble_by={ensemble_by!r} it is {_MEANINGS[ensemble_by][0]}"
    )


def complete(
    ensemble_by: str, split_vals: Sequence | None, n_splits_total: int | None, default: int | float | None
) -> tuple[int | float, ...]:
    """Returns the values of all members.

    Args:
        ensemble_by: what the values are for.
        split_vals: all values, if given.
        n_splits_total: how many there are, where the values are not given; enough for `'pruned_seed'`, whose values are
            then `0 .. m-1`.
        default: the value of the only member when neither says anything; None if there is none.

    Raises:
        SettingsError: no value, a repeated one or one that is not allowed.
    """
    if split_vals is None:
        if ensemble_by == "pruned_seed" and n_splits_total is not None:
            return tuple(range(n_splits_total))
        if default is None or (n_splits_total or 1) > 1:
            raise SettingsError(
                f"split_vals: not given; ensemble_by={ensemble_by!r} needs every member's value, "
                f"such as {_MEANINGS[ensemble_by][1]}"
            )
        return (check("split_vals", default, ensemble_by),)
    if not split_vals:
        raise SettingsError(f"split_vals: found (); at least one value is needed, such as {_MEANINGS[ensemble_by][1]}")
    values = tuple(check("split_vals", value, ensemble_by) for value in split_vals)
    for value in values:
        if values.count(value) > 1:
            raise SettingsError(f"split_vals: found {value} more than once; every member needs a value of its own")
    return values
