"""What the members of a stack may differ in: one table, and the values that the members take.

They differ in one thing (`ensemble_by` with `split_vals`) or in several (`members`, or a pool to draw them from).
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ssoup_jax.errors import SettingsError, unknown


@dataclass(frozen=True)
class Variant:
    """One hyperparameter that members may differ in.

    Attributes:
        name: what `members` and pools call it.
        sets: the field of a member's retraining that its value takes.
        type: int for whole numbers, float for rates.
        allows: says whether a finite number of that type is allowed.
        meaning: what a value is, for errors.
        example: values of three members.
        own: the value of the only member, from the experiment's settings; None: there is none.
        implies: further fields of the retraining that such a member sets.
        counted: whether m members without values have the values 0 .. m-1.
    """

    name: str
    sets: str
    type: type[int] | type[float]
    allows: Callable[[float], bool]
    meaning: str
    example: str
    own: Callable[[Any], int | float | None]
    implies: dict[str, Any] = field(default_factory=dict)
    counted: bool = False

    def typed(self, value: object) -> int | float | None:
        """Gives a value its type: whole numbers for seeds and lengths, floats for rates; None: it is not allowed."""
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
        fits = number and (self.type is float or (value == int(value) and value < 2**31))
        return self.type(value) if fits and self.allows(value) else None


VARIANTS = {
    "pruned_seed": Variant(
        name="seed",
        sets="seed",
        type=int,
        allows=lambda seed: seed >= 0,
        meaning="a whole number from 0, added to the run's seed",
        example="(0, 1, 2)",
        own=lambda settings: 0,
        counted=True,
    ),
    "weight_decay": Variant(
        name="weight_decay",
        sets="weight_decay",
        type=float,
        allows=lambda decay: decay >= 0,
        meaning="a weight decay, 0 or more",
        example="(1e-4, 5e-4, 1e-3)",
        own=lambda settings: settings.of_retraining("weight_decay"),
    ),
    "retrain_length": Variant(
        name="retrain_length",
        sets="n_epochs",
        type=int,
        allows=lambda n_epochs: n_epochs >= 1,
        meaning="a whole number of epochs, 1 or more",
        example="(5, 10, 15)",
        own=lambda settings: max(1, settings.n_epochs_per_phase),
    ),
    "retrain_schedule": Variant(
        name="peak",
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

Own = dict[str, int | float]
"""What a member has of its own, by `Variant.name`."""

EXAMPLE = '[{"seed": 1, "weight_decay": 1e-4}, {"seed": 2}]'
"""Of `members`."""

_BY_NAME = VARIANTS | {variant.name: variant for variant in VARIANTS.values()}


def find(setting: str, name: object) -> Variant:
    """Finds what members may differ in by its name, that of `ensemble_by` or the short one.

    Raises:
        SettingsError: there is none; `setting` is where the name was given.
    """
    if not isinstance(name, str) or name not in _BY_NAME:
        raise unknown(setting, name, [variant.name for variant in VARIANTS.values()])
    return _BY_NAME[name]


def apply(own: Own, base: dict[str, Any]) -> dict[str, Any]:
    """Puts a member's values in the place of what the settings say.

    Args:
        own: the member's, checked.
        base: the fields of a retraining by the settings alone.

    Returns:
        The fields of the member's retraining.
    """
    for name, value in own.items():
        base = base | {_BY_NAME[name].sets: value} | _BY_NAME[name].implies
    return base


def line(members: Sequence[Own]) -> str:
    """Says in one line what each member has of its own."""
    each = (", ".join(f"{name} {value}" for name, value in own.items()) or "as the settings say" for own in members)
    return "members: " + "; ".join(f"{i}: {text}" for i, text in enumerate(each))


def listed(value: object) -> tuple[Own, ...]:
    """Reads `members`, which differ in any number of things.

    Args:
        value: a list or tuple with one mapping for each member, or such a list as JSON text.

    Returns:
        What each member has of its own, complete and typed.

    Raises:
        SettingsError: it is no such list, an unknown name, or a value that is not allowed.
    """
    found = value
    # The command line hands on a list, or the text that it could not read, as the only entry of a tuple.
    if isinstance(found, tuple) and len(found) == 1 and not isinstance(found[0], Mapping):
        (found,) = found
    if isinstance(found, str):
        with contextlib.suppress(ValueError, RecursionError):
            found = json.loads(found)
    if not isinstance(found, list | tuple) or not found or not all(isinstance(one, Mapping) for one in found):
        raise SettingsError(f"members: found {found!r}; allowed: a list with what each member has, such as {EXAMPLE}")
    return tuple(_own(i, one) for i, one in enumerate(found))


def _own(number: int, given: Mapping) -> Own:
    own = {}
    for name, value in given.items():
        variant = find(f"members: member {number}", name)
        typed = variant.typed(value)
        if typed is None:
            raise SettingsError(f"members: found {name}={value!r} in member {number}; it is {variant.meaning}")
        if variant.name in own:
            raise SettingsError(f"members: found {variant.name} twice in member {number}, once as {name}")
        own[variant.name] = typed
    return own


def first_equal(members: Iterable[dict[str, Any]]) -> tuple[int, int] | None:
    """Finds two members whose retrainings are the same; None: each is another."""
    seen: list[dict[str, Any]] = []
    for i, fields in enumerate(members):
        if fields in seen:
            return seen.index(fields), i
        seen.append(fields)
    return None


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
    typed = variant.typed(value)
    if typed is None:
        raise SettingsError(f"{setting}: found {value!r}; with ensemble_by={ensemble_by!r} it is {variant.meaning}")
    return typed


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
