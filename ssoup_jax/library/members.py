"""Training, recalibrating and comparing the members of a stack: doors to what `launch.py` runs, for any task."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ssoup_jax import trees
from ssoup_jax.data.batches import Batches
from ssoup_jax.errors import SettingsError
from ssoup_jax.metrics import soup_distances
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning.masks import check_mask, full_mask
from ssoup_jax.stack import names
from ssoup_jax.stack.held import together
from ssoup_jax.training import checks, loop, measured, step
from ssoup_jax.training import recalibrate as batch_norm
from ssoup_jax.training.hyper import Hyper
from ssoup_jax.training.loop import Progress, Snapshot
from ssoup_jax.training.step import TrainState
from ssoup_jax.training.task import Task
from ssoup_jax.trees import PyTree


@dataclass(frozen=True)
class Trained:
    """Members after their training.

    Attributes:
        stack: leaves `[m, ...]` on the host, parameters or `Variables` as they were given.
        losses: training losses before each update, float32 `[m, T]`; NaN where a member had finished.
        diverged: the step at which a member's loss or weights were no longer finite, by member.
        state: with the optimizer's, to go on from.
    """

    stack: PyTree | Variables
    losses: np.ndarray
    diverged: dict[int, int]
    state: TrainState

    @property
    def healthy(self) -> PyTree | Variables:
        """The stack of the members that did not diverge."""
        kept = [i for i in range(len(self.losses)) if i not in self.diverged]
        return trees.member(self.stack, np.array(kept, int)) if self.diverged else self.stack


def train_members(
    task: Task,
    stack: PyTree | Variables | TrainState | Snapshot,
    batches: Batches,
    hyper: Hyper,
    *,
    mask: PyTree | None = None,
    execution: str = "auto",
    on_chunk: Callable[[Progress, Snapshot], None] = lambda progress, snapshot: None,
    on_divergence: str = "exclude",
    on_line: Callable[[str], None] = lambda line: None,
) -> Trained:
    """Trains the m members of a stack as one program, each to the end of its own steps.

    Args:
        task: loss and optimizer; make it once.
        stack: where the members start: parameters or `Variables`, leaves `[m, ...]`, which are left alone; or the state
            of an earlier call, which is donated.
        batches: see `from_arrays` and `from_batches`.
        hyper: what the members differ in, see `hyper`.
        mask: of one model, for all members; what it prunes is and stays zero. None: nothing is pruned.
        execution: how the stack executes: `'auto'`, `'measured'`, `'map'`, `'vmap'`, `'unroll'`, `'loop'`, `'shard'`,
            `'2x4:vmap'`. Several devices share the members, and batches too where the task can be cut.
        on_chunk: called about once a second, with what was trained and the state, whose arrays the next chunk takes.
        on_divergence: `'exclude'` stops a member that is no longer finite and goes on with the others; or `'fail'`.
        on_line: told what does not fit into memory, and which executor was the fastest.

    Returns:
        The trained members.

    Raises:
        SettingsError: something does not fit together; nothing was trained.
        RunError: a member diverged, and that is to be a failure.

    Example:
        >>> import jax, numpy as np, optax
        >>> from ssoup_jax import Task, from_arrays, hyper, stack_members, stateless, train_members
        >>> x = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
        >>> data = from_arrays({"x": x, "y": x @ np.float32([1, -2, 0])}, batch_size=16)
        >>> def loss(params, batch, key):
        ...     return ((batch["x"] @ params["w"] - batch["y"]) ** 2).mean()
        >>> start = stack_members([{"w": np.zeros(3, np.float32)}] * 2)
        >>> two = hyper(2, 100, jax.random.key(0), learning_rate=[0.05, 0.2])
        >>> trained = train_members(Task(stateless(loss), optax.sgd), start, data, two)
        >>> bool(np.abs(trained.stack["w"] - [1, -2, 0]).max() < 1e-3)
        True
    """
    if not isinstance(batches, Batches):
        raise SettingsError(
            f"batches: found {type(batches).__name__}; allowed: from_arrays(arrays, batch_size) or from_batches(...)"
        )
    if not isinstance(hyper, Hyper):
        raise SettingsError(f"hyper: found {type(hyper).__name__}; allowed: hyper(m, n_steps, key, learning_rate=...)")
    m = len(hyper.n_steps)
    checks.check_names(task.optimizer, hyper.values)
    start = begin(task, stack, hyper, mask)
    state = start.state if isinstance(start, Snapshot) else start
    found = trees.stack_size(state)
    if found != m:
        raise SettingsError(f"stack: found {found} member{'s' * (found > 1)}; hyper is of {m}")
    checks.check(task, state, batches.like, hyper)
    checks.notice_remade(task)
    size = batches.batch_size
    if execution == "measured":
        execution = measured.choose(
            names.candidates(jax.default_backend(), len(jax.devices()), load(task, state.variables.params, m, size)),
            measured.probe(task, batches.feed, jax.device_get(state), hyper, batches.batch_size),
            on_line,
        )
    trained = loop.train(
        task,
        batches.feed,
        start,
        hyper,
        batches.batch_size,
        executor(execution, load(task, state.variables.params, m, size)),
        on_chunk,
        on_divergence,
        on_line,
    )
    state = jax.device_get(together(trained.state))
    bare = not isinstance(stack, Variables | TrainState | Snapshot)
    return Trained(state.variables.params if bare else state.variables, trained.losses, trained.diverged, state)


def begin(
    task: Task, stack: PyTree | Variables | TrainState | Snapshot, hyper: Hyper, mask: PyTree | None
) -> TrainState | Snapshot:
    """Returns the state that training starts from; what is one already stays.

    Raises:
        SettingsError: the stack holds what cannot be trained, its members are not all there, or the mask does not fit.
    """
    if isinstance(stack, Snapshot | TrainState):
        checks.check_arrays("state", stack.state if isinstance(stack, Snapshot) else stack)
        return stack
    variables = as_variables(stack)
    checks.check_arrays("params", variables.params)
    checks.check_arrays("collections", variables.collections)
    m = len(hyper.n_steps)
    for name, leaf in (trees.named_leaves(variables.params) | trees.named_leaves(variables.collections)).items():
        if np.shape(leaf)[:1] != (m,):
            found = np.shape(leaf)[0] if np.shape(leaf) else "no"
            raise SettingsError(f"stack: {name} has {found} members; hyper is of {m}; see stack_members")
    mask = full_mask(trees.member(variables.params, 0), lambda name: False) if mask is None else mask
    check_mask(mask, trees.member(variables.params, 0))
    return step.init(task, hyper.values, variables, mask)


def as_variables(model: PyTree | Variables) -> Variables:
    """Returns parameters without collections as `Variables`; those stay."""
    return model if isinstance(model, Variables) else Variables(model, {})


def load(task: Task, params: PyTree, m: int, batch_size: int) -> names.Load:
    """Returns what a stack asks of the machine, as far as a task tells; leaves of `params` are `[m, ...]`."""
    convolutional = any(leaf.ndim == 5 for leaf in jax.tree.leaves(params))
    return names.Load(m, convolutional, None if task.cut is None else batch_size)


def executor(execution: str, stack: names.Load) -> str:
    """Returns the full name of the executor that a setting means for a stack.

    Raises:
        SettingsError: it has not as many devices as there are, or cuts batches that cannot be cut.
    """
    found = names.rule(execution, jax.default_backend(), len(jax.devices()), stack)
    mesh = names.parse(found).mesh
    if mesh is not None:
        names.check_mesh(mesh, len(jax.devices()), stack.batch_size)
    return found


def recalibrate(
    task: Task,
    stack: Variables,
    batches: Batches,
    key: jax.Array,
    *,
    method: str = "moving",
    fraction: float = 1.0,
    collection: str = "batch_stats",
    execution: str = "auto",
) -> Variables:
    """Re-estimates BatchNorm's running statistics, which those of averaged weights are not the average of.

    Args:
        task: says what a batch does to the statistics.
        stack: leaves `[m, ...]`; `stack_members([model])` for one model.
        batches: training data; the first ones of an epoch are used, in order.
        key: typed PRNG key `[]`, for what is random in the loss, or keys `[m]`.
        method: `'moving'`: the moving average of the layers, from mean 0 and variance 1; `'exact'`: the plain average
            over the batches, for which the task needs `moments`.
        fraction: share of an epoch's batches, 0 to 1.
        collection: the statistics; other collections stay as they are.
        execution: see `train_members`.

    Returns:
        The stack with new statistics; as it is, where it has none.

    Raises:
        SettingsError: there is no such method, or it needs what the task does not have.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax
        >>> from ssoup_jax import Task, Variables, from_arrays, recalibrate, stack_members
        >>> def loss(params, collections, batch, key):
        ...     old = collections["batch_stats"]
        ...     new = {"mean": 0.5 * old["mean"] + 0.5 * batch.mean(), "var": 0.5 * old["var"] + 0.5 * batch.var()}
        ...     return params["w"] ** 2, ({"batch_stats": new}, {})
        >>> model = Variables({"w": np.float32(1)}, {"batch_stats": {"mean": np.float32(7), "var": np.float32(7)}})
        >>> data = from_arrays(np.float32([1, 3, 1, 3]), batch_size=2)
        >>> recalibrate(Task(loss, optax.sgd), stack_members([model]), data, jax.random.key(0)).collections
        {'batch_stats': {'mean': array([1.5], dtype=float32), 'var': array([1.], dtype=float32)}}
    """
    if method not in batch_norm.METHODS:
        raise SettingsError(f"method: found {method!r}; allowed: {', '.join(batch_norm.METHODS)}")
    if method == "exact" and task.moments is None:
        raise SettingsError("method: 'exact' needs a task with moments; allowed without: 'moving'")
    if collection not in stack.collections:
        return stack
    m = trees.stack_size(stack)
    return batch_norm.recalibrate(
        task,
        batches.feed,
        stack,
        batch_size=batches.batch_size,
        fraction=fraction,
        method=method,
        keys=jax.random.split(key, m) if key.ndim == 0 else key,
        execution=executor(execution, load(task, stack.params, m, batches.batch_size)),
        only=collection,
    )


def distances(stack: PyTree | Variables) -> dict[str, Any]:
    """Measures how far the members of a stack are from one another; a soup of distant ones is rarely good.

    Args:
        stack: parameters or `Variables`, leaves `[m, ...]`.

    Returns:
        See `metrics.soup_distances`: L2 distances and angles over all pairs, and distances to the mean of all.

    Example:
        >>> import numpy as np
        >>> from ssoup_jax import distances
        >>> found = distances({"w": np.array([[1.0, 0.0], [0.0, 1.0]])})
        >>> round(found["l2_max"], 3), round(found["angle_max"], 1)
        (1.414, 90.0)
    """
    return soup_distances(as_variables(stack).params)
