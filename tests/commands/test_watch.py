"""A second terminal sees what a run is at, and disturbs nothing."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ssoup_jax.commands import inspect, watch
from ssoup_jax.report import live_file
from ssoup_jax.storage import lock
from ssoup_jax.storage.layout import Workdir
from ssoup_jax.storage.store import Store
from ssoup_jax.training import loop
from tests.experiment import tiny
from tests.pod.processes import from_a_terminal

ROOT = Path(__file__).parents[2]
PLAN = tiny.plan(n_phases=1)
NAMES = [stage.name for stage in PLAN.candidates[0]]
CONTENT = {
    "title": "IMP phase 1 (2 members)",
    "stages": NAMES,
    "members": ["0", "1"],
    "step": 10,
    "n_steps": 21,
    "figures": [{"loss": 0.5}, {"loss": 0.25}],
    "stage_seconds_left": 11.0,
    "seconds_left": 70.0,
    "updated": "2026-01-02T03:04:05+01:00",
}


@pytest.fixture
def workdir(tmp_path):
    store = Store(tmp_path / "runs")
    for name in NAMES:
        store.begin(name)
    path = store.workdir.live(NAMES)
    path.parent.mkdir()
    path.write_text(json.dumps(CONTENT))
    return tmp_path / "runs"


def looks(workdir, capsys, *arguments, n=1):
    """What is printed in n looks, until somebody presses Ctrl-C."""
    left = [n]

    def wait(seconds):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    options = {"every": 1.0, "as_json": "--json" in arguments, "wait": wait}
    assert watch.run(workdir, lambda: inspect.survey(workdir, verify=False), inspect.table, **options) == 0
    return capsys.readouterr().out


def test_what_trains_is_shown_with_its_members_and_times(workdir, capsys):
    with lock.hold([Workdir(workdir).lock(name) for name in NAMES], pytest.fail):
        printed = looks(workdir, capsys)
    assert printed.count("running") == 2
    assert "IMP phase 1 (2 members): step 10 of 21, as of 2026-01-02T03:04:05+01:00" in printed
    rows = [line.split() for line in printed.splitlines()]
    assert ["member", "0", "1"] in rows and ["loss", "0.5", "0.25"] in rows
    assert "stage: 11 s left, all: 1 min 10 s left" in printed


def test_what_a_killed_process_has_left_is_not_shown(workdir, capsys):
    printed = looks(workdir, capsys)
    assert "stopped" in printed and "step 10" not in printed


def test_it_is_shown_again_and_again(workdir, capsys):
    with lock.hold([Workdir(workdir).lock(name) for name in NAMES], pytest.fail):
        lines = looks(workdir, capsys, "--json", n=3).splitlines()
    assert len(lines) == 3
    for line in lines:
        content = json.loads(line)
        assert content["live"] == [CONTENT]
        assert [stage["state"] for stage in content["stages"]] == ["running"] * 2


def test_what_vanishes_between_two_looks_ends_nothing(workdir, capsys):
    left = [3]

    def look():
        left[0] -= 1
        if left[0] == 1:
            raise FileNotFoundError("gone")
        return inspect.survey(workdir, verify=False)

    def wait(_):
        if not left[0]:
            raise KeyboardInterrupt

    assert watch.run(workdir, look, inspect.table, 1.0, False, wait) == 0
    assert capsys.readouterr().out.count(NAMES[0]) == 3


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"stages": 3}', '{"stages": ["../../etc/passwd"]}', '{"stages": [[]]}', "[" * 10**5],
)
def test_whatever_a_file_says_is_not_believed(workdir, capsys, text):
    Workdir(workdir).live(NAMES).write_text(text)
    with lock.hold([Workdir(workdir).lock(name) for name in NAMES], pytest.fail):
        assert "step" not in looks(workdir, capsys)


def test_whatever_it_says_cannot_steer_the_terminal(workdir, capsys):
    evil = {"stages": NAMES, "title": "\x1b[2J", "step": 10**400, "updated": ["\x1b"], "members": ["\x1b"]}
    Workdir(workdir).live(NAMES).write_text(json.dumps(evil))
    with lock.hold([Workdir(workdir).lock(name) for name in NAMES], pytest.fail):
        printed = looks(workdir, capsys)
    assert all(line.isprintable() for line in printed.splitlines())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--watch", "0"], "allowed: seconds, from 0.1 on"),
        (["--watch", "soon"], "found 'soon'; allowed: seconds"),
        (["--watch"], "no workdir, which is what can be watched"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, expected):
    assert inspect.main([str(tmp_path), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and expected in captured.err


def test_a_run_is_watched_from_its_first_step_to_its_end_and_ends_as_one_that_was_not(tmp_path, monkeypatch):
    """With a real second process, while a real run trains."""
    monkeypatch.setattr(live_file, "SECONDS", 0.0)
    write = live_file.LiveFile.write
    # So slow that there is something to see.
    monkeypatch.setattr(live_file.LiveFile, "write", lambda *told: (write(*told), time.sleep(0.05)))
    Store(tmp_path / "runs")
    command = from_a_terminal("-m", "ssoup_jax.inspect", str(tmp_path / "runs"), "--watch", "0.1", "--json")
    with (tmp_path / "seen").open("w") as out:
        watcher = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True)
    try:
        monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
        summary, _ = tiny.launch(tmp_path / "runs", n_phases=1)
        time.sleep(1.0)
    finally:
        watcher.send_signal(signal.SIGINT)
        try:
            _, err = watcher.communicate(timeout=60)
        finally:
            watcher.kill()
    assert (watcher.returncode, err) == (0, "")
    seen = [json.loads(line) for line in (tmp_path / "seen").read_text().splitlines()]
    trained = [content for look in seen for content in look["live"]]
    assert {content["title"] for content in trained} & {"Dense", "IMP phase 1 (2 members)"}
    assert all(content["n_steps"] in (21, 42) for content in trained)
    assert [stage["state"] for stage in seen[-1]["stages"]] == ["finished"] * 4
    assert seen[-1]["live"] == [] == list((tmp_path / "runs/live").iterdir())
    assert not any(stage["state"] == "damaged" for look in seen for stage in look["stages"])
    monkeypatch.undo()
    alone, _ = tiny.launch(tmp_path / "alone", n_phases=1)
    assert alone["phases"][0]["soup"]["test"] == summary["phases"][0]["soup"]["test"]
