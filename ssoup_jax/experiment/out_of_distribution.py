"""Evaluates finished models on corrupted test images; the figures lie beside the artifacts, whose names stay.

Other corruptions can so be asked for later, and nothing is trained again.
"""

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssoup_jax import trees
from ssoup_jax.config import Settings
from ssoup_jax.data import ood
from ssoup_jax.data.corrupted import SPLIT, Corrupted
from ssoup_jax.data.feeds import Examples, Feed, Resident
from ssoup_jax.data.ood import Corruption
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment import artifacts
from ssoup_jax.experiment.context import Context, key
from ssoup_jax.experiment.specs import Stage
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.storage.json_files import write_json
from ssoup_jax.storage.store import Store
from ssoup_jax.training.evaluate import BLOCK_SIZE, score


def available(settings: Settings, context: Context) -> dict[Corruption, Callable[[], Feed]]:
    """Finds what the setting `ood` asks for; where the default is not to be had, one line says so.

    Args:
        settings: the experiment's.
        context: has the test images.

    Returns:
        For each corruption what makes the feed of its images, as split `ood`; one published set is as large as all test
        images, so they are not all to be held at once.

    Raises:
        SettingsError: images that were asked for by name are not to be had.
    """
    found = {}
    shape = context.classifier.image_shape
    for corruption in ood.parse(settings.ood, settings.dataset, shape[-1]):
        if corruption.computed:
            random = key(settings.run_id, "ood", str(corruption))
            found[corruption] = functools.partial(Corrupted, context.feed, corruption, random, shape)
            continue
        found[corruption] = functools.partial(
            _published, settings.dataset, corruption, settings.data_dir, settings.data.download
        )
        # After the training would be late to hear that it is not to be had.
        if (problem := _problem(found[corruption], context.pod)) is not None:
            if settings.ood != "default":
                raise SettingsError(problem)
            context.console.line(f"not evaluated out of distribution: {problem}")
            return {}
    return found


def _problem(make: Callable[[], Feed], pod: Pod) -> str | None:
    """Says why images are not to be had in some process; None: all have them."""
    try:
        pod.in_turn(make)
        problem = None
    except SettingsError as error:
        problem = str(error)
    return next(filter(None, pod.everyone(problem)), None)


def _published(dataset: str, corruption: Corruption, data_dir: str | None, download: bool) -> Resident:
    split = ood.load_published(dataset, corruption, data_dir, download)
    images = split.images.reshape(len(split), -1)
    examples = Examples(jax.device_put(images), jax.device_put(split.labels))
    return Resident(examples, {SPLIT: np.arange(len(split), dtype=np.int32)})


def evaluate(
    context: Context,
    groups: Iterable[Sequence[Stage]],
    store: Store,
    wanted: dict[Corruption, Callable[[], Feed]],
) -> None:
    """Evaluates every finished stage on the corruptions that it has not been evaluated on.

    Args:
        context: the experiment's.
        groups: its stages; those of a group are evaluated as one stack.
        store: their artifacts.
        wanted: see `available`.
    """
    todo, pod = [], context.pod
    for group in groups:
        finished = [stage for stage in group if store.has(stage.name) and store.record(stage.name)["metrics"]]
        missing = [one for one in wanted if any(str(one) not in read(store, stage, pod) for stage in finished)]
        todo += [(finished, missing)] if missing else []
    total = sum(len(missing) for _, missing in todo)
    if not total:
        return
    with context.console.stage("out of distribution", total) as update:
        done = 0
        for finished, missing in todo:
            own, like = context.in_precision(finished[0].use_amp), artifacts.like(context.like)
            names = [stage.name for stage in finished]
            loaded = [artifacts.from_tree(*store.load(name, like), store.path(name)) for name in names]
            variables = trees.stack([artifact.variables for artifact in loaded])
            found = [read(store, stage, pod) for stage in finished]
            for corruption in missing:
                feed = wanted[corruption]()
                execution = context.executor(len(finished), BLOCK_SIZE)
                each = score(own.classifier, feed, variables, SPLIT, execution)
                for scores, one in zip(found, each, strict=True):
                    scores[str(corruption)] = one
                done += 1
                update(done, {"corruption": str(corruption), "accuracy": _accuracies(found, corruption)})
            for stage, scores in zip(finished, found, strict=True):
                pod.first(functools.partial(_write, store.workdir.ood(stage.name), scores))


def _write(path: Path, scores: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    write_json(path, scores)


def read(store: Store, stage: Stage, pod: Pod = ALONE) -> dict[str, Any]:
    """Reads what is known of a stage: metrics by corruption; process 0 reads for all."""
    return pod.first(lambda: _read(store.workdir.ood(stage.name)))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return {name: scores for name, scores in found.items() if _is_scores(scores)} if isinstance(found, dict) else {}


def mean(scores: dict[str, Any], wanted: Sequence[str]) -> dict[str, float | None] | None:
    """Averages the metrics over the wanted corruptions; None where one is missing."""
    if not wanted or any(name not in scores for name in wanted):
        return None
    values = {metric: [scores[name].get(metric) for name in wanted] for metric in scores[wanted[0]]}
    return {
        metric: float(np.mean(own)) if all(isinstance(value, float | int) for value in own) else None
        for metric, own in values.items()
    }


def _is_scores(scores: Any) -> bool:
    """Tells whether what a file holds can be metrics: whoever wrote it, reading it must not fail."""
    values = scores.values() if isinstance(scores, dict) else ()
    return "accuracy" in scores and all(isinstance(value, float | int | None) for value in values) if values else False


def _accuracies(found: list[dict[str, Any]], corruption: Corruption) -> np.ndarray:
    return np.array([scores[str(corruption)]["accuracy"] for scores in found])
