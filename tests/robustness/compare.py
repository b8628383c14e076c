"""What two runs of one experiment must have in common: everything but the time it took."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ssoup_jax.trees import path_name

TIMES = ("seconds", "images_per_second", "provenance")
"""The fields, at any depth of any JSON file, that measure time or say when and where; nothing else may differ."""

UNLIKE = ("locks", "summary.png", "report.html")
"""Entries of a workdir that say nothing of the result: who held which lock, and pictures of it."""


def differences(found: Path, truth: Path, besides: Collection[str] = ()) -> Iterator[str]:
    """Compares two workdirs, arrays bit by bit.

    Args:
        found: the one to judge.
        truth: that of an experiment which was never interrupted.
        besides: fields, at any depth of any JSON file, that may differ, too.

    Yields:
        Each difference in one line; left-over files are differences too.
    """
    for folder in (".", "artifacts", "checkpoints", "experiments"):
        names = [set(path.name for path in (place / folder).glob("*")) for place in (found, truth)]
        for name in sorted((names[0] ^ names[1]) - set(UNLIKE)):
            yield f"{folder}/{name} is {'left over' if name in names[0] else 'missing'}"
    for summary in ("summary.json", *(str(path.relative_to(truth)) for path in truth.glob("experiments/*/*.json"))):
        yield from _in_json(found / summary, truth / summary, besides)
    for artifact in sorted(truth.glob("artifacts/[!.]*")):
        same = found / "artifacts" / artifact.name
        if not same.is_dir():
            continue
        names = [set(str(path.relative_to(place)) for path in place.glob("*")) for place in (same, artifact)]
        yield from (f"{artifact.name}/{name} is in one of the two" for name in names[0] ^ names[1])
        yield from _in_arrays(same / "state", artifact / "state")
        yield from _in_json(same / "record.json", artifact / "record.json", besides)
        if (artifact / "metrics.jsonl").exists():
            yield from _in_json(same / "metrics.jsonl", artifact / "metrics.jsonl", besides)


def _in_arrays(found: Path, truth: Path) -> Iterator[str]:
    leaves = [
        {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(ocp.load(place))}
        for place in (found, truth)
    ]
    if set(leaves[0]) != set(leaves[1]) or not leaves[1]:
        yield f"{found}: other arrays, or none: {sorted(set(leaves[0]) ^ set(leaves[1]))}"
        return
    for name, wanted in leaves[1].items():
        own = leaves[0][name]
        if (own.dtype, own.shape, own.tobytes()) != (wanted.dtype, wanted.shape, wanted.tobytes()):
            yield f"{found}: {name} differs"


def _in_json(found: Path, truth: Path, besides: Collection[str]) -> Iterator[str]:
    if not found.exists() or not truth.exists():
        yield f"{found}: missing here or in the truth"
        return
    own, wanted = (_without((*TIMES, *besides), _read(path)) for path in (found, truth))
    if own != wanted:
        yield f"{found}: {_first_difference(own, wanted)}"


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def _without(fields: Collection[str], tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _without(fields, value) for name, value in tree.items() if name not in fields}
    return [_without(fields, value) for value in tree] if isinstance(tree, list) else tree


def _first_difference(own: Any, wanted: Any, where: str = "") -> str:
    if isinstance(own, dict) and isinstance(wanted, dict) and set(own) == set(wanted):
        name = next(name for name in own if own[name] != wanted[name])
        return _first_difference(own[name], wanted[name], f"{where}.{name}")
    if isinstance(own, list) and isinstance(wanted, list) and len(own) == len(wanted):
        index = next(index for index in range(len(own)) if own[index] != wanted[index])
        return _first_difference(own[index], wanted[index], f"{where}[{index}]")
    return f"{where or 'all'} is {str(own)[:100]}, wanted {str(wanted)[:100]}"
