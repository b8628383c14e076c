"""Checkpoints: the whole training state every so often, written while training goes on.

A thread of our own rather than Orbax's asynchronous save: the manifest and the rename must follow the write in the
background too, and what one synchronous call in one thread does, and how it fails, can be followed.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ssoup_jax.errors import RunError, one_line
from ssoup_jax.storage import manifest
from ssoup_jax.storage.json_files import to_json, write_json
from ssoup_jax.storage.layout import CHECKPOINT, STATE, step_name, step_of
from ssoup_jax.trees import PyTree, path_name

_PARTIAL, _REMOVED = ".partial", ".removed"


class Checkpoints:
    """The checkpoints of what trains as one stack, in a folder of their own.

    One process at a time: whoever uses the folder holds the locks of what is made from it.

    Args:
        folder: made at the first save; what a killed process left half written in it is removed.
        keep: how many of the newest are kept.
        on_damage: told in one line of every checkpoint that is set aside.
    """

    def __init__(self, folder: Path, keep: int = 2, on_damage: Callable[[str], None] = print):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, found {keep}")
        self._folder = folder
        self._keep = keep
        self._on_damage = on_damage
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future | None = None
        self._pending_step = 0
        for ending in (_PARTIAL, _REMOVED):
            for left in self._folder.glob(f".*{ending}"):
                shutil.rmtree(left, ignore_errors=True)

    def save(self, step: int, tree: PyTree, info: dict[str, Any]) -> None:
        """Copies a state to the host and writes it in the background; waits first for the write before.

        Args:
            step: optimizer steps taken.
            tree: arrays of any dtype but PRNG keys; may be donated as soon as this returns.
            info: whatever else a restart needs, as `to_json` takes it.

        Raises:
            RunError: the write before this one failed; this one is not begun, earlier checkpoints are intact.
        """
        self.wait()
        leaves = _on_host(tree)
        record = {"step": step, "leaves": _described(tree), "info": to_json(info)}
        self._pending_step = step
        self._pending = self._writer.submit(self._write, step, leaves, record)

    def latest(self, like: PyTree, *older: PyTree) -> tuple[int, PyTree, dict[str, Any]] | None:
        """Reads the newest checkpoint that is whole; every other that is met is set aside.

        Args:
            like: arrays or shapes of the state's structure, shapes and dtypes.
            older: the same of forms that states had before, the newest first.

        Returns:
            Its step, its state as arrays on the host in the first form that has its leaves, and its info; None without
            any.

        Raises:
            RunError: the last write failed, or the disk cannot be read for now.
        """
        self.wait()
        for step, folder in reversed(self._found()):
            try:
                return step, *_read(folder, step, (like, *older))
            except manifest.Damaged as error:
                aside = manifest.set_aside(folder, str(step))
                self._on_damage(f"checkpoint of step {step} is not used: {error.problem}; set aside as {aside}")
        return None

    def wait(self) -> None:
        """Waits for the write in the background.

        Raises:
            RunError: it failed; said once.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Exception as error:  # whatever Orbax raises when a disk fails
            raise RunError(
                f"{self._folder}: the checkpoint of step {self._pending_step} cannot be written "
                f"({one_line(error)}); earlier ones are intact"
            ) from error

    def close(self) -> None:
        """Waits for the last write and ends the thread; `wait` says what is raised."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def _found(self) -> list[tuple[int, Path]]:
        """Returns every checkpoint's step and folder, by step."""
        if not self._folder.is_dir():
            return []
        found = [(step_of(path.name), path) for path in self._folder.iterdir()]
        return sorted((step, path) for step, path in found if step is not None)

    def _write(self, step: int, leaves: dict[str, np.ndarray], record: dict[str, Any]) -> None:
        name = step_name(step)
        partial = self._folder / f".{name}{_PARTIAL}"
        self._folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            write_folder(partial, leaves, {CHECKPOINT: record})
            place = self._folder / name
            self._remove(place)
            partial.rename(place)
            manifest.sync(self._folder)
        except BaseException:
            # On a full disk the half of a checkpoint must not keep the next one out.
            shutil.rmtree(partial, ignore_errors=True)
            raise
        with contextlib.suppress(OSError):  # one too many is no failure
            for _, folder in self._found()[: -self._keep]:
                self._remove(folder)

    def _remove(self, folder: Path) -> None:
        # Renamed first: a kill halfway must not leave what looks like a damaged checkpoint.
        removed = folder.with_name(f".{folder.name}{_REMOVED}")
        shutil.rmtree(removed, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def write_folder(folder: Path, arrays: PyTree, records: dict[str, Any]) -> None:
    """Writes arrays, records and then a manifest into a folder, synced to the disk.

    Args:
        folder: made where it is not there; other files that it holds are listed in the manifest too.
        arrays: dicts of NumPy arrays, none of them empty.
        records: what each JSON file is to hold.

    Raises:
        OSError: the disk is full, cannot be written or went away.
        Exception: whatever Orbax raises for the same.
    """
    folder.mkdir(exist_ok=True)
    # Orbax tells of a full disk by several screens of traces, so it is asked beforehand where that can be known.
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(arrays)) + 2**20
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ocp.save(folder.absolute() / STATE, arrays, overwrite=True)  # Orbax takes no other paths
        for name, record in records.items():
            write_json(folder / name, record)
        # Orbax makes folders that have gone away anew; half a state in such a one must not get a manifest.
        if not os.path.samestat(os.fstat(opened), folder.stat()):
            raise OSError(errno.ENOENT, "was removed while it was written", str(folder))
        manifest.write(folder)
    finally:
        os.close(opened)


