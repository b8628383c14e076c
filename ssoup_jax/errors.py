"""The two errors a user sees as one line; `launch.py` turns them into exit codes."""

import difflib
from collections.abc import Iterable

_LONGEST = 950  # characters


class UserError(Exception):
    """A problem worth one clear line instead of a traceback."""

    exit_code: int

    def __init__(self, text: str):
        line = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
        # What was found may be of any length; what is allowed stands behind it.
        super().__init__(line if len(line) <= _LONGEST else f"{line[:400]} [...] {line[-500:]}")


class SettingsError(UserError):
    """A setting or input file that cannot work; raised before anything is trained."""

    exit_code = 2


class RunError(UserError):
    """A failure in the middle of a run; finished stages stay intact."""

    exit_code = 1


def unknown(setting: str, found: object, allowed: Iterable[str]) -> SettingsError:
    """Builds the error for a value outside a list of names, with the nearest allowed name.

    Args:
        setting: what the value was given for, such as `'arch'`.
        found: the value that was given.
        allowed: every name that would have been accepted.

    Returns:
        The error, ready to be raised.
    """
    allowed = list(allowed)
    by_lower = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(str(found).lower(), by_lower, n=1, cutoff=0.5)
    hint = f"; did you mean {by_lower[close[0]]!r}?" if close else ""
    return SettingsError(f"{setting}: unknown value {found!r}; allowed: {', '.join(allowed)}{hint}")
