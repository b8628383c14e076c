"""Members of several runs as one stack: the same results, checkpoints, and what goes astray costs only itself."""

import io
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssoup_jax import trees
from ssoup_jax.data import sources
from ssoup_jax.experiment import stages
from ssoup_jax.experiment.context import Context
from ssoup_jax.experiment.plan import make_plan
from ssoup_jax.experiment.specs import Dense, Retrain
from ssoup_jax.experiment.stop import Stopped
from ssoup_jax.report.console import Console
from ssoup_jax.studies import work
from ssoup_jax.studies.methods import METHODS
from ssoup_jax.studies.run import run_study
from tests.experiment import tiny

STUDY = {"runs": (1, 2), "members": (2,), "goals": (0.9,), "vary": None, "reprune_epochs": 0}
FINGERPRINT = sources.load("digits").fingerprint


def launch(workdir: Path, methods: str, stop=None, **changes):
    printed = io.StringIO()
    study = STUDY | {"methods": methods}
    settings = tiny.settings(study=study, n_splits_total=None, **{"stack_members": 100} | changes)
    return run_study(settings, workdir, Console(printed), stop), printed.getvalue()


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, one in ours.items():
        other = theirs[name]
        jax.tree.map(np.testing.assert_array_equal, (one.variables, one.mask), (other.variables, other.mask))
        assert one.record["metrics"] == other.record["metrics"]
        assert one.record.get("pruned") == other.record.get("pruned")


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """The study with each run apart: its workdir and its tables."""
    workdir = tmp_path_factory.mktemp("apart")
    tables, printed = launch(workdir, "SMS, IMP_mx", stack_members=0, execution="loop")
    assert "runs train as one stack" not in printed
    return workdir, tables


def test_results_are_those_of_each_run_apart(apart, tmp_path):
    tables, printed = launch(tmp_path, "SMS, IMP_mx", execution="loop")
    assert "study: runs train as one stack, up to 100 members at a time (stack_members)" in printed
    assert "Dense of 2 runs: step 0/" in printed
    # Of each run two members and one that takes twice as long; in the second phase they start from another model each.
    for seed, length in ((0, "1 epoch"), (1, "1 epoch"), (0, "2 epochs")):
        assert printed.count(f"IMP phase 1, member {seed} of run 2 ({length}): ") == 1
    for phase in (1, 2):
        assert f"IMP phase {phase} (6 members of 2 runs): step 0/" in printed
    assert tables == apart[1]
    assert_equal(tiny.load(tmp_path), tiny.load(apart[0]))


def test_members_side_by_side_differ_by_rounding_only(apart, tmp_path):
    launch(tmp_path, "IMP", execution="vmap", n_phases=1)
    ours, theirs = tiny.load(tmp_path), tiny.load(apart[0])
    dense = [name for name in ours if name.startswith("dense")]
    assert len(dense) == 2
    for name in dense:
        # Two epochs of SGD: 42 steps carry the rounding of their sums, 1e-7 each, on.
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=2e-5),
            ours[name].variables.params,
            theirs[name].variables.params,
        )


def test_a_stopped_stack_of_several_runs_goes_on_where_it_was(apart, tmp_path):
    n_stops, printed = 0, ""
    for _ in range(30):
        try:
            _, text = launch(tmp_path, "SMS, IMP_mx", tiny.StopAfter(6), execution="loop")
        except Stopped:
            n_stops += 1
        else:
            printed = text
            break
    assert n_stops > 1 and printed, "each launch took some steps, and the last one had nothing left to stop"
    assert_equal(tiny.load(tmp_path), tiny.load(apart[0]))


def test_one_run_whose_dense_model_diverges_costs_the_others_nothing(apart, tmp_path, monkeypatch):
    draw = Context.initial_variables

    def spoiled(context, run_id):
        found = draw(context, run_id)
        return found if run_id == 1 else jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), found)

    monkeypatch.setattr(Context, "initial_variables", spoiled)
    (table,), printed = launch(tmp_path, "SMS, IMP_mx", execution="loop")
    assert "error: Dense of run 2: diverged at step 1; the study goes on without it" in printed
    assert table.n_runs == 1 and table.missing
    assert all("Dense of run 2: diverged at step 1" in line for line in table.missing)
    ours, theirs = tiny.load(tmp_path), tiny.load(apart[0])
    assert len(ours) * 2 == len(theirs)
    assert_equal(ours, {name: theirs[name] for name in ours})


def test_a_member_that_diverges_costs_what_starts_from_it(tmp_path, monkeypatch):
    rates = stages._learning_rates

    def too_large(context, stage, pruned):
        found = rates(context, stage, pruned)
        return found if (stage.run_id, stage.phase) != (2, 1) else np.full_like(found, 1e30)

    monkeypatch.setattr(stages, "_learning_rates", too_large)
    (table,), printed = launch(tmp_path, "IMP", execution="loop")
    assert "IMP phase 1, member 0 of run 2: not finite at step" in printed
    lost = "IMP phase 2, member 0 of run 2: the model it starts from diverged at step"
    assert f"error: {lost}" in printed
    assert len(table.missing) == 2
    found = tiny.load(tmp_path)
    assert sorted(name.split("-")[0] for name in found) == ["dense"] * 2 + ["phase1"] * 2 + ["phase2"]


def wanted(methods, runs, m):
    return [
        stage
        for run in runs
        for method in methods
        for row in METHODS[method].rows(tiny.settings(run_id=run), m, lambda settings: make_plan(settings, FINGERPRINT))
        for stage in row.stages
    ]


@given(
    st.lists(st.sampled_from(list(METHODS)), min_size=1, unique=True),
    st.integers(1, 3),
    st.integers(2, 3),
    st.integers(1, 12),
)
def test_stacks_of_several_runs_hold_every_stage_once_after_its_parents_and_no_more_than_is_allowed(
    methods, n_runs, m, most
):
    stages = wanted(methods, range(1, n_runs + 1), m)
    alone, found = work.groups(stages), work.groups(stages, most)
    assert sorted(stage.name for group in found for stage in group) == sorted(
        stage.name for group in alone for stage in group
    )
    done = set()
    for group in found:
        assert all(parent.name in done for stage in group for parent in stage.parents)
        done |= {stage.name for stage in group}
        parents = {parent.name for stage in group for parent in stage.parents}
        if len(group) > most:
            assert len(parents) == 1, "members of one parent stay together whatever is allowed"
        if len(group) > 1:
            assert isinstance(group[0].spec, Dense | Retrain)
            assert len({(stage.kind, stage.phase) for stage in group}) == 1


def test_dense_models_of_all_runs_and_each_phase_of_them_are_a_stack():
    found = work.groups(wanted(["SMS", "IMP"], (1, 2, 3), 2), 100)
    assert [work.called(group) for group in found if isinstance(group[0].spec, Dense | Retrain)] == [
        "Dense of runs 1, 2, 3",
        "IMP phase 1, 6 members of runs 1, 2, 3",
        "IMP phase 2, 9 members of runs 1, 2, 3",
    ]


def test_a_stack_of_one_run_is_as_before():
    assert work.groups(wanted(["SMS"], (1,), 2), 100) == work.groups(wanted(["SMS"], (1,), 2))


def test_masks_of_a_stack_are_each_runs_own(apart):
    masks = {}
    for name, artifact in tiny.load(apart[0]).items():
        if name.startswith("phase1-imp"):
            mask = np.asarray(trees.named_leaves(artifact.mask)["fc1/kernel"])
            masks.setdefault(mask.tobytes(), []).append(name)
    assert sorted(map(len, masks.values())) == [3, 3]
