"""Parts of one's own: what a setting names as `my_package.nets:make`, wherever Python finds that module."""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from types import ModuleType
from typing import Any

from ssoup_jax.errors import SettingsError, UserError, one_line, unknown
from ssoup_jax.identity import identity

FORM = "MODULE:NAME"
"""How they are named, for lists of what is allowed."""

_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FORM = re.compile(rf"({_NAME}):({_NAME})")


def is_own(text: object) -> bool:
    """Tells whether a setting's value names a part of one's own, alone or as `spell` does."""
    return isinstance(text, str) and _FORM.fullmatch(_bare(text)) is not None


def is_there(text: str) -> bool:
    """Tells whether there is a module that may hold a part; nothing is run for that."""
    found = _FORM.fullmatch(_bare(text))
    if found is None:
        return False
    top = found[1].partition(".")[0]
    return top in sys.modules or importlib.util.find_spec(top) is not None


@functools.cache
def load(setting: str, text: str) -> Any:
    """Imports a part.

    Args:
        setting: what it was given for, for errors.
        text: names it, alone or as `spell` does.

    Returns:
        Whatever has that name.

    Raises:
        SettingsError: it names no part of one's own, there is no such module, it cannot be imported, or it has nothing
            of that name.
    """
    found = _FORM.fullmatch(_bare(text))
    if found is None:
        raise SettingsError(f"{setting}: found {text!r}; allowed: {FORM}, such as 'my_package.nets:make'")
    part = module = _imported(setting, found[1])
    for name in found[2].split("."):
        if not hasattr(part, name):
            known = [f"{found[1]}:{own}" for own in _public(module)]
            raise unknown(setting, _bare(text), known or [f"a function of {found[1]}, which has none"])
        part = getattr(part, name)
    return part


def spell(setting: str, text: str) -> str:
    """Says what a part is, for the names of results that are made with it.

    Args:
        setting: what it was given for, for errors.
        text: the setting's value.

    Returns:
        The name as it was given and the version that the part declares or a hash of its source, see `identity`; of an
        object made of functions, such as a `Selector`, those of all. What is no part of one's own stays as it is.

    Raises:
        SettingsError: see `load` and `identity`.
    """
    if not is_own(text):
        return text
    part = load(setting, text)
    functions = [part]
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        functions = [value for value in vars(part).values() if callable(value)]
    return " ".join([_bare(text), *(identity(function).partition(" ")[2] for function in functions)])


def arguments(
    setting: str, text: str, function: Callable, given: Mapping[str, Any], needed: Collection[str] = ()
) -> dict[str, Any]:
    """Picks of the arguments that a part may have by name those that it takes.

    Args:
        setting: what the part was given for, for errors.
        text: names it.
        function: the part.
        given: all that there are.
        needed: those that it has to take.

    Raises:
        SettingsError: it is no function, needs others, or does not take what it has to.
    """
    takes = _parameters(setting, text, function)
    anything = any(own.kind is own.VAR_KEYWORD for own in takes.values())
    named = [name for name, own in takes.items() if own.kind in (own.POSITIONAL_OR_KEYWORD, own.KEYWORD_ONLY)]
    positional = [name for name, own in takes.items() if own.kind is own.POSITIONAL_ONLY]
    missing = [name for name in needed if name not in named and not anything]
    required = [*positional, *(name for name in named if takes[name].default is inspect.Parameter.empty)]
    if missing or set(required) - given.keys() or positional:
        optional = [name for name in given if name not in needed]
        also = f", and {', '.join(optional)} where it wants them" * bool(optional)
        raise SettingsError(
            f"{setting}: {_bare(text)} takes ({', '.join(takes)}); allowed: ({', '.join(needed)}){also}"
        )
    return {name: value for name, value in given.items() if name in named or anything}


def check_positional(setting: str, text: str, function: Callable, names: Iterable[str]) -> None:
    """Checks that a part takes arguments of some meaning in their order.

    Raises:
        SettingsError: it is no function, or takes others.
    """
    takes, names = _parameters(setting, text, function), tuple(names)
    try:
        inspect.Signature(list(takes.values())).bind(*names)
    except TypeError:
        raise SettingsError(
            f"{setting}: {_bare(text)} takes ({', '.join(takes)}); allowed: ({', '.join(names)}), in this order"
        ) from None


def call(
    setting: str, text: str, function: Callable, *args: Any, error: type[UserError] = SettingsError, **kwargs: Any
) -> Any:
    """Calls a part, or what was made of it; whatever it raises becomes one line.

    Args:
        setting: what it was given for.
        text: names it.
        function: what is called.
        *args, **kwargs: its arguments.
        error: raised in the place of what it raises.
    """
    try:
        return function(*args, **kwargs)
    except UserError:
        raise
    except Exception as raised:
        raise error(f"{setting}: {_bare(text)} raised {_said(raised)}") from raised


def _bare(text: str) -> str:
    return text.partition(" ")[0]


def _imported(setting: str, name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}.")
        if missing:
            raise SettingsError(
                f"{setting}: there is no module {error.name!r}, neither in the current folder nor installed"
            ) from None
        raise SettingsError(f"{setting}: {name} cannot be imported: {_said(error)}") from error


def _said(error: BaseException) -> str:
    text = one_line(error)
    return type(error).__name__ + (f": {text}" if text != type(error).__name__ else "")


def _public(module: ModuleType) -> list[str]:
    """Lists what a module defines itself."""

    def is_its_own(value: Any) -> bool:
        if inspect.isroutine(value) or isinstance(value, type):
            return value.__module__ == module.__name__
        return not isinstance(value, ModuleType)

    return [name for name, value in vars(module).items() if not name.startswith("_") and is_its_own(value)]


def _parameters(setting: str, text: str, function: Any) -> dict[str, inspect.Parameter]:
    if not callable(function):
        raise SettingsError(f"{setting}: {_bare(text)} is {type(function).__name__}; allowed: a function")
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        raise SettingsError(f"{setting}: {_bare(text)} does not say what it takes; allowed: a function") from None
