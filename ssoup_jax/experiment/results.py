"""The experiment's summary, put together from the records of its finished stages."""

import contextlib
import functools
import itertools
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ssoup_jax import errors
from ssoup_jax.config import Settings
from ssoup_jax.experiment import names, out_of_distribution
from ssoup_jax.experiment.artifacts import Stored
from ssoup_jax.experiment.plan import Plan, groups
from ssoup_jax.experiment.specs import Stage
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.report import summary
from ssoup_jax.report.console import Console
from ssoup_jax.storage import atomic
from ssoup_jax.storage.json_files import to_json, write_json
from ssoup_jax.storage.layout import PAGE, PLOT, SUMMARY
from ssoup_jax.storage.store import Store


def report(
    settings: Settings,
    plan: Plan,
    store: Store,
    console: Console,
    corruptions: Sequence[str] = (),
    data: dict[str, Any] | None = None,
    pod: Pod = ALONE,
    defaults: Settings | None = None,
) -> dict[str, Any]:
    """Writes `summary.json`, `summary.png` and `report.html`, and prints the table.

    Every experiment keeps its own under `<workdir>/experiments`; those of the last start lie in the workdir itself.

    Args:
        settings: the experiment's.
        plan: all its stages; those that are not finished are left out.
        store: where the records are.
        console: where the table goes.
        corruptions: names of those that the mean out of distribution is taken over.
        data: what is said of the data set: its description, the names of its classes, notes.
        pod: the processes of the run; process 0 writes.
        defaults: what the settings are compared with; None: with nothing.

    Returns:
        The summary.

    Raises:
        RunError: `summary.json` cannot be written; all else is done by then. A plot or page that fails is only said.
    """
    workdir = store.workdir
    found = summarise(settings, plan, store, corruptions, pod)
    found |= to_json({"data": data, "changed": None if defaults is None else settings.changed(defaults)})
    folder = workdir.experiment(plan.digest)
    json_problem = pod.first(lambda: _written(write_json, found, folder / SUMMARY, workdir.summary))
    looks = {PLOT: (_plot, workdir.plot), PAGE: (_page, workdir.page)}
    problems = {
        name: pod.first(functools.partial(_written, write, found, folder / name, copy))
        for name, (write, copy) in looks.items()
    }
    console.table(summary.table(found))
    for name, problem in problems.items():
        if problem:
            console.line(f"warning: {problem}")
            if pod.leads:
                with contextlib.suppress(OSError):
                    looks[name][1].unlink()  # of an earlier start, it would be taken for this one's
    if json_problem:
        raise errors.RunError(f"{json_problem}; every stage that is finished is stored, and the same command writes it")
    written = [copy for name, (_, copy) in looks.items() if not problems[name]]
    console.line(f"summary: {', '.join(map(str, [workdir.summary, *written]))}")
    return found


def _written(write: Callable[[Path, Any], None], found: dict[str, Any], path: Path, copy: Path) -> str | None:
    """Writes a file of an experiment and its copy in the workdir; returns what went wrong."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, found)
        with atomic.replacing(copy) as beside:
            shutil.copyfile(path, beside)
    except Exception as error:  # whatever the libraries raise: one file must not cost the others
        return f"{copy}: cannot be written ({errors.one_line(error)})"
    return None


def _plot(path: Path, found: dict[str, Any]) -> None:
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells at length of caches that it cannot write
    from ssoup_jax.report import plot  # needed at the end of a run only, and its libraries slow down every start

    with atomic.replacing(path) as beside:
        plot.plot(found, beside)


def _page(path: Path, found: dict[str, Any]) -> None:
    from ssoup_jax.report import contents, page  # likewise

    with atomic.replacing(path) as beside:
        page.write(contents.gather(found, path.parent), beside)


def summarise(
    settings: Settings, plan: Plan, store: Store, corruptions: Sequence[str] = (), pod: Pod = ALONE
) -> dict[str, Any]:
    """Returns the summary of all finished stages of a plan; accuracies are fractions, numbers finite or None."""

    def model(stage: Stage) -> dict[str, Any]:
        """Lifts a model's metrics to the top of its record: `{"test": {...}, "val": {...}, ...}`."""
        record = store.record(stage.name)
        hidden = ("metrics", "candidates", "selected", "stage", "called")
        found = record["metrics"] | {name: value for name, value in record.items() if name not in hidden}
        found["artifact"] = stage.name
        if corruptions:
            scores = out_of_distribution.read(store, stage, pod)
            found["ood"] = out_of_distribution.mean(scores, corruptions)
            found["ood_by_corruption"] = {name: scores.get(name) for name in corruptions}
        return found

    phases = []
    for index, members in enumerate(plan.candidates):
        # An artifact is named by what it is; what this experiment calls the member is the plan's to say.
        candidates = [
            model(stage) | {"split_val": stage.label, "member": settings.member(stage.label)}
            for stage in members
            if store.has(stage.name)
        ]
        if candidates:
            phases.append(_phase(index + 1, candidates, plan.soups[index : index + 1], store, model))
    return to_json(
        {
            "settings": settings.record(),
            "dense": model(plan.dense) if store.has(plan.dense.name) else None,
            "phases": phases,
            "warnings": [line for group in groups(plan.stages) for line in warnings(store, group)],
        }
    )


