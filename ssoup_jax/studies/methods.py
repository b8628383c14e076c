"""The methods that a study compares: each a plan of specs, and what of it stands in the table.

Rows are those of the paper (Zimmer et al. 2024, tables 1 and 2) and their names are too.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssoup_jax.config import Settings, make_settings
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.plan import Plan
from ssoup_jax.experiment.specs import Average, Retrain, Stage
from ssoup_jax.report import summary

Records = Sequence[Mapping[str, Any]]
Figures = dict[str, Any]
"""`{"val": {metric: value}, "test": {...}, "sparsity": fraction}`; metrics as in a stage's record."""

PlanOf = Callable[[Settings], Plan]


@dataclass(frozen=True)
class Row:
    """One entry of a row of the table, for one run.

    Attributes:
        name: of the row.
        phase: which phase's column it stands in.
        stages: whose records it is read from.
        read: makes the figures of the records.
    """

    name: str
    phase: int
    stages: tuple[Stage, ...]
    read: Callable[[Records], Figures]


@dataclass(frozen=True)
class Method:
    """A method.

    Attributes:
        rows: takes the settings of one run and goal, m, and what lays out a plan; returns its entries.
        has_members: whether it depends on m.
        meaning: what it is, in a line.
    """

    rows: Callable[[Settings, int | None, PlanOf], list[Row]]
    has_members: bool
    meaning: str


def _own(records: Records) -> Figures:
    (record,) = records
    return _figures(record["metrics"], records)


def _mean(records: Records) -> Figures:
    return _figures(summary.mean_and_max(_healthy(records))[0], records)


def _best(records: Records) -> Figures:
    return _figures(summary.mean_and_max(_healthy(records))[1], records)


def _ensemble(records: Records) -> Figures:
    (record,) = records
    return _figures(record["candidates"]["prediction_ensemble"], records)


def _figures(metrics: Mapping[str, Any], records: Records) -> Figures:
    sparsity = records[0]["sparsity"]["prunable"]
    return {"val": metrics.get("val"), "test": metrics.get("test"), "sparsity": sparsity}


def _healthy(records: Records) -> list[Mapping[str, Any]]:
    return [record["metrics"] for record in records if record.get("diverged") is None]


def _dense(settings: Settings, m: int | None, plan_of: PlanOf) -> list[Row]:
    return [Row(DENSE, 0, (plan_of(_alone(settings)).dense,), _own)]


def _sms(settings: Settings, m: int | None, plan_of: PlanOf) -> list[Row]:
    plan = plan_of(_with(settings, ensemble_method="UniformEnsembling", **_members(settings, m)))
    rows = []
    for phase, (members, soup) in enumerate(zip(plan.candidates, plan.soups, strict=True), start=1):
        rows += [
            Row("SMS", phase, (soup,), _own),
            Row("best candidate", phase, members, _best),
            Row("mean candidate", phase, members, _mean),
            Row("prediction ensemble", phase, (soup,), _ensemble),
        ]
    return rows


def _imp(settings: Settings, m: int | None, plan_of: PlanOf) -> list[Row]:
    return _chain("IMP", _alone(settings), plan_of)


def _imp_mx(settings: Settings, m: int | None, plan_of: PlanOf) -> list[Row]:
    return _chain("IMP_mx", _alone(settings, n_epochs_per_phase=m * settings.n_epochs_per_phase), plan_of)


def _one_shot(settings: Settings, m: int | None, plan_of: PlanOf) -> list[Row]:
    n_epochs = settings.n_phases * settings.n_epochs_per_phase
    (row,) = _chain("one-shot", _alone(settings, n_phases=1, phase=1, n_epochs_per_phase=n_epochs), plan_of)
    return [dataclasses.replace(row, phase=settings.n_phases)]


def _imp_avg(settings: Settings, m: int | None, plan_of: PlanOf) -> list[Row]:
    return [Row("IMP-AVG", settings.n_phases, (_average(settings, m, plan_of),), _own)]


def _imp_reprune(settings: Settings, m: int | None, plan_of: PlanOf) -> list[Row]:
    average = _average(settings, m, plan_of)
    (alone,) = plan_of(_alone(settings)).candidates[-1]
    spec: Retrain = dataclasses.replace(
        alone.spec,
        phase=settings.n_phases + 1,
        amount=settings.goal_sparsity,
        again=True,
        retraining=dataclasses.replace(alone.spec.retraining, n_epochs=settings.study.reprune_epochs),
    )
    return [Row("IMP-RePrune", settings.n_phases, (Stage(spec, (average,), "again"),), _own)]


DENSE = "dense"
"""What every study has, whatever it compares; no row of the table, for it has no phase."""

METHODS = {
    "SMS": Method(_sms, True, "prune, retrain m members, average them, start the next phase from the soup"),
    "IMP_mx": Method(_imp_mx, True, "IMP whose retraining is m times as long: what m members cost, in one model"),
    "IMP-RePrune": Method(_imp_reprune, True, "m whole IMP runs, averaged, pruned to the goal again, recalibrated"),
    "IMP-AVG": Method(_imp_avg, True, "m whole IMP runs, averaged; sparse only where all of them are"),
    "IMP": Method(_imp, False, "prune and retrain one model, phase after phase"),
    "one-shot": Method(_one_shot, False, "prune to the goal at once, retrain for as long as all phases of IMP"),
}
"""By the names of the setting `study.methods`, in the order of the rows."""

ALL = METHODS | {DENSE: Method(_dense, False, "the model that all others start from")}

ROWS = ("SMS", "best candidate", "mean candidate", *list(METHODS)[1:], "prediction ensemble")
"""The rows of a table, from top to bottom; the last is a ceiling that takes m networks, not a method of one."""


def _chain(name: str, settings: Settings, plan_of: PlanOf) -> list[Row]:
    return [Row(name, phase, members, _own) for phase, members in enumerate(plan_of(settings).candidates, start=1)]


def _average(settings: Settings, m: int | None, plan_of: PlanOf) -> Stage:
    """Returns the average of m whole IMP runs, which differ as members do."""
    last = plan_of(_with(settings, ensemble_method=None, **_members(settings, m))).candidates[-1]
    spec: Retrain = last[0].spec
    return Stage(Average(spec.batch_size, settings.goal_sparsity, spec.recalibration), last)


def _members(settings: Settings, m: int) -> dict[str, Any]:
    """The first m members; of those that are listed, or of values that are given, the first m of them."""
    for name in ("members", "split_vals"):
        given = getattr(settings, name)
        if given is not None:
            if m > len(given):
                raise SettingsError(f"study.members: found {m}; {name} has {len(given)} values")
            return {name: given[:m], "n_splits_total": None}
    return {"n_splits_total": m}


def _alone(settings: Settings, **changes: Any) -> Settings:
    """One model by the settings alone, without soups."""
    by_default = {"ensemble_by": "pruned_seed", "split_vals": None, "members": None, "pool": None, "n_splits_total": 1}
    return _with(settings, ensemble_method=None, **by_default, **changes)


def _with(settings: Settings, **changes: Any) -> Settings:
    return make_settings(settings.model_dump() | changes)
