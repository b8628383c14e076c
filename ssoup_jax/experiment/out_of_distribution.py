"""Evaluates finished models on corrupted test images; the figures lie beside the artifacts, whose names stay.

Other corruptions can so be asked for later, and nothing is trained again.
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import metrics, trees
from ssoup_jax.data import corruptions, ood
from ssoup_jax.data.feeds import Examples, Feed, Resident
from ssoup_jax.data.ood import Corruption
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.plan import Plan, Stage
from ssoup_jax.storage.json_files import write_json
from ssoup_jax.storage.store import Store
from ssoup_jax.training.evaluate import logits

SPLIT = "ood"


@dataclass(frozen=True)
class Corrupted:
    """Feeds the test split of another feed, corrupted on the device.

    Attributes:
        feed: has the images.
        corruption: what is done to them.
        key: typed PRNG key `[]`; the result depends on it and an image's place in the split alone.
    """

    feed: Feed
    corruption: Corruption
    key: jax.Array

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """The labels of the one split, `ood`."""
        return {SPLIT: self.feed.labels["test"]}

    def evaluation(self, split: str, block_size: int) -> Iterator[tuple[Examples, jax.Array]]:
        """Yields the corrupted test split, see `Feed.evaluation`."""
        del split
        everyone = jnp.arange(block_size, dtype=jnp.int32)
        for number, (examples, block) in enumerate(self.feed.evaluation("test", block_size)):
            index = everyone + number * block_size
            images = corruptions.corrupt(
                self.corruption.name, self.corruption.severity, self.key, index, examples.images[block]
            )
            yield Examples(images, examples.labels[block]), everyone


def available(context: Context) -> dict[Corruption, Callable[[], Feed]]:
    """Finds what the setting `ood` asks for; where the default is not to be had, one line says so.

    Args:
        context: the experiment's.

    Returns:
        For each corruption what makes the feed of its images, as split `ood`; one published set is as large as all test
        images, so they are not all to be held at once.

    Raises:
        SettingsError: images that were asked for by name are not to be had.
    """
    settings = context.settings
    found = {}
    for corruption in ood.parse(settings.ood, settings.dataset, context.image_shape[-1]):
        if corruption.computed:
            key = context.key("ood", str(corruption))
            found[corruption] = functools.partial(Corrupted, context.feed, corruption, key)
            continue
        found[corruption] = functools.partial(
            _published, settings.dataset, corruption, settings.data_dir, settings.data.download
        )
        try:
            found[corruption]()  # after the training would be late to hear that it is not to be had
        except SettingsError as error:
            if settings.ood != "default":
                raise
            context.console.line(f"not evaluated out of distribution: {error}")
            return {}
    return found


def _published(dataset: str, corruption: Corruption, data_dir: str | None, download: bool) -> Resident:
    split = ood.load_published(dataset, corruption, data_dir, download)
    examples = Examples(jax.device_put(split.images), jax.device_put(split.labels))
    return Resident(examples, {SPLIT: np.arange(len(split), dtype=np.int32)})


def evaluate(context: Context, plan: Plan, store: Store, wanted: dict[Corruption, Callable[[], Feed]]) -> None:
    """Evaluates every finished stage of a plan on the corruptions that it has not been evaluated on.

    Args:
        context: the experiment's.
        plan: its stages.
        store: their artifacts.
        wanted: see `available`.
    """
    todo = []
    for group in ((plan.dense,), *plan.candidates, *((soup,) for soup in plan.soups)):
        finished = [stage for stage in group if store.has(stage) and store.record(stage)["metrics"]]
        missing = [one for one in wanted if any(str(one) not in read(store, stage) for stage in finished)]
        todo += [(finished, missing)] if missing else []
    total = sum(len(missing) for _, missing in todo)
    if not total:
        return
    with context.console.stage("out of distribution", total) as update:
        done = 0
        for finished, missing in todo:
            variables = trees.stack([store.load(stage, context.like).variables for stage in finished])
            found = [read(store, stage) for stage in finished]
            for corruption in missing:
                feed = wanted[corruption]()
                outputs = logits(context.problem, feed, variables, SPLIT, context.execution)
                for scores, own in zip(found, outputs, strict=True):
                    scores[str(corruption)] = metrics.prediction_metrics(own, feed.labels[SPLIT])
                done += 1
                update(done, {"corruption": str(corruption), "accuracy": _accuracies(found, corruption)})
            for stage, scores in zip(finished, found, strict=True):
                write_json(_path(store, stage), scores)


def read(store: Store, stage: Stage) -> dict[str, Any]:
    """Reads what is known of a stage: metrics by corruption."""
    try:
        found = json.loads(_path(store, stage).read_text())
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


def _path(store: Store, stage: Stage) -> Path:
    folder = store.workdir / "ood"
    folder.mkdir(exist_ok=True)
    return folder / f"{stage.name}.json"
