"""The settings of a data set, typed and validated."""

import contextlib
import dataclasses
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ssoup_jax.data import arrays, sources, splits
from ssoup_jax.errors import unknown
from ssoup_jax.ranges import Number

_DATA_CHOICES: dict[str, tuple[str | None, ...]] = {
    "layout": (*arrays.LAYOUTS, None),
    "split": (*splits.SPLITS, None),
}


class DataSettings(BaseModel):
    """How the images of a data set are had; `configs/base.py` says what each setting means."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    download: bool
    verify: bool
    follow_links: bool
    layout: str | None
    n_classes: Annotated[int, Field(ge=2, le=arrays.MAX_CLASSES)] | None
    split: str | None
    n_train: Annotated[int, Field(ge=2)] | None
    shrink: Annotated[int, Field(ge=2, le=64)] | None
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
