"""What `sparse_model_soup` keeps in a workdir: finished phases, named by what determines them, and checkpoints."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssoup_jax import trees
from ssoup_jax.data.batches import Batches
from ssoup_jax.data.feeds import n_batches
from ssoup_jax.experiment.names import Name
from ssoup_jax.identity import identity
from ssoup_jax.library.members import Trained, train_members
from ssoup_jax.library.phase import Phase
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning.masks import dense_form, from_dense_form
from ssoup_jax.pruning.selectors import Selector
from ssoup_jax.soups import Method, Trial
from ssoup_jax.stack import held
from ssoup_jax.storage import lock
from ssoup_jax.storage.checkpoints import Checkpoints
from ssoup_jax.storage.store import Store
from ssoup_jax.training import interval, step
from ssoup_jax.training.hyper import Hyper
from ssoup_jax.training.loop import Progress, Snapshot
from ssoup_jax.training.task import Task
from ssoup_jax.trees import PyTree

FORMAT = 1
"""Part of every name: raised when a phase computes something else of the same arguments."""


def stage_name(
    number: int,
    parent: str | tuple[Variables, PyTree],
    hyper: Hyper,
    task: Task,
    batches: Batches,
    selector: str | Selector,
    weights: Any,
    score: Callable | None,
    *settings: Any,
) -> str:
    """Returns the name of a phase, a hash of all that determines its result; other arguments as of `sparse_model_soup`.

    Args:
        number: of the phase.
        parent: the name of the phase before; of the first, the model and mask that it starts from.
        hyper: of this phase.
        task, batches, selector, weights, score: what is trained, on what, and how it is pruned and averaged.
        *settings: whatever else, ready for JSON.

    Raises:
        SettingsError: a function has no source that can be read, and declares no version.
    """
    functions = [
        identity(part) for part in (_inner(task.loss), task.optimizer, task.moments, score) if part is not None
    ]
    what = [
        *(FORMAT, number, parent if isinstance(parent, str) else trees.digest(parent)),
        trees.digest((hyper.values, np.asarray(hyper.n_steps), hyper.key_data)),
        *(functions, batches.fingerprint(), batches.batch_size),
        [_spelled(part) for part in (selector, weights)],
        *settings,
    ]
    return str(Name("Ensemble", number, hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]))


def _inner(loss: Callable) -> Callable:
    return getattr(loss, "function", loss)  # of `stateless`


def _spelled(part: Any) -> Any:
    if isinstance(part, Selector):
        return [identity(own) for own in (part.score, part.allocation, part.pattern)]
    if isinstance(part, Method):
        return identity(part.weigh)
    return part if isinstance(part, str) else list(map(float, part))


class Kept:
    """The workdir of one call.

    Args:
        workdir: made if it is missing.
        every: how often a checkpoint is written, see `training.interval`; None: never.
        on_line: told what was found and what is damaged.
    """

    def __init__(self, workdir: Path, every: str | None, on_line: Callable[[str], None]):
        self._store = Store(workdir, on_damage=on_line)
        self._every = every
        self._on_line = on_line
        if every is not None:
            interval.parse(every)

    def load(self, name: str, number: int, model: Variables, hyper: Hyper) -> Phase | None:
        """Returns a finished phase; None where it is not finished."""
        if not self._store.has(name):
            return None
        m, total = len(hyper.n_steps), int(np.max(hyper.n_steps))
        form = _form(model, m, total)
        found, record = self._store.load(name, _numbered(form))
        found = jax.tree.unflatten(jax.tree.structure(form), [found[key] for key in sorted(found)])
        self._on_line(f"phase {number}: finished earlier, {self._store.path(name)}")
        prunable = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), model.params)
        names = set(record["prunable"])
        like = jax.tree_util.tree_map_with_path(
            lambda path, leaf: leaf if trees.path_name(path) in names else None, prunable
        )
        return Phase(
            number=number,
            soup=found["soup"],
            members=found["members"],
            mask=from_dense_form(found["mask"], like),
            sparsity=record["sparsity"]["prunable"],
            weights={int(i): weight for i, weight in record["weights"]},
            trials=[Trial(**{**trial, "members": tuple(trial["members"])}) for trial in record["trials"]],
            distances=record["distances"],
            losses=found["losses"],
            diverged={int(i): when for i, when in record["diverged"].items()},
        )

    def store(self, name: str, phase: Phase) -> None:
        """Stores a finished phase and removes its checkpoints."""
        params = phase.soup.params
        tree = {
            "losses": phase.losses,
            "mask": dense_form(phase.mask, params),
            "members": phase.members,
            "soup": phase.soup,
        }
        record = {
            "stage": "Ensemble",
            "phase": phase.number,
            "sparsity": {"prunable": phase.sparsity},
            "prunable": [key for key, leaf in trees.named_leaves(phase.mask).items() if leaf is not None],
            "weights": [[i, weight] for i, weight in phase.weights.items()],
            "trials": [dataclasses.asdict(trial) for trial in phase.trials],
            "distances": phase.distances,
            "diverged": phase.diverged,
            "metrics": {},
        }
        with lock.hold([self._store.workdir.lock(name)], self._on_line):
            if not self._store.has(name):
                self._store.begin(name)
                self._store.finish([name], [_numbered(tree)], [record])

    def train(
        self,
        name: str,
        task: Task,
        stack: Variables,
        batches: Batches,
        hyper: Hyper,
        on_chunk: Callable[[Progress, Snapshot], None],
        options: dict[str, Any],
    ) -> Trained:
        """Trains as `train_members` does, from the newest whole checkpoint on if there is one, and writes others."""
        m, total = len(hyper.n_steps), int(np.max(hyper.n_steps))
        losses = np.full((m, total), np.nan, np.float32)
        state = step.init(task, hyper.values, stack, options["mask"])
        with (
            lock.hold([self._store.workdir.lock(name)], self._on_line),
            Checkpoints(self._store.checkpoints([name]), on_damage=self._on_line) as checkpoints,
        ):
            start = Snapshot(0, state)
            like = {"losses": losses[0], "state": trees.member(state, 0)}
            if (found := checkpoints.latest(like, m, range(m))) is not None:
                when, members, info = found
                stored = trees.stack([members[i] for i in range(m)])
                losses = np.array(stored["losses"])
                start = Snapshot(when, stored["state"], {int(i): int(at) for i, at in info["diverged"].items()})
                self._on_line(f"{name}: goes on after step {when}, from a checkpoint")
            per_epoch = n_batches(batches.feed.sizes["train"], batches.batch_size)
            every = interval.make(self._every, per_epoch, start.step, total)

            def keep(progress: Progress, snapshot: Snapshot) -> None:
                own = progress.figures["loss"]
                losses[progress.active, progress.step - own.shape[1] : progress.step] = own
                if every.due(progress.step):
                    own = {i: {"losses": losses[i], "state": one} for i, one in held.own(snapshot.state)}
                    checkpoints.save(progress.step, own, m, {"diverged": snapshot.diverged, "n_steps": total})
                on_chunk(progress, snapshot)

            trained = train_members(task, start, batches, hyper, on_chunk=keep, **options)
        return dataclasses.replace(trained, losses=losses)


def _form(model: Variables, m: int, total: int) -> PyTree:
    """Returns the shapes of what `store` stores."""

    def shape(leaf, *first, dtype=None):
        return jax.ShapeDtypeStruct((*first, *np.shape(leaf)), dtype or leaf.dtype)

    return {
        "losses": jax.ShapeDtypeStruct((m, total), np.float32),
        "mask": jax.tree.map(lambda leaf: shape(leaf, dtype=np.dtype(bool)), model.params),
        "members": jax.tree.map(lambda leaf: shape(leaf, m), model),
        "soup": jax.tree.map(shape, model),
    }


def _numbered(tree: PyTree) -> dict[str, Any]:
    """Names leaves by their place: names of any spelling could collide as names of files."""
    return {f"{number:05d}": leaf for number, leaf in enumerate(jax.tree.leaves(tree))}
