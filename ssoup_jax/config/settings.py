"""Settings: typed, validated, immutable; made from an `ml_collections.ConfigDict`."""

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

import ml_collections
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ssoup_jax import own, pools, soups, variants
from ssoup_jax.config.choices import CHECKS, CHOICES, OWN, signals
from ssoup_jax.config.study import StudySettings
from ssoup_jax.data import ood
from ssoup_jax.data.settings import DataSettings
from ssoup_jax.errors import SettingsError, unknown
from ssoup_jax.ranges import Count, CountOrZero, Epochs, EpochsOrZero, Goal, Members, Number, Phases, RunId
from ssoup_jax.schedules import grammar

Kind = TypeVar("Kind", bound=BaseModel)


class Settings(BaseModel):
    """All settings of an experiment; `configs/base.py` says what each means and holds the defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    strategy: str
    run_id: RunId
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
    init_head: str | None
    n_epochs: Epochs
    batch_size: Count
    optimizer: str
    loss: str | None
    learning_rate: str
    n_epochs_warmup: CountOrZero | None
    momentum: Annotated[Number, Field(ge=0, lt=1)]
    weight_decay: Annotated[Number, Field(ge=0)]
    goal_sparsity: Goal
    n_phases: Phases
    pruning_selector: str
    prune_only: str | None
    prune_except: str | None
    n_epochs_per_phase: EpochsOrZero
    retrain_schedule: str
    retrain_batch_size: Count | None
    retrain_weight_decay: Annotated[Number, Field(ge=0)] | None
    retrain_momentum: Annotated[Number, Field(ge=0, lt=1)] | None
    retrain_use_amp: bool | None
    ensemble_by: str
    members: tuple[dict[str, int | float], ...] | None
    pool: str | None
    pool_seed: Annotated[int, Field(ge=0, lt=2**31)] | None
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
    stack_members: CountOrZero | None
    shard: str | None
    trackers: str | None
    remat: bool
    study: StudySettings

    @field_validator(*CHOICES, mode="before")
    @classmethod
    def _known(cls, value: Any, info) -> Any:
        if info.field_name in OWN and own.is_own(value):
            OWN[info.field_name](value)
        elif value not in CHOICES[info.field_name]:
            raise unknown(info.field_name, value, map(str, CHOICES[info.field_name]))
        return value

    @field_validator(*CHECKS)
    @classmethod
    def _well_formed(cls, value: str | None, info) -> str | None:
        if value is not None:
            CHECKS[info.field_name](value)
        return value

    @field_validator("learning_rate", mode="before")
    @classmethod
    def _canonical_schedule(cls, value: str) -> str:
        return grammar.write(grammar.parse(value))

    @field_validator("members", mode="before")
    @classmethod
    def _canonical_members(cls, value: Any) -> Any:
        return None if value is None else variants.listed(value)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.phase > self.n_phases:
            raise SettingsError(f"phase: found {self.phase}; n_phases={self.n_phases} allows 1 to {self.n_phases}")
        if self.n_epochs_warmup is not None and self.n_epochs_warmup >= self.n_epochs:
            raise SettingsError(
                f"n_epochs_warmup: found {self.n_epochs_warmup}; n_epochs={self.n_epochs} is not longer"
            )
        if self.strategy == "Ensemble" and self.ensemble_method is None:
            allowed = ", ".join((*soups.SOUPS, own.FORM))
            raise SettingsError(f"ensemble_method: found None; strategy='Ensemble' needs one of {allowed}")
        if self.init_head is not None and self.init_from is None:
            raise SettingsError(f"init_head: found {self.init_head!r}; it takes the place of what init_from has there")
        ood.parse(self.ood, self.dataset)
        self._check_members()
        values = self.all_splits
        if self.split_val is not None:
            if self.strategy != "IMP":
                raise SettingsError(f"split_val: found {self.split_val}; only strategy='IMP' retrains a single member")
            if self.selected_splits[0] not in values:
                called = "members' split_vals are" if self.listed is None else "members have the numbers"
                raise SettingsError(f"split_val: found {self.selected_splits[0]}; the {called} {values}")
        self._check_history()
        return self

    def _check_members(self) -> None:
        given = {name: getattr(self, name) for name in ("members", "pool", "split_vals")}
        given["ensemble_by"] = None if self.ensemble_by == "pruned_seed" else self.ensemble_by
        first, *others = [name for name, value in given.items() if value is not None] or [None]
        if first not in ("members", "pool"):
            return
        if others:
            raise SettingsError(f"{first}: given together with {others[0]}={given[others[0]]!r}; allowed: one of them")
        if self.pool is not None and self.n_splits_total is None:
            raise SettingsError(f"n_splits_total: not given; pool={self.pool!r} needs to know how many members to draw")
        if equal := variants.first_equal(map(self.retraining_of, self.all_splits)):
            raise SettingsError(
                f"{first}: members {equal[0]} and {equal[1]} are equal; every member needs something of its own"
            )

    def _check_history(self) -> None:
        retrainings = [self.retraining_of(value) for value in self.all_splits]
        longest = max((own["n_epochs"] for own in retrainings if own["schedule"] == "LRW"), default=0)
        if longest > self.n_epochs:
            where = "split_vals" if self.listed is None else "members" if self.pool is None else "pool"
            by_length = any("retrain_length" in self.member(value) for value in self.all_splits)
            raise SettingsError(
                f"{where if by_length else 'n_epochs_per_phase'}: found {longest}; retrain_schedule='LRW' "
                f"repeats the end of the dense history, and n_epochs={self.n_epochs} is all there is"
            )

    def of_retraining(self, name: str) -> Any:
        """Returns a setting of retraining; where it is not given, that of dense training, whose name it is."""
        given = getattr(self, f"retrain_{name}")
        return getattr(self, name) if given is None else given

    def retraining_of(self, split_val: int | float) -> dict[str, Any]:
        """Returns what a member's retraining depends on, what it has of its own in the place of what is set for all."""
        base = {
            "seed": 0,
            "weight_decay": self.of_retraining("weight_decay"),
            "n_epochs": self.n_epochs_per_phase,
            "schedule": self.retrain_schedule,
            "peak": None,
        }
        return variants.apply(self.member(split_val), base)

    def member(self, split_val: int | float) -> variants.Own:
        """Returns what a member has of its own, by what `all_splits` calls it."""
        if self.listed is None:
            return {variants.VARIANTS[self.ensemble_by].name: split_val}
        return self.listed[split_val]

    @property
    def listed(self) -> tuple[variants.Own, ...] | None:
        """What each member has of its own where they are listed or drawn; None: they differ by `ensemble_by`."""
        return self.members if self.pool is None else pools.draw(self.pool, self.pool_seed or 0, self.n_splits_total)

    @property
    def differ_in(self) -> tuple[str, ...]:
        """What members differ in: the name of `ensemble_by`, or those of what some of them have of their own."""
        if self.listed is None:
            return (self.ensemble_by,)
        return tuple(dict.fromkeys(name for own in self.listed for name in own))

    @property
    def all_splits(self) -> tuple[int | float, ...]:
        """What the members of a stage are called: their values, complete and typed; numbers, where they are listed."""
        if self.listed is not None:
            return tuple(range(len(self.listed)))
        variant = variants.VARIANTS[self.ensemble_by]
        default, count = variant.own(self), self.n_splits_total
        if self.split_val is not None:
            # A member alone needs no other member's value; those that are counted are known from their number.
            default, count = self.selected_splits[0], count if variant.counted else None
        return variants.complete(self.ensemble_by, self.split_vals, count, default)

    @property
    def selected_splits(self) -> tuple[int | float, ...]:
        """Which of `all_splits` this launch retrains: all, or the one of `split_val`."""
        if self.split_val is None:
            return self.all_splits
        if self.listed is not None:
            return (int(self.split_val) if self.split_val in self.all_splits else self.split_val,)
        return (variants.check("split_val", self.split_val, self.ensemble_by),)

    @property
    def signals(self) -> tuple[str, ...]:
        """The names of `stop_signals`, which ask for a stop besides those that always do."""
        return () if self.stop_signals is None else signals(self.stop_signals)

    @property
    def own_parts(self) -> dict[str, str]:
        """What is one's own, by setting, as the names of results have it; data are named by what they are."""
        names = ("arch", "loss", *OWN)
        return {name: own.spell(name, getattr(self, name)) for name in names if own.is_own(getattr(self, name))}

    def changed(self, defaults: "Settings") -> dict[str, dict[str, Any]]:
        """Lists the settings that differ from others: `{'data.pad': {'default': None, 'value': 4}}`."""
        own, others = (_flat(settings.model_dump(mode="json")) for settings in (self, defaults))
        return {name: {"default": others[name], "value": own[name]} for name in own if own[name] != others[name]}

    def record(self) -> dict[str, Any]:
        """Returns the settings as plain values for JSON, with the values of `ensemble_by` complete."""
        return self.model_dump(mode="json") | {
            "split_vals": list(self.all_splits) if self.listed is None else None,
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
    for group, kind in (("data", DataSettings), ("study", StudySettings)):
        if isinstance(values.get(group), Mapping | ml_collections.ConfigDict):
            try:
                inner = dict(values[group])
            except TypeError:  # a ConfigDict sorts its names, and these do not compare
                raise SettingsError(f"{group}: found names that are not all text") from None
            values[group] = _validated(kind, inner, f"{group}.")
    return _validated(Settings, values)


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Names settings as the command line does."""
    data = {f"data.{name}": value for name, value in values["data"].items()}
    return {name: value for name, value in values.items() if name != "data"} | data


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
