"""Settings: typed, validated, immutable; made from an `ml_collections.ConfigDict`."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self, TypeVar

import ml_collections
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ssoup_jax import models, soups, variants
from ssoup_jax.data import arrays, ood, sources, splits
from ssoup_jax.errors import SettingsError, unknown
from ssoup_jax.interop import zeros
from ssoup_jax.pruning import masks, selectors
from ssoup_jax.report.trackers import chosen
from ssoup_jax.schedules import grammar, retrain
from ssoup_jax.stack import names
from ssoup_jax.training import interval, loop, recalibrate

_CHOICES: dict[str, tuple[str | None, ...]] = {
    "strategy": ("SMS", "Dense", "IMP", "Ensemble"),
    "optimizer": ("SGD",),
    "init_mask": zeros.SETTINGS,
    "pruning_selector": tuple(selectors.SELECTORS),
    "retrain_schedule": retrain.NAMES,
    "ensemble_by": tuple(variants.VARIANTS),
    "ensemble_method": (*soups.SOUPS, None),
    "greedy_metric": ("accuracy", "macro_accuracy"),
    "bn_recalibration": (*recalibrate.METHODS, None),
    "on_divergence": loop.ON_DIVERGENCE,
}

_DATA_CHOICES: dict[str, tuple[str | None, ...]] = {
    "layout": (*arrays.LAYOUTS, None),
    "split": (*splits.SPLITS, None),
}

_STOP_SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGXCPU")


def _signals(text: str) -> tuple[str, ...]:
    """Reads the names of `stop_signals`."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in _STOP_SIGNALS:
            raise unknown("stop_signals", name, _STOP_SIGNALS)
    return names


_CHECKS: dict[str, Callable[[str], object]] = {
    "arch": models.check_arch,
    "dataset": sources.check_name,
    "execution": names.check,
    "mesh": names.parse_mesh,
    "checkpoint_every": interval.parse,
    "stop_signals": _signals,
    "trackers": chosen.parse,
    "prune_only": functools.partial(masks.read_patterns, "prune_only"),
    "prune_except": functools.partial(masks.read_patterns, "prune_except"),
}

