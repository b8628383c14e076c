"""Compiles what a training is about to run: before it is timed, side by side, and only as large as memory allows."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np

from ssoup_jax.stack import executors, memory
from ssoup_jax.training.step import Inputs, Shared
from ssoup_jax.trees import PyTree


class Ahead:
    """The programs of one training.

    Args:
        fn: what they run, for one member.
        rest: examples in the partial batch that comes after the full ones of the first block; 0: none comes, or its
            examples are not known yet.
    """

    def __init__(self, fn: executors.MemberFn, rest: int):
        self._fn = fn
        self._rest = rest
        self._known: set[tuple] = set()

    def fit(
        self,
        execution: str,
        shared: Shared,
        state: PyTree,
        inputs: Inputs,
        active: np.ndarray,
        on_line: Callable[[str], None],
    ) -> str:
        """Compiles the first block's program and beside it that of the partial batch; see `memory.fit`."""
        with ThreadPoolExecutor(1) as pool:
            beside: Future | None = None
            if self._rest:
                beside = pool.submit(self.compile, execution, shared, state, _cut(inputs, self._rest), active)
            fitting = memory.fit(execution, self._fn, shared, state, inputs, active, on_line)
            self._known.add(_key(fitting, inputs, active))
            if beside is not None and fitting == execution:
                beside.result()
        return fitting

    def compile(self, execution: str, shared: Shared, state: PyTree, inputs: Inputs, active: np.ndarray) -> None:
        """Compiles the program that these arguments need, unless it was compiled before; computes nothing."""
        if _key(execution, inputs, active) not in self._known:
            executors.compiled(execution, self._fn, shared, state, inputs, active)
            self._known.add(_key(execution, inputs, active))


def _key(execution: str, inputs: Inputs, active: np.ndarray) -> tuple:
    return execution, inputs.batches.shape, len(active)


def _cut(inputs: Inputs, rest: int) -> Inputs:
    """Returns inputs of the shapes of a single batch of `rest` examples."""
    return inputs.replace(
        batches=inputs.batches[:, :1, :rest], schedules=jax.tree.map(lambda table: table[:, :1], inputs.schedules)
    )
