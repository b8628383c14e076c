"""What determines a stage's result: frozen specs, of whose fields the names of stored results are hashed.

A field whose metadata say `when_given` is left out of the hash while it is None, so that results that were stored
before it came to be keep their names. What is one's own is named with its version or a hash of its source, see
`own.spell`.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from ssoup_jax.experiment import names

FORMAT = 1
"""Part of every name: raised when a stage computes something else from the same spec."""

WHEN_GIVEN = {"when_given": True}


@dataclass(frozen=True)
class DenseHistory:
    """What is known of any dense model: what it is, and which learning rates it has seen.

    Attributes:
        data: fingerprint of the data set.
        arch: the network.
        use_amp: whether it is computed in bfloat16.
        n_epochs: epochs of training.
        batch_size: images per step.
        optimizer: its name.
        learning_rate: the schedule as a string, see `schedules.grammar`.
        n_epochs_warmup: epochs of warm-up; None: none.
    """

    kind: ClassVar[str] = "Dense"
    phase: ClassVar[int] = 0

    data: str
    arch: str
    use_amp: bool
    n_epochs: int
    batch_size: int
    optimizer: str
    learning_rate: str
    n_epochs_warmup: int | None


@dataclass(frozen=True)
class Dense(DenseHistory):
    """Training the dense model.

    Attributes:
        run_id: which run; decides every random number.
        momentum: of the optimizer.
        weight_decay: as the optimizer has it.
        loss: name of one's own; None: softmax cross-entropy.
        init_from: SHA-256 of the file that it starts from; None: initial weights are drawn.
        init_mask: see `Imported`.
        init_head: 'fresh' if the last layer is drawn all the same.
    """

    run_id: int
    momentum: float
    weight_decay: float
    loss: str | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)
    init_from: str | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)
    init_mask: str | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)
    init_head: str | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)


@dataclass(frozen=True)
class Imported(DenseHistory):
    """Taking the dense model from a file.

    Attributes:
        init_from: SHA-256 of the file.
        init_mask: 'zeros' if its zeros are taken for pruned weights; None: only what it masks is pruned.
    """

    init_from: str
    init_mask: str | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)


@dataclass(frozen=True)
class Retraining:
    """What a member's retraining depends on once its `split_val` has taken its place.

    Attributes:
        seed: added to the run's seed.
        weight_decay: as the optimizer has it.
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
class Retrain:
    """One member: prune, retrain, recalibrate.

    Attributes:
        run_id: which run; decides every random number.
        phase: 1-based.
        amount: share of the weights left that are pruned.
        goal_sparsity: after the last phase; what `distance_to_pruned` is measured to.
        selector: name of the selector.
        retraining: the member's own.
        batch_size: images per step.
        momentum: of the optimizer.
        recalibration: (method, share of the batches); None: statistics stay.
        prune_only: patterns of the parameters that may be pruned; None: all.
        prune_except: patterns of those that may not; None: none.
        again: True: the amount is a share of all weights that may be pruned, of which some are pruned already, and not
            of those that are left; None: of those that are left.
        optimizer: its name; None: SGD.
        loss: name of one's own; None: softmax cross-entropy.
        use_amp: whether it is computed in bfloat16, where the dense model is not, or the other way; None: as that is.
    """

    kind: ClassVar[str] = "IMP"

    run_id: int
    phase: int
    amount: float
    goal_sparsity: float
    selector: str
    retraining: Retraining
    batch_size: int
    momentum: float
    recalibration: tuple[str, float] | None
    prune_only: str | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)
    prune_except: str | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)
    again: bool | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)
    optimizer: str | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)
    loss: str | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)
    use_amp: bool | None = dataclasses.field(default=None, metadata=WHEN_GIVEN)