Kind = TypeVar("Kind", bound=BaseModel)
Count = Annotated[int, Field(ge=1)]
# Far beyond any use, and small enough that a plan of everything is laid out in no time.
Phases = Annotated[int, Field(ge=1, le=100)]
Members = Annotated[int, Field(ge=1, le=500)]
Epochs = Annotated[int, Field(ge=1, le=10**6)]
EpochsOrZero = Annotated[int, Field(ge=0, le=10**6)]
CountOrZero = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class DataSettings(BaseModel):
    """How the images of a data set are had; `configs/base.py` says what each setting means."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    download: bool
    verify: bool
    follow_links: bool
    layout: str | None
    n_classes: Annotated[int, Field(ge=2, le=arrays.MAX_CLASSES)] | None
    split: str | None
    on_device: bool | None
    image_size: Annotated[int, Field(ge=8, le=1024)]
    workers: Annotated[int, Field(ge=0, le=1024)] | None
    skip_undecodable: bool
    pad: Annotated[int, Field(ge=0, le=1024)] | None
    flip: bool | None
    rotate_degrees: Annotated[Number, Field(ge=0, le=180)] | None
    mean: tuple[Number, ...] | None
    std: tuple[Number, ...] | None

    @field_validator(*_DATA_CHOICES, mode="before")
    @classmethod
    def _known(cls, value: Any, info) -> Any:
        allowed = _DATA_CHOICES[info.field_name]
        if value not in allowed:
            raise unknown(f"data.{info.field_name}", value, map(str, allowed))
        return value

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _numbers(cls, value: Any) -> Any:
        """Takes a number, a list or text such as `0.5, 0.4` for a tuple."""
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                return tuple(float(part) for part in value.strip("()[] ").rstrip(",").split(","))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (value,)
        return tuple(value) if isinstance(value, list) else value

    def options(self) -> sources.Options:
        """Returns what `sources.load` needs to know."""
        return sources.Options(
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(sources.Options)}
        )


class Settings(BaseModel):
    """All settings of an experiment; `configs/base.py` says what each means and holds the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    strategy: str
    run_id: Annotated[int, Field(ge=0, lt=2**31)]
    phase: Count
    dataset: str
    data_dir: str | None
    data: DataSettings
    ood: str | None
    evaluate_train: bool | None
    evaluate_every: CountOrZero | None
    arch: str
    use_amp: bool
    init_from: str | None
    init_mask: str
    n_epochs: Epochs
    batch_size: Count
    optimizer: str
    learning_rate: str
    n_epochs_warmup: CountOrZero | None
    momentum: Annotated[Number, Field(ge=0, lt=1)]
    weight_decay: Annotated[Number, Field(ge=0)]
    goal_sparsity: Annotated[Number, Field(gt=0, lt=1)]
    n_phases: Phases
    pruning_selector: str
    prune_only: str | None
    prune_except: str | None
    n_epochs_per_phase: EpochsOrZero
    retrain_schedule: str
    ensemble_by: str
    n_splits_total: Members | None
    split_vals: tuple[Any, ...] | None
    split_val: Number | None
    ensemble_method: str | None
    greedy_metric: str
    bn_recalibration: str | None
    bn_recalibration_frac: Annotated[Number, Field(ge=0, le=1)] | None
    execution: str
    mesh: str | None
    on_divergence: str
    checkpoint_every: str | None
    stop_signals: str | None
    trackers: str | None
    remat: bool

    @field_validator(*_CHOICES, mode="before")
    @classmethod
    def _known(cls, value: Any, info) -> Any:
        if value not in _CHOICES[info.field_name]:
            raise unknown(info.field_name, value, map(str, _CHOICES[info.field_name]))
        return value

    @field_validator(*_CHECKS)
    @classmethod
    def _well_formed(cls, value: str | None, info) -> str | None:
        if value is not None:
            _CHECKS[info.field_name](value)
        return value

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _canonical_schedule(cls, value: str) -> str:
        return grammar.write(grammar.parse(value))

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.phase > self.n_phases:
            raise SettingsError(f"phase: found {self.phase}; n_phases={self.n_phases} allows 1 to {self.n_phases}")
        if self.n_epochs_warmup is not None and self.n_epochs_warmup >= self.n_epochs:
            raise SettingsError(
                f"n_epochs_warmup: found {self.n_epochs_warmup}; n_epochs={self.n_epochs} is not longer"
            )
        if self.strategy == "Ensemble" and self.ensemble_method is None:
            allowed = ", ".join(soups.SOUPS)
            raise SettingsError(f"ensemble_method: found None; strategy='Ensemble' needs one of {allowed}")
        ood.parse(self.ood, self.dataset)
        values = self.all_splits
        if self.split_val is not None:
            if self.strategy != "IMP":
                raise SettingsError(f"split_val: found {self.split_val}; only strategy='IMP' retrains a single member")
            if self.selected_splits[0] not in values:
                raise SettingsError(f"split_val: found {self.selected_splits[0]}; the members' split_vals are {values}")
        self._check_history()
        return self

    def _check_history(self) -> None:
        members = [self.retraining_of(value) for value in self.all_splits]
        longest = max((own["n_epochs"] for own in members if own["schedule"] == "LRW"), default=0)
        if longest > self.n_epochs:
            by_length = variants.VARIANTS[self.ensemble_by].sets == "n_epochs"
            raise SettingsError(
                f"{'split_vals' if by_length else 'n_epochs_per_phase'}: found {longest}; retrain_schedule='LRW' "
                f"repeats the end of the dense history, and n_epochs={self.n_epochs} is all there is"
            )

    def retraining_of(self, split_val: int | float) -> dict[str, Any]:
        """Returns what a member's retraining depends on, its value in the place of what `ensemble_by` names."""
        base = {
            "seed": 0,
            "weight_decay": self.weight_decay,
            "n_epochs": self.n_epochs_per_phase,
            "schedule": self.retrain_schedule,
            "peak": None,
        }
        return variants.apply(self.ensemble_by, split_val, base)

    @property
    def all_splits(self) -> tuple[int | float, ...]:
        """The values of all members of a stage, complete and typed."""
        variant = variants.VARIANTS[self.ensemble_by]
        default, count = variant.own(self), self.n_splits_total
        if self.split_val is not None:
            # A member alone needs no other member's value; those that are counted are known from their number.
            default, count = self.selected_splits[0], count if variant.counted else None
        return variants.complete(self.ensemble_by, self.split_vals, count, default)

    @property
    def selected_splits(self) -> tuple[int | float, ...]:
        """The values of the members that this launch retrains: all, or the one of `split_val`."""
        if self.split_val is None:
            return self.all_splits
        return (variants.check("split_val", self.split_val, self.ensemble_by),)

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of `stop_signals`, which ask for a stop besides those that always do."""
        return () if self.stop_signals is None else _signals(self.stop_signals)

    def record(self) -> dict[str, Any]:
        """Returns the settings as plain values for JSON, with the members' values complete."""
        return self.model_dump(mode="json") | {
            "split_vals": list(self.all_splits),
            "n_splits_total": len(self.all_splits),
        }


def make_settings(config: Mapping[str, Any]) -> Settings:
    """Validates a configuration.

    Args:
        config: every setting of `configs/base.py` by name.

    Returns:
        The settings.

    Raises:
        SettingsError: one line with the first mistake: the setting, what was found and what is allowed.
    """
    values = dict(config)
    if isinstance(values.get("data"), Mapping | ml_collections.ConfigDict):
        try:
            data = dict(values["data"])
        except TypeError:  # a ConfigDict sorts its names, and these do not compare
            raise SettingsError("data: found names that are not all text") from None
        values["data"] = _validated(DataSettings, data, "data.")
    return _validated(Settings, values)


def _is_none(value: Any) -> bool:
    if isinstance(value, tuple):
        return len(value) == 1 and value[0] is None
    return isinstance(value, str) and value == "None"


def _validated(kind: type[Kind], config: Mapping[str, Any], prefix: str = "") -> Kind:
    values = {}
    for name, value in config.items():
        if name not in kind.model_fields:
            raise unknown("setting", f"{prefix}{name}", [prefix + field for field in kind.model_fields])
        # This is how None and tuples arrive from the command line.
        value = None if _is_none(value) else value
        try:
            repr(value)
        except ValueError:  # whole numbers of more than 4300 digits
            raise SettingsError(f"{prefix}{name}: found a number of thousands of digits") from None
        values[name] = tuple(value) if name == "split_vals" and isinstance(value, list) else value
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        setting = f"{prefix}{first['loc'][0]}"
        if first["type"] == "missing":
            raise SettingsError(f"{setting}: missing; start from configs/base.py, which has every setting") from None
        message = first["msg"][0].lower() + first["msg"][1:]
        raise SettingsError(f"{setting}: found {first['input']!r}; {message}") from None
