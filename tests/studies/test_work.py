"""The union of stages, in stacks and parents first, and how launches share it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssoup_jax.data import sources
from ssoup_jax.errors import Diverged
from ssoup_jax.experiment.plan import make_plan
from ssoup_jax.experiment.specs import Retrain
from ssoup_jax.studies import work
from ssoup_jax.studies.methods import METHODS
from tests.experiment import tiny

FINGERPRINT = sources.load("digits").fingerprint


def plan_of(settings):
    return make_plan(settings, FINGERPRINT)


def rows(method: str, m: int = 3, **changes):
    return METHODS[method].rows(tiny.settings(**changes), m, plan_of)


@given(st.integers(0, 200), st.integers(1, 30))
def test_shards_cut_the_work_without_loss_or_repetition(n, count):
    parts = [work.share(range(n), (index, count)) for index in range(1, count + 1)]
    assert sorted(itertools.chain(*parts)) == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert work.share(range(n), None) == list(range(n))


@given(st.lists(st.sampled_from(list(METHODS)), min_size=1, unique=True), st.integers(2, 4))
def test_every_stage_stands_once_and_after_its_parents(methods, m):
    wanted = [stage for method in methods for row in rows(method, m) for stage in row.stages]
    groups = work.groups(wanted)
    names = [stage.name for group in groups for stage in group]
    assert len(set(names)) == len(names)
    assert {stage.name for stage in wanted} <= set(names)
    done = set()
    for group in groups:
        assert all(parent.name in done for stage in group for parent in stage.parents)
        done |= {stage.name for stage in group}


def test_members_of_different_m_and_length_are_one_stack():
    wanted = [
        stage for m in (2, 3) for name in ("SMS", "IMP_mx", "IMP") for row in rows(name, m) for stage in row.stages
    ]
    stacks = [group for group in work.groups(wanted) if isinstance(group[0].spec, Retrain) and group[0].phase == 1]
    (stack,) = stacks
    assert [(one.spec.retraining.seed, one.spec.retraining.n_epochs) for one in stack] == [
        (0, 1),
        (1, 1),
        (0, 2),
        (2, 1),
        (0, 3),
    ]


def test_reprune_is_the_average_of_whole_runs_pruned_to_the_goal_again():
    (row,) = rows("IMP-RePrune", 3, n_phases=2, goal_sparsity=0.9)
    (stage,) = row.stages
    assert (stage.spec.again, stage.spec.amount, stage.spec.retraining.n_epochs, row.phase) == (True, 0.9, 0, 2)
    (average,) = stage.parents
    assert average.kind == "Average"
    assert [member.spec.retraining.seed for member in average.parents] == [0, 1, 2]
    for member in average.parents:
        assert (member.phase, member.parents[0].phase, member.parents[0].parents[0].kind) == (2, 1, "Dense")
        assert member.parents[0].spec.retraining.seed == member.spec.retraining.seed, "each run goes its own way"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"split_vals": (3, 1, 4)}, [3, 1]),
        ({"members": ({"seed": 5}, {"seed": 6}, {"seed": 7})}, [5, 6]),
        ({"pool": "seed:10..90", "pool_seed": 2, "n_splits_total": 3}, None),
    ],
)
def test_the_first_m_of_members_however_they_are_given_and_imp_is_one_model_by_the_settings(changes, expected):
    changes = {"n_splits_total": None} | changes
    seeds = [[stage.spec.retraining.seed for stage in rows("SMS", m, **changes)[1].stages] for m in (2, 3)]
    assert seeds[0] == seeds[1][:2] and len(set(seeds[1])) == 3
    assert expected in (None, seeds[0])
    assert [stage.spec.retraining.seed for stage in rows("IMP", None, **changes)[0].stages] == [0]


def test_one_shot_takes_as_long_as_all_phases_of_imp():
    (row,) = rows("one-shot", n_phases=3, phase=1, n_epochs_per_phase=4, goal_sparsity=0.9)
    (stage,) = row.stages
    assert (row.phase, stage.phase, stage.spec.retraining.n_epochs) == (3, 1, 12)
    assert stage.spec.amount == pytest.approx(0.9)


class Finished:
    """A store that knows names only."""

    def __init__(self):
        self.names = set()

    def has(self, name: str) -> bool:
        return name in self.names


def walk(groups, finish):
    store, lines = Finished(), []

    def finishing(group, wait):
        if finish(group, wait):
            assert all(parent.name in store.names for stage in group for parent in stage.parents)
            store.names |= {stage.name for stage in group}
            return True
        return False

    return work.walk(groups, store, finishing, lines.append), store.names, lines


GROUPS = work.groups([stage for run in (1, 2) for row in rows("SMS", 2, run_id=run) for stage in row.stages])


def test_all_is_finished_where_nobody_else_is_at_it():
    failed, done, lines = walk(GROUPS, lambda group, wait: True)
    assert failed == {} and done == {stage.name for group in GROUPS for stage in group}
    assert lines[0] == f"study: 0 of {len(done)} stages; now Dense of run 1"
    assert lines[1] == f"study: 1 of {len(done)} stages; now IMP phase 1, 2 members of run 1"


@given(st.sets(st.integers(0, len(GROUPS) - 1)))
def test_what_others_are_at_is_passed_over_and_waited_for_at_the_end(held):
    order = []

    def finish(group, wait):
        index = GROUPS.index(group)
        if index in held and not wait:
            return False
        order.append((index, wait))
        return True

    failed, done, _ = walk(GROUPS, finish)
    assert failed == {} and len(done) == sum(map(len, GROUPS))
    assert sorted(index for index, _ in order) == list(range(len(GROUPS)))
    assert {index for index, waited in order if waited} == held


def test_what_diverges_takes_with_it_what_starts_from_it_and_nothing_else():
    (sick,) = (group for group in GROUPS if group[0].phase == 1 and len(group) == 2 and group[0].run_id == 1)

    def finish(group, wait):
        if group == sick:
            raise Diverged("IMP phase 1: diverged at step 3")
        return True

    failed, done, lines = walk(GROUPS, finish)
    lost = {stage.name for group in GROUPS for stage in group if stage.run_id == 1 and stage.kind != "Dense"}
    assert failed == dict.fromkeys(lost, "IMP phase 1: diverged at step 3")
    assert done == {stage.name for group in GROUPS for stage in group} - lost
    assert "error: IMP phase 1: diverged at step 3; the study goes on without it" in lines
