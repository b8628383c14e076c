"""What an artifact says of where it came from."""

import itertools
import socket
import subprocess
import sys
from datetime import datetime

import jax
import pytest

from ssoup_jax.experiment import provenance
from ssoup_jax.experiment.stop import Stopped
from ssoup_jax.storage.store import Store
from ssoup_jax.training import loop
from ssoup_jax.version import VERSION
from tests.experiment import tiny


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit, and a function that runs git in it."""

    def git(*arguments):
        own = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *own, *arguments], cwd=tmp_path / "code", check=True, capture_output=True, text=True
        ).stdout

    (tmp_path / "code").mkdir()
    git("init", "-q")
    (tmp_path / "code/own.py").write_text("1\n")
    git("add", "own.py")
    git("commit", "-qm", "one")
    return tmp_path / "code", git


def test_a_file_is_of_the_commit_that_it_belongs_to(repository):
    folder, git = repository
    commit = git("rev-parse", "HEAD").strip()
    assert provenance.git(folder / "own.py") == {"commit": commit, "dirty": False}
    (folder / "new.txt").touch()
    assert provenance.git(folder / "own.py") == {"commit": commit, "dirty": False}
    (folder / "own.py").write_text("2\n")
    assert provenance.git(folder / "own.py") == {"commit": commit, "dirty": True}


def test_a_file_that_only_lies_in_a_repository_is_of_no_commit(repository):
    folder, _ = repository
    (folder / "installed.py").touch()
    assert provenance.git(folder / "installed.py") is None


def test_the_environment_names_no_other_repository(repository, monkeypatch, tmp_path):
    folder, git = repository
    commit = git("rev-parse", "HEAD").strip()
    monkeypatch.setenv("GIT_DIR", str(tmp_path))
    assert provenance.git(folder / "own.py")["commit"] == commit


def test_without_git_or_a_repository_there_is_none(tmp_path, monkeypatch):
    assert provenance.git(tmp_path / "own.py") is None
    assert provenance.git(tmp_path / "missing/own.py") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.git(tmp_path / "own.py") is None


def test_what_is_described_is_this_process(monkeypatch):
    provenance._of_process.cache_clear()
    before = provenance.now()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["launch.py", "--config=a b"])
        found = provenance.describe(before, "2x4:vmap:3")
    provenance._of_process.cache_clear()
    assert found["versions"]["ssoup_jax"] == VERSION
    assert found["versions"]["jax"] == jax.__version__
    assert found["host"] == socket.gethostname()
    assert found["devices"] == {jax.devices()[0].device_kind: len(jax.devices())}
    assert (found["processes"], found["command"]) == (1, ["launch.py", "--config=a b"])
    assert (found["execution"], found["mesh"]) == ("2x4:vmap:3", [2, 4])
    assert found["started"] == before <= found["ended"]
    assert datetime.fromisoformat(found["ended"]).tzinfo is not None
    assert provenance.describe(before, "map")["mesh"] is None
    assert provenance.describe(before, None)["execution"] is None


def test_every_artifact_has_it_and_one_that_was_cut_off_began_when_it_first_did(tmp_path, monkeypatch):
    times = itertools.count(0, 5)  # seconds a call: times that are told apart
    monkeypatch.setattr(provenance, "now", lambda: f"{next(times):04d}")
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    with pytest.raises(Stopped):
        tiny.launch(tmp_path, tiny.StopAfter(17), n_phases=1)
    summary, _ = tiny.launch(tmp_path, n_phases=1)
    plan, store = tiny.plan(n_phases=1), Store(tmp_path)
    found = {stage: store.record(stage.name)["provenance"] for stage in plan.stages}
    spans = [(own["started"], own["ended"]) for own in found.values()]
    # The second process began with the dense model at 5; the members began and ended together.
    assert spans == [("0000", "0010"), ("0015", "0020"), ("0015", "0025"), ("0030", "0035")]
    assert [own["execution"] for own in found.values()] == ["map"] * 4
    assert all(own["command"] == sys.argv and own["host"] == socket.gethostname() for own in found.values())
    assert summary["dense"]["provenance"] == found[plan.dense]
    assert summary["phases"][0]["soup"]["provenance"] == found[plan.soups[0]]
