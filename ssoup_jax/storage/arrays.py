"""Arrays as Orbax stores them, written and read by this process alone, whatever pod it belongs to.

By Orbax's first interface: the second one compares the paths of all processes with each other before it writes, so that
one of them cannot write by itself.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from ssoup_jax.trees import PyTree

_ITEM = "state"  # the name that Orbax's second interface gives to a tree, too


def write(folder: Path, tree: PyTree) -> None:
    """Writes a tree of arrays into a folder, in process 0: in any other one Orbax writes no NumPy arrays.

    Args:
        folder: made, and replaced where it is there; the folder that it lies in exists.
        tree: dicts of NumPy arrays, none of them empty.

    Raises:
        OSError: the disk is full, cannot be written or went away.
        Exception: whatever Orbax raises for the same.
    """
    if jax.process_index() != 0:
        raise ValueError(f"{folder}: process {jax.process_index()} was to write what process 0 has to")
    # Orbax tells of a full disk by several screens of traces, so it is asked beforehand where that can be known.
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + 2**20
    if shutil.disk_usage(folder.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    with _alone() as checkpointer:
        checkpointer.save(folder.absolute(), ocp.args.Composite(**{_ITEM: ocp.args.PyTreeSave(tree)}), force=True)


def read(folder: Path) -> PyTree:
    """Reads a tree just as it was written.

    Args:
        folder: what `write` was given.

    Returns:
        Dicts of NumPy arrays.

    Raises:
        ValueError, KeyError, OSError: there is no such tree.
    """
    with _alone() as checkpointer:
        return checkpointer.restore(folder.absolute(), ocp.args.Composite(**{_ITEM: ocp.args.PyTreeRestore()}))[_ITEM]


def spec(leaf: np.ndarray | jax.Array | jax.ShapeDtypeStruct) -> str:
    """Spells shape and dtype of an array, such as `'float32(3, 3, 16, 16)'`."""
    return f"{np.dtype(leaf.dtype).name}{tuple(leaf.shape)}"


@contextlib.contextmanager
def _alone() -> Iterator[ocp.Checkpointer]:
    """Yields an Orbax that waits for no other process."""
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=options))
    with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
        yield checkpointer
