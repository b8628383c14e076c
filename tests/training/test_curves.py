"""What is said of models in training is what is true of them, at the right epochs, and costs what was counted."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ssoup_jax import metrics, trees
from ssoup_jax.stack import executors, memory
from ssoup_jax.training import curves, evaluate
from ssoup_jax.training.curves import Curves
from ssoup_jax.training.loop import Progress, Snapshot
from tests.training import tiny

N_STEPS = np.array([9, 6, 3])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCK_SIZE", 16)


def feed():
    train = tiny.feed()
    train.positions["val"] = train.positions["val"][:40]
    train.sizes["val"] = 40
    return train


def progress(epoch, execution="map", done=True):
    nothing = np.zeros((0, 0), np.float32)
    steps = tiny.STEPS_PER_EPOCH * epoch
    return Progress(steps, epoch - 1, done, np.arange(0), np.arange(0), {"loss": nothing}, {}, 16, 1.0, execution)


def looked_at(every, epoch, n_steps=N_STEPS, diverged=(), done=True):
    """Returns which members are looked at, without looking."""

    class Told(Curves):
        def _look(self, stack, execution, members):
            return dict.fromkeys(members)

    start = trees.member(tiny.variables(), 0).params
    told = Told(tiny.classifier(), feed(), [start] * 3, tiny.mask(), n_steps, tiny.BATCH_SIZE, every)
    return list(told.at(progress(epoch, done=done), Snapshot(0, tiny.state(), dict.fromkeys(diverged, 1))))


@pytest.mark.parametrize("execution", ["map", "vmap", "loop", "1x1:map"])
def test_figures_are_those_of_the_models(execution):
    state, own = tiny.state(), feed()
    start = jax.device_get(trees.member(tiny.variables(), 1).params)
    state.variables.params["conv1"]["kernel"][:, 0] = 0
    found = Curves(tiny.classifier(), own, [start] * 3, tiny.mask(), N_STEPS, tiny.BATCH_SIZE, 1).at(
        progress(1, execution), Snapshot(3, executors.hold(execution, state))
    )
    scores = evaluate.score(tiny.classifier(), own, state.variables, "val", execution)
    assert list(found) == [0, 1, 2]
    for i, figures in found.items():
        params = trees.member(state.variables, i).params
        assert {name: figures["val"][name] for name in scores[i]} == scores[i]
        assert set(figures["val"]) - set(scores[i]) == {"seconds", "images_per_second"}
        assert figures["val"]["seconds"] * figures["val"]["images_per_second"] == pytest.approx(3 * 40)
        sparsity = metrics.sparsity(params, tiny.mask())
        assert figures["sparsity"] == {name: sparsity[name] for name in ("global", "prunable")}
        assert sparsity["prunable"] > 0
        moved = metrics.norm_drop(start, jax.device_get(params)).absolute
        assert figures["distance_to_start"] == pytest.approx(moved, rel=1e-6)
        origin = metrics.distance_to_origin(params, tiny.mask())
        assert figures["distance_to_origin"] == pytest.approx(origin, rel=1e-6)


def test_a_member_that_has_not_moved_is_where_it_started():
    start = jax.device_get(trees.member(tiny.variables(), 1).params)
    found = Curves(tiny.classifier(), feed(), [start] * 3, tiny.mask(), N_STEPS, tiny.BATCH_SIZE, 1).at(
        progress(1), Snapshot(3, tiny.state())
    )
    assert found[1]["distance_to_start"] == 0
    assert min(found[0]["distance_to_start"], found[2]["distance_to_start"]) > 0.1


@pytest.mark.parametrize("execution", ["map", "vmap", "loop", "1x1:map"])
def test_members_of_several_origins_have_come_from_their_own(execution):
    one, two = (jax.device_get(trees.member(tiny.variables(), i).params) for i in (0, 1))
    found = Curves(tiny.classifier(), feed(), [two, one, two], tiny.mask(), N_STEPS, tiny.BATCH_SIZE, 1).at(
        progress(1, execution), Snapshot(3, executors.hold(execution, tiny.state()))
    )
    for i, start in enumerate([two, one, two]):
        own = jax.device_get(trees.member(tiny.variables(), i).params)
        assert found[i]["distance_to_start"] == pytest.approx(metrics.norm_drop(start, own).absolute, rel=1e-6)


@pytest.mark.parametrize(
    ("every", "by_epoch"),
    [
        (0, {1: [], 2: [], 3: []}),
        (1, {1: [0, 1, 2], 2: [0, 1], 3: [0]}),
        (2, {1: [2], 2: [0, 1], 3: [0]}),
        (5, {1: [2], 2: [1], 3: [0]}),
    ],
)
def test_every_so_many_epochs_and_after_the_last_one_a_member_is_looked_at(every, by_epoch):
    assert {epoch: looked_at(every, epoch) for epoch in by_epoch} == by_epoch
    # Which others there are changes nothing.
    for member in range(3):
        own = N_STEPS[member : member + 1]
        alone = {epoch: looked_at(every, epoch, own) for epoch in by_epoch}
        assert alone == {epoch: [0] if member in members else [] for epoch, members in by_epoch.items()}


def test_nobody_is_looked_at_inside_an_epoch():
    assert looked_at(1, 1, done=False) == []


def test_a_member_that_ends_inside_an_epoch_is_looked_at_when_the_epoch_ends():
    assert looked_at(7, 2, np.array([5, 9])) == [0]


def test_a_member_that_diverged_is_not_looked_at():
    assert looked_at(1, 1, diverged=[1]) == [0, 2]
    assert looked_at(1, 3, diverged=[0]) == []


def sized(train, val, whole=True):
    return SimpleNamespace(sizes={"train": train, "val": val}, whole=whole)


@pytest.mark.parametrize(
    ("own", "cost", "every"),
    [
        # Blocks of 16 images, one of which is full or not; three passes of every training image.
        (sized(1000, 90), 96 / 3000, 2),
        (sized(1000, 80), 80 / 3000, 1),
        (sized(1000, 1), 16 / 3000, 1),
        (sized(90, 10), 16 / 270, 2),
        (sized(16, 1600), 1600 / 48, 1112),
        # A streamed image is decoded once, whatever becomes of it.
        (sized(900, 100, whole=False), 100 / 900, 4),
        (sized(1000, 30, whole=False), 30 / 1000, 1),
    ],
)
def test_the_default_costs_at_most_three_per_cent_of_training(own, cost, every):
    assert curves.cost(own) == pytest.approx(cost)
    assert curves.interval(None, own) == every
    assert curves.cost(own) / every <= curves.MOST
    assert every == 1 or curves.cost(own) / (every - 1) > curves.MOST


@pytest.mark.parametrize("given", [0, 1, 7])
def test_what_is_asked_for_is_done_whatever_it_costs(given):
    assert curves.interval(given, sized(16, 1600)) == given


def test_the_cost_is_said():
    assert curves.said(1, sized(1000, 80)) == "validation: every epoch, 2.7% of training by count (evaluate_every)"
    assert curves.said(2, sized(1000, 90)) == "validation: every 2 epochs, 1.6% of training by count (evaluate_every)"


def test_nothing_is_compiled_after_the_first_look(compiled):
    state, own = tiny.state(), feed()
    start = jax.device_get(trees.member(tiny.variables(), 1).params)
    looks = Curves(tiny.classifier(), own, [start] * 3, tiny.mask(), N_STEPS, tiny.BATCH_SIZE, 1)
    looks.at(progress(1), Snapshot(3, executors.hold("map", state)))
    compiled()
    looks.at(progress(2), Snapshot(6, executors.hold("map", state), {1: 4}))
    looks.at(progress(3), Snapshot(9, executors.hold("map", state)))
    assert compiled() == []


def test_whether_a_validation_fits_is_asked_once_for_every_executor(monkeypatch):
    asked, fit = [], memory.fit
    monkeypatch.setattr(
        memory, "fit", lambda execution, *args, **how: asked.append(execution) or fit("map", *args, **how)
    )
    state, own = tiny.state(), feed()
    start = jax.device_get(trees.member(tiny.variables(), 1).params)
    looks = Curves(tiny.classifier(), own, [start] * 3, tiny.mask(), N_STEPS, tiny.BATCH_SIZE, 1)
    figures = [looks.at(progress(epoch, name), Snapshot(3, state)) for epoch, name in ((1, "vmap"), (2, "vmap"))]
    figures.append(looks.at(progress(3, "map"), Snapshot(3, state)))
    assert asked == ["vmap", "map"]
    assert [one[0]["val"]["accuracy"] for one in figures] == [figures[0][0]["val"]["accuracy"]] * 3
