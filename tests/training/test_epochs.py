"""Chunks of steps become one line per epoch and member."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssoup_jax.storage.json_files import to_json
from ssoup_jax.training.epochs import EpochLog
from ssoup_jax.training.loop import Progress
from tests.report.trackers.told import Told, a_run


def chunk(step, epoch, active, losses, accuracies=None, batch_size=16, done=False, seconds=0.5, rates=None, taken=None):
    losses = np.float32(losses)
    rates = np.float32([0.1 * (i + 1) for i in active] if rates is None else rates)
    return Progress(
        step=step,
        epoch=epoch,
        epoch_done=done,
        active=np.array(active),
        taken=np.array([losses.shape[1]] * len(active) if taken is None else taken),
        figures={"loss": losses, "accuracy": losses / 4 if accuracies is None else np.float32(accuracies)},
        schedules={"learning_rate": np.broadcast_to(rates[:, None], losses.shape) if rates.ndim == 1 else rates},
        batch_size=batch_size,
        seconds=seconds,
        execution="map",
    )


RUNS = [a_run(f"member-{i}") for i in range(3)]


def written(m, chunks, state=None):
    """Logs the chunks of m members; returns what a tracker is told of each, the final lines, and the log's state."""
    tracker = Told()
    log = EpochLog(RUNS[:m], tracker, state)
    log.tell_again()
    for each in chunks:
        log.add(each)
    found = [tracker.lines(run) for run in RUNS[:m]], [log.final(i) for i in range(m)], log.state()
    return json.loads(json.dumps(to_json(found), allow_nan=False))


def test_means_are_over_images_not_steps():
    records, finals, _ = written(
        2,
        [
            chunk(2, 0, [0, 1], [[1.0, 2.0], [4.0, 3.0]], seconds=1.0),
            chunk(3, 0, [0, 1], [[8.0], [0.0]], batch_size=8, done=True, seconds=3.0, rates=[0.25, 0.5]),
        ],
    )
    expected = [
        {
            "epoch": 1,
            "step": 3,
            "train_loss": loss,
            "train_accuracy": loss / 4,
            "learning_rate": rate,
            "seconds": 4.0,
            # Both members saw 16 + 16 + 8 images in four seconds.
            "images_per_second": 20.0,
        }
        for loss, rate in [((16 * 1 + 16 * 2 + 8 * 8) / 40, 0.25), ((16 * 4 + 16 * 3 + 8 * 0) / 40, 0.5)]
    ]
    assert records == [[line] for line in expected]
    assert finals == expected


def test_a_line_says_of_its_member_what_else_is_known_when_its_epoch_ends():
    tracker = Told()
    log = EpochLog(RUNS[:2], tracker)
    log.add(chunk(1, 0, [0, 1], [[1.0], [2.0]]), {})
    log.add(chunk(2, 0, [0, 1], [[1.0], [2.0]], done=True), {1: {"val": {"loss": 0.5}}})
    log.add(chunk(3, 1, [0], [[1.0]], done=True), {0: {"val": {"loss": 0.25}}, 1: {"val": {"loss": 7.0}}})
    assert [line.get("val") for line in tracker.lines(RUNS[0])] == [None, {"loss": 0.25}]
    assert [line.get("val") for line in tracker.lines(RUNS[1])] == [{"loss": 0.5}]
    assert EpochLog(RUNS[:2], state=log.state()).final(1)["val"] == {"loss": 0.5}


def test_a_state_of_other_members_is_none():
    *_, state = written(2, [chunk(1, 0, [0, 1], [[1.0], [2.0]], done=True)])
    with pytest.raises(ValueError, match="a log of 2 members, where 3 are wanted"):
        EpochLog(RUNS, state=state)
    with pytest.raises((ValueError, TypeError)):
        EpochLog(RUNS[:2], state=state | {"lines": [["no line"], []]})


def test_a_diverged_member_is_logged_up_to_that_step_wherever_the_chunk_ends():
    def log(ends):
        losses, rates = np.float32([[3.0, 2.0, 1e9, 7.0, 7.0]]), np.float32([[0.1, 0.2, 0.3, 0.4, 0.5]])
        chunks, first = [], 0
        for end in ends:
            own = slice(first, end)
            taken = [min(end, 3) - first]
            chunks.append(chunk(end, 0, [0], losses[:, own], rates=rates[:, own], taken=taken))
            first = end
        # The others end the epoch.
        chunks.append(chunk(6, 0, [1], [[1.0]], done=True))
        (records, _), _, _ = written(2, chunks)
        return [{key: record[key] for key in ("step", "train_loss", "learning_rate")} for record in records]

    assert log([5]) == log([2, 4]) == log([1, 2, 3])
    assert log([5]) == [{"step": 3, "train_loss": (5 + 1e9) / 3, "learning_rate": 0.30000001192092896}]


