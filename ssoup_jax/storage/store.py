"""Where artifacts live: content-addressed, finished or absent."""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment.plan import Stage
from ssoup_jax.storage import manifest
from ssoup_jax.storage.checkpoints import one_line, spec, write_folder
from ssoup_jax.storage.json_files import write_json
from ssoup_jax.training.state import Variables
from ssoup_jax.trees import PyTree, path_name

RECORD = "record.json"
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Artifact:
    """What a finished stage leaves behind.

    Attributes:
        variables: the model's parameters and BatchNorm statistics.
        mask: structure and shapes of the params; False where a weight is pruned.
        record: everything else, JSON-ready: metrics, sparsity, cost, training history.
    """

    variables: Variables
    mask: PyTree
    record: dict[str, Any]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class Store:
    """Artifacts under `<workdir>/artifacts`, one folder each, named by `Stage.name`.

    A folder is filled beside its place and renamed into it, so whatever has a stage's name was whole; its manifest
    shows whether it still is. One that is not counts as absent, and is renamed to `damaged-...` beside it.
    """

    def __init__(self, workdir: Path, on_damage: Callable[[str], None] = _to_stderr):
        """Prepares the workdir and completes what a kill cut off between two renames.

        Args:
            workdir: created if it is missing.
            on_damage: told in one line of every artifact that is set aside.

        Raises:
            SettingsError: it cannot be written.
        """
        self.workdir = workdir
        self._root = workdir.absolute() / "artifacts"
        self._on_damage = on_damage
        self._whole: set[str] = set()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            probe = self._root / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
            self.recover()
        except OSError as error:
            raise SettingsError(f"workdir: cannot write to {workdir}: {error.strerror}") from None

    @property
    def locks(self) -> Path:
        """The folder for the stages' lock files."""
        return self._root.parent / "locks"

    def checkpoints(self, stages: Sequence[Stage]) -> Path:
        """Returns the folder for the checkpoints of stages that train as one stack; none other's is the same."""
        return self._checkpoints([stage.name for stage in stages])

    def _checkpoints(self, names: list[str]) -> Path:
        if len(names) > 1:
            digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
            names = [f"{names[0].rpartition('-')[0]}-{len(names)}-members-{digest}"]
        return self._root.parent / "checkpoints" / names[0]

    def path(self, stage: Stage) -> Path:
        """Returns the folder of a stage's artifact, whether it is there or not."""
        return self._root / stage.name

    def has(self, stage: Stage) -> bool:
        """Tells whether a stage is finished and whole; every file is compared, once per process.

        Raises:
            RunError: the artifact was written by a newer version, or cannot be read for now.
        """
        return self._has(stage.name)

    def record(self, stage: Stage) -> dict[str, Any]:
        """Reads the record of a finished stage.

        Raises:
            RunError: it is not finished, or its artifact is damaged and has just been set aside.
        """
        self._require(stage)
        return read_record(self.path(stage))

    def load(self, stage: Stage, like: Variables) -> Artifact:
        """Loads the artifact of a finished stage, see `load` and `record`."""
        self._require(stage)
        return _load(self.path(stage), like)

    def begin(self, stage: Stage) -> Path:
        """Makes an empty folder beside the artifact's place, for what the stage writes while it runs."""
        folder = self._partial(stage.name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def finish(self, stage: Stage, artifact: Artifact) -> None:
        """Finishes one stage, see `finish_group`."""
        self.finish_group([stage], [artifact])

    def finish_group(self, stages: Sequence[Stage], artifacts: Sequence[Artifact]) -> None:
        """Writes artifacts beside their places and renames them into place, all of them or, after a kill, none.

        The checkpoints that they came from are removed.

        Args:
            stages: those that `begin` was called for.
            artifacts: their results.

        Raises:
            RunError: the disk is full, cannot be written or went away; none of the stages is finished then.
        """
        names = [stage.name for stage in stages]
        group = self._root / f".group-{hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]}.json"
        try:
            for name, artifact in zip(names, artifacts, strict=True):
                tree = {
                    "params": artifact.variables.params,
                    "batch_stats": artifact.variables.batch_stats,
                    "mask": artifact.mask,
                }
                write_folder(self._partial(name), jax.device_get(tree), {RECORD: artifact.record})
            for left in self._root.glob(f".{group.name}.*.tmp"):
                left.unlink(missing_ok=True)
            # From here on the group counts as finished: `recover` does what a kill leaves undone.
            write_json(group, {"stages": names})
            manifest.sync(self._root)
            self._complete(group, names)
        except RunError:
            raise
        except Exception as error:  # whatever Orbax raises when a disk fails
            titles = ", ".join(stage.title for stage in stages)
            raise RunError(f"{titles}: cannot be stored ({one_line(error)}); finished stages are intact") from error

    def recover(self) -> None:
        """Completes the groups whose artifacts were all written, but not all renamed, when their process was killed.

        Raises:
            OSError: the workdir cannot be written.
        """
        for group in self._root.glob(".group-*.json"):
            try:
                names = manifest.read_json(group).get("stages")
            except manifest.Damaged:
                names = None
            if (
                isinstance(names, list)
                and names
                and all(isinstance(name, str) and _NAME.fullmatch(name) for name in names)
            ):
                self._complete(group, names)
            else:
                # Without the list nothing is lost but the work since the last checkpoint.
                group.unlink(missing_ok=True)

    def _complete(self, group: Path, names: list[str]) -> None:
        for name in names:
            partial, place = self._partial(name), self._root / name
            if not manifest.present(partial):
                continue
            try:
                partial.rename(place)
            except OSError:
                # Another launch finished the same stage first; equal settings, equal result.
                if self._has(name):
                    shutil.rmtree(partial, ignore_errors=True)
                elif partial.exists():
                    partial.rename(place)
        manifest.sync(self._root)
        shutil.rmtree(self._checkpoints(names), ignore_errors=True)
        group.unlink(missing_ok=True)

    def _has(self, name: str) -> bool:
        folder = self._root / name
        if not os.path.lexists(folder):
            return False
        if name in self._whole:
            return True
        try:
            manifest.check(folder)
        except manifest.Damaged as error:
            if not os.path.lexists(folder):  # another process has set it aside just now
                return False
            aside = manifest.set_aside(folder, name)
            self._on_damage(f"artifact {name} is not used: {error.problem}; set aside as {aside}")
            return False
        self._whole.add(name)
        return True

    def _require(self, stage: Stage) -> None:
        if not self.has(stage):
            raise RunError(f"{self.path(stage)}: {stage.title} is not there or was damaged; start again to redo it")

    def _partial(self, name: str) -> Path:
        return self._root / f".{name}.partial"


def read_record(folder: Path) -> dict[str, Any]:
    """Reads the record of an artifact, without comparing it with the manifest.

    Args:
        folder: the artifact's.

    Returns:
        The record.

    Raises:
        RunError: there is no artifact, or its record cannot be read.
    """
    try:
        return manifest.read_json(folder / RECORD)
    except manifest.Damaged as error:
        raise RunError(f"{folder}: not a stored artifact: {error.problem}") from None


def load(folder: Path, like: Variables) -> Artifact:
    """Loads an artifact from any place, if it is whole.

    Args:
        folder: a finished one's.
        like: variables of the same structure, shapes and dtypes.

    Returns:
        The artifact, on the host: arrays that a device has committed to would compile the step a second time.

    Raises:
        Damaged: a file of it is missing or not as it was stored.
        RunError: it was written by a newer version, cannot be read, or is of another structure.
    """
    manifest.check(folder)
    return _load(folder, like)


def _load(folder: Path, like: Variables) -> Artifact:
    folder = folder.absolute()  # Orbax takes no other paths
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def abstract(tree, dtype=None):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype, sharding=here), tree)

    target = {
        "params": abstract(like.params),
        "batch_stats": abstract(like.batch_stats),
        "mask": abstract(like.params, np.bool_),
    }
    try:
        # Orbax casts and pads where it can, so what is stored must be what is wanted before it is read.
        stored, wanted = _specs(ocp.metadata(folder / "state").metadata), _specs(target)
        if stored != wanted:
            name = min(stored.items() ^ wanted.items())[0]
            raise ValueError(f"{name}: found {stored.get(name, 'nothing')}, wanted {wanted.get(name, 'nothing')}")
        tree = jax.device_get(ocp.load(folder / "state", target))
    except (ValueError, KeyError, OSError) as error:
        raise RunError(
            f"{folder / 'state'}: cannot be read ({one_line(error)}); delete the folder to redo it"
        ) from None
    return Artifact(Variables(tree["params"], tree["batch_stats"]), tree["mask"], read_record(folder))


def _specs(tree: PyTree) -> dict[str, str]:
    """Spells the shape and dtype of every leaf by its path."""
    return {path_name(path): spec(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
