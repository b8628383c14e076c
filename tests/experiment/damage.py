"""Damages stored artifacts and checkpoints in every way there is, and sees that nobody uses them.

    python -m tests.experiment.damage --cases 1000

Exit code 0: every case was recognised and told in one line, nothing damaged was used, nothing took long.
"""

import argparse
import collections
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssoup_jax.errors import RunError
from ssoup_jax.storage import manifest
from ssoup_jax.storage.checkpoints import Checkpoints
from ssoup_jax.storage.layout import Workdir, member_name
from ssoup_jax.storage.store import Store
from ssoup_jax.trees import PyTree

NAME = "dense-0123456789abcdef"
SECONDS = 20
GARBAGE = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{}",
    b"{" * 50000,
    b"[" * 50000,
    b'{"a":' * 20000,
    b"\xff\x00\xfe",
    b"9" * 10000,
    b'{"format": 1, "files": {}, "sha256": "0", "ssoup_jax": "0.1.0"}',
    b'{"format": 1, "files": {"../../../etc/passwd": {"bytes": 1, "sha256": "0"}}}',
    b'{"step": 1e999, "leaves": {"a": NaN}, "info": []}',
    b'{"__class__": "os.system", "args": ["true"]}',
]


def model(value: float) -> PyTree:
    """Returns a small artifact's tree whose every number is `value`."""
    params = {"fc": {"kernel": np.full((20, 30), value, np.float32), "bias": np.full(30, value, np.float32)}}
    mask = jax.tree.map(lambda leaf: leaf > 0, params)
    return {"params": params, "batch_stats": {}, "mask": mask}


def record(value: float) -> dict[str, Any]:
    """Returns the artifact's record."""
    return {"metrics": {"test": {"accuracy": value}}}


def prepare(workdir: Path) -> None:
    """Stores one artifact, of ones, and two checkpoints, of ones and of twos."""
    store = Store(workdir)
    store.begin(NAME)
    store.finish([NAME], [model(1.0)], [record(1.0)])
    with Checkpoints(store.checkpoints([NAME])) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {0: model(step)}, 1, {"value": step})


def _pick(folder: Path, rng: random.Random, least: int = 0) -> Path:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size >= least)
    return rng.choice(files)


def flip(folder: Path, rng: random.Random) -> None:
    """Flips one to four bits of one file."""
    path = _pick(folder, rng, 1)
    raw = bytearray(path.read_bytes())
    for position in rng.sample(range(8 * len(raw)), min(rng.randint(1, 4), 8 * len(raw))):
        raw[position // 8] ^= 1 << position % 8
    path.write_bytes(raw)


def truncate(folder: Path, rng: random.Random) -> None:
    """Cuts one file short."""
    path = _pick(folder, rng, 1)
    os.truncate(path, rng.randrange(path.stat().st_size))


def grow(folder: Path, rng: random.Random) -> None:
    """Appends to one file."""
    with _pick(folder, rng).open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 100)))


def noise(folder: Path, rng: random.Random) -> None:
    """Overwrites a stretch of one file, its size unchanged."""
    path = _pick(folder, rng, 1)
    raw = bytearray(path.read_bytes())
    start = rng.randrange(len(raw))
    for position in range(start, min(len(raw), start + rng.randint(1, 500))):
        raw[position] ^= rng.randint(1, 255)
    path.write_bytes(raw)


def delete(folder: Path, rng: random.Random) -> None:
    """Deletes one file."""
    _pick(folder, rng).unlink()


def _state(folder: Path) -> Path:
    """Returns what holds the arrays: an artifact's folder of them, or a checkpoint's file."""
    return folder / "state" if (folder / "state").exists() else folder / member_name(0)


def delete_state(folder: Path, rng: random.Random) -> None:
    """Deletes the arrays, or a folder that holds some of them."""
    state = _state(folder)
    if state.is_dir():
        shutil.rmtree(_pick(state, rng).parent)
    else:
        state.unlink()


def garbage(folder: Path, rng: random.Random) -> None:
    """Puts garbage in the place of one file."""
    _pick(folder, rng, 1).write_bytes(rng.choice(GARBAGE))


def garbage_json(folder: Path, rng: random.Random) -> None:
    """Puts garbage in the place of one of the JSON files."""
    rng.choice(sorted(folder.glob("*.json"))).write_bytes(rng.choice(GARBAGE))


def extra(folder: Path, rng: random.Random) -> None:
    """Adds a file."""
    (_pick(folder, rng).parent / rng.choice(["new", "a\nb", "\x1b[2J", ".hidden", "\udcff"])).touch()


def swap(folder: Path, rng: random.Random) -> None:
    """Exchanges two files of different content."""
    a, b = _pick(folder, rng, 1), _pick(folder, rng, 1)
    while a.read_bytes() == b.read_bytes():
        b = _pick(folder, rng, 1)
    one, other = a.read_bytes(), b.read_bytes()
    a.write_bytes(other)
    b.write_bytes(one)


def link(folder: Path, rng: random.Random) -> None:
    """Puts a link in the place of a file, to its own content elsewhere, to nowhere, or to a device."""
    path = _pick(folder, rng)
    elsewhere = folder.parent.parent.parent / f"elsewhere-{rng.random()}"
    path.rename(elsewhere)
    path.symlink_to(rng.choice([elsewhere, "nowhere", path.name, "/dev/zero", "/etc/passwd"]))


def link_state(folder: Path, rng: random.Random) -> None:
    """Puts a link to its own content elsewhere in the place of the arrays."""
    elsewhere, state = folder.parent.parent.parent / f"elsewhere-{rng.random()}", _state(folder)
    state.rename(elsewhere)
    state.symlink_to(elsewhere)


