"""Brings the artifacts of one workdir into another: what is equal is left; if anything differs, nothing is copied."""

import json
import os
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssoup_jax.errors import RunError
from ssoup_jax.storage import manifest
from ssoup_jax.storage.compare import compare, json_differences
from ssoup_jax.storage.json_files import write_json
from ssoup_jax.storage.layout import Workdir
from ssoup_jax.storage.store import Store


@dataclass
class Plan:
    """What there is to merge.

    Attributes:
        new: artifacts that are to be copied, with their bytes.
        equal: those that are there already, each with what its record tells otherwise and need not tell alike.
        refused: what differs or is damaged, by name, in one line each; nothing may be copied then.
        ood: the scores to be stored out of distribution, by artifact.
    """

    new: dict[str, int] = field(default_factory=dict)
    equal: dict[str, tuple[str, ...]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    ood: dict[str, dict[str, Any]] = field(default_factory=dict)


def plan(
    source: Workdir,
    target: Workdir,
    names: Sequence[str],
    may_differ: Set[str],
    on_artifact: Callable[[int], None] = lambda count: None,
) -> Plan:
    """Looks at all that is to be merged; reads only.

    Args:
        source: where it comes from.
        target: where it is to go; need not be there yet.
        names: of artifacts of the source.
        may_differ: see `compare`.
        on_artifact: told how many have been looked at, one by one.

    Returns:
        The plan.
    """
    found = Plan()
    for number, name in enumerate(names, start=1):
        own, there = source.artifact(name), target.artifact(name)
        try:
            if os.path.lexists(there):
                difference, apart = compare(own, there, may_differ)
                if difference is None:
                    found.equal[name] = apart
                else:
                    found.refused[name] = difference
            else:
                manifest.check(own)
                found.new[name] = sum(size for size, _ in manifest.read(own).values())
        except RunError as error:
            found.refused[name] = str(error)
        on_artifact(number)
    for path in sorted(source.ood("").parent.glob("*.json")):
        _plan_ood(found, path, target.ood(path.stem))
    return found


def _plan_ood(found: Plan, path: Path, there: Path) -> None:
    """Adds the scores that a file has and the other one has not."""
    name = f"{path.parent.name}/{path.name}"
    try:
        own, theirs = manifest.read_json(path), manifest.read_json(there) if os.path.lexists(there) else {}
    except RunError as error:
        found.refused[name] = str(error)
        return
    for corruption in sorted(own.keys() & theirs.keys()):
        for place, a, b in json_differences(own[corruption], theirs[corruption]):
            found.refused[name] = (
                f"{'/'.join((corruption, *place))} is {json.dumps(a)}, where {json.dumps(b)} is wanted"
            )
            return
    if own.keys() - theirs.keys():
        found.ood[path.stem] = theirs | own


def carry_out(
    found: Plan, source: Workdir, store: Store, on_artifact: Callable[[int], None] = lambda count: None
) -> None:
    """Copies what a plan has to be copied: all artifacts, or, whatever happens, none of them.

    Args:
        found: what `plan` returned; refuses nothing.
        source: where the artifacts come from.
        store: where they go; nobody else is making any of them.
        on_artifact: told how many have been copied, one by one.

    Raises:
        RunError: the disk is full, or the source changes meanwhile; nothing was copied.
    """
    if found.new:
        store.take({name: source.artifact(name) for name in found.new}, on_artifact)
    for name, scores in found.ood.items():
        path = store.workdir.ood(name)
        path.parent.mkdir(exist_ok=True)
        write_json(path, scores)
