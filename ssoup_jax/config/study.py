"""The settings of a study, typed and validated."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

from ssoup_jax.errors import SettingsError
from ssoup_jax.ranges import EpochsOrZero, Goal, Members, RunId


class StudySettings(BaseModel):
    """What makes a study of an experiment; `configs/base.py` says what each setting means."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    methods: str | None
    runs: tuple[RunId, ...] | None
    members: tuple[Members, ...] | None
    goals: tuple[Goal, ...] | None
    vary: str | None
    reprune_epochs: EpochsOrZero

    @field_validator("runs", "members", "goals", mode="before")
    @classmethod
    def _several(cls, value: Any, info) -> Any:
        """Takes a number or a list for a tuple, and refuses what would be counted twice."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (value,)
        value = tuple(value) if isinstance(value, list) else value
        if isinstance(value, tuple):
            if not value:
                raise SettingsError(f"study.{info.field_name}: found (); at least one value is needed")
            for one in value:
                if value.count(one) > 1:
                    raise SettingsError(f"study.{info.field_name}: found {one!r} more than once")
        return value


def parse_shard(text: str) -> tuple[int, int]:
    """Reads which part of how many a launch does: `'2/8'` is `(2, 8)`.

    Raises:
        SettingsError: it is no such part.
    """
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", text)
    if match is None or int(match[1]) > int(match[2]):
        raise SettingsError(f"shard: found {text!r}; allowed: 'I/N' with I from 1 to N, such as '2/8'")
    return int(match[1]), int(match[2])
