"""The experiment's summary, put together from the records of its finished stages."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

from ssoup_jax.config import Settings
from ssoup_jax.experiment import out_of_distribution
from ssoup_jax.experiment.plan import Plan
from ssoup_jax.experiment.specs import Stage
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.report import summary
from ssoup_jax.report.console import Console
from ssoup_jax.storage import atomic
from ssoup_jax.storage.json_files import to_json, write_json
from ssoup_jax.storage.layout import PLOT, SUMMARY, Workdir
from ssoup_jax.storage.store import Store


def report(
    settings: Settings,
    plan: Plan,
    store: Store,
    console: Console,
    corruptions: Sequence[str] = (),
    data: dict[str, Any] | None = None,
    pod: Pod = ALONE,
) -> dict[str, Any]:
    """Writes `summary.json` and `summary.png`, prints the table, and warns of soups that went wrong.

    Every experiment keeps its own under `<workdir>/experiments`; those of the last start lie in the workdir itself.

    Args:
        settings: the experiment's.
        plan: all its stages; those that are not finished are left out.
        store: where the records are.
        console: where the table goes.
        corruptions: names of those that the mean out of distribution is taken over.
        data: what is said of the data set: its description, the names of its classes, notes.
        pod: the processes of the run; process 0 writes.

    Returns:
        The summary.
    """
    found = summarise(settings, plan, store, corruptions, pod) | {"data": to_json(data)}
    pod.first(lambda: _write(found, store.workdir, _digest(plan)))
    console.table(summary.table(found))
    for warning in summary.flag_bad_soups(found):
        console.line(f"warning: {warning}")
    console.line(f"summary: {store.workdir.summary}, {store.workdir.plot}")
    return found


def summarise(
    settings: Settings, plan: Plan, store: Store, corruptions: Sequence[str] = (), pod: Pod = ALONE
) -> dict[str, Any]:
    """Returns the summary of all finished stages of a plan; accuracies are fractions, numbers finite or None."""

    def model(stage: Stage) -> dict[str, Any]:
        """Lifts a model's metrics to the top of its record: `{"test": {...}, "val": {...}, ...}`."""
        record = store.record(stage.name)
        hidden = ("metrics", "candidates", "selected", "stage")
        found = record["metrics"] | {name: value for name, value in record.items() if name not in hidden}
        if corruptions:
            scores = out_of_distribution.read(store, stage, pod)
            found["ood"] = out_of_distribution.mean(scores, corruptions)
            found["ood_by_corruption"] = {name: scores.get(name) for name in corruptions}
        return found

    phases = []
    for index, members in enumerate(plan.candidates):
        # An artifact is named by what it is; what this experiment calls the member is the plan's to say.
        candidates = [model(stage) | {"split_val": stage.label} for stage in members if store.has(stage.name)]
        if candidates:
            phases.append(_phase(index + 1, candidates, plan.soups[index : index + 1], store, model))
    return to_json(
        {
            "settings": settings.record(),
            "dense": model(plan.dense) if store.has(plan.dense.name) else None,
            "phases": phases,
        }
    )


def one_line(record: dict[str, Any]) -> str:
    """Says in one line what a finished stage achieved."""
    scores = record["metrics"]
    if record.get("diverged") is not None:
        return f"diverged at step {record['diverged']}, left out"
    parts = [f"{split} accuracy {scores[split]['accuracy']:.2%}" for split in ("test", "val") if split in scores]
    return ", ".join([*parts, f"sparsity {record['sparsity']['prunable']:.2%}"])


def _write(found: dict[str, Any], workdir: Workdir, digest: str) -> None:
    from ssoup_jax.report import plot  # needed at the end of a run only, and its libraries slow down every start

    folder = workdir.experiment(digest)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SUMMARY, found)
    plot.plot(found, folder / PLOT)
    for path in (workdir.summary, workdir.plot):
        with atomic.replacing(path) as beside:
            shutil.copyfile(folder / path.name, beside)


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
            record = store.record(stage.name)
            chosen = [one for one in candidates if one["split_val"] in record["ingredients"]]
            mean, best = summary.mean_and_max(chosen)
            found |= {"soup": model(stage), **record["candidates"]}
            found["selected"] = record["selected"] | {"candidates_mean": mean, "candidates_max": best}
    return found


def _digest(plan: Plan) -> str:
    stages = [plan.dense, *(stage for members in plan.candidates for stage in members), *plan.soups]
    return hashlib.sha256(" ".join(stage.digest for stage in stages).encode()).hexdigest()[:16]