def test_members_that_stop_early_have_fewer_and_shorter_epochs():
    records, finals, _ = written(
        3,
        [
            chunk(1, 0, [0, 1, 2], [[1.0], [2.0], [3.0]]),
            chunk(2, 0, [0, 1, 2], [[1.0], [2.0], [5.0]], done=True),
            # Member 2 has ended with the first epoch; member 1 ends in the middle of the second.
            chunk(3, 1, [0, 1], [[7.0], [6.0]], rates=[0.3, 0.4]),
            chunk(4, 1, [0], [[9.0]], done=True, rates=[0.2], seconds=1.5),
            chunk(5, 2, [0], [[4.0]], done=True),
        ],
    )
    assert [[line["epoch"] for line in own] for own in records] == [[1, 2, 3], [1, 2], [1]]
    assert [[line["step"] for line in own] for own in records] == [[2, 4, 5], [2, 3], [2]]
    assert [[line["train_loss"] for line in own] for own in records] == [[1.0, 8.0, 4.0], [2.0, 6.0], [4.0]]
    assert [own[1]["learning_rate"] for own in records[:2]] == [pytest.approx(0.2), pytest.approx(0.4)]
    # The stack's speed, while some of it was at rest: 3 batches in 2 seconds.
    assert [own[1]["images_per_second"] for own in records[:2]] == [24.0, 24.0]
    assert finals == [own[-1] for own in records]


def test_nothing_is_told_before_an_epoch_ends():
    records, finals, _ = written(2, [chunk(1, 0, [0, 1], [[1.0], [2.0]])])
    assert records == [[], []]
    assert finals == [{"epoch": 0}, {"epoch": 0}]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), m=st.integers(1, 3), cuts=st.lists(st.booleans(), min_size=5, max_size=5))
def test_how_an_epoch_is_cut_into_chunks_does_not_matter(seed, m, cuts):
    random = np.random.default_rng(seed)
    losses, accuracies = random.random((2, m, 6)).astype(np.float32)
    ends = [i + 1 for i, end in enumerate(cuts) if end] + [6]
    chunks = []
    for start, end in zip([0, *ends], ends, strict=False):
        own = slice(start, end)
        figures = losses[:, own], accuracies[:, own]
        chunks.append(chunk(end, 0, range(m), *figures, done=end == 6, seconds=(end - start) / 4))
    records, _, _ = written(m, chunks)
    for i, (line,) in enumerate(records):
        # Sums of float64.
        assert line["train_loss"] == pytest.approx(np.mean(np.float64(losses[i])), rel=1e-7)
        assert line["train_accuracy"] == pytest.approx(np.mean(np.float64(accuracies[i])), rel=1e-7)
        assert (line["step"], line["seconds"]) == (6, 1.5)
        assert line["images_per_second"] == m * 6 * 16 / 1.5


@pytest.mark.parametrize("stop", range(1, 5))
def test_a_log_goes_on_from_its_state_as_if_nothing_had_happened(stop):
    chunks = [
        chunk(1, 0, [0, 1], [[0.1], [0.7]]),
        chunk(2, 0, [0, 1], [[1 / 3], [0.2]], done=True),
        chunk(3, 1, [0, 1], [[0.3], [1e-9]]),
        chunk(4, 1, [0], [[2.5]], done=True),
    ]
    whole, finals, _ = written(2, chunks)
    *_, state = written(2, chunks[:stop])
    assert written(2, chunks[stop:], state)[:2] == [whole, finals]


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_a_log_goes_on_after_a_loss_that_is_not_finite(stop, loss):
    chunks = [
        chunk(1, 0, [0, 1], [[0.5], [0.25]]),
        chunk(2, 0, [0, 1], [[loss], [0.75]], accuracies=[[0.25], [0.5]]),
        chunk(3, 0, [1], [[1.25]], done=True),
    ]
    whole, *_ = written(2, chunks)
    *_, state = written(2, chunks[:stop])
    again, *_ = written(2, chunks[stop:], state)
    assert again == whole
    assert [line["train_loss"] for (line,) in again] == [None, 0.75]


def test_figures_and_schedules_are_reported_under_their_names():
    figures = {"error": np.float32([[4.0, 2.0]]), "loss": np.float32([[1.0, 3.0]])}
    schedules = {"temperature": np.float32([[0.5, 0.25]]), "learning_rate": np.float32([[0.2, 0.1]])}
    progress = Progress(2, 0, True, np.array([0]), np.array([2]), figures, schedules, 16, 2.0, "loop")
    ((line,),), *_ = written(1, [progress])
    assert line == {
        "epoch": 1,
        "step": 2,
        "train_loss": 2.0,
        "train_error": 3.0,
        "temperature": 0.25,
        "learning_rate": float(np.float32(0.1)),
        "seconds": 2.0,
        "images_per_second": 16.0,
    }