def spec(leaf: Any) -> str:
    """Spells shape and dtype of an array, such as `'float32(3, 3, 16, 16)'`."""
    return f"{np.dtype(leaf.dtype).name}{tuple(leaf.shape)}"


def _on_host(tree: PyTree) -> dict[str, np.ndarray]:
    """Copies all leaves that hold anything, numbered: names of any spelling could collide as names of files."""
    for leaf in jax.tree.leaves(tree):
        if not hasattr(leaf, "dtype") or jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise TypeError(f"a checkpoint holds plain arrays only, found {type(leaf).__name__}")
    # On a CPU `device_get` may return the device's own memory, which donation hands to the next step.
    leaves = [np.array(leaf, copy=True) for leaf in jax.tree.leaves(jax.device_get(tree))]
    return {f"{index:05d}": leaf for index, leaf in enumerate(leaves) if leaf.size}


def _described(tree: PyTree) -> list[list[str]]:
    return [[path_name(path), spec(leaf)] for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _read(folder: Path, step: int, forms: Sequence[PyTree]) -> tuple[PyTree, dict[str, Any]]:
    """Reads one checkpoint of any of the given forms.

    Raises:
        Damaged: it is not whole, or not one of this state.
    """
    manifest.check(folder)
    record = manifest.read_json(folder / CHECKPOINT)
    stored, info = record.get("leaves"), record.get("info")
    if record.get("step") != step or not isinstance(info, dict):
        raise manifest.Damaged(folder, f"{CHECKPOINT} is not of step {step}")
    like = next((form for form in forms if stored == _described(form)), None)
    if like is None:
        raise manifest.Damaged(folder, f"not of this state: {_difference(stored, _described(forms[0]))}")
    try:
        arrays = ocp.load(folder.absolute() / STATE)
        leaves = [
            arrays[f"{index:05d}"] if np.prod(leaf.shape) else np.zeros(leaf.shape, leaf.dtype)
            for index, leaf in enumerate(jax.tree.leaves(like))
        ]
        if [spec(leaf) for leaf in leaves] != [spec(leaf) for leaf in jax.tree.leaves(like)]:
            raise ValueError("the arrays are not those that it describes")
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise manifest.Damaged(folder, f"{STATE} cannot be read ({one_line(error)})") from None
    return jax.tree.unflatten(jax.tree.structure(like), leaves), info


def _difference(stored: Any, wanted: list[list[str]]) -> str:
    """Names the first leaf in which two states differ."""
    stored = stored if isinstance(stored, list) else []
    for index in range(max(len(stored), len(wanted))):
        found, own = (leaves[index] if index < len(leaves) else "nothing" for leaves in (stored, wanted))
        if found != own:
            return f"leaf {index} is {ascii(found)[:100]}, wanted {ascii(own)[:100]}"
    return "its leaves are in no known form"
