"""Numbers that settings may be."""

from typing import Annotated

from pydantic import Field

Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
# Far beyond any use, and small enough that a plan of everything is laid out in no time.
Phases = Annotated[int, Field(ge=1, le=100)]
Members = Annotated[int, Field(ge=1, le=500)]
Epochs = Annotated[int, Field(ge=1, le=10**6)]
EpochsOrZero = Annotated[int, Field(ge=0, le=10**6)]
CountOrZero = Annotated[int, Field(ge=0)]
RunId = Annotated[int, Field(ge=0, lt=2**31)]
Goal = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
