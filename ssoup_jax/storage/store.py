"""Where artifacts live: named trees with a record, finished or absent."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from ssoup_jax.errors import RunError, SettingsError, one_line
from ssoup_jax.storage import manifest
from ssoup_jax.storage.checkpoints import spec, write_folder
from ssoup_jax.storage.json_files import write_json
from ssoup_jax.storage.layout import RECORD, STATE, Workdir
from ssoup_jax.trees import PyTree, path_name

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_BUCKET = re.compile(r"gs:/|^/(gs|s3|az|hf)/")
_NAMES = "stages"  # what the list of a group calls them


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class Store:
    """The artifacts of a workdir, one folder each; whoever names them sees to it that equal names mean equal results.

    A folder is filled beside its place and renamed into it, so whatever has an artifact's name was whole; its manifest
    shows whether it still is. One that is not counts as absent, and is renamed to `damaged-...` beside it.

    Names consist of small letters, digits and single hyphens.
    """

    def __init__(self, workdir: Path, on_damage: Callable[[str], None] = _to_stderr):
        """Prepares the workdir and completes what a kill cut off between two renames.

        Args:
            workdir: created if it is missing.
            on_damage: told in one line of every artifact that is set aside.

        Raises:
            SettingsError: it cannot be written, or has a path that Orbax misreads.
        """
        if problem := _misread(os.path.abspath(workdir)):
            raise SettingsError(f"workdir: found {str(workdir)!r}; no arrays can be stored below a path that {problem}")
        self.workdir = Workdir(workdir)
        self._on_damage = on_damage
        self._whole: set[str] = set()
        try:
            self.workdir.artifacts.mkdir(parents=True, exist_ok=True)
            probe = self.workdir.artifacts / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
            self.recover()
        except OSError as error:
            raise SettingsError(f"workdir: cannot write to {workdir}: {error.strerror}") from None

    def path(self, name: str) -> Path:
        """Returns the folder of an artifact, whether it is there or not."""
        return self.workdir.artifact(name)

    def checkpoints(self, names: Sequence[str]) -> Path:
        """Returns the folder for the checkpoints of artifacts that are made as one stack; none other's is the same."""
        return self.workdir.checkpoints(names)

    def has(self, name: str) -> bool:
        """Tells whether an artifact is finished and whole; every file is compared, once per process.

        Raises:
            RunError: it was written by a newer version, or cannot be read for now.
        """
        folder = self.path(name)
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

    def record(self, name: str) -> dict[str, Any]:
        """Reads the record of a finished artifact.

        Raises:
            RunError: it is not finished, or is damaged and has just been set aside.
        """
        self._require(name)
        return read_record(self.path(name))

    def load(self, name: str, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Loads a finished artifact, see `load` and `record`."""
        self._require(name)
        return _load(self.path(name), like)

    def begin(self, name: str) -> Path:
        """Makes an empty folder beside the artifact's place, for what is written while it is made."""
        folder = self.workdir.partial(name)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def finish(self, names: Sequence[str], trees: Sequence[PyTree], records: Sequence[dict[str, Any]]) -> None:
        """Writes artifacts beside their places and renames them into place, all of them or, after a kill, none.

        The checkpoints that they came from are removed.

        Args:
            names: those that `begin` was called for.
            trees: for each the dicts of arrays that it consists of.
            records: for each everything else, as `to_json` takes it.

        Raises:
            RunError: the disk is full, cannot be written or went away; none of them is finished then.
        """
        group = self.workdir.group(names)
        try:
            for name, tree, record in zip(names, trees, records, strict=True):
                write_folder(self.workdir.partial(name), jax.device_get(tree), {RECORD: record})
            for left in group.parent.glob(f".{group.name}.*.tmp"):
                left.unlink(missing_ok=True)
            # From here on the group counts as finished: `recover` does what a kill leaves undone.
            write_json(group, {_NAMES: names})
            manifest.sync(group.parent)
            self._complete(group, names)
        except RunError:
            raise
        except Exception as error:  # whatever Orbax raises when a disk fails
            raise RunError(
                f"{', '.join(names)}: cannot be stored ({one_line(error)}); finished stages are intact"
            ) from error

    def recover(self) -> None:
        """Completes the groups whose artifacts were all written, but not all renamed, when their process was killed.

        Raises:
            OSError: the workdir cannot be written.
        """
        for group in self.workdir.groups():
            try:
                names = manifest.read_json(group).get(_NAMES)
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

    def _complete(self, group: Path, names: Sequence[str]) -> None:
        for name in names:
            partial, place = self.workdir.partial(name), self.path(name)
            if not manifest.present(partial):
                continue
            try:
                partial.rename(place)
            except OSError:
                # Another launch finished the same artifact first; equal name, equal result.
                if self.has(name):
                    shutil.rmtree(partial, ignore_errors=True)
                elif partial.exists():
                    partial.rename(place)
        manifest.sync(group.parent)
        shutil.rmtree(self.checkpoints(names), ignore_errors=True)
        group.unlink(missing_ok=True)

    def _require(self, name: str) -> None:
        if not self.has(name):
            raise RunError(f"{self.path(name)}: is not there or was damaged; start again to redo it")


def _misread(path: str) -> str | None:
    """Says why Orbax would take a path for another one, and store what nobody finds again; None: it would not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8, or not in this locale"
    if "\\" in path:
        return "has a backslash"
    if "**" in path or not fnmatchcase(path, path):
        return "is a pattern of a shell"
    return "looks like a bucket's" if _BUCKET.search(path) else None


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


def load(folder: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    """Loads an artifact from any place, if it is whole.

    Args:
        folder: a finished one's.
        like: arrays or shapes of the structure, shapes and dtypes that were stored.

    Returns:
        Its tree, on the host: arrays that a device has committed to would compile the step a second time. Its record.

    Raises:
        Damaged: a file of it is missing or not as it was stored.
        RunError: it was written by a newer version, cannot be read, or is of another structure.
    """
    manifest.check(folder)
    return _load(folder, like)


def _load(folder: Path, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
    state = folder.absolute() / STATE  # Orbax takes no other paths
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), like)
    try:
        # Orbax casts and pads where it can, so what is stored must be what is wanted before it is read.
        stored, wanted = _specs(ocp.metadata(state).metadata), _specs(target)
        if stored != wanted:
            name = min(stored.items() ^ wanted.items())[0]
            raise ValueError(f"{name}: found {stored.get(name, 'nothing')}, wanted {wanted.get(name, 'nothing')}")
        tree = jax.device_get(ocp.load(state, target))
    except (ValueError, KeyError, OSError) as error:
        raise RunError(f"{folder / STATE}: cannot be read ({one_line(error)}); delete the folder to redo it") from None
    return tree, read_record(folder)


def _specs(tree: PyTree) -> dict[str, str]:
    """Spells the shape and dtype of every leaf by its path."""
    return {path_name(path): spec(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
