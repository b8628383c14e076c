"""An experiment as it lies in a workdir, for what only looks at it: nothing is trained, renamed or set aside."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssoup_jax.config import Settings, make_settings
from ssoup_jax.data import sources
from ssoup_jax.data.dataset import Split
from ssoup_jax.data.feeds import Feed, Resident
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment import artifacts
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.plan import Plan
from ssoup_jax.experiment.prepare import prepare
from ssoup_jax.experiment.run import plan_of
from ssoup_jax.experiment.specs import Stage
from ssoup_jax.report.console import Console
from ssoup_jax.storage import artifact_folder, manifest
from ssoup_jax.storage.layout import SUMMARY, Workdir

_ANYWHERE = {"execution": "auto", "mesh": None, "strategy": "SMS", "split_val": None}
"""Settings of the launch that made it, which need not suit this machine."""


@dataclass(frozen=True)
class Finished:
    """What there is of an experiment.

    Attributes:
        workdir: where it lies.
        summary: its summary.
        settings: the experiment's.
        fingerprint: hash of its data.
        plan: its stages, finished or not.
        context: the network and the data, with fewer validation and test images than the experiment has seen, if these
            are many.
        scored: what models are scored on: of the training images some as well.
    """

    workdir: Workdir
    summary: dict[str, Any]
    settings: Settings
    fingerprint: str
    plan: Plan
    context: Context
    scored: Feed

    def has(self, stage: Stage) -> bool:
        """Tells whether a stage is finished."""
        return manifest.present(self.workdir.artifact(stage.name))

    def load(self, stage: Stage) -> Artifact:
        """Reads a finished stage.

        Raises:
            RunError: it is damaged, or cannot be read.
        """
        folder = self.workdir.artifact(stage.name)
        return artifacts.from_tree(*artifact_folder.load(folder, artifacts.like(self.context.like)), folder)

    def candidates(self, phase: int) -> list[Stage]:
        """Returns the members of a phase that are finished and did not diverge."""
        found = [stage for stage in self.plan.candidates[phase - 1] if self.has(stage)]
        return [
            stage
            for stage in found
            if artifact_folder.read_record(self.workdir.artifact(stage.name)).get("diverged") is None
        ]

    def soups(self, phase: int) -> dict[int, Stage]:
        """Finds the soups of a phase by m: its own, and those of experiments that differ from it in their members only.

        Returns:
            The stages in the order of m. Experiments whose summaries are of no use are passed over.
        """
        plans = [self.plan]
        for path in sorted(folder / SUMMARY for folder in self.workdir.experiments()):
            try:
                other = _settings(path)[1]
            except (RunError, SettingsError):
                continue
            if _same_data(other) == _same_data(self.settings):
                plans.append(plan_of(other, self.fingerprint, self.context.imported))
        soups: dict[int, Stage] = {}
        for plan in plans:
            if len(plan.soups) >= phase and _relatives(plan, self.plan, phase) and self.has(plan.soups[phase - 1]):
                soups.setdefault(len(plan.soups[phase - 1].parents), plan.soups[phase - 1])
        return dict(sorted(soups.items()))


def find(workdir: Path, digest: str | None, n_images: int, console: Console) -> Finished:
    """Finds an experiment in a workdir, and reads its data.

    Args:
        workdir: where it lies.
        digest: the name of its folder under `experiments`; None: the experiment of the last start.
        n_images: how many images of each split are scored at most, evenly spaced.
        console: told what is to be said of the data.

    Raises:
        SettingsError: there is no such experiment, its data are not to be had, or are not those that it has seen.
    """
    place = Workdir(workdir)
    path = place.summary if digest is None else place.experiment(digest) / SUMMARY
    if not path.is_file():
        there = sorted(folder.name for folder in place.experiments())
        more = f"; experiments there: {', '.join(there)}" if there else ""
        if place.study("").is_dir() and not there:
            more = "; of a study, the same launch with --config.study.methods=None makes one of what is finished"
        raise SettingsError(f"{path}: not there, so no experiment is known{more}")
    summary, settings = _settings(path)
    dataset = sources.load(settings.dataset, settings.data.options(), data_dir=settings.data_dir, on_line=console.line)
    few = dataclasses.replace(dataset, val=_evenly(dataset.val, n_images), test=_evenly(dataset.test, n_images))
    context = prepare(settings, few, console)
    plan = plan_of(settings, dataset.fingerprint, context.imported)
    if not place.experiment(plan.digest).is_dir():
        raise SettingsError(
            f"{path}: its settings lead to other names than it has; its data, or this version, are others"
        )
    return Finished(place, summary, settings, dataset.fingerprint, plan, context, _scored(context.feed, n_images))


def _settings(path: Path) -> tuple[dict[str, Any], Settings]:
    """Reads a summary and the settings in it."""
    summary = manifest.read_json(path)
    try:
        return summary, make_settings({**summary["settings"], **_ANYWHERE})
    except (KeyError, TypeError, SettingsError) as error:
        raise SettingsError(
            f"{path}: its settings are of no use ({error}); the same launch again writes it anew"
        ) from None


def _same_data(settings: Settings) -> tuple:
    return settings.dataset, settings.data, settings.init_from


def _relatives(one: Plan, other: Plan, phase: int) -> bool:
    """Tells whether two plans differ in which members they have, and in nothing else, up to a phase."""

    def apart_from_members(plan: Plan) -> tuple:
        members = tuple(dataclasses.replace(stages[0].spec, retraining=None) for stages in plan.candidates[:phase])
        return plan.dense, members, tuple(soup.spec for soup in plan.soups[:phase])

    return apart_from_members(one) == apart_from_members(other)


def _evenly(split: Split | np.ndarray, most: int) -> Split | np.ndarray:
    n = len(split)
    return split if n <= most else split[np.linspace(0, n - 1, most).astype(np.int64)]


def _scored(feed: Feed, n_images: int) -> Feed:
    """Returns what models are scored on: the images of a resident training split need not all be looked at."""
    if not isinstance(feed, Resident):
        return feed
    return dataclasses.replace(feed, positions=feed.positions | {"train": _evenly(feed.positions["train"], n_images)})
