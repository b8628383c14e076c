"""How often something is done in training: every so many steps, epochs or minutes."""

import math
import re
import time
from dataclasses import dataclass, field

from ssoup_jax.errors import SettingsError

_FORM = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) (step|epoch|minute)s?")


@dataclass
class Interval:
    """Tells when it is time again.

    Attributes:
        steps: least number of steps between two times.
        seconds: least time between two times.
        last: the step from which on it is never time, since training ends there.
    """

    steps: float
    seconds: float
    last: float = math.inf
    _step: int = 0
    _time: float = field(default_factory=lambda: time.monotonic())

    def due(self, step: int) -> bool:
        """Returns whether it is time; if so, the next interval begins."""
        if step >= self.last or step - self._step < self.steps or time.monotonic() - self._time < self.seconds:
            return False
        self._step, self._time = step, time.monotonic()
        return True


def parse(text: str) -> tuple[float, str]:
    """Reads `'500 steps'`, `'2 epochs'` or `'10 minutes'`.

    Args:
        text: the setting.

    Returns:
        The number, positive, and the unit in the singular.

    Raises:
        SettingsError: it is none of these.
    """
    found = _FORM.fullmatch(text.strip())
    number = float(found[1]) if found else 0
    if not number or (found[2] == "step" and number != int(number)):
        raise SettingsError(f"checkpoint_every: found {text!r}; allowed: 'N steps', 'N epochs', 'N minutes' or None")
    return number, found[2]


def make(text: str | None, steps_per_epoch: int, first_step: int, last_step: float = math.inf) -> Interval:
    """Starts an interval.

    Args:
        text: as for `parse`; None: it is never time.
        steps_per_epoch: training steps in an epoch.
        first_step: where training begins.
        last_step: where it ends, when it is not time any more.

    Returns:
        The interval, which has just begun.
    """
    if text is None:
        return Interval(math.inf, math.inf, _step=first_step)
    number, unit = parse(text)
    if unit == "minute":
        return Interval(0, 60 * number, last_step, first_step)
    return Interval(number * (steps_per_epoch if unit == "epoch" else 1), 0, last_step, first_step)
