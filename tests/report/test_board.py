"""What training is at is told side by side, with honest times."""

import io
import json

import pytest
from rich.console import Console

from ssoup_jax.report.board import Board, rendered
from ssoup_jax.report.live_file import SECONDS, LiveFile
from tests.report.trackers.told import a_run

RUNS = [a_run(f"phase1-imp-{i}", member=member) for i, member in enumerate((0.0001, 0.001))]


def spelled(board, width=100):
    stream = io.StringIO()
    Console(file=stream, width=width).print(board)
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_figures_of_members_stand_side_by_side(clock):
    board = Board(clock)
    board.begin("IMP phase 1 (2 members)", RUNS, [40, 20], 0)
    board.chunk(10, {0: {"loss": 0.5, "accuracy": 0.75}, 1: {"loss": 0.25, "accuracy": 0.875}})
    board.log(RUNS[0], {"epoch": 1, "train_loss": 0.6, "val": {"loss": 0.7, "accuracy": 0.5}})
    board.log(RUNS[1], {"epoch": 1, "train_loss": 0.6})
    board.log(a_run("somebody-else"), {"epoch": 7})
    # The second member has ended; what it had stays.
    board.chunk(30, {0: {"loss": float("nan"), "accuracy": 0.125}})
    assert [line.split() for line in spelled(board)] == [
        ["member", "0.0001", "0.001"],
        ["epoch", "1", "1"],
        ["loss", "nan", "0.25"],
        ["accuracy", "12.50%", "87.50%"],
        ["val", "loss", "0.7"],
        ["val", "accuracy", "50.00%"],
        [],
    ]


def test_a_dense_model_is_one_column(clock):
    board = Board(clock)
    board.begin("Dense", [a_run("dense-1", kind="Dense", member=None)], [40], 0)
    board.chunk(10, {0: {"loss": 0.5}})
    assert [line.split() for line in spelled(board)] == [["member", "dense"], ["loss", "0.5"], []]


def test_times_are_those_of_the_pace_since_the_first_steps(clock):
    board = Board(clock)
    board.begin("IMP phase 1", RUNS, [40, 20], 300)
    assert board.left() is None
    board.chunk(1, {})
    assert board.left() is None, "the first chunk was compiled before, and is no measure"
    clock.now += 9
    # Both members took nine steps more: 18 in 9 seconds, and 20 + 20 - 20 + 20 are to come.
    board.chunk(10, {})
    assert board.left() == (pytest.approx(40 / 2), pytest.approx(340 / 2))
    assert spelled(board)[-1] == "stage: 20 s left, all: 2 min 50 s left"
    clock.now += 15
    # The shorter one has ended.
    board.chunk(40, {})
    assert board.left() == (0, pytest.approx(300 * 24 / 58))


def test_a_stage_that_goes_on_is_measured_from_there(clock):
    board = Board(clock)
    board.begin("Dense", RUNS[:1], [100], 0)
    board.chunk(60, {})
    clock.now += 5
    board.chunk(80, {})
    assert board.left() == (pytest.approx(5), pytest.approx(5))


def test_when_nothing_trains_there_is_nothing(clock):
    board = Board(clock)
    assert spelled(board) == []
    board.begin("Dense", RUNS[:1], [100], 0)
    board.close()
    assert spelled(board) == []
    board.log(RUNS[0], {"epoch": 1})
    assert board.content()["stages"] == []


@pytest.mark.parametrize(("width", "shown"), [(20, 1), (80, 4), (200, 12)])
def test_members_for_whom_there_is_no_room_are_counted(clock, width, shown):
    runs = [a_run(f"phase1-imp-{i}", member=10**11 + i) for i in range(20)]
    board = Board(clock)
    board.begin("IMP phase 1", runs, [10] * 20, 0)
    board.chunk(1, {i: {"loss": 0.1234} for i in range(20)})
    lines = spelled(board, width)
    assert all(len(line) <= width for line in lines)
    if width > 20:
        assert lines[0].split()[-2:] == ["+", str(20 - shown)]


def test_members_of_several_runs_are_told_apart(clock):
    board = Board(clock)
    runs = [a_run(f"{run}-{member}", member=member, config={"run_id": run}) for run in (1, 2) for member in (0, 3)]
    board.begin("IMP phase 1", runs, [1] * 4, 0)
    assert board.content()["members"] == ["1/0", "1/3", "2/0", "2/3"]
    board.begin("IMP phase 1", runs[:2], [1] * 2, 0)
    assert board.content()["members"] == ["0", "3"]


def test_its_content_is_json_that_is_shown_alike(clock):
    board = Board(clock)
    board.begin("IMP phase 1", RUNS, [40, 20], 300)
    for step in (1, 10):
        board.chunk(step, {0: {"loss": 0.5}, 1: {"loss": 0.25}})
        clock.now += 9
    content = json.loads(json.dumps(board.content()))
    assert content["members"] == ["0.0001", "0.001"]
    assert content["stages"] == ["phase1-imp-0", "phase1-imp-1"]
    assert (content["step"], content["n_steps"], content["figures"]) == (10, 40, [{"loss": 0.5}, {"loss": 0.25}])
    assert spelled(rendered(content, 100)) == spelled(board)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"members": 3, "figures": "x", "seconds_left": "soon"},
        {"members": ["\x1b[2J", {}, 10**400], "figures": [{"loss": "\x1b"}, 3, None], "seconds_left": -1},
        {"members": ["a"], "figures": [{"loss": True, "epoch": 10**400, "accuracy": []}], "seconds_left": 10**400},
        {"members": ["a"] * 1000, "figures": []},
    ],
)
def test_a_file_may_hold_anything(content):
    assert all(line.isprintable() for line in spelled(rendered(content, 80)))


def test_a_live_file_is_written_now_and_then_and_goes_away(tmp_path, clock):
    path = tmp_path / "live/own.json"
    with LiveFile(path, clock) as live:
        for step, seconds in ((1, 0), (2, SECONDS / 2), (3, SECONDS / 2)):
            clock.now += seconds
            live.write(lambda step=step: {"step": step, "loss": float("nan")})
            content = json.loads(path.read_text())
            # The second time is too early.
            assert (content["step"], content["loss"]) == ({1: 1, 2: 1, 3: 3}[step], None)
            assert "updated" in content
        assert list(path.parent.iterdir()) == [path]
    assert list(path.parent.iterdir()) == []


def test_a_live_file_that_cannot_be_written_costs_nothing(tmp_path):
    (tmp_path / "live").write_text("in the way")
    with LiveFile(tmp_path / "live/own.json") as live:
        live.write(dict)
    with LiveFile(None) as live:
        live.write(pytest.fail)
