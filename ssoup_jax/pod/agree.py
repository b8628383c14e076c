"""A pod: all its processes run the same Python on the same values, process 0 alone decides, and all end together.

Process 0 looks at files and clocks, and says; the others listen. Messages go through the key-value store that JAX's
coordination service keeps, about a millisecond each, so nothing large is sent and nothing once a step.
"""

import contextlib
import json
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from ssoup_jax.errors import RunError, UserError, one_line
from ssoup_jax.pod.leave import leave
from ssoup_jax.pod.lifeline import Lifeline, Progress
from ssoup_jax.pod.meet import as_message, error_of, name

Result = TypeVar("Result")

_TOGETHER = 500  # calls after which all wait for each other, so that what was said before has been heard
_ECHO_SECONDS = 2.0
_FOREVER_MS = 7 * 24 * 3600 * 1000


@dataclass(frozen=True)
class Pod:
    """The processes of one run, as one of them sees them; of one process everything is a plain call.

    All processes make the same calls in the same order, from their main threads; `report` may come from any thread.

    Attributes:
        index: this process, from 0.
        size: how many there are.
        client: JAX's key-value store; None: one process alone.
        lifeline: notices who is gone, and ends all with one; None: one process alone.
        progress: how far this process is, by which one that does not go on is noticed.
    """

    index: int = 0
    size: int = 1
    client: Any = None
    lifeline: Lifeline | None = None
    progress: Progress = field(default_factory=Progress, compare=False)
    _said: deque[str] = field(default_factory=deque, compare=False)

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
        key = f"ssoup/said/{self._next()}"
        if not self.leads:
            return _heard(json.loads(self.client.blocking_key_value_get(key, _FOREVER_MS)))
        try:
            value = function()
        except UserError as error:
            self._say(key, as_message(error))
            raise
        self._say(key, {"value": value})
        return value

    def in_turn(self, function: Callable[[], Result]) -> Result:
        """Calls a function in process 0 and then in the others, which find what it has left on the disk.

        What the function does may take any time, and must not be agreed on.

        Returns:
            Each process's own result, of any type.

        Raises:
            UserError: it raised one, in process 0 or here.
        """
        own: list[Result] = []
        # The others get no result by a message, which is nothing for arrays.
        with self.patient():
            self.first(lambda: own.append(function()))
            return own[0] if own else function()

    def everyone(self, value: Any) -> list[Any]:
        """Returns what each process has, by its index, in every process; JSON."""
        if self.size == 1:
            return [value]
        folder = f"ssoup/each/{self._next()}"
        self._say(f"{folder}/{self.index}", value)
        # One question instead of one for each process, once all have said it.
        self.client.wait_at_barrier(folder, _FOREVER_MS)
        said = {int(key.rpartition("/")[2]): json.loads(text) for key, text in self.client.key_value_dir_get(folder)}
        return [said[index] for index in range(self.size)]

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

    def wait(self) -> None:
        """Waits until every process has come here."""
        if self.size > 1:
            self.client.wait_at_barrier(f"ssoup/wait/{self._next()}", _FOREVER_MS)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Lets what is inside take any time, such as a download by process 0; entered and left by all."""
        self.progress.patient += 1
        try:
            yield
        finally:
            self.progress.patient -= 1

    def named(self, index: int) -> str:
        """Spells a process: `'process 3 (node4)'`."""
        return name(index, self.lifeline.hosts[index]) if self.lifeline else f"process {index}"

    def ask(self, what: str) -> None:
        """Lets process 0 know what this process, in any of its threads, was asked for."""
        if self.lifeline:
            self.lifeline.ask(what)

    def asked(self) -> str | None:
        """Returns, in process 0, what some process was asked for."""
        return self.lifeline.asked if self.lifeline else None

    def leave(self, code: int, line: str = "") -> NoReturn:
        """Ends this process at once, in any of its threads, and with it the others.

        Args:
            code: everyone's exit code.
            line: for standard error; the others print it, too, and whose it is.
        """
        if self.lifeline is None:
            leave(code, line)
        if line.startswith("error: "):
            told = line.replace("error: ", f"error: {self.named(self.index)}: ", 1)
        else:
            told = f"{self.named(self.index)}: {line or 'has left'}"
        self.lifeline.leave(code, line if self.leads or not line else told, told)

    def fail(self, error: Exception) -> NoReturn:
        """Ends this process by an error that came up in it, and with it the others."""
        if _may_be_echo(error):
            self.lifeline.echo(_ECHO_SECONDS)
        if isinstance(error, UserError):
            self.leave(error.exit_code, f"error: {error}")
        traceback.print_exception(error)
        self.leave(RunError.exit_code, f"error: {type(error).__name__}: {one_line(error)}")

    def part(self) -> None:
        """Ends what a process has in common with others, when all have done their work or have agreed to stop."""
        if self.lifeline:
            self.lifeline.part()

    def outlast(self) -> None:
        """Lets the others end first, after `part`, in process 0."""
        if self.lifeline:
            self.lifeline.outlast()

    def _next(self) -> int:
        self.progress.count += 1
        if not self.progress.count % _TOGETHER:
            self.client.wait_at_barrier(f"ssoup/together/{self.progress.count}", _FOREVER_MS)
        return self.progress.count

    def _say(self, key: str, value: Any) -> None:
        self.client.key_value_set(key, json.dumps(value))
        self._said.append(key)
        if len(self._said) > 2 * _TOGETHER:
            self.client.key_value_delete(self._said.popleft())


class _Elsewhere(Exception):
    """The cause of an error that process 0 has told."""


def _heard(said: dict[str, Any]) -> Any:
    if error := error_of(said):
        raise error from _Elsewhere()
    return said["value"]


def _may_be_echo(error: BaseException) -> bool:
    """Tells whether an error may be due to the end of another process, whose word is on its way.

    A collective says in many ways that a process is missing, and not always as JAX's own kind of error.
    """
    chain = [error]
    while following := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(following)
    return any(
        isinstance(one, _Elsewhere) or type(one).__name__ == "JaxRuntimeError" or "gloo" in str(one).lower()
        for one in chain
    )


ALONE = Pod()
"""The pod of one process."""
