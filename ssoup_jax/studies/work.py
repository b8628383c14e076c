"""What a study has to do: the union of all stages, in stacks, and which part of it a launch does."""

import dataclasses
import graphlib
from collections.abc import Callable, Iterable, Sequence

from ssoup_jax.errors import Diverged
from ssoup_jax.experiment.specs import Dense, Retrain, Stage
from ssoup_jax.storage.store import Store

Group = list[Stage]


def share(rows: Sequence, shard: tuple[int, int] | None) -> list:
    """Returns the part of a study's points or rows that a launch does: every N-th."""
    if shard is None:
        return list(rows)
    index, count = shard
    return list(rows[index - 1 :: count])


def groups(wanted: Iterable[Stage], most: int = 0) -> list[Group]:
    """Lays out stages and all that they start from, each once, parents first.

    Args:
        wanted: in the order in which they are wanted.
        most: how many members a group with several parents may have; 0: there is none.

    Returns:
        Members that start from one parent and lose the same share of its weights as one group, which trains as one
        stack; with those of other runs and parents, as long as they are no more than `most`. Dense models likewise.
        Any other stage alone.
    """
    ordered: dict[str, Stage] = {}
    for stage in wanted:
        _add(stage, ordered)
    of_one_run: dict[object, Group] = {}
    for stage in ordered.values():
        of_one_run.setdefault(_stack(stage), []).append(stage)
    if not most:
        return list(of_one_run.values())
    found: dict[object, Group] = {}
    packs: dict[object, int] = {}
    for group in of_one_run.values():
        alike = _of_any_run(group[0])
        pack = packs.setdefault(alike, 0)
        if len(found.get((alike, pack), [])) + len(group) > most:
            pack = packs[alike] = pack + 1
        found.setdefault((alike, pack), []).extend(group)
    return _parents_first(list(found.values()))


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


def _of_any_run(stage: Stage) -> object:
    """What a stack of several runs has in common. Phases see to it that none starts from one of its own."""
    match stage.spec:
        case Dense():
            return dataclasses.replace(stage.spec, run_id=0)
        case Retrain():
            return dataclasses.replace(stage.spec, run_id=0, retraining=None)
    return stage.name


def _parents_first(groups: list[Group]) -> list[Group]:
    """Orders groups so that what they start from comes before them."""
    group_of = {stage.name: number for number, group in enumerate(groups) for stage in group}
    before = [sorted({group_of[parent.name] for stage in group for parent in stage.parents}) for group in groups]
    return [groups[number] for number in graphlib.TopologicalSorter(dict(enumerate(before))).static_order()]


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

    def without_lost(group: Group) -> Group:
        kept = []
        for stage in group:
            reason = next((failed[parent.name] for parent in stage.parents if parent.name in failed), None)
            if reason is None:
                kept.append(stage)
            else:
                failed[stage.name] = reason
        return kept

    def is_ready(group: Group) -> bool:
        return all(store.has(parent.name) for stage in group for parent in stage.parents)

    def is_done(group: Group, wait: bool) -> bool:
        try:
            return finish(group, wait)
        except Diverged as error:
            failed.update({stage.name: str(error) for stage in group if not store.has(stage.name)})
            on_line(f"error: {error}; the study goes on without it")
            return True

    while left:
        later = []
        for place, group in enumerate(map(without_lost, left)):
            if group and not is_ready(group):
                later.append(group)
            elif group:
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
    first, runs = group[0], list(dict.fromkeys(stage.run_id for stage in group))
    title = first.title
    if len(group) > 1:
        title = first.kind if first.kind == "Dense" else f"{first.kind} phase {first.phase}, {len(group)} members"
    if first.run_id is None:
        return title
    return f"{title} of run {runs[0]}" if len(runs) == 1 else f"{title} of runs {', '.join(map(str, runs))}"
