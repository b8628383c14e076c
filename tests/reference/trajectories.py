"""Follows a trajectory of the reference with the project's own functions, and knows what the reference left.

As a chain, each stage starts from what ours before it left. By stages, each starts from what the reference's before it
left: so is judged a network whose training magnifies rounding.
"""

from dataclasses import dataclass, field

import jax
import numpy as np

from ssoup_jax import soups, trees
from ssoup_jax.interop.state_dict import entries
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning import apply_mask, full_mask, phase_amount, select
from ssoup_jax.trees import PyTree
from tests.reference import golden, served


@dataclass(frozen=True)
class Phase:
    """One phase of one ensemble of a trajectory file."""

    ensemble: dict
    number: int

    @property
    def name(self) -> str:
        return f"{self.ensemble['name']}/phase{self.number}"

    @property
    def runs(self) -> list[str]:
        """The members' names."""
        return [f"{self.name}/member{i}" for i in range(len(self.ensemble["split_vals"]))]

    @property
    def soup(self) -> str:
        return f"{self.name}/ensemble"

    @property
    def before(self) -> "Phase | None":
        return Phase(self.ensemble, self.number - 1) if self.number > 1 else None


class Stored:
    """A trajectory file: what the reference started from and left, by the names of its stages."""

    def __init__(self, file: str):
        self.file, self.case = file, served.load(file)
        self.settings, self.arrays = self.case.case, self.case.arrays
        self.phases = [
            Phase(ensemble, number)
            for ensemble in self.settings["ensembles"]
            for number in range(1, self.settings["n_phases"] + 1)
        ]

    def initial(self) -> Variables:
        """Returns the weights before the first step."""
        if "initial_rule" in self.settings:
            return self.case.variables(self._rule_filled())
        owner = golden.load_npz(self.settings.get("initial_same_as", self.file))
        return self.case.variables(owner["dense/initial"])

    def trained(self) -> Variables:
        return self.case.variables(self.arrays["dense/trained"])

    def retrained(self, run: str) -> Variables:
        """Returns a member before its recalibration."""
        return self.case.variables(self.arrays[f"{run}/final"], self.arrays.get(f"{run}/bn_after_retraining"))

    def candidate(self, run: str) -> Variables:
        return self.case.variables(self.arrays[f"{run}/final"])

    def plain_soup(self, phase: Phase) -> Variables:
        return self.case.variables(self.arrays[f"{phase.soup}/soup_before_recalibration"])

    def soup(self, phase: Phase) -> Variables:
        state = self.arrays[f"{phase.soup}/soup_before_recalibration"]
        return self.case.variables(state, self.arrays.get(f"{phase.soup}/bn_after_recalibration"))

    def mask(self, phase: Phase) -> PyTree:
        return self.case.mask(self.arrays[f"{phase.name}/mask"])

    def state(self, stage: str) -> np.ndarray:
        """Returns the flat state before recalibration that our stage of that name must leave."""
        if stage == "dense":
            return self.arrays["dense/trained"]
        if stage.endswith("/ensemble"):
            return self.arrays[f"{stage}/soup_before_recalibration"]
        return self.case.flat(self.retrained(stage))

    def statistics(self, stage: str) -> np.ndarray:
        """Returns the flat BatchNorm statistics after the recalibration of that stage."""
        soup = f"{stage}/bn_after_recalibration"
        return self.arrays[soup] if soup in self.arrays else self.case.flat_bn(self.arrays[f"{stage}/final"])

    def yardstick(self, stage: str, quantity: str) -> float:
        """Returns the reference's largest deviation under rounding-size noise among a stage and its siblings."""
        siblings = stage.rpartition("/")[0]
        found = self.case.meta["rounding_yardstick"]["stages"].items()
        return max(
            [own[quantity] for name, own in found if name.startswith(siblings or stage) and quantity in own], default=0
        )

    def _rule_filled(self) -> np.ndarray:
        rule, scale = self.settings["initial_rule"], np.float32(self.settings.get("residual_scale") or 1)
        arrays = []
        for k, entry in enumerate(entries(*self.case.network)):
            array = golden.rule_filled_entry(entry.name, entry.shape, k, rule["seed"], rule["gain"])
            if entry.collection:
                arrays.append((array * scale if entry.name.endswith(".bn2.weight") else array).ravel())
        return np.concatenate(arrays)


