"""The grid of a study: which experiments it consists of."""

import ast
import contextlib
import itertools
from dataclasses import dataclass
from typing import Any

from ssoup_jax.config import Settings, make_settings
from ssoup_jax.errors import SettingsError, unknown
from ssoup_jax.experiment.plan import DOES_NOT_CHANGE_RESULTS
from ssoup_jax.studies.methods import ALL, DENSE, METHODS, Row

_OF_THE_STUDY = {"run_id": "study.runs", "goal_sparsity": "study.goals", "ensemble_method": "study.methods"}
_ONE_FOR_ALL = {
    "arch",
    "loss",
    "use_amp",
    "retrain_use_amp",
    "optimizer",
    "init_from",
    "init_mask",
}  # the network is made once
_FIXED = {*DOES_NOT_CHANGE_RESULTS, *_OF_THE_STUDY, *_ONE_FOR_ALL}
VARIED = tuple(sorted({*Settings.model_fields} - _FIXED | {"n_phases"}))
"""The settings that `study.vary` may name."""

Varied = tuple[tuple[str, Any], ...]
"""What else differs: names of settings and their values."""


@dataclass(frozen=True)
class Point:
    """One method at one place of the grid.

    Attributes:
        method: a key of `methods.ALL`.
        run: its `run_id`.
        m: number of members; None for methods that have none.
        goal: its `goal_sparsity`.
        varied: what else differs from the study's settings.
        settings: those of its experiment.
    """

    method: str
    run: int
    m: int | None
    goal: float
    varied: Varied
    settings: Settings

    def rows(self, plan_of) -> list[Row]:
        """Returns what it contributes to the table."""
        return ALL[self.method].rows(self.settings, self.m, plan_of)


def points(settings: Settings) -> list[Point]:
    """Lays out the grid, run after run, so that the figures of a run are complete early.

    Args:
        settings: the study's.

    Returns:
        Every point once; a method without members stands once for all m.

    Raises:
        SettingsError: a method or a setting that may not vary, or values that do not fit together.
    """
    study = settings.study
    methods = _methods(study.methods)
    members = study.members or ((settings.n_splits_total or len(settings.all_splits)),)
    found = []
    for run in study.runs or (settings.run_id,):
        for goal, varied in itertools.product(study.goals or (settings.goal_sparsity,), _varied(study.vary)):
            own = changed(settings, run_id=run, goal_sparsity=goal, **dict(varied))
            found.append(Point(DENSE, run, None, goal, varied, own))
            for method in methods:
                for m in members if METHODS[method].has_members else (None,):
                    found.append(Point(method, run, m, goal, varied, own))
    return found


def changed(settings: Settings, **changes: Any) -> Settings:
    """Returns settings with some of them changed, checked as if they had been given so."""
    return make_settings(settings.model_dump() | changes)


def _methods(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise SettingsError(f"study.methods: found {text!r}; at least one is needed of {', '.join(METHODS)}")
    for name in names:
        if name not in METHODS:
            raise unknown("study.methods", name, METHODS)
    return list(dict.fromkeys(names))


def _varied(text: str | None) -> list[Varied]:
    """Reads `'name=value|value; name=value|value'` as all combinations."""
    axes = []
    for part in filter(None, map(str.strip, (text or "").split(";"))):
        name, given, values = (piece.strip() for piece in part.partition("="))
        if not given or not all(value.strip() for value in values.split("|")):
            raise SettingsError(f"study.vary: found {part!r}; allowed: 'name=value|value; name=value|value'")
        if name in _OF_THE_STUDY:
            raise SettingsError(f"study.vary: found {name!r}; that is {_OF_THE_STUDY[name]}")
        if name not in VARIED:
            raise unknown("study.vary", name, VARIED)
        if name in dict(axis[0] for axis in axes):
            raise SettingsError(f"study.vary: found {name!r} more than once")
        axis = [(name, _value(value.strip())) for value in values.split("|")]
        if len(set(axis)) < len(axis):
            raise SettingsError(f"study.vary: found {part!r}, which has a value more than once")
        axes.append(axis)
    return list(itertools.product(*axes))


def _value(text: str) -> Any:
    with contextlib.suppress(ValueError, SyntaxError):
        return ast.literal_eval(text)
    return text
