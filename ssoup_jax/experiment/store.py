"""Where artifacts live: content-addressed, finished or absent."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment.plan import Stage
from ssoup_jax.report.sinks import write_json
from ssoup_jax.training.state import Variables
from ssoup_jax.trees import PyTree, path_name


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


class Store:
    """Artifacts under `<workdir>/artifacts`, one folder each, named by `Stage.name`.

    A folder is filled beside its place and renamed into it, so whatever has a stage's name is whole.
    """

    def __init__(self, workdir: Path):
        """Prepares the workdir.

        Args:
            workdir: created if it is missing.

        Raises:
            SettingsError: it cannot be written.
        """
        self.workdir = workdir
        self._root = workdir.absolute() / "artifacts"
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            probe = self._root / f".writable-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise SettingsError(f"workdir: cannot write to {workdir}: {error.strerror}") from None

    def path(self, stage: Stage) -> Path:
        """Returns the folder of a stage's artifact, whether it is there or not."""
        return self._root / stage.name

    def has(self, stage: Stage) -> bool:
        """Tells whether a stage is finished."""
        return self.path(stage).is_dir()

    def record(self, stage: Stage) -> dict[str, Any]:
        """Reads the record of a finished stage."""
        return read_record(self.path(stage))

    def load(self, stage: Stage, like: Variables) -> Artifact:
        """Loads the artifact of a finished stage, see `load`."""
        return load(self.path(stage), like)

    def begin(self, stage: Stage) -> Path:
        """Makes an empty folder beside the artifact's place, for what the stage writes while it runs."""
        folder = self._partial(stage)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def finish(self, stage: Stage, artifact: Artifact) -> None:
        """Writes the artifact beside its place, syncs it and renames it into place.

        Args:
            stage: one that `begin` was called for.
            artifact: its result.
        """
        folder = self._partial(stage)
        tree = {
            "params": artifact.variables.params,
            "batch_stats": artifact.variables.batch_stats,
            "mask": artifact.mask,
        }
        ocp.save(folder / "state", tree)
        write_json(folder / "record.json", artifact.record)
        for file in folder.rglob("*"):
            _sync(file)
        _sync(folder)
        try:
            folder.rename(self.path(stage))
        except OSError:
            if not self.has(stage):
                raise
            # Another launch finished the same stage first; equal settings, equal result.
            shutil.rmtree(folder)
        _sync(self._root)

    def _partial(self, stage: Stage) -> Path:
        return self._root / f".{stage.name}.partial"


def read_record(folder: Path) -> dict[str, Any]:
    """Reads the record of a finished artifact.

    Args:
        folder: the artifact's.

    Returns:
        The record.

    Raises:
        RunError: there is no artifact, or its record cannot be read.
    """
    try:
        return json.loads((folder / "record.json").read_text())
    except (OSError, ValueError):
        raise RunError(f"{folder}: not a stored artifact; it has no readable record.json") from None


def load(folder: Path, like: Variables) -> Artifact:
    """Loads an artifact.

    Args:
        folder: a finished one's.
        like: variables of the same structure, shapes and dtypes.

    Returns:
        The artifact, on the host: arrays that a device has committed to would compile the step a second time.

    Raises:
        RunError: the stored state cannot be read or is of another structure.
    """
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
        stored, wanted = _shapes(ocp.metadata(folder / "state").metadata), _shapes(target)
        if stored != wanted:
            name = min(stored.items() ^ wanted.items())[0]
            raise ValueError(f"{name}: found {stored.get(name, 'nothing')}, wanted {wanted.get(name, 'nothing')}")
        tree = jax.device_get(ocp.load(folder / "state", target))
    except (ValueError, KeyError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{folder / 'state'}: cannot be read ({reason}); delete the folder to redo it") from None
    return Artifact(Variables(tree["params"], tree["batch_stats"]), tree["mask"], read_record(folder))


def _shapes(tree: PyTree) -> dict[str, str]:
    """Spells the shape and dtype of every leaf, such as `'float32(3, 3, 16, 16)'`, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): f"{np.dtype(leaf.dtype).name}{tuple(leaf.shape)}" for path, leaf in leaves}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
