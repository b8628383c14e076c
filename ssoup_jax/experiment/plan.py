"""Which stages an experiment has, in which order: the algorithm of the paper as a tree of specs."""

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ssoup_jax import soups
from ssoup_jax.config import Settings
from ssoup_jax.experiment.specs import Dense, DenseHistory, Imported, Retrain, Retraining, Soup, Stage
from ssoup_jax.own import spell
from ssoup_jax.pruning.allocation import phase_amount

DOES_NOT_CHANGE_RESULTS = {
    "strategy": "which stages a launch runs",
    "phase": "which stages a launch runs",
    "split_val": "which stages a launch runs",
    "dataset": "the data's fingerprint is in the spec",
    "data_dir": "the data's fingerprint is in the spec",
    "data": "the data's fingerprint is in the spec",
    "ensemble_by": "each member's own values are in its spec",
    "split_vals": "each member's own values are in its spec",
    "members": "each member's own values are in its spec",
    "pool": "each member's own values are in its spec",
    "pool_seed": "each member's own values are in its spec",
    "n_splits_total": "each member's own values are in its spec",
    "n_phases": "the amount that a phase prunes is in its spec",
    "ood": "evaluated beside the artifacts",
    "evaluate_train": "what is reported",
    "evaluate_every": "what is reported",
    "execution": "rounding, and recorded",
    "remat": "memory for time",
    "on_divergence": "whether a sick member ends the run",
    "checkpoint_every": "how often a checkpoint is written",
    "stop_signals": "what asks for a stop",
    "trackers": "who is told",
    "mesh": "which devices train what",
    "study": "which experiments a launch runs",
    "shard": "which of them",
    "stack_members": "rounding",
}
"""The settings that are in no spec, and why that is right; every other one is in one."""


@dataclass(frozen=True)
class Plan:
    """The stages of an experiment, parents first.

    Attributes:
        dense: the dense stage.
        candidates: the IMP stages of each phase, in the order of the members.
        soups: the Ensemble stage of each phase; empty without an ensemble method.
        wanted: the stages that this launch is to finish, parents first.
    """

    dense: Stage
    candidates: tuple[tuple[Stage, ...], ...]
    soups: tuple[Stage, ...]
    wanted: tuple[Stage, ...]

    @property
    def digest(self) -> str:
        """Hash of all its stages."""
        stages = [self.dense, *itertools.chain(*self.candidates), *self.soups]
        return hashlib.sha256(" ".join(stage.digest for stage in stages).encode()).hexdigest()[:16]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All of them, parents first."""
        return _in_order(self.dense, self.candidates, self.soups)


def groups(stages: Iterable[Stage]) -> Iterator[list[Stage]]:
    """Yields members that start from one parent, which are retrained as one stack, and any other stage alone."""
    for _, group in itertools.groupby(stages, lambda stage: (stage.kind, stage.phase, stage.parents)):
        yield list(group)


def make_plan(
    settings: Settings,
    fingerprint: str,
    init_sha256: str | None = None,
    *,
    init_mask: str | None = None,
    pruned: float = 0.0,
) -> Plan:
    """Lays out all stages of the experiment and marks those that this launch is to finish.

    In every phase each member prunes and retrains the model that it starts from, and the soup of all members is what
    the next phase starts from; without soups each member goes on by itself (Zimmer et al. 2024, algorithm 1).

    Args:
        settings: the experiment's.
        fingerprint: hash of the data.
        init_sha256: hash of the file that `init_from` names, if it names one.
        init_mask: 'zeros' if that file's zeros are taken for pruned weights.
        pruned: share of the weights that may be pruned that is pruned before the first phase.

    Returns:
        The plan.
    """
    dense = Stage(_dense(settings, fingerprint, init_sha256, init_mask), label=settings.init_from)
    amount = phase_amount(settings.goal_sparsity, settings.n_phases, pruned)
    parents = dict.fromkeys(settings.all_splits, dense)
    candidates, soups = [], []
    for phase in range(1, settings.n_phases + 1):
        members = [
            Stage(_retrain(settings, phase, amount, value), (parent,), value) for value, parent in parents.items()
        ]
        candidates.append(tuple(members))
        if settings.ensemble_method is None:
            parents = dict(zip(parents, members, strict=True))
        else:
            soups.append(Stage(_soup(settings), tuple(members)))
            parents = dict.fromkeys(parents, soups[-1])
    return Plan(dense, tuple(candidates), tuple(soups), _wanted(settings, dense, candidates, soups))


def _wanted(settings: Settings, dense: Stage, candidates: list, soups: list) -> tuple[Stage, ...]:
    index = settings.phase - 1
    if settings.strategy == "Dense":
        return (dense,)
    if settings.strategy == "IMP":
        return tuple(stage for stage in candidates[index] if stage.label in settings.selected_splits)
    if settings.strategy == "Ensemble":
        return (soups[index],)
    return _in_order(dense, candidates, soups)


def _in_order(dense: Stage, candidates: Sequence[Sequence[Stage]], soups: Sequence[Stage]) -> tuple[Stage, ...]:
    stages = [dense]
    for phase, members in enumerate(candidates):
        stages += [*members, *soups[phase : phase + 1]]
    return tuple(stages)


def _dense(settings: Settings, fingerprint: str, init_sha256: str | None, init_mask: str | None) -> DenseHistory:
    history = {
        "data": fingerprint,
        "arch": spell("arch", settings.arch),
        "use_amp": settings.use_amp,
        "n_epochs": settings.n_epochs,
        "batch_size": settings.batch_size,
        "optimizer": spell("optimizer", settings.optimizer),
        "learning_rate": settings.learning_rate,
        "n_epochs_warmup": settings.n_epochs_warmup,
    }
    if init_sha256 is not None and settings.init_head is None:
        return Imported(**history, init_from=init_sha256, init_mask=init_mask)
    return Dense(
        **history,
        run_id=settings.run_id,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        loss=_loss(settings),
        init_from=init_sha256,
        init_mask=init_mask,
        init_head=settings.init_head,
    )


def _retrain(settings: Settings, phase: int, amount: float, split_val: int | float) -> Retrain:
    return Retrain(
        run_id=settings.run_id,
        phase=phase,
        amount=amount,
        goal_sparsity=settings.goal_sparsity,
        selector=spell("pruning_selector", settings.pruning_selector),
        retraining=Retraining(**settings.retraining_of(split_val)),
        batch_size=settings.of_retraining("batch_size"),
        momentum=settings.of_retraining("momentum"),
        recalibration=_recalibration(settings),
        prune_only=settings.prune_only,
        prune_except=settings.prune_except,
        optimizer=None if settings.optimizer == "SGD" else spell("optimizer", settings.optimizer),
        loss=_loss(settings),
        use_amp=None if settings.retrain_use_amp == settings.use_amp else settings.retrain_use_amp,
    )


def _soup(settings: Settings) -> Soup:
    return Soup(
        method=spell("ensemble_method", settings.ensemble_method),
        metric=settings.greedy_metric if soups.named(settings.ensemble_method).by_score else None,
        batch_size=settings.of_retraining("batch_size"),
        goal_sparsity=settings.goal_sparsity,
        recalibration=_recalibration(settings),
    )


def _loss(settings: Settings) -> str | None:
    return None if settings.loss is None else spell("loss", settings.loss)


def _recalibration(settings: Settings) -> tuple[str, float] | None:
    if settings.bn_recalibration is None:
        return None
    fraction = settings.bn_recalibration_frac
    return settings.bn_recalibration, 1.0 if fraction is None else fraction
