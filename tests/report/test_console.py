import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.table import Table

from ssoup_jax.report.console import Console, duration, format_figures
from tests.report.trackers.told import a_run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.44, "0.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (125, "2 min 05 s"),
        (3599.7, "1 h 00 min"),
        (12_000, "3 h 20 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        ({}, ""),
        ({"loss": 0.031, "images/s": 5200.4}, "loss 0.031, 5200 images/s"),
        ({"loss": np.float32(0.5), "images/s": np.int64(52_000)}, "loss 0.5, 52000 images/s"),
        ({"loss": None, "epoch": 3}, "epoch 3"),
        ({"loss": [0.5, float("nan")]}, "loss 0.5 nan"),
        ({"note": "warm-up", "lr": 1e-5}, "note warm-up, lr 1e-05"),
    ],
)
def test_format_figures(figures, text):
    assert format_figures(figures) == text


def test_figures_on_a_device_are_fetched_under_a_transfer_guard():
    figures = {"loss": jnp.array([0.5, 0.25], jnp.bfloat16), "images/s": jnp.float32(100)}
    with jax.transfer_guard("disallow"):
        assert format_figures(figures) == "loss 0.5 0.25, 100 images/s"


def test_line_is_printed_as_it_is():
    stream = io.StringIO()
    text = "greedy [m, 3] took :smile: " + "long " * 100
    Console(stream).line(text)
    assert stream.getvalue() == text + "\n"


def test_a_line_is_one_line_and_cannot_steer_the_terminal():
    stream = io.StringIO()
    Console(stream).line("class 'a\nb', 'c\x1b[2J', 'd\udcff', 'ü'")
    assert stream.getvalue() == "class 'a\\nb', 'c\\x1b[2J', 'd\\udcff', 'ü'\n"


def test_standard_output_is_the_default_stream(capsys):
    Console().line("hello")
    assert capsys.readouterr().out == "hello\n"


def test_plain_stage_prints_first_last_and_some_between(clock):
    stream = io.StringIO()
    console = Console(stream, interval=5, clock=clock)
    with console.stage("IMP phase 1 (3 members)", 24) as update:
        for step in range(1, 25):
            clock.now += 0.5
            update(step, {"loss": 0.031, "images/s": 5200})
        clock.now += 65
    # Lines are due at the first step, 0.5 s, and 5 s after each line, and at the last step.
    assert stream.getvalue().splitlines() == [
        "IMP phase 1 (3 members): step 1/24, loss 0.031, 5200 images/s, 0.5 s",
        "IMP phase 1 (3 members): step 11/24, loss 0.031, 5200 images/s, 5.5 s",
        "IMP phase 1 (3 members): step 21/24, loss 0.031, 5200 images/s, 10 s",
        "IMP phase 1 (3 members): step 24/24, loss 0.031, 5200 images/s, 12 s",
        "IMP phase 1 (3 members): 24 steps in 1 min 17 s, loss 0.031, 5200 images/s",
    ]


def test_figures_that_are_not_shown_are_not_fetched(clock):
    class Costly:
        fetched = 0

        def __array__(self, dtype=None, copy=None):
            Costly.fetched += 1
            return np.asarray(1.0)

    with Console(io.StringIO(), interval=5, clock=clock).stage("Dense", 1000) as update:
        for step in range(1, 1001):
            update(step, {"loss": Costly()})
    # The first line, the last one, and the summary.
    assert Costly.fetched == 3


@pytest.mark.parametrize(("n_steps", "done", "text"), [(0, 0, "0 steps"), (9, 4, "4 of 9 steps"), (9, 9, "9 steps")])
def test_plain_stage_says_how_many_steps_were_done(clock, n_steps, done, text):
    stream = io.StringIO()
    with Console(stream, clock=clock).stage("Dense", n_steps) as update:
        for step in range(1, done + 1):
            update(step)
    assert stream.getvalue().splitlines()[-1] == f"Dense: {text} in 0.0 s"


def test_resumed_stage_starts_at_its_first_step(clock):
    stream = io.StringIO()
    with (
        pytest.raises(ZeroDivisionError),
        Console(stream, clock=clock).stage("Dense", 9, first_step=5),
    ):
        raise ZeroDivisionError
    assert stream.getvalue() == "Dense: stopped at step 5/9 after 0.0 s\n"


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt()])
def test_exception_passes_through_a_plain_stage(clock, error):
    stream = io.StringIO()
    with pytest.raises(type(error)) as caught, Console(stream, clock=clock).stage("Dense", 9) as update:
        update(1, {"loss": 2.0})
        clock.now += 61
        raise error
    assert caught.value is error
    assert stream.getvalue().splitlines() == [
        "Dense: step 1/9, loss 2, 0.0 s",
        "Dense: stopped at step 1/9 after 1 min 01 s",
    ]