def pipe(folder: Path, rng: random.Random) -> None:
    """Puts a pipe that nobody writes to in the place of a file."""
    path = _pick(folder, rng)
    path.unlink()
    os.mkfifo(path)


def folder_for_file(folder: Path, rng: random.Random) -> None:
    """Puts a folder in the place of a file."""
    path = _pick(folder, rng)
    path.unlink()
    path.mkdir()


def forged_name(folder: Path, rng: random.Random) -> None:
    """Lists a file outside in a manifest that is well formed."""
    content = json.loads((folder / manifest.NAME).read_text())
    del content["sha256"]
    name = rng.choice(["/etc/passwd", "../record.json", "state/../../x", "", ".", "a//b", "a\0b", "..", "state/"])
    content["files"][name] = {"bytes": 0, "sha256": "0" * 64}
    (folder / manifest.NAME).write_text(manifest._spell(content))


def forged_entry(folder: Path, rng: random.Random) -> None:
    """Describes a file wrongly in a manifest that is well formed."""
    content = json.loads((folder / manifest.NAME).read_text())
    del content["sha256"]
    name = rng.choice(sorted(content["files"]))
    content["files"][name] = rng.choice(
        [None, [], 3, {}, {"bytes": -1, "sha256": ""}, {"bytes": "1", "sha256": 2}, {"bytes": 10**30, "sha256": ""}]
    )
    (folder / manifest.NAME).write_text(manifest._spell(content))


def nothing_left(folder: Path, rng: random.Random) -> None:
    """Leaves an empty folder, or a file in its place."""
    shutil.rmtree(folder)
    rng.choice([folder.mkdir, folder.touch])()


KINDS: list[Callable[[Path, random.Random], None]] = [
    *(flip, flip, flip, truncate, truncate, grow, noise, delete, delete_state, garbage, garbage_json, extra),
    *(swap, link, link_state, pipe, folder_for_file, forged_name, forged_entry, nothing_left),
]


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        kind: how it was damaged.
        where: 'artifact', 'newest' or 'both' checkpoints.
        failure: what should not have been; None: as it should be.
        seconds: until it was recognised.
    """

    kind: str
    where: str
    failure: str | None
    seconds: float


def case(stored: Path, workdir: Path, seed: int, where: str | None = None) -> Outcome:
    """Damages a copy of what is stored and asks for it.

    Args:
        stored: a workdir made by `prepare`.
        workdir: for the copy; must not exist.
        seed: picks the damage and the place; neighbours differ in kind.
        where: the place, see `Outcome`; None: picked.
    """
    rng = random.Random(seed)
    shutil.copytree(stored, workdir)
    kind, where = KINDS[seed % len(KINDS)], where or rng.choice(["artifact", "artifact", "newest", "both"])
    told: list[str] = []
    root = Workdir(stored).checkpoints([NAME]).relative_to(stored)
    folders = {
        "artifact": [Workdir(stored).artifact(NAME).relative_to(stored)],
        "newest": [root / "step-00000002"],
        "both": [root / "step-00000002", root / "step-00000001"],
    }[where]
    for folder in folders:
        kind(workdir / folder, rng)
    started = time.perf_counter()
    signal.alarm(SECONDS)
    try:
        failure = (_artifact if where == "artifact" else _checkpoint)(workdir, workdir / root, told, where)
    except Exception as error:
        failure = f"raised {type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
    seconds = time.perf_counter() - started
    if failure is None and len(told) != len(folders):
        failure = f"told {told}"
    if failure is None and any(not line.isprintable() for line in told):
        failure = f"not one plain line: {told}"
    return Outcome(kind.__name__, where, failure, seconds)


def _artifact(workdir: Path, _: Path, told: list[str], where: str) -> str | None:
    store = Store(workdir, told.append)
    if store.has(NAME):
        return "counts as finished"
    try:
        store.load(NAME, model(0.0))
        return "was loaded"
    except RunError:
        pass
    return None if next((workdir / "artifacts").glob("damaged-*"), None) else "was not set aside"


def _checkpoint(workdir: Path, folder: Path, told: list[str], where: str) -> str | None:
    with Checkpoints(folder, on_damage=told.append) as checkpoints:
        found = checkpoints.latest(model(0.0), 1, [0])
    if where == "both":
        return None if found is None else f"step {found[0]} was used"
    if found is None or found[0] != 1 or found[2] != {"value": 1}:
        return "the one before was not taken"
    same = jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), found[1][0], model(1.0))
    return None if all(jax.tree.leaves(same)) else "the one before came back changed"


def run(cases: int, seed: int = 0) -> list[Outcome]:
    """Runs many cases, see `case`."""
    with tempfile.TemporaryDirectory() as place:
        stored = Path(place) / "stored"
        prepare(stored)
        outcomes = []
        for index in range(seed, seed + cases):
            workdir = Path(place) / "place" / str(index)
            outcomes.append(case(stored, workdir, index))
            shutil.rmtree(workdir.parent)
        return outcomes


def main() -> int:
    """Runs the cases and prints what became of them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiment.damage")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcomes = run(options.cases, options.seed)
    failed = [outcome for outcome in outcomes if outcome.failure]
    for outcome in failed:
        print(f"FAILED {outcome.kind} of {outcome.where}: {outcome.failure}")
    for name, count in sorted(collections.Counter(outcome.kind for outcome in outcomes).items()):
        print(f"{name:20} {count}")
    seconds = [outcome.seconds for outcome in outcomes]
    print(
        f"{len(outcomes) - len(failed)} of {len(outcomes)} recognised and not used; "
        f"median {np.median(seconds):.3f} s, slowest {max(seconds):.3f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
