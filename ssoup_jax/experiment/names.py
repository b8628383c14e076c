"""How stages are called: the names of their artifacts, spelled and read, and what people call them."""

import re
from dataclasses import dataclass

_WHAT = {"Dense": "dense", "IMP": "imp", "Ensemble": "soup", "Average": "average"}
_KINDS = {what: kind for kind, what in _WHAT.items()}
_NAME = re.compile(
    r"(?:(?P<dense>dense)|phase(?P<phase>[1-9][0-9]{0,8})-(?P<what>imp|soup|average))-(?P<digest>[0-9a-f]{16})"
)


@dataclass(frozen=True)
class Name:
    """The name of a stage's artifact; `str` spells it, such as `'phase3-soup-0123456789abcdef'`.

    Attributes:
        kind: 'Dense', 'IMP', 'Ensemble' or 'Average'.
        phase: 1-based; 0 for the dense model.
        digest: hash of everything that determines the stage's result.
    """

    kind: str
    phase: int
    digest: str

    def __str__(self) -> str:
        phase = "" if self.kind == "Dense" else f"phase{self.phase}-"
        return f"{phase}{_WHAT[self.kind]}-{self.digest}"


def read(name: str) -> Name | None:
    """Reads the name of an artifact; None where it is none."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return Name(_KINDS[match["dense"] or match["what"]], int(match["phase"] or 0), match["digest"])


def title(kind: str, phase: int, member: int | float | None = None) -> str:
    """Says what people call a stage, such as `'IMP phase 1, member 0'`."""
    if kind == "Dense":
        return kind
    return f"{kind} phase {phase}" + ("" if member is None else f", member {member}")
