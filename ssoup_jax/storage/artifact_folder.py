"""An artifact's folder: arrays, a record, whatever else was put there, and the manifest of it all."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import jax

from ssoup_jax.errors import RunError, one_line
from ssoup_jax.storage import arrays, atomic, manifest
from ssoup_jax.storage.json_files import write_json
from ssoup_jax.storage.layout import RECORD, STATE
from ssoup_jax.trees import PyTree, named_leaves, path_name


def write(folder: Path, tree: PyTree, record: dict[str, Any]) -> None:
    """Writes arrays, a record and then a manifest into a folder, synced to the disk.

    Args:
        folder: made where it is not there; other files that it holds are listed in the manifest too.
        tree: dicts of NumPy arrays, none of them empty.
        record: everything else, as `to_json` takes it.

    Raises:
        OSError: the disk is full, cannot be written or went away.
        Exception: whatever Orbax raises for the same.
    """
    folder.mkdir(exist_ok=True)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        arrays.write(folder / STATE, tree)
        write_json(folder / RECORD, record)
        # Orbax makes folders that have gone away anew; half a state in such a one must not get a manifest.
        if not os.path.samestat(os.fstat(opened), folder.stat()):
            raise OSError(errno.ENOENT, "was removed while it was written", str(folder))
        manifest.write(folder)
    finally:
        os.close(opened)


def copy(folder: Path, into: Path) -> None:
    """Copies an artifact, synced to the disk, with its manifest as the last file to appear.

    Args:
        folder: a finished one's.
        into: an empty folder.

    Raises:
        Damaged: the artifact, or its copy, is not as it was stored.
        RunError: it cannot be read.
        OSError: the disk is full, cannot be written or went away.
    """
    listed = manifest.read(folder)
    needed = sum(size for size, _ in listed.values()) + 2**20
    if shutil.disk_usage(into).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(into))
    for name, wanted in listed.items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, into / name, follow_symlinks=False)
        found = manifest.describe(into / name)
        if (found["bytes"], found["sha256"]) != wanted:
            raise manifest.Damaged(folder, f"{name!a} has other content than was stored (SHA-256)")
    for parent, _, _ in os.walk(into):
        manifest.sync(Path(parent))
    with atomic.replacing(into / manifest.NAME) as beside:
        shutil.copyfile(folder / manifest.NAME, beside)
    manifest.sync(into)


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


def load(folder: Path, like: PyTree | None) -> tuple[PyTree, dict[str, Any]]:
    """Loads an artifact from any place, if it is whole.

    Args:
        folder: a finished one's.
        like: arrays or shapes of the structure, shapes and dtypes that were stored; None: whatever was.

    Returns:
        Its tree, NumPy arrays: those that a device has committed to would compile the step a second time. Its record.

    Raises:
        Damaged: a file of it is missing or not as it was stored.
        RunError: it was written by a newer version, cannot be read, or is of another structure.
    """
    manifest.check(folder)
    return read(folder, like)


def read(folder: Path, like: PyTree | None) -> tuple[PyTree, dict[str, Any]]:
    """Reads what `load` does, without comparing it with the manifest."""
    try:
        tree = arrays.read(folder / STATE)
        if like is None:
            return tree, read_record(folder)
        stored = named_leaves(tree)
        found, wanted = (
            {name: arrays.spec(leaf) for name, leaf in leaves.items()} for leaves in (stored, named_leaves(like))
        )
        if found != wanted:
            name = min(found.items() ^ wanted.items())[0]
            raise ValueError(f"{name}: found {found.get(name, 'nothing')}, wanted {wanted.get(name, 'nothing')}")
    except (ValueError, KeyError, OSError) as error:
        raise RunError(f"{folder / STATE}: cannot be read ({one_line(error)}); delete the folder to redo it") from None
    tree = jax.tree_util.tree_map_with_path(lambda path, _: stored[path_name(path)], like)
    return tree, read_record(folder)