def _text(stream: io.StringIO) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())


def test_live_stage_shows_a_bar_and_ends_with_a_line(terminal, clock):
    console = Console(terminal, clock=clock)
    with console.stage("Dense [seed 1]", 10) as update:
        for step in range(1, 11):
            clock.now += 0.5
            update(step, {"loss": 0.25})
            console.line(f"line {step}")
    text = _text(terminal)
    for shown in ("Dense [seed 1]", "━", "3/10", "eta", "loss 0.25", "line 3\n", "line 10\n"):
        assert shown in text
    assert "Dense [seed 1]: 10 steps in 5.0 s, loss 0.25\n" in text


@pytest.mark.parametrize("live", [True, False])
def test_members_stand_side_by_side_beneath_the_bar_and_never_in_a_plain_log(terminal, clock, live):
    console = Console(terminal, terminal=live, clock=clock)
    runs = [a_run(f"phase1-imp-{i}", member=i) for i in range(2)]
    console.board.begin("IMP phase 1", runs, [10, 10], 40)
    with console.stage("IMP phase 1", 10) as update:
        for step in range(1, 11):
            clock.now += 0.5
            console.board.chunk(step, {i: {"loss": 0.5 + i, "accuracy": 0.25} for i in range(2)})
            console.board.log(runs[1], {"epoch": step, "val": {"loss": 0.125, "accuracy": 0.75}})
            update(step, {"loss": 1.0})
    shown = _text(terminal)
    beneath = ("member", "val accuracy", "75.00%", "1.5", "stage: 2.5 s left, all: 12 s left")
    assert [text in shown for text in beneath] == [live] * len(beneath)
    assert "IMP phase 1: 10 steps in 5.0 s, loss 1\n" in shown


@pytest.mark.parametrize("n_steps", [0, 5])
def test_live_stage_gives_the_cursor_back_after_an_exception(terminal, n_steps):
    console = Console(terminal)
    with pytest.raises(ValueError, match="boom"), console.stage("Dense", n_steps) as update:
        update(0)
        raise ValueError("boom")
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert terminal.getvalue().count(hide) == terminal.getvalue().count(show) == 1
    # After the cursor is back, nothing more is drawn.
    assert terminal.getvalue().split(show)[1].strip("\r") == ""
    assert f"Dense: stopped at step 0/{n_steps} after 0.0 s\n" in _text(terminal)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_stages_nest_and_follow_each_other(terminal, clock, is_terminal):
    console = Console(terminal, terminal=is_terminal, clock=clock)
    for name in ("first", "second"):
        with console.stage(name, 2) as outer:
            outer(1)
            with console.stage(f"{name} inside", 1) as inner:
                inner(1)
            outer(2)
    endings = re.findall(r"^(?:.*\r)?(\w[\w ]*): \d steps? in", _text(terminal).replace("\r", "\n"), flags=re.M)
    assert endings == ["first inside", "first", "second inside", "second"]


def test_a_dumb_terminal_gets_plain_lines(terminal, monkeypatch, clock):
    monkeypatch.setenv("TERM", "dumb")
    with Console(terminal, clock=clock).stage("Dense", 1) as update:
        update(1)
    assert terminal.getvalue().splitlines() == ["Dense: step 1/1, 0.0 s", "Dense: 1 steps in 0.0 s"]


def test_colours_forced_by_the_environment_stay_out_of_a_file(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    stream = io.StringIO()
    with Console(stream).stage("Dense", 1) as update:
        update(1)
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("columns", ["20", "80", "300"])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_figure_of_a_table_is_cropped(monkeypatch, columns, terminal):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "dumb")
    cells = [f"cell number {i}" for i in range(12)]
    table = Table(*cells)
    table.add_row(*reversed(cells))
    stream = io.StringIO()
    Console(stream, terminal=terminal).table(table)
    header, row = (line for line in stream.getvalue().splitlines() if "cell" in line)
    assert re.findall(r"cell number \d+", header) == cells
    assert re.findall(r"cell number \d+", row) == cells[::-1]
    assert "\x1b" not in stream.getvalue()
