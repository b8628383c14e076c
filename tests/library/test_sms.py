"""The whole method on a linear model: its phases, its soups, and what a workdir keeps of it."""

import jax
import numpy as np
import optax
import pytest

from ssoup_jax import RunError, SettingsError, Task, from_batches, hyper, member, sparse_model_soup, stateless
from ssoup_jax.library import kept
from ssoup_jax.training import loop
from tests.library import linear


def run(task=linear.TASK, own=None, **changes):
    options = {"sparsity": 0.5, "n_phases": 2, "execution": "loop"} | changes
    return sparse_model_soup(
        task, linear.start(), options.pop("batches", linear.data()), own or linear.members(3), **options
    )


def test_phases_prune_equally_and_soups_are_means_of_members():
    first, last = run(weights="uniform")
    assert [first.sparsity, last.sparsity] == [0.25, 0.5]
    for phase in (first, last):
        np.testing.assert_allclose(phase.soup["kernel"], phase.members["kernel"].mean(axis=0), rtol=1e-6)
        assert not np.any(phase.members["kernel"][:, ~np.asarray(phase.mask["kernel"])])
        assert phase.distances["l2_max"] > 0
        assert not np.isnan(phase.losses).any()
        assert phase.weights == {0: 1.0, 1: 1.0, 2: 1.0}
    assert np.array_equal(last.soup["kernel"] != 0, [True, True, False, False])


def test_one_member_is_iterative_pruning():
    (only,) = run(own=linear.members(1), n_phases=1)
    np.testing.assert_array_equal(only.soup["kernel"], member(only.members, 0)["kernel"])


def test_a_greedy_soup_says_what_it_tried():
    def score(params):
        return -abs(float(params["kernel"][0]) - 1)

    (phase,) = run(weights="greedy", score=score, n_phases=1, own=linear.members(3, learning_rate=[0.05, 1e-4, 2e-4]))
    assert len(phase.trials) == 2
    assert [trial.accepted for trial in phase.trials] == [False, False]
    assert list(phase.weights) == [0]


def test_members_that_diverge_are_left_out():
    own = linear.members(3, n_steps=60, learning_rate=[0.05, 1e30, 0.01])
    (phase,) = run(own=own, n_phases=1)
    assert set(phase.diverged) == {1} and list(phase.weights) == [0, 2]
    (phase,) = run(own=own, n_phases=1, weights=[1, 1, 3])
    assert phase.weights == {0: 1.0, 2: 3.0}
    with pytest.raises(RunError, match=r"^phase 1: only 1 of 2 members did not diverge"):
        run(own=linear.members(2, n_steps=60, learning_rate=[0.05, 1e30]), n_phases=1)


class Cut(Exception):
    pass


def test_a_run_that_is_cut_off_goes_on_and_ends_with_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    expected, steps = run(), []

    def cut(progress, snapshot):
        steps.append(progress.step)
        if len(steps) == 9:  # in the second phase
            raise Cut

    options = {"workdir": tmp_path, "checkpoint_every": "1 steps"}
    with pytest.raises(Cut):
        run(on_chunk=cut, **options)
    lines, seen = [], []
    found = run(on_line=lines.append, on_chunk=lambda progress, snapshot: seen.append(progress.step), **options)
    assert lines[0].startswith("phase 1: finished earlier, ")
    assert "goes on after step" in lines[1]
    assert seen[0] > 1 and seen[-1] == 6
    for phases in (found, run(on_chunk=cut, **options)):
        for own, other in zip(phases, expected, strict=True):
            for name in ("soup", "members", "losses"):
                jax.tree.map(np.testing.assert_array_equal, getattr(own, name), getattr(other, name))
            np.testing.assert_array_equal(own.mask["kernel"], other.mask["kernel"])
            assert (own.sparsity, own.weights, own.trials) == (other.sparsity, other.weights, other.trials)
            assert own.distances == pytest.approx(other.distances, rel=1e-12)


def other_loss(params, batch, key):
    return abs(batch["x"] @ params["kernel"] - batch["y"]).mean()


OTHERS = {
    "loss": {"task": Task(stateless(other_loss), optax.sgd)},
    "optimizer": {"task": Task(stateless(linear.loss), optax.adam)},
    "rate": {"own": linear.members(3, learning_rate=0.04)},
    "steps": {"own": linear.members(3, n_steps=5)},
    "seed": {"own": hyper(3, 6, jax.random.key(1), learning_rate=0.05)},
    "batch": {"batches": linear.data(8)},
    "sparsity": {"sparsity": 0.75},
    "selector": {"selector": "uniform"},
    "weights": {"weights": [1, 1, 2]},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_what_changes_a_result_changes_its_name(changes, monkeypatch, tmp_path):
    names = []

    class Named(Exception):
        pass

    def name(*arguments):
        names.append(stage_name(*arguments))
        raise Named

    stage_name = kept.stage_name
    monkeypatch.setattr("ssoup_jax.library.sms.stage_name", name)
    for own in ({}, {}, changes):
        with pytest.raises(Named):
            run(**own, workdir=tmp_path)
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sparsity": 1.5}, "^goal_sparsity: found 1.5"),
        ({"selector": "globl"}, "^pruning_selector: unknown value 'globl'.*did you mean 'global'"),
        ({"weights": "greedy"}, "^score: not given"),
        ({"weights": [1, 2]}, "^weights: found 2; the stack has 3 members$"),
        ({"prune_only": "bias"}, "^prune_only: pattern 'bias' matches no prunable parameter"),
        ({"recalibration": "movin"}, "^method: found 'movin'; allowed: moving, exact$"),
        ({"batches": from_batches(iter([{"x": linear.X, "y": linear.Y}]))}, "^batches: an iterator can be run through"),
        (
            {"workdir": "w", "batches": from_batches([{"x": linear.X, "y": linear.Y}])},
            "^batches: found list; a workdir",
        ),
    ],
)
def test_what_cannot_work_is_one_line(changes, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=says):
        run(**changes)
