"""What a function that somebody else wrote is, in the name of a result that was made with it."""

import functools
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from ssoup_jax.errors import SettingsError


def identity(function: Callable) -> str:
    """Says in one line which function this is: its name, and the version that it declares or a hash of its source.

    The hash is of the function's own text. What it calls or closes over is not in it: whoever changes that declares a
    version, `function.version = '2'`.

    Args:
        function: a function, class, bound method, `functools.partial`, or an object whose class is looked at instead.

    Returns:
        Such as `'my_package.nets:make 3f1c09d2a8b7e654'`.

    Raises:
        SettingsError: its source cannot be read, and it declares no version.
    """
    if isinstance(function, functools.partial):
        return f"{identity(function.func)} {function.args!r} {function.keywords!r}"
    if not hasattr(function, "__qualname__"):
        function = type(function)
    name = f"{function.__module__}:{function.__qualname__}"
    version: Any = getattr(function, "version", None)
    if version is not None:
        return f"{name} {version}"
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise SettingsError(
            f"{name}: its source cannot be read, so results cannot be named by it; declare one: function.version = '1'"
        ) from None
    return f"{name} {hashlib.sha256(source.encode()).hexdigest()[:16]}"