def warnings(store: Store, group: Sequence[Stage]) -> list[str]:
    """Says what is doubtful of a group's finished stages, and was not already of those that they started from.

    Args:
        store: where their records are.
        group: stages with the same parents.

    Returns:
        One line for each doubt, which names who shares it.
    """

    def of(stages: Sequence[Stage]) -> dict[Stage, list[str]]:
        # Records that were stored before there were any have none.
        return {stage: store.record(stage.name).get("warnings", []) for stage in stages if store.has(stage.name)}

    found, known = of(group), set(itertools.chain(*of(group[0].parents).values()))
    lines = []
    for text in dict.fromkeys(itertools.chain(*found.values())):
        if text not in known:
            titles = [stage.title for stage, own in found.items() if text in own]
            everyone = names.title(group[0].kind, group[0].phase)
            lines.append(f"{everyone if len(titles) == len(group) > 1 else ', '.join(titles)}: {text}")
    return lines


def one_line(record: dict[str, Any]) -> str:
    """Says in one line what a finished stage achieved."""
    scores = record["metrics"]
    if record.get("diverged") is not None:
        return f"diverged at step {record['diverged']}, left out"
    parts = [f"{split} accuracy {scores[split]['accuracy']:.2%}" for split in ("test", "val") if split in scores]
    return ", ".join([*parts, f"sparsity {record['sparsity']['prunable']:.2%}"])


def for_trackers(stage: Stage, record: dict[str, Any], parents: Sequence[Stored]) -> dict[str, Any]:
    """Returns a stage's record as it will be read; a soup's with the mean and the best of its candidates' metrics."""
    found = to_json(record)
    if stage.kind != "Ensemble":
        return found
    candidates = [(one.label, parent.record["metrics"]) for one, parent in zip(stage.parents, parents, strict=True)]
    chosen = [metrics for label, metrics in candidates if label in record["ingredients"]]
    for name, group in (("candidates", [metrics for _, metrics in candidates]), ("selected", chosen)):
        mean, best = summary.mean_and_max(group)
        found[name] |= {"mean": mean, "max": best}
    return found


def _phase(
    phase: int,
    candidates: list[dict],
    soups: tuple[Stage, ...],
    store: Store,
    model: Callable[[Stage], dict[str, Any]],
) -> dict[str, Any]:
    mean, best = summary.mean_and_max(candidates)
    found = {
        "phase": phase,
        "sparsity": {kind: candidates[0]["sparsity"][kind] for kind in ("prunable", "global")},
        "candidates": candidates,
        "candidates_mean": mean,
        "candidates_max": best,
        "soup": None,
        "prediction_ensemble": None,
        "distances": None,
    }
    for stage in soups:
        if store.has(stage.name):
            record, called = store.record(stage.name), [parent.label for parent in stage.parents]
            # The soup may have been made by an experiment that calls its members otherwise.
            now = dict(zip(record.get("called", called), called, strict=True))
            ingredients = [now.get(label, label) for label in record["ingredients"]]
            chosen = [one for one in candidates if one["split_val"] in ingredients]
            mean, best = summary.mean_and_max(chosen)
            found |= {"soup": model(stage) | {"ingredients": ingredients}, **record["candidates"]}
            found["selected"] = record["selected"] | {"candidates_mean": mean, "candidates_max": best}
    return found
