"""The errors a user sees as one line; `launch.py` turns them into exit codes."""

import difflib
import re
from collections.abc import Iterable

_LONGEST = 950  # characters
_SYSTEM = re.compile(
    "No space left on device|Disk quota exceeded|Read-only file system|Input/output error|File too large"
    "|Too many open files"
)


def printable(text: str) -> str:
    """Writes what could steer a terminal, and what no encoding has, as Python's escapes.

    Args:
        text: any; names of files and classes may hold anything.

    Returns:
        One line.
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class UserError(Exception):
    """A problem worth one clear line instead of a traceback."""

    exit_code: int

    def __init__(self, text: str):
        line = printable(text)
        # What was found may be of any length; what is allowed stands behind it.
        super().__init__(line if len(line) <= _LONGEST else f"{line[:400]} [...] {line[-500:]}")


class SettingsError(UserError):
    """A setting or input file that cannot work; raised before anything is trained."""

    exit_code = 2


class RunError(UserError):
    """A failure in the middle of a run; finished stages stay intact."""

    exit_code = 1


class Diverged(RunError):
    """A training that has gone astray: it will again, and nothing else need suffer from it."""


def unknown(setting: str, found: object, allowed: Iterable[str], nearest: str | None = None) -> SettingsError:
    """Builds the error for a value outside a list of names, with the nearest allowed name.

    Args:
        setting: what the value was given for, such as `'arch'`.
        found: the value that was given.
        allowed: every name that would have been accepted.
        nearest: what was probably meant; None: the allowed name that is spelt most alike, if one is.

    Returns:
        The error, ready to be raised.
    """
    allowed = list(allowed)
    by_lower = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(str(found).lower(), by_lower, n=1, cutoff=0.5)
    nearest = nearest or (by_lower[close[0]] if close else None)
    hint = f"; did you mean {nearest!r}?" if nearest else ""
    return SettingsError(f"{setting}: unknown value {found!r}; allowed: {', '.join(allowed)}{hint}")


def one_line(error: BaseException | str, longest: int = 400) -> str:
    """Spells what somebody else's error says in one line, for a place inside ours.

    Args:
        error: the error, or a part of what it says.
        longest: characters, of which the first are kept.

    Returns:
        The line: of an error of the system its own words and the file, of one that says nothing its type.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror + (f": {error.filename}" if error.filename else "")
    # Libraries wrap the system's own words in many of theirs.
    if found := _SYSTEM.search(str(error)):
        return found[0]
    line = " ".join(str(error).split())
    if not line:
        return "" if isinstance(error, str) else type(error).__name__
    return line if len(line) <= longest else f"{line[:longest]} ..."
