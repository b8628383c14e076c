"""A whole experiment whose processes share a workdir: one looks, decides and writes, and all end with the same."""

import io
import threading

import jax
import pytest

from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment import run as run_module
from ssoup_jax.report.console import Console
from ssoup_jax.storage import atomic
from ssoup_jax.storage import json_files as module
from tests.experiment import tiny
from tests.pod.threads import together

CHANGES = {"n_epochs": 1, "strategy": "Dense", "ood": "computed:contrast:1", "checkpoint_every": None}
CHANGES |= {"execution": "auto"}  # others are for one process, and refused


def test_processes_that_share_a_workdir_write_it_once(tmp_path, monkeypatch):
    """Each trains all members here, as processes of one device mesh do not; what they share is the workdir."""
    wrote = set()
    replacing, JsonLines = atomic.replacing, module.JsonLines

    def watched(path):
        wrote.add(threading.get_ident())
        return replacing(path)

    def lines(path):
        wrote.add(threading.get_ident())
        return JsonLines(path)

    monkeypatch.setattr(atomic, "replacing", watched)
    monkeypatch.setattr("ssoup_jax.report.trackers.json_lines.JsonLines", lines)

    def act(pod):
        summaries = [
            run_module.run(tiny.settings(**CHANGES), tmp_path / "runs", Console(io.StringIO()), pod=pod)
            for _ in range(2)  # the second time everything is there
        ]
        return threading.get_ident(), summaries

    (leader, own), (_, others) = together(2, act)[0]
    assert own == others
    assert own[0]["dense"]["ood"]["accuracy"] > 0
    assert wrote == {leader}


@pytest.mark.parametrize("execution", ["measured", "map", "loop", "vmap:2"])
def test_what_is_for_one_process_is_refused_in_many(tmp_path, monkeypatch, execution):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(SettingsError, match=f"^execution: found '{execution}', which is for one process; allowed"):
        run_module.run(tiny.settings(execution=execution), tmp_path, Console(io.StringIO()))
