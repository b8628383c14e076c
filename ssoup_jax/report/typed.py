"""A summary as typed values, checked when it is read: of this version, of an older one, or somebody's own."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssoup_jax.errors import SettingsError

Kind = TypeVar("Kind", bound=BaseModel)
Scores = dict[str, float | None]


class _Read(BaseModel):
    """What is not listed is of no interest here, and what older versions did not write is None or empty."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Named(_Read):
    """The settings that name an experiment; the others are kept as they are."""

    model_config = ConfigDict(extra="allow")

    dataset: str | None = None
    arch: str | None = None
    n_splits_total: int | None = None
    ensemble_by: str | None = None


class Change(_Read):
    """A setting that is not the default."""

    default: Any
    value: Any


class Sparsity(_Read):
    """Shares of the weights that are zero."""

    prunable: float | None = None
    per_layer: dict[str, float] = Field(default_factory=dict)


class Flops(_Read):
    """Multiply-adds for one image."""

    speedup: float | None = None
    per_layer: dict[str, float] = Field(default_factory=dict)


class Trial(_Read):
    """One decision of a greedy soup; its score lies under the name of the metric."""

    model_config = ConfigDict(extra="allow")

    split_val: int | float
    accepted: bool


class Greedy(_Read):
    """All decisions of a greedy soup, in their order."""

    metric: str
    scores: dict[str, float | None]
    trials: list[Trial]


class Model(_Read):
    """The dense model, a candidate or a soup.

    Attributes:
        artifact: name of its folder.
        split_val: of a candidate.
        ingredients: of a soup.
        weights: shares of its ingredients by member; None: equal ones.
        member: what a candidate has of its own, by the name of the setting.
        diverged: the step at which the member diverged.
    """

    artifact: str | None = None
    split_val: int | float | None = None
    train: Scores | None = None
    val: Scores | None = None
    test: Scores | None = None
    ood: Scores | None = None
    ood_by_corruption: dict[str, Scores | None] | None = None
    sparsity: Sparsity = Field(default_factory=Sparsity)
    flops: Flops = Field(default_factory=Flops)
    ingredients: list[int | float] | None = None
    greedy: Greedy | None = None
    weights: dict[str, float] | None = None
    member: dict[str, Any] | None = None
    diverged: int | None = None
    provenance: dict[str, Any] | None = None


class Selected(_Read):
    """What is known of the candidates that a greedy soup took."""

    distances: Scores | None = None


class Phase(_Read):
    """One cycle of pruning, retraining and souping."""

    phase: int
    sparsity: Sparsity | None = None
    candidates: list[Model] = Field(default_factory=list)
    candidates_mean: dict[str, Scores] | None = None
    candidates_max: dict[str, Scores] | None = None
    soup: Model | None = None
    prediction_ensemble: dict[str, Scores] | None = None
    distances: Scores | None = None
    selected: Selected | None = None


class Data(_Read):
    """What is said of the data."""

    description: str | None = None
    classes: list[str] | None = None
    notes: list[str] = Field(default_factory=list)


class Experiment(_Read):
    """A whole summary.

    Attributes:
        changed: the settings that differ from the defaults; None: not known.
    """

    settings: Named
    changed: dict[str, Change] | None = None
    dense: Model | None = None
    phases: list[Phase]
    warnings: list[str] = Field(default_factory=list)
    data: Data | None = None


class Barrier(_Read):
    """How much worse models on a line are than at its ends."""

    height: float | None


class Between(_Read):
    """What lies between the models of a phase."""

    class Line(_Read):
        """A line from one model to another: barriers by when, split and metric."""

        of: Literal["members", "soups"]
        ends: list[int | float | str]
        distance: float | None
        position: list[float]
        barrier: dict[str, dict[str, dict[str, Barrier]] | None]

    phase: int
    members: list[int | float | str]
    splits: list[str]
    lines: list[Line]


def between(found: Any) -> Between:
    """Checks a file of barriers, as `experiment` does a summary."""
    return _checked(Between, found, "file of barriers")


def experiment(summary: Mapping[str, Any]) -> Experiment:
    """Checks a summary.

    Args:
        summary: what `summary.json` holds.

    Returns:
        Its values.

    Raises:
        SettingsError: one line with the first value that cannot be meant.
    """
    return _checked(Experiment, summary, "summary")


def model(record: Mapping[str, Any]) -> Model:
    """Checks the record of an artifact, as `experiment` does a summary."""
    return _checked(Model, {**record, **record.get("metrics", {})}, "record of a model")


def _checked(kind: type[Kind], found: Any, what: str) -> Kind:
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "all of it"
        raise SettingsError(f"not a {what}: {place}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
