"""Checkpoints: the whole training state every so often, written while training goes on.

Every process of a pod writes the members that it holds, in a thread of its own and without a collective; process 0
commits them once it has heard of all. A thread of our own rather than Orbax's asynchronous save: what one synchronous
call in one thread does, and how it fails, can be followed.
"""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from ssoup_jax.errors import RunError, one_line
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.storage import late, manifest, parts
from ssoup_jax.storage.json_files import to_json, write_json
from ssoup_jax.storage.layout import CHECKPOINT, member_name, step_name, step_of
from ssoup_jax.trees import PyTree

_PARTIAL, _REMOVED = ".partial", ".removed"


class Checkpoints:
    """The checkpoints of what trains as one stack, in a folder of their own; a context manager that ends the thread.

    One run at a time: whoever uses the folder holds the locks of what is made from it. All processes of the run make
    the same calls in the same order. Leaving the context waits for the last write and says how it went; where an error
    leaves it, that is the one that counts, and no process waits for others, which may be gone.

    Args:
        folder: made at the first save; what a killed process left half written in it is removed.
        keep: how many of the newest are kept.
        on_damage: told in one line of every checkpoint that is set aside, in process 0.
        pod: the processes that hold the members.
    """

    def __init__(self, folder: Path, keep: int = 2, on_damage: Callable[[str], None] = print, pod: Pod = ALONE):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, found {keep}")
        self._folder = folder
        self._keep = keep
        self._on_damage = on_damage
        self._pod = pod
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        self._pending_step = 0
        pod.first(self._clear)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._writer.shutdown(wait=kind is None or self._pod.size == 1)

    def save(self, step: int, own: dict[int, PyTree], m: int, info: dict[str, Any]) -> None:
        """Copies a state to the host and writes it in the background; waits first for the write before.

        Args:
            step: optimizer steps taken.
            own: the members that this process holds, by index, as arrays of any dtype but PRNG keys; may be donated as
                soon as this returns. Every member is one process's own.
            m: the number of members.
            info: whatever else a restart needs, as `to_json` takes it; process 0's is kept.

        Raises:
            RunError: the write before this one failed; this one is not begun, earlier checkpoints are intact.
        """
        self.wait()
        copies = {index: parts.on_host(tree) for index, tree in own.items()}
        record = {"step": step, "members": m, "info": to_json(info)}
        self._pending_step = step
        self._pending = self._writer.submit(self._write, step, copies, record)

    def latest(
        self, like: PyTree, m: int, wanted: Sequence[int], *older: PyTree
    ) -> tuple[int, dict[int, PyTree], dict[str, Any]] | None:
        """Reads members of the newest checkpoint that is whole; every other that is met is set aside.

        Args:
            like: arrays or shapes of one member's structure, shapes and dtypes.
            m: the number of members.
            wanted: those that this process reads.
            older: the same as `like` of forms that states had before, the newest first.

        Returns:
            Its step, the wanted members' states as arrays on the host in the first form that they have, and its info;
            None without any.

        Raises:
            RunError: the last write failed, or the disk cannot be read for now.
        """
        self.wait()
        forms = (like, *older)
        found = self._pod.first(lambda: self._newest(forms, m))
        if found is None:
            return None
        step, form = found
        folder = self._folder / step_name(step)
        if not self._pod.leads:
            late.wait_for(folder)
        record = manifest.read_json(folder / CHECKPOINT)
        return step, parts.read(folder, record, wanted, m, forms[form]), record["info"]

    def wait(self) -> None:
        """Waits for the write in the background, of all processes.

        Raises:
            RunError: it failed in one of them; said once.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            self._pod.first(lambda: self._result(pending))

    def _result(self, pending: Future) -> None:
        try:
            pending.result()
        except Exception as error:  # whatever a disk that fails makes of it
            line = str(error) if isinstance(error, RunError) else one_line(error)
            raise RunError(
                f"{self._folder}: the checkpoint of step {self._pending_step} cannot be written ({line}); "
                "earlier ones are intact"
            ) from error

    def _newest(self, forms: Sequence[PyTree], m: int) -> tuple[int, int] | None:
        """Finds the newest whole checkpoint; returns its step and which form it has."""
        for step, folder in reversed(self._found()):
            try:
                manifest.check(folder)
                record = manifest.read_json(folder / CHECKPOINT)
                if record.get("step") != step or not isinstance(record.get("info"), dict):
                    raise manifest.Damaged(folder, f"{CHECKPOINT} is not of step {step}")
                return step, parts.form(folder, record, m, forms)
            except manifest.Damaged as error:
                aside = manifest.set_aside(folder, str(step))
                self._on_damage(f"checkpoint of step {step} is not used: {error.problem}; set aside as {aside}")
        return None

    def _found(self) -> list[tuple[int, Path]]:
        """Returns every checkpoint's step and folder, by step."""
        if not self._folder.is_dir():
            return []
        found = [(step_of(path.name), path) for path in self._folder.iterdir()]
        return sorted((step, path) for step, path in found if step is not None)

    def _write(self, step: int, copies: dict[int, PyTree], record: dict[str, Any]) -> None:
        partial = self._folder / f".{step_name(step)}{_PARTIAL}"
        # Whatever happens here, process 0 hears of it: it would wait for ever.
        reports = self._pod.report(f"{self._folder.name}/{step}", _write_parts(partial, copies))
        if reports is None:
            return
        try:
            self._commit(partial, step, record, reports)
        except BaseException:
            # On a full disk the half of a checkpoint must not keep the next one out.
            shutil.rmtree(partial, ignore_errors=True)
            raise
        with contextlib.suppress(OSError):  # one too many is no failure
            for _, folder in self._found()[: -self._keep]:
                self._remove(folder)

    def _commit(self, partial: Path, step: int, record: dict[str, Any], reports: list[dict[str, Any]]) -> None:
        """Makes a checkpoint of the parts that all processes have written."""
        for index, report in enumerate(reports):
            if "error" in report:
                raise RunError(f"process {index}: {report['error']}" if self._pod.size > 1 else report["error"])
        names = [name for report in reports for name in report["files"]]
        if sorted(names) != sorted(map(member_name, range(record["members"]))):
            raise ValueError(f"of {record['members']} members there are {', '.join(sorted(names)) or 'none'}")
        write_json(partial / CHECKPOINT, record)
        manifest.write(partial, {name: entry for report in reports for name, entry in report["files"].items()})
        place = self._folder / step_name(step)
        self._remove(place)
        partial.rename(place)
        manifest.sync(self._folder)

    def _clear(self) -> None:
        for ending in (_PARTIAL, _REMOVED):
            for left in self._folder.glob(f".*{ending}"):
                shutil.rmtree(left, ignore_errors=True)

    def _remove(self, folder: Path) -> None:
        # Renamed first: a kill halfway must not leave what looks like a damaged checkpoint.
        removed = folder.with_name(f".{folder.name}{_REMOVED}")
        shutil.rmtree(removed, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def _write_parts(partial: Path, copies: dict[int, PyTree]) -> dict[str, Any]:
    """Writes members beside a checkpoint's place; returns their entries in the manifest, or what went wrong."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        return {"files": {member_name(index): parts.write(partial, index, tree) for index, tree in copies.items()}}
    except Exception as error:  # a process that only broke off here would be waited for
        return {"error": one_line(error)}
