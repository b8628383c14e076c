"""What every stage of an experiment works with; none of it changes a result by more than rounding."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import jax

from ssoup_jax import metrics
from ssoup_jax.data.feeds import Feed, n_batches
from ssoup_jax.experiment.imported import Import
from ssoup_jax.experiment.specs import Dense, DenseHistory, Retrain, Stage
from ssoup_jax.keys import derive
from ssoup_jax.models.variables import Variables
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.report.console import Console
from ssoup_jax.report.trackers import NULL, Tracker
from ssoup_jax.schedules import pretrain, retrain
from ssoup_jax.stack import names
from ssoup_jax.training import classify
from ssoup_jax.training.classify import Classifier
from ssoup_jax.training.measured import Remembered
from ssoup_jax.training.optimizer import named
from ssoup_jax.training.task import Task


@dataclass(frozen=True)
class Context:
    """What every stage of an experiment works with.

    Attributes:
        classifiers: the network, and how it sees images, by whether it computes in bfloat16: those that are wanted.
        use_amp: which of them is meant.
        network: names what speed depends on besides.
        feed: has the images and labels of every split.
        classes: the names of the classes, in the order of their numbers; None: they have none.
        execution: the setting: which executor, or how one is chosen.
        mesh: the setting: over which devices members and batches are spread; None: chosen for every stack.
        evaluated: the splits that finished models are evaluated on.
        evaluate_every: epochs between two validations while a model trains; 0: none.
        console: where progress is shown.
        pod: the processes of this run.
        tracker: told of every stage and epoch, in process 0.
        choices: which executor was the fastest for earlier stacks, for `measured`; None: not kept.
        imported: the dense model that `init_from` names; None: it is trained.
    """

    classifiers: Mapping[bool, Classifier]
    use_amp: bool
    network: str
    feed: Feed
    classes: tuple[str, ...] | None
    execution: str
    mesh: names.Shape | None
    evaluated: tuple[str, ...]
    evaluate_every: int
    console: Console
    pod: Pod = ALONE
    tracker: Tracker = NULL
    choices: Remembered | None = None
    imported: Import | None = None

    def task(self, optimizer: str | None = None, loss: str | None = None) -> Task:
        """Returns what is trained, with the optimizer and the loss of those names; None: SGD, cross-entropy."""
        return classify.task(self.classifier, named(optimizer or "SGD"), classify.loss_named(loss))

    @property
    def classifier(self) -> Classifier:
        """The network, and how it sees images."""
        return self.classifiers[self.use_amp]

    @property
    def description(self) -> str:
        """Names what speed depends on."""
        return f"{self.network}, {'bfloat16' if self.use_amp else 'float32'}"

    def in_precision(self, use_amp: bool) -> "Context":
        """Returns what a stage works with that is computed in bfloat16, or in float32."""
        return self if use_amp == self.use_amp else dataclasses.replace(self, use_amp=use_amp)

    def executor(self, m: int, batch_size: int) -> str:
        """Returns the full name of the executor for m members, as far as a rule can tell."""
        load = self.load(m, batch_size)
        return names.rule(self.execution, jax.default_backend(), len(jax.devices()), load, self.mesh)

    def load(self, m: int, batch_size: int) -> names.Load:
        """Returns what a stack of m members asks of the machine."""
        convolutional = any(leaf.ndim == 4 for leaf in jax.tree.leaves(self.like.params))
        macs = sum(metrics.layer_multiply_adds(self.classifier.model, self.classifier.image_shape).values())
        cut = self.task().cut is not None
        return names.Load(m, convolutional, batch_size if cut else None, macs * batch_size)

    def history(self, dense: DenseHistory) -> retrain.DenseHistory:
        """Returns the learning rates that a dense model has seen."""
        per_epoch = self.steps_per_epoch(dense.batch_size)
        rates = pretrain.learning_rates(dense.learning_rate, dense.n_epochs, per_epoch, dense.n_epochs_warmup)
        return retrain.DenseHistory(rates, (dense.n_epochs_warmup or 0) * per_epoch)

    def steps_per_epoch(self, batch_size: int) -> int:
        """Optimizer steps in an epoch, the partial last batch included."""
        return n_batches(self.feed.sizes["train"], batch_size)

    def n_steps(self, stage: Stage) -> int:
        """Optimizer steps that a stage takes."""
        match stage.spec:
            case Dense(n_epochs=n_epochs, batch_size=batch_size):
                return n_epochs * self.steps_per_epoch(batch_size)
            case Retrain(retraining=own, batch_size=batch_size):
                return own.n_epochs * self.steps_per_epoch(batch_size)
        return 0

    def initial_variables(self, run_id: int) -> Variables:
        """Draws a run's initial weights."""
        return jax.device_get(self._initialise(key(run_id, "Dense", "init")))

    @cached_property
    def like(self) -> Variables:
        """Shapes and dtypes of a model's variables."""
        return jax.eval_shape(self._initialise, key(0, "Dense", "init"))

    @cached_property
    def _initialise(self):
        return jax.jit(self.classifier.init)


def key(run_id: int, *path: str | int) -> jax.Array:
    """Derives a key of a run."""
    return derive(jax.random.key(run_id), *path)