@dataclass
class Followed:
    """What our run of a trajectory left, by the names of the reference's stages; masks by those of the phases.

    Attributes:
        stored: the trajectory.
        by_stages: whether each stage started from the reference's.
        execution: how stacks ran.
        phases: the phases that were run.
        losses: of each training run, NaN where it had finished.
        masks: of each phase.
        states: flat states before recalibration.
        finished: models after recalibration; under a phase's own name, the one that it pruned.
        logits: of the same models, by split.
    """

    stored: Stored
    by_stages: bool
    execution: str
    phases: list[Phase]
    losses: dict[str, np.ndarray] = field(default_factory=dict)
    masks: dict[str, PyTree] = field(default_factory=dict)
    states: dict[str, np.ndarray] = field(default_factory=dict)
    finished: dict[str, Variables] = field(default_factory=dict)
    logits: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Names the comparisons."""
        return f"{self.stored.file}, {'by stages' if self.by_stages else 'chain'}, {self.execution}"

    def train(self, runs: list[str], start: Variables, mask: PyTree, weight_decays: list[float]) -> list[Variables]:
        """Trains one stack; as wide as the widest of the file, so that all stacks share one program."""
        case = self.stored.case
        width = max(len(phase.runs) for phase in self.stored.phases)
        state, losses = case.train(start, mask, runs, weight_decays, self.execution, width)
        trained = trees.unstack(state.variables)[: len(runs)]
        self.losses |= dict(zip(runs, losses, strict=False))
        self.states |= {run: case.flat(one) for run, one in zip(runs, trained, strict=True)}
        return trained

    def recalibrate(self, models: list[Variables]) -> list[Variables]:
        """Recalibrates one stack, filled up to the widest of the file with copies of the first model."""
        case = self.stored.case
        width = max(len(phase.runs) for phase in self.stored.phases)
        stack = trees.stack(models + models[:1] * (width - len(models)))
        found = case.recalibrated(stack, self.stored.settings["bn_recalibration_frac"], self.execution)
        return trees.unstack(found)[: len(models)]

    def run_dense(self) -> None:
        start = self.stored.initial()
        decay = self.stored.settings["weight_decay"]
        (trained,) = self.train(["dense"], start, full_mask(start.params), [decay])
        self.finished["dense"] = self.stored.trained() if self.by_stages else trained

    def start_of(self, phase: Phase) -> tuple[Variables, PyTree]:
        """Returns the model that a phase prunes and its mask so far."""
        if phase.before is None:
            dense = self.stored.trained() if self.by_stages else self.finished["dense"]
            return dense, full_mask(dense.params)
        if self.by_stages:
            return self.stored.soup(phase.before), self.stored.mask(phase.before)
        return self.finished[phase.before.soup], self.masks[phase.before.name]

    def run_phase(self, phase: Phase) -> None:
        """Prunes, retrains all members as one stack, recalibrates, averages, recalibrates."""
        assert phase.ensemble["ensemble_method"] == "UniformEnsembling"
        stored, settings, runs = self.stored, self.stored.settings, phase.runs
        start, mask = self.start_of(phase)
        amount = phase_amount(settings["goal_sparsity"], settings["n_phases"])
        mask = select(settings["pruning_selector"], start.params, mask, amount, jax.random.key(0))
        pruned = start.replace(params=apply_mask(start.params, mask))
        by_decay = phase.ensemble["ensemble_by"] == "weight_decay"
        decays = phase.ensemble["split_vals"] if by_decay else [settings["weight_decay"]] * len(runs)
        retrained = self.train(runs, pruned, mask, decays)

        candidates = self.recalibrate([stored.retrained(run) for run in runs] if self.by_stages else retrained)
        self.masks[phase.name] = mask
        self.finished |= {phase.name: pruned} | dict(zip(runs, candidates, strict=True))

        ingredients = [stored.candidate(run) for run in runs] if self.by_stages else candidates
        soup = soups.average(trees.stack(ingredients), dict.fromkeys(range(len(ingredients)), 1.0))
        self.states[phase.soup] = stored.case.flat(soup)
        (self.finished[phase.soup],) = self.recalibrate([stored.plain_soup(phase) if self.by_stages else soup])

    def evaluate(self) -> None:
        """Evaluates all finished models as one stack."""
        found = self.stored.case.logits(trees.stack(list(self.finished.values())), self.execution)
        for i, stage in enumerate(self.finished):
            self.logits[stage] = {split: logits[i] for split, logits in found.items()}

    @property
    def chaotic(self) -> bool:
        """Whether rounding has grown so much that nothing after training can be compared in detail."""
        return not self.by_stages and bool(self.stored.case.meta["bn"])


def follow(stored: Stored, by_stages: bool, execution: str, phases: list[Phase], dense: bool = True) -> Followed:
    """Runs the given phases of a trajectory, after its dense training if that is wanted."""
    followed = Followed(stored, by_stages, execution, phases)
    if dense:
        followed.run_dense()
    for phase in phases:
        followed.run_phase(phase)
    if not followed.chaotic:
        followed.evaluate()
    return followed


def kind(stage: str) -> str:
    """Says what comes out of the stage of that name."""
    return "soups" if stage.endswith("/ensemble") else "members" if "/member" in stage else "dense"
