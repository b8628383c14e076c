"""What a study has to do: the union of all stages, in stacks, and which part of it a launch does."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from ssoup_jax.errors import Diverged
from ssoup_jax.experiment.specs import Retrain, Stage
from ssoup_jax.storage.store import Store

Group = list[Stage]


def share(rows: Sequence, shard: tuple[int, int] | None) -> list:
    """Returns the part of a study's points or rows that a launch does: every N-th."""
    if shard is None:
        return list(rows)
    index, count = shard
    return list(rows[index - 1 :: count])


def groups(wanted: Iterable[Stage]) -> list[Group]:
    """Lays out stages and all that they start from, each once, parents first.

    Args:
        wanted: in the order in which they are wanted.

    Returns:
        Members that start from one parent and lose the same weights as one group, which trains as one stack; any other
        stage alone.
    """
    ordered: dict[str, Stage] = {}
    for stage in wanted:
        _add(stage, ordered)
    found: dict[object, Group] = {}
    for stage in ordered.values():
        found.setdefault(_stack(stage), []).append(stage)
    return list(found.values())


def _add(stage: Stage, ordered: dict[str, Stage]) -> None:
    """Adds a stage and all that it starts from. What an experiment calls a stage does not make it another one."""
    if stage.name not in ordered:
        for parent in stage.parents:
            _add(parent, ordered)
        ordered[stage.name] = stage


def _stack(stage: Stage) -> object:
    """What the members of one stack have in common."""
    if not isinstance(stage.spec, Retrain):
        return stage.name
    return *(parent.name for parent in stage.parents), dataclasses.replace(stage.spec, retraining=None)


def walk(
    todo: Sequence[Group], store: Store, finish: Callable[[Group, bool], bool], on_line: Callable[[str], None]
) -> dict[str, str]:
    """Finishes groups as their parents are there; other launches that do the same share the work.

    A group that another launch is at is passed over while there is anything else to do. One that diverges takes those
    with it that start from it; all others are finished.

    Args:
        todo: parents first.
        store: where artifacts are.
        finish: finishes a group; told whether to wait for another launch that is at it, and returns False if it did
            not because of that.
        on_line: told in one line how far the study is, and what diverged.

    Returns:
        Why each stage that is not finished is not, by its name.
    """
    failed: dict[str, str] = {}
    left, n_all = list(todo), sum(map(len, todo))

    def lost(group: Group) -> str | None:
        return next((failed[parent.name] for parent in group[0].parents if parent.name in failed), None)

    def is_ready(group: Group) -> bool:
        return all(store.has(parent.name) for parent in group[0].parents)

    def is_done(group: Group, wait: bool) -> bool:
        try:
            return finish(group, wait)
        except Diverged as error:
            failed.update(dict.fromkeys((stage.name for stage in group), str(error)))
            on_line(f"error: {error}; the study goes on without it")
            return True

    while left:
        later = []
        for place, group in enumerate(left):
            if reason := lost(group):
                failed.update(dict.fromkeys((stage.name for stage in group), reason))
            elif not is_ready(group):
                later.append(group)
            else:
                if not all(store.has(stage.name) for stage in group):
                    n_left = sum(map(len, [*later, *left[place:]]))
                    on_line(f"study: {n_all - n_left} of {n_all} stages; now {called(group)}")
                if not is_done(group, wait=False):
                    later.append(group)
        if later == left:  # nothing but what others are at, and what starts from it
            first = next(group for group in left if is_ready(group))
            is_done(first, wait=True)
            later.remove(first)
        left = later
    return failed


def called(group: Group) -> str:
    """Says what people call a group, such as `'IMP phase 1, 3 members of run 2'`."""
    first = group[0]
    title = f"{first.kind} phase {first.phase}, {len(group)} members" if len(group) > 1 else first.title
    return title if first.run_id is None else f"{title} of run {first.run_id}"
