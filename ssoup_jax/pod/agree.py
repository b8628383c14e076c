"""What the processes of a pod agree on: all run the same Python on the same values, and process 0 alone decides.

Process 0 looks at files and clocks, and says; the others listen. Messages go through the key-value store that JAX's
coordination service keeps, about a millisecond each, so nothing large is sent and nothing once a step.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ssoup_jax.errors import RunError, SettingsError, UserError

Result = TypeVar("Result")

_KEPT = 1000  # messages; who is slower than that has long been missed
_FOREVER_MS = 7 * 24 * 3600 * 1000
_ERRORS = {kind.__name__: kind for kind in (SettingsError, RunError)}


@dataclass(frozen=True)
class Pod:
    """The processes of one run, as one of them sees them; of one process everything is a plain call.

    All processes make the same calls in the same order, from their main threads; `report` may come from any thread.

    Attributes:
        index: this process, from 0.
        size: how many there are.
        client: JAX's key-value store; None: one process alone.
    """

    index: int = 0
    size: int = 1
    client: Any = None
    _messages: itertools.count = field(default_factory=itertools.count, compare=False)

    @property
    def leads(self) -> bool:
        """Whether this is the process that looks at files and clocks, and says."""
        return self.index == 0

    def agree(self, value: Any) -> Any:
        """Returns process 0's value in every process; JSON, whose tuples are lists."""
        return self.first(lambda: value)

    def first(self, function: Callable[[], Result]) -> Result:
        """Calls a function in process 0 alone; its result, JSON, is every process's, and so is its error.

        What the function does must not be agreed on: nobody else would answer.

        Raises:
            UserError: it raised one.
        """
        if self.size == 1:
            return function()
        key = f"ssoup/said/{next(self._messages)}"
        if not self.leads:
            return _heard(json.loads(self.client.blocking_key_value_get(key, _FOREVER_MS)))
        try:
            value = function()
        except UserError as error:
            self._say(key, {"error": type(error).__name__, "line": str(error)})
            raise
        self._say(key, {"value": value})
        return value

    def in_turn(self, function: Callable[[], Result]) -> Result:
        """Calls a function in process 0 and then in the others, which find what it has left on the disk.

        What the function does must not be agreed on.

        Returns:
            Each process's own result, of any type.

        Raises:
            UserError: it raised one, in process 0 or here.
        """
        own: list[Result] = []
        # The others get no result by a message, which is nothing for arrays.
        self.first(lambda: own.append(function()))
        return own[0] if own else function()

    def everyone(self, value: Any) -> list[Any]:
        """Returns what each process has, by its index, in every process; JSON."""
        if self.size == 1:
            return [value]
        folder = f"ssoup/each/{next(self._messages)}"
        self._say(f"{folder}/{self.index}", value)
        return [
            json.loads(self.client.blocking_key_value_get(f"{folder}/{index}", _FOREVER_MS))
            for index in range(self.size)
        ]

    def wait(self) -> None:
        """Waits until every process has come here."""
        self.everyone(None)

    def report(self, name: str, value: Any) -> list[Any] | None:
        """Tells process 0 a value, JSON, beside all that is agreed on meanwhile.

        Args:
            name: the report's, the same in all processes; free again once process 0 has read it.
            value: what this process says.

        Returns:
            What each process says, by its index, in process 0; None, and at once, in the others.
        """
        if self.size == 1:
            return [value]
        folder = f"ssoup/told/{name}"
        if not self.leads:
            self.client.key_value_set(f"{folder}/{self.index}", json.dumps(value))
            return None
        found = [value]
        for index in range(1, self.size):
            found.append(json.loads(self.client.blocking_key_value_get(f"{folder}/{index}", _FOREVER_MS)))
            self.client.key_value_delete(f"{folder}/{index}")
        return found

    def _say(self, key: str, value: Any) -> None:
        self.client.key_value_set(key, json.dumps(value))
        parts = key.split("/")
        old = int(parts[2]) - _KEPT
        if old >= 0:
            self.client.key_value_delete("/".join([*parts[:2], str(old), *parts[3:]]))


def _heard(said: dict[str, Any]) -> Any:
    if "error" in said:
        raise _ERRORS.get(said["error"], RunError)(said["line"])
    return said["value"]


ALONE = Pod()
"""The pod of one process."""
