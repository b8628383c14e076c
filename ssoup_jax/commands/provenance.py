"""Where artifacts came from, spelled for people. What a file says is not believed: only text and numbers are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

from ssoup_jax.errors import printable

_LONGEST = 400  # characters of what one field says


def of(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what a record says of where it came from; None: nothing."""
    found = record.get("provenance")
    return found if isinstance(found, dict) else None


def lines(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says where artifacts came from: of one all that is known, of several what they have in common.

    Args:
        found: what their records say.

    Returns:
        Printable lines.
    """
    if len(found) == 1:
        one = found[0]
        when = f"{_text(one.get('started'))} to {_text(one.get('ended'))}"
        how = f"execution {_text(one.get('execution'))}, {_count(one.get('processes'), 'process', 'processes')}"
        return [
            f"made: {when}, on {_where(one)}, {how}",
            f"with: {_with(one)}, {_text(one.get('platform'))}",
            f"code: {_code(one)}",
            f"command: {_command(one)}",
        ]
    groups: dict[str, int] = {}
    for one in found:
        line = f"made on {_where(one)} with {_with(one)}; {_code(one)}"
        groups[line] = groups.get(line, 0) + 1
    return [f"{_count(count, 'stage', 'stages')} {line}" for line, count in groups.items()]


def _where(one: Mapping[str, Any]) -> str:
    devices = _pairs(one.get("devices"))
    return f"{_text(one.get('host'))} ({', '.join(f'{count} x {kind}' for kind, count in devices) or 'no device'})"


def _with(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in _pairs(one.get("versions"))) or "unknown versions"


def _code(one: Mapping[str, Any]) -> str:
    git = one.get("git")
    if not isinstance(git, Mapping):
        return "code of no commit"
    return f"commit {_text(git.get('commit'))}" + (", changed since" if git.get("dirty") else "")


def _command(one: Mapping[str, Any]) -> str:
    words = one.get("command")
    return _text(" ".join(map(str, words))) if isinstance(words, list) else "unknown"


def _pairs(node: Any) -> list[tuple[str, str]]:
    return [(_text(name), _text(value)) for name, value in node.items()] if isinstance(node, Mapping) else []


def _count(value: Any, one: str, several: str) -> str:
    return f"{_text(value)} {one if value == 1 else several}"


def _text(value: Any) -> str:
    """Spells a text or a number; anything else is unknown."""
    if not isinstance(value, str | int | float) or (isinstance(value, int) and abs(value) >= 10**18):
        return "unknown"
    text = printable(str(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
