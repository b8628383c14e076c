"""The whole method for any task: prune, retrain m members, average them, and the same again from their soup."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import trees
from ssoup_jax.data.batches import Batches
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.keys import derive
from ssoup_jax.library.kept import Kept, stage_name
from ssoup_jax.library.members import Trained, as_variables, distances, recalibrate, train_members
from ssoup_jax.library.phase import Model, Phase
from ssoup_jax.metrics.sparsity import sparsity as sparsity_of
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning.allocation import phase_amount
from ssoup_jax.pruning.masks import check_mask, full_mask, restrict
from ssoup_jax.pruning.selectors import Selector, select
from ssoup_jax.pruning.transform import apply_mask
from ssoup_jax.soups import Method, average, weigh
from ssoup_jax.training import checks
from ssoup_jax.training.hyper import Hyper
from ssoup_jax.training.loop import Progress, Snapshot
from ssoup_jax.training.task import Task
from ssoup_jax.trees import PyTree


def sparse_model_soup(
    task: Task,
    start: Model,
    batches: Batches,
    hyper: Hyper,
    *,
    sparsity: float,
    n_phases: int = 1,
    mask: PyTree | None = None,
    selector: str | Selector = "global",
    prune_only: str | None = None,
    prune_except: str | None = None,
    weights: str | Method | Sequence[float] = "uniform",
    score: Callable[[Model], float] | None = None,
    recalibration: str | None = "moving",
    execution: str = "auto",
    on_divergence: str = "exclude",
    on_phase: Callable[[Phase], None] = lambda phase: None,
    on_chunk: Callable[[Progress, Snapshot], None] = lambda progress, snapshot: None,
    on_line: Callable[[str], None] = lambda line: None,
    workdir: str | Path | None = None,
    checkpoint_every: str | None = "10 minutes",
) -> list[Phase]:
    """Prunes a trained model in phases, each of which retrains m members and averages them.

    With one member it is iterative pruning. The algorithm is that of Zimmer, Spiegel and Pokutta, ICLR 2024.

    Args:
        task: loss and optimizer.
        start: the trained model: parameters, or `Variables` with collections.
        batches: see `from_arrays` and `from_batches`.
        hyper: of the members, the same in every phase but for their keys, which change from phase to phase.
        sparsity: fraction of the prunable weights that is zero after the last phase, 0 to 1.
        n_phases: each prunes the same share of the weights left.
        mask: says what is prunable and what is pruned already; None: `full_mask(params)`.
        selector: see `prune`.
        prune_only: patterns of the parameters that lose weights, see `restrict`; None: all prunable ones.
        prune_except: patterns of those that do not.
        weights: see `soup`.
        score: of one model, recalibrated; for a greedy soup.
        recalibration: how BatchNorm's statistics, the collection `batch_stats`, are re-estimated for members and soups,
            see `recalibrate`; None: soups have the average of their members'. A model without them has none.
        execution, on_divergence, on_chunk, on_line: see `train_members`.
        on_phase: told of every phase, those that are found in the workdir too.
        workdir: where phases are kept and checkpoints are written, so that the same call goes on where it was cut off;
            None: nowhere. What is found there was made of equal arguments: of functions the name and a hash of their
            source, or the `version` that they declare, are compared.
        checkpoint_every: `'N steps'`, `'N epochs'` or `'N minutes'` of training; None: never.

    Returns:
        The phases.

    Raises:
        SettingsError: something does not fit together; nothing was trained.
        RunError: fewer than two members (of one, it) did not diverge, or results cannot be stored.

    Example:
        >>> import jax, numpy as np, optax
        >>> from ssoup_jax import Task, from_arrays, hyper, sparse_model_soup, stateless
        >>> x = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
        >>> data = from_arrays({"x": x, "y": x @ np.float32([1, -2, 0, 0])}, batch_size=16)
        >>> def loss(params, batch, key):
        ...     return ((batch["x"] @ params["kernel"] - batch["y"]) ** 2).mean()
        >>> phases = sparse_model_soup(
        ...     Task(stateless(loss), optax.sgd), {"kernel": np.float32([0.9, -1.8, 0.1, 0.2])}, data,
        ...     hyper(3, 50, jax.random.key(0), learning_rate=0.1), sparsity=0.5)
        >>> phases[-1].soup["kernel"].round(2).tolist(), phases[-1].sparsity
        ([1.0, -2.0, 0.0, 0.0], 0.5)
    """
    if n_phases > 1 and not batches.repeats:
        raise SettingsError(
            "batches: an iterator can be run through only once; phases need a function (epoch, seed) -> iterable"
        )
    model, bare = as_variables(start), not isinstance(start, Variables)
    checks.check_arrays("params", model.params)
    checks.check_arrays("collections", model.collections)
    model = jax.device_get(model)
    mask = full_mask(model.params) if mask is None else mask
    check_mask(mask, model.params)
    amount = phase_amount(sparsity, n_phases)
    kept = None if workdir is None else Kept(Path(workdir), checkpoint_every, on_line)
    what = (task, batches, selector, weights, score, amount, prune_only, prune_except, recalibration)
    name, phases = None, []

    def given(model: Variables) -> Model:
        return model.params if bare else model

    for number in range(1, n_phases + 1):
        keys = jnp.stack([derive(key, "phase", number) for key in hyper.keys])
        own = dataclasses.replace(hyper, keys=keys)
        if kept is not None:
            name = stage_name(number, name or (model, mask), own, *what)
        phase = kept.load(name, number, model, own) if kept is not None else None
        if phase is None:
            among = restrict(mask, prune_only, prune_except)
            mask = select(selector, model.params, mask, amount, derive(keys[0], "prune"), among=among)
            pruned = jax.device_get(model.replace(params=apply_mask(model.params, mask)))
            stack = trees.stack([pruned] * len(keys))
            options = {"mask": mask, "execution": execution, "on_divergence": on_divergence, "on_line": on_line}
            if kept is None:
                trained = train_members(task, stack, batches, own, on_chunk=on_chunk, **options)
            else:
                trained = kept.train(name, task, stack, batches, own, on_chunk, options)
            phase = _souped(
                task,
                trained,
                batches,
                own,
                mask,
                number,
                weights,
                score and (lambda one: score(given(one))),
                recalibration,
            )
            if kept is not None:
                kept.store(name, phase)
        model, mask = phase.soup, phase.mask
        phases.append(dataclasses.replace(phase, soup=given(phase.soup), members=given(phase.members)))
        on_phase(phases[-1])
    return phases


def _souped(
    task: Task,
    trained: Trained,
    batches: Batches,
    hyper: Hyper,
    mask: PyTree,
    number: int,
    weights: str | Method | Sequence[float],
    score: Callable[[Variables], float] | None,
    recalibration: str | None,
) -> Phase:
    """Recalibrates the members and makes their soup."""
    m = len(hyper.keys)
    healthy = [i for i in range(m) if i not in trained.diverged]
    if len(healthy) < min(2, m):
        raise RunError(f"phase {number}: only {len(healthy)} of {m} members did not diverge; a soup needs two")

    def fitted(stack: Variables, keys: jax.Array) -> Variables:
        if recalibration is None:
            return stack
        return jax.device_get(recalibrate(task, stack, batches, keys, method=recalibration))

    keys = jnp.stack([derive(key, "recalibrate") for key in hyper.keys])
    members = fitted(trained.stack, keys)
    stack = trees.member(members, np.array(healthy))

    def soup_of(one: Variables) -> Variables:
        return trees.member(fitted(trees.stack([one]), keys[:1]), 0)

    if not isinstance(weights, str | Method):
        weights = [weights[i] for i in healthy] if len(weights) == m else weights
    chosen, trials = weigh(stack, weights, score and (lambda one: score(soup_of(one))))
    made = soup_of(average(stack, chosen))
    return Phase(
        number=number,
        soup=made,
        members=members,
        mask=mask,
        sparsity=sparsity_of(made.params, mask)["prunable"],
        weights={healthy[i]: weight for i, weight in chosen.items()},
        trials=[
            dataclasses.replace(
                trial, candidate=healthy[trial.candidate], members=tuple(healthy[i] for i in trial.members)
            )
            for trial in trials
        ],
        distances=distances(stack),
        losses=trained.losses,
        diverged=trained.diverged,
    )
