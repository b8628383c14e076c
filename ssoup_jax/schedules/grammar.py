"""The strings that name a dense schedule, such as `(Linear, 0.1)`, and the small objects they stand for."""

import math
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from ssoup_jax.errors import SettingsError, unknown


class _Checked:
    """Refuses arguments that no training can use, however the schedule was made."""

    def __post_init__(self):
        for field in fields(self):
            value, argument = getattr(self, field.name), _ARGUMENTS[field.name]
            if not argument.accepts(value):
                raise SettingsError(
                    f"learning_rate: {field.name} is {argument.write(value)}, allowed: {argument.allowed}; "
                    f"in {usage(type(self))}"
                )


@dataclass(frozen=True)
class Constant(_Checked):
    """`lr` at every step."""

    lr: float


@dataclass(frozen=True)
class Linear(_Checked):
    """A straight line from `lr`, which would reach `final` one step after the last."""

    lr: float
    final: float = 0.0


@dataclass(frozen=True)
class Cosine(_Checked):
    """Half a cosine from `lr`, which would reach zero one step after the last."""

    lr: float


@dataclass(frozen=True)
class StepLR(_Checked):
    """`lr`, times `gamma` after every `epochs` epochs."""

    lr: float
    epochs: int
    gamma: float


@dataclass(frozen=True)
class MultiStepLR(_Checked):
    """`lr`, times `gamma` at each milestone, an epoch."""

    lr: float
    milestones: tuple[int, ...]
    gamma: float


@dataclass(frozen=True)
class ExponentialLR(_Checked):
    """`lr`, times `gamma` at every step."""

    lr: float
    gamma: float


Schedule = Constant | Linear | Cosine | StepLR | MultiStepLR | ExponentialLR
SCHEDULES: dict[str, type] = {
    cls.__name__: cls for cls in (Constant, Linear, Cosine, StepLR, MultiStepLR, ExponentialLR)
}


@dataclass(frozen=True)
class _Argument:
    read: Callable[[str], Any]
    accepts: Callable[[Any], bool]
    allowed: str
    write: Callable[[Any], str] = repr
    notation: str | None = None


def _read_milestones(text: str) -> tuple[int, ...]:
    if not (text.startswith("[") and text.endswith("]")):
        raise ValueError
    return tuple(int(milestone) for milestone in text[1:-1].split("|"))


_ARGUMENTS = {
    "lr": _Argument(float, lambda value: 0 < value < math.inf, "a finite number above 0"),
    "final": _Argument(float, lambda value: 0 <= value < math.inf, "a finite number, 0 or above"),
    "epochs": _Argument(int, lambda value: value >= 1, "a whole number of epochs, 1 or above"),
    "milestones": _Argument(
        _read_milestones,
        lambda epochs: all(a < b for a, b in zip((0, *epochs), epochs, strict=False)) and len(epochs) > 0,
        "whole numbers of epochs above 0 that increase, such as [30|60]",
        write=lambda epochs: f"[{'|'.join(map(str, epochs))}]",
        notation="[e1|e2|...]",
    ),
    "gamma": _Argument(float, lambda value: 0 < value <= 1, "a number above 0 and at most 1"),
}


def usage(schedule: type) -> str:
    """Returns how a schedule is written, such as `(Linear, lr[, final])`.

    Args:
        schedule: one of the classes in `SCHEDULES`.
    """
    parts = [schedule.__name__]
    for field in fields(schedule):
        notation = _ARGUMENTS[field.name].notation or field.name
        parts.append(f", {notation}" if _required(field) else f"[, {notation}]")
    return f"({''.join(parts)})"


def parse(text: str) -> Schedule:
    """Reads a schedule string; blanks around its parts do not matter.

    Args:
        text: one of `(Constant, lr)`, `(Linear, lr[, final])`, `(Cosine, lr)`, `(StepLR, lr, epochs, gamma)`,
            `(MultiStepLR, lr, [e1|e2|...], gamma)` and `(ExponentialLR, lr, gamma)`; milestones and StepLR's length
            are in epochs, ExponentialLR's gamma acts per step.

    Returns:
        The schedule that the string names.

    Raises:
        SettingsError: the string names no schedule, or one with arguments that cannot be used.

    Example:
        >>> parse("(MultiStepLR, 0.1, [30|60], 0.2)")
        MultiStepLR(lr=0.1, milestones=(30, 60), gamma=0.2)
    """
    stripped = text.strip() if isinstance(text, str) else ""
    if not (stripped.startswith("(") and stripped.endswith(")")):
        usages = ", ".join(map(usage, SCHEDULES.values()))
        raise SettingsError(f"learning_rate: found {text!r}, allowed: a string that is one of {usages}")
    name, *found = (part.strip() for part in stripped[1:-1].split(","))
    if name not in SCHEDULES:
        raise unknown("learning_rate", name, SCHEDULES)

    schedule = SCHEDULES[name]
    wanted = fields(schedule)
    if not sum(map(_required, wanted)) <= len(found) <= len(wanted):
        raise SettingsError(
            f"learning_rate: {text!r} has {len(found)} argument{'s' * (len(found) != 1)}, allowed: {usage(schedule)}"
        )
    return schedule(*(_read(field.name, part, schedule) for field, part in zip(wanted, found, strict=False)))


def write(schedule: Schedule) -> str:
    """Returns the canonical string of a schedule: `parse(write(schedule)) == schedule`.

    Args:
        schedule: any schedule; arguments that have their default value are left out.
    """
    values = ((field, getattr(schedule, field.name)) for field in fields(schedule))
    arguments = [_ARGUMENTS[field.name].write(value) for field, value in values if value != field.default]
    return f"({', '.join([type(schedule).__name__, *arguments])})"


def _required(field: Field) -> bool:
    return field.default is MISSING


def _read(name: str, text: str, schedule: type) -> Any:
    argument = _ARGUMENTS[name]
    try:
        return argument.read(text)
    except ValueError:
        raise SettingsError(
            f"learning_rate: {name} is {text!r}, allowed: {argument.allowed}; in {usage(schedule)}"
        ) from None
