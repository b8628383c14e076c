"""When a checkpoint is due."""

import pytest

from ssoup_jax.errors import SettingsError
from ssoup_jax.training import interval


@pytest.mark.parametrize(
    ("text", "first", "due"),
    [
        ("2 steps", 0, [2, 4, 6, 8]),
        ("1 step", 0, [1, 2, 3, 4, 5, 6, 7, 8]),
        ("1 epoch", 0, [3, 6]),
        ("0.5 epochs", 0, [2, 4, 6, 8]),
        # Training that went on after step 4 counts from there.
        ("3 steps", 4, [7]),
    ],
)
def test_steps_and_epochs(text, first, due):
    every = interval.make(text, steps_per_epoch=3, first_step=first)
    assert [step for step in range(first + 1, 9) if every.due(step)] == due


def test_it_is_never_time_at_the_end_nor_where_nothing_is_asked_for():
    every = interval.make("2 steps", steps_per_epoch=3, first_step=0, last_step=6)
    assert [step for step in range(1, 7) if every.due(step)] == [2, 4]
    never = interval.make(None, steps_per_epoch=3, first_step=0)
    assert not any(never.due(step) for step in (1, 10**9))


def test_minutes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(interval.time, "monotonic", lambda: now[0])
    every = interval.make("1.5 minutes", steps_per_epoch=3, first_step=0)
    due = []
    for step in range(1, 8):
        now[0] += 40
        if every.due(step):
            due.append(step)
    # 120 and 240 seconds are the first past 90 and past another 90.
    assert due == [3, 6]


@pytest.mark.parametrize(
    "text",
    ["", "10", "ten minutes", "0 steps", "-1 steps", "1.5 steps", "5 hours", "nan minutes", "5steps", "1e3 steps"],
)
def test_anything_else_is_one_clear_line(text):
    with pytest.raises(SettingsError, match=r"^checkpoint_every: found "):
        interval.parse(text)
