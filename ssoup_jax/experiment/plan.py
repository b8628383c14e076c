"""Which stages an experiment has, in which order, and exactly what determines each one's result."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ssoup_jax.config import Settings
from ssoup_jax.pruning.selectors import phase_amount

# Part of every name: raise it when a stage computes something else from the same settings.
FORMAT = 1


@dataclass(frozen=True)
class Retraining:
    """What a member's retraining depends on once its `split_val` has taken its place.

    Attributes:
        seed: added to the run's seed.
        weight_decay: coupled decay.
        n_epochs: epochs.
        schedule: name of the retraining schedule.
        peak: peak learning rate of an LLR schedule; None: the schedule's own.
    """

    seed: int
    weight_decay: float
    n_epochs: int
    schedule: str
    peak: float | None


@dataclass(frozen=True)
class Stage:
    """One unit of work and its artifact.

    Attributes:
        kind: 'Dense', 'IMP' (one member: prune, retrain, recalibrate) or 'Ensemble' (the soup).
        phase: 1-based; 0 for the dense model.
        split_val: the member's value; None for the others.
        parents: the stages whose artifacts it starts from.
        determined_by: JSON of exactly the settings that its result depends on, beyond its parents.
        origin: the file that a dense model is taken from, for its title; its content is part of `determined_by`.
    """

    kind: str
    phase: int
    split_val: int | float | None
    parents: tuple["Stage", ...]
    determined_by: str
    origin: str | None = None

    def __hash__(self) -> int:
        # All fields would be hashed through every way that leads back to the dense model.
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """Hash of everything that determines the result."""
        text = json.dumps([FORMAT, self.kind, self.determined_by, [parent.digest for parent in self.parents]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The artifact's name in the store."""
        prefix = {"Dense": "dense", "IMP": f"phase{self.phase}-imp", "Ensemble": f"phase{self.phase}-soup"}[self.kind]
        return f"{prefix}-{self.digest}"

    @property
    def title(self) -> str:
        """What people call the stage."""
        if self.kind == "Dense":
            return "Dense" if self.origin is None else f"Dense from {self.origin}"
        return f"{self.kind} phase {self.phase}" + ("" if self.split_val is None else f", member {self.split_val}")


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


def retraining(settings: Settings, split_val: int | float) -> Retraining:
    """Puts a member's value in the place of the hyperparameter named by `ensemble_by`."""
    by = settings.ensemble_by
    peak = split_val if by == "retrain_schedule" else None
    return Retraining(
        seed=split_val if by == "pruned_seed" else 0,
        weight_decay=split_val if by == "weight_decay" else settings.weight_decay,
        n_epochs=split_val if by == "retrain_length" else settings.n_epochs_per_phase,
        schedule=settings.retrain_schedule if peak is None else "LLR",
        peak=peak,
    )


def make_plan(settings: Settings, fingerprint: str, init_sha256: str | None = None) -> Plan:
    """Lays out all stages of the experiment and marks those that this launch is to finish.

    Args:
        settings: the experiment's.
        fingerprint: hash of the data.
        init_sha256: hash of the file that `init_from` names, if it names one.

    Returns:
        The plan.
    """
    dense = _dense(settings, fingerprint, init_sha256)
    parents = {split_val: dense for split_val in settings.all_splits}
    candidates, soups = [], []
    for phase in range(1, settings.n_phases + 1):
        members = tuple(_imp(settings, phase, value, parent) for value, parent in parents.items())
        candidates.append(members)
        if settings.ensemble_method is None:
            parents = dict(zip(parents, members, strict=True))
        else:
            soups.append(_ensemble(settings, phase, members))
            parents = dict.fromkeys(parents, soups[-1])
    return Plan(dense, tuple(candidates), tuple(soups), _wanted(settings, dense, candidates, soups))


def _wanted(settings: Settings, dense: Stage, candidates: list, soups: list) -> tuple[Stage, ...]:
    index = settings.phase - 1
    if settings.strategy == "Dense":
        return (dense,)
    if settings.strategy == "IMP":
        return tuple(stage for stage in candidates[index] if stage.split_val in settings.selected_splits)
    if settings.strategy == "Ensemble":
        return (soups[index],)
    stages = [dense]
    for phase, members in enumerate(candidates):
        stages += [*members, *soups[phase : phase + 1]]
    return tuple(stages)


def _dense(settings: Settings, fingerprint: str, init_sha256: str | None) -> Stage:
    # What an imported model leaves open is how it is computed and which learning rates retraining goes by.
    names = ["arch", "use_amp", "n_epochs", "batch_size", "optimizer", "learning_rate", "n_epochs_warmup"]
    if init_sha256 is None:
        start, names = {}, [*names, "run_id", "momentum", "weight_decay"]
    else:
        start = {"init_from": init_sha256}
    determined_by = {"data": fingerprint} | start | {name: getattr(settings, name) for name in names}
    return Stage("Dense", 0, None, (), _canonical(determined_by), settings.init_from)


def _imp(settings: Settings, phase: int, split_val: int | float, parent: Stage) -> Stage:
    determined_by = {
        "run_id": settings.run_id,
        "phase": phase,
        "amount": phase_amount(settings.goal_sparsity, settings.n_phases),
        "goal_sparsity": settings.goal_sparsity,
        "selector": settings.pruning_selector,
        "retraining": vars(retraining(settings, split_val)),
        "batch_size": settings.batch_size,
        "momentum": settings.momentum,
        "recalibration": _recalibration(settings),
    }
    return Stage("IMP", phase, split_val, (parent,), _canonical(determined_by))


def _ensemble(settings: Settings, phase: int, members: tuple[Stage, ...]) -> Stage:
    determined_by = {
        "method": settings.ensemble_method,
        "metric": settings.greedy_metric if settings.ensemble_method == "GreedySoup" else None,
        "batch_size": settings.batch_size,
        "goal_sparsity": settings.goal_sparsity,
        "recalibration": _recalibration(settings),
    }
    return Stage("Ensemble", phase, None, members, _canonical(determined_by))


def _recalibration(settings: Settings) -> list[Any] | None:
    if settings.bn_recalibration is None:
        return None
    fraction = settings.bn_recalibration_frac
    return [settings.bn_recalibration, 1.0 if fraction is None else fraction]


def _canonical(determined_by: dict[str, Any]) -> str:
    return json.dumps(determined_by, sort_keys=True)
