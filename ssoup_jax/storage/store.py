"""Where artifacts live: named trees with a record, finished or absent."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import jax

from ssoup_jax.errors import RunError, SettingsError, one_line
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.storage import artifact_folder, late, manifest
from ssoup_jax.storage.json_files import write_json
from ssoup_jax.storage.layout import Workdir
from ssoup_jax.trees import PyTree

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_BUCKET = re.compile(r"gs:/|^/(gs|s3|az|hf)/")
_NAMES = "stages"  # what the list of a group calls them


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class Store:
    """The artifacts of a workdir, one folder each; whoever names them sees to it that equal names mean equal results.

    A folder is filled beside its place and renamed into it, so whatever has an artifact's name was whole; its manifest
    shows whether it still is. One that is not counts as absent, and is renamed to `damaged-...` beside it.

    In a pod process 0 alone looks at the file system and writes; what it finds, and what goes wrong, is everyone's. All
    processes make the same calls in the same order, but for `load`.

    Names consist of small letters, digits and single hyphens.
    """

    def __init__(self, workdir: Path, on_damage: Callable[[str], None] = _to_stderr, pod: Pod = ALONE):
        """Prepares the workdir and completes what a kill cut off between two renames.

        Args:
            workdir: created if it is missing.
            on_damage: told in one line of every artifact that is set aside, in process 0.
            pod: the processes that share it.

        Raises:
            SettingsError: it cannot be written, or has a path that Orbax misreads.
        """
        if problem := _misread(os.path.abspath(workdir)):
            raise SettingsError(f"workdir: found {str(workdir)!r}; no arrays can be stored below a path that {problem}")
        self.workdir = Workdir(workdir)
        self._on_damage = on_damage
        self._pod = pod
        self._whole: set[str] = set()
        pod.first(self._prepare)

    def path(self, name: str) -> Path:
        """Returns the folder of an artifact, whether it is there or not."""
        return self.workdir.artifact(name)

    def checkpoints(self, names: Sequence[str]) -> Path:
        """Returns the folder for the checkpoints of artifacts that are made as one stack; none other's is the same."""
        return self.workdir.checkpoints(names)

    def has(self, name: str) -> bool:
        """Tells whether an artifact is finished and whole; every file is compared, once per run.

        Raises:
            RunError: it was written by a newer version, or cannot be read for now.
        """
        return self._pod.first(lambda: self._has(name))

    def record(self, name: str) -> dict[str, Any]:
        """Reads the record of a finished artifact.

        Raises:
            RunError: it is not finished, or is damaged and has just been set aside.
        """
        return self._pod.first(lambda: artifact_folder.read_record(self._require(name)))

    def load(self, name: str, like: PyTree) -> tuple[PyTree, dict[str, Any]]:
        """Loads a finished artifact, see `artifact_folder.load`; each process for itself, what and when it needs."""
        if self._pod.leads:
            self._require(name)
        else:
            late.wait_for(self.path(name))
        return artifact_folder.read(self.path(name), like)

    def begin(self, name: str) -> Path:
        """Makes an empty folder beside the artifact's place, for what process 0 writes while it is made."""
        folder = self.workdir.partial(name)
        self._pod.first(lambda: _make_empty(folder))
        return folder

    def finish(self, names: Sequence[str], trees: Iterable[PyTree], records: Iterable[dict[str, Any]]) -> None:
        """Writes artifacts beside their places and renames them into place, all of them or, after a kill, none.

        The checkpoints that they came from are removed.

        Args:
            names: those that `begin` was called for.
            trees: for each the dicts of arrays that it consists of. Every process takes one after the other, so that to
                fetch one may take all of them, and none needs to hold more than one.
            records: for each everything else, as `to_json` takes it.

        Raises:
            RunError: the disk is full, cannot be written or went away; none of them is finished then.
        """
        failure: Exception | None = None
        for name, tree, record in zip(names, trees, records, strict=True):
            if not self._pod.leads or failure is not None:
                continue
            try:
                artifact_folder.write(self.workdir.partial(name), jax.device_get(tree), record)
            except Exception as error:  # whatever Orbax raises when a disk fails; who fetches on with us is not to wait
                failure = error
        self._pod.first(lambda: self._place(names, failure))

    def take(self, folders: Mapping[str, Path], on_artifact: Callable[[int], None] = lambda count: None) -> None:
        """Copies finished artifacts from elsewhere, all of them or, after a kill, none; for one process.

        Args:
            folders: where they lie, by their names; none of them is here.
            on_artifact: told how many have been copied, one by one.

        Raises:
            RunError: one is not whole, or the disk is full, cannot be written or went away; none of them is here then.
        """
        names, failure = list(folders), None
        try:
            for number, (name, folder) in enumerate(folders.items(), start=1):
                artifact_folder.copy(folder, self.begin(name))
                on_artifact(number)
        except (OSError, RunError) as error:
            failure = error
        try:
            self._place(names, failure)
        except RunError:
            if not self.workdir.group(names).exists():  # with it they count as finished, and `recover` places them
                for name in names:
                    shutil.rmtree(self.workdir.partial(name), ignore_errors=True)
            raise

    def discard_checkpoints(self, names: Sequence[str]) -> None:
        """Removes the checkpoints of artifacts that need them no more."""
        self._pod.first(lambda: shutil.rmtree(self.checkpoints(names), ignore_errors=True))

    def recover(self) -> None:
        """Completes the groups whose artifacts were all written, but not all renamed, when their process was killed.

        Raises:
            OSError: the workdir cannot be written.
        """
        self._pod.first(self._recover)

    def _prepare(self) -> None:
        try:
            self.workdir.artifacts.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.workdir.artifacts):
                pass
            self._recover()
        except OSError as error:
            raise SettingsError(f"workdir: cannot write to {self.workdir.path}: {error.strerror}") from None

    def _has(self, name: str) -> bool:
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

    def _place(self, names: Sequence[str], failure: Exception | None) -> None:
        """Renames a group of artifacts into place, unless one of them could not be written."""
        group = self.workdir.group(names)
        try:
            if failure is not None:
                raise failure
            for left in group.parent.glob(f".{group.name}.*.tmp"):
                left.unlink(missing_ok=True)
            # From here on the group counts as finished: `recover` does what a kill leaves undone.
            write_json(group, {_NAMES: names})
            manifest.sync(group.parent)
            self._complete(group, names)
        except RunError:
            raise
        except Exception as error:
            raise RunError(
                f"{', '.join(names)}: cannot be stored ({one_line(error)}); finished stages are intact"
            ) from error

    def _recover(self) -> None:
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
                if self._has(name):
                    shutil.rmtree(partial, ignore_errors=True)
                elif partial.exists():
                    partial.rename(place)
        manifest.sync(group.parent)
        shutil.rmtree(self.checkpoints(names), ignore_errors=True)
        group.unlink(missing_ok=True)

    def _require(self, name: str) -> Path:
        if not self._has(name):
            raise RunError(f"{self.path(name)}: is not there or was damaged; start again to redo it")
        return self.path(name)


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


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