@dataclass(frozen=True)
class Soup:
    """The soup of a phase's candidates.

    Attributes:
        method: name of the soup.
        metric: what a greedy soup must not lose on validation data; None for others.
        batch_size: images per batch of recalibration.
        goal_sparsity: see `Retrain`.
        recalibration: see `Retrain`.
    """

    kind: ClassVar[str] = "Ensemble"

    method: str
    metric: str | None
    batch_size: int
    goal_sparsity: float
    recalibration: tuple[str, float] | None


@dataclass(frozen=True)
class Average:
    """The mean of models that were pruned apart from one another: a weight is left where any of them has one.

    Attributes:
        batch_size: see `Soup`.
        goal_sparsity: see `Retrain`.
        recalibration: see `Retrain`.
    """

    kind: ClassVar[str] = "Average"

    batch_size: int
    goal_sparsity: float
    recalibration: tuple[str, float] | None


Spec = Dense | Imported | Retrain | Soup | Average


@dataclass(frozen=True)
class Stage:
    """One unit of work and its artifact: a spec and its parents.

    Attributes:
        spec: what determines the result beyond the parents.
        parents: the stages whose artifacts it starts from.
        label: what this experiment calls a member, its `split_val`, or a dense model that has a file, its name; not
            part of the name.
    """

    spec: Spec
    parents: tuple["Stage", ...] = ()
    label: int | float | str | None = None

    def __hash__(self) -> int:
        # All fields would be hashed through every way that leads back to the dense model.
        return hash(self.digest)

    @property
    def kind(self) -> str:
        """'Dense', 'IMP' (one member: prune, retrain, recalibrate), 'Ensemble' (the soup) or 'Average'."""
        return self.spec.kind

    @property
    def phase(self) -> int:
        """1-based; 0 for the dense model."""
        return self.parents[0].phase if isinstance(self.spec, Soup | Average) else self.spec.phase

    @property
    def run_id(self) -> int | None:
        """Which run it belongs to; None: a model from a file belongs to any."""
        if isinstance(self.spec, Imported):
            return None
        return self.parents[0].run_id if isinstance(self.spec, Soup | Average) else self.spec.run_id

    @cached_property
    def dense(self) -> DenseHistory:
        """The spec of the dense model that it comes from."""
        return self.parents[0].dense if self.parents else self.spec

    @property
    def use_amp(self) -> bool:
        """Whether it is computed in bfloat16."""
        if isinstance(self.spec, Soup | Average):
            return self.parents[0].use_amp
        return self.dense.use_amp if self.spec.use_amp is None else self.spec.use_amp

    @cached_property
    def digest(self) -> str:
        """Hash of everything that determines the result."""
        text = json.dumps([FORMAT, self.kind, canonical(self.spec), [parent.digest for parent in self.parents]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The artifact's name in the store."""
        return str(names.Name(self.kind, self.phase, self.digest))

    @property
    def title(self) -> str:
        """What people call the stage."""
        origin = f" from {self.label}" if isinstance(self.spec, DenseHistory) and self.label else ""
        return names.title(self.kind, self.phase, self.label) + origin


def titles(stages: Sequence[Stage]) -> list[str]:
    """Says what people call the stages of one stack, with their runs and lengths where they would be called alike."""
    found = [stage.title for stage in stages]
    if len({stage.run_id for stage in stages}) > 1:
        found = [f"{title} of run {stage.run_id}" for title, stage in zip(found, stages, strict=True)]
    if len(set(found)) == len(found):
        return found
    lengths = [stage.spec.retraining.n_epochs for stage in stages]
    return [f"{title} ({n} epoch{'s' * (n != 1)})" for title, n in zip(found, lengths, strict=True)]


def canonical(spec: Spec) -> str:
    """Spells a spec as the text that names are hashed from."""
    left_out = {
        field.name
        for field in dataclasses.fields(spec)
        if field.metadata.get("when_given") and getattr(spec, field.name) is None
    }
    fields: dict[str, Any] = dataclasses.asdict(spec)
    return json.dumps({name: value for name, value in fields.items() if name not in left_out}, sort_keys=True)
