"""Epochs are lines of a file that is whole when its stage is stored."""

import errno
import json
import os

import pytest

from ssoup_jax.report.trackers import json_lines, tracking
from ssoup_jax.report.trackers.json_lines import JsonLinesTracker
from ssoup_jax.storage.json_files import JsonLines
from tests.report.trackers.told import a_run

LINES = [{"epoch": epoch, "train_loss": 1 / epoch, "val": {"accuracy": 0.5}} for epoch in (1, 2, 3)]


@pytest.fixture
def runs(tmp_path):
    return [a_run(f"member-{i}", folder=tmp_path / str(i)) for i in range(2)]


def read(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def full(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_line_is_on_disk_as_soon_as_it_is_logged(runs):
    tracker = JsonLinesTracker()
    with tracking(tracker, runs):
        for count, line in enumerate(LINES, start=1):
            for run in runs:
                tracker.log(run, line)
                assert read(run) == LINES[:count]


def test_a_run_that_is_not_trained_leaves_no_file(runs):
    tracker = JsonLinesTracker()
    with tracking(tracker, runs):
        tracker.summary(runs[0], {"metrics": {}})
    assert not runs[0].folder.exists()


@pytest.mark.parametrize("closing", [False, True], ids=["while it is appended to", "while it is closed"])
def test_a_disk_that_is_full_for_a_while_costs_no_line(runs, monkeypatch, closing):
    tracker = JsonLinesTracker()
    with tracking(tracker, runs):
        for number, line in enumerate(LINES):
            with monkeypatch.context() as patched:
                if number == 1:
                    patched.setattr(JsonLines, "write", full)
                for run in runs:
                    tracker.log(run, line)
        with monkeypatch.context() as patched:
            close = JsonLines.close
            if closing:
                patched.setattr(JsonLines, "close", lambda file: full(close(file)))
            for run in runs:
                tracker.summary(run, {})
                # Before its stage is finished: what is stored is whole.
                assert read(run) == LINES
    assert [read(run) for run in runs] == [LINES] * 2


def test_a_disk_that_stays_full_is_an_error_in_the_end_but_hides_no_other(runs, monkeypatch):
    def log(error):
        tracker = JsonLinesTracker()
        with tracking(tracker, runs):
            tracker.log(runs[0], LINES[0])
            if error is not None:
                raise error
            tracker.summary(runs[0], {})

    runs[0].folder.mkdir()
    monkeypatch.setattr(JsonLines, "write", full)
    monkeypatch.setattr(json_lines, "write_lines", full)
    with pytest.raises(OSError, match="No space left"):
        log(None)
    with pytest.raises(KeyboardInterrupt):
        log(KeyboardInterrupt())
