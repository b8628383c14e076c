"""What every stage of an experiment works with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import jax

from ssoup_jax import models
from ssoup_jax.config import Settings
from ssoup_jax.data.feeds import Feed, n_batches
from ssoup_jax.keys import derive
from ssoup_jax.report.console import Console
from ssoup_jax.schedules import pretrain, retrain
from ssoup_jax.storage.store import Artifact
from ssoup_jax.training import autotune
from ssoup_jax.training.state import Variables
from ssoup_jax.training.step import Problem


@dataclass(frozen=True)
class Context:
    """What every stage of an experiment works with.

    Attributes:
        settings: the experiment's.
        problem_for: architecture and transform, for an executor.
        feed: has the images and labels of every split.
        image_shape: (H, W, C).
        execution: how models are evaluated and recalibrated, see `stack.executors.run`.
        choices: which executor was the fastest for earlier stacks; None: not kept.
        console: where progress is shown.
        imported: the dense model that `init_from` names, with its file and the file's SHA-256 as record; None: train.
    """

    settings: Settings
    problem_for: Callable[[str], Problem]
    feed: Feed
    image_shape: tuple[int, int, int]
    execution: str
    console: Console
    choices: autotune.Remembered | None = None
    imported: Artifact | None = None

    @property
    def problem(self) -> Problem:
        """Architecture and transform, for evaluation."""
        return self.problem_for(self.execution)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch, the partial last batch included."""
        return n_batches(len(self.feed.labels["train"]), self.settings.batch_size)

    def key(self, *path: str | int) -> jax.Array:
        """Derives a key of this run."""
        return derive(jax.random.key(self.settings.run_id), *path)

    @cached_property
    def _initialise(self) -> Callable[[jax.Array], Variables]:
        return jax.jit(lambda key: Variables(*models.init(self.problem.model, key, self.image_shape)))

    def initial_variables(self) -> Variables:
        """Draws the run's initial weights."""
        return self._initialise(self.key("Dense", "init"))

    @cached_property
    def like(self) -> Variables:
        """Shapes and dtypes of a model's variables."""
        return jax.eval_shape(self._initialise, self.key("Dense", "init"))

    def dense_history(self) -> retrain.DenseHistory:
        """Returns the learning rates of the dense training."""
        settings = self.settings
        rates = pretrain.learning_rates(
            settings.learning_rate, settings.n_epochs, self.steps_per_epoch, settings.n_epochs_warmup
        )
        return retrain.DenseHistory(rates, (settings.n_epochs_warmup or 0) * self.steps_per_epoch)
