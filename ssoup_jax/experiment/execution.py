"""Which executor trains a stack."""

import contextlib

import jax

from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.context import Context
from ssoup_jax.stack import executors
from ssoup_jax.training import autotune, loop, memory
from ssoup_jax.training.state import TrainState
from ssoup_jax.trees import PyTree


def choose(context: Context, state: TrainState, mask: PyTree, recipe: loop.Recipe) -> str:
    """Chooses how a stack is trained: as the setting says, or the fastest as measured, as far as memory allows.

    Args:
        context: the experiment's.
        state: the stack's as training begins; left alone.
        mask: one member's.
        recipe: how it is trained.

    Returns:
        The executor's full name.

    Raises:
        SettingsError: the stack does not fit into memory, however it is executed.
    """
    settings, m = context.settings, len(recipe.names)
    member = memory.footprint(context.problem, context.image_shape, settings.batch_size, jax.default_backend())

    def fitting(execution: str) -> str:
        execution = executors.resolve(execution)
        free = memory.free_bytes(execution)
        fit = memory.fit(execution, m, member, free, len(jax.devices()))
        if fit.execution != execution:
            context.console.line(
                f"execution: {execution} does not fit into {free / 1e9:.1f} GB of memory; {fit.execution} does"
            )
        return fit.execution

    if settings.execution != "auto":
        return fitting(settings.execution)
    fit: dict[str, None] = {}
    dropped: list[SettingsError] = []
    for name in autotune.candidates(jax.default_backend(), len(jax.devices()), m):
        try:
            fit[fitting(name)] = None
        except SettingsError as error:
            dropped.append(error)
    if not fit:
        raise dropped[0]
    names = tuple(fit)
    if len(names) == 1:
        return names[0]
    blocks = context.feed.training(recipe.keys, 0, settings.batch_size)
    with contextlib.closing(blocks):
        block = next(blocks)
    dtype = "bfloat16" if settings.use_amp else "float32"
    return autotune.decide(
        names,
        autotune.measure_step(context.problem_for, block.examples, state, mask, recipe, block.batches),
        int(recipe.n_steps.max()),
        context.console.line,
        context.choices,
        autotune.key(settings.arch, context.image_shape, settings.batch_size, m, dtype, settings.remat),
    ).execution
