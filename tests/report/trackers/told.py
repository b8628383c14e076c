"""Runs, and a tracker that remembers what it was told."""

from pathlib import Path
from typing import Any

from ssoup_jax.report.trackers import Run


def a_run(name: str = "phase1-imp-0123456789abcdef", **changes: Any) -> Run:
    """Returns a member's run."""
    given = {
        "name": name,
        "title": "IMP phase 1, member 0",
        "kind": "IMP",
        "phase": 1,
        "member": 0,
        "group": "digits",
        "config": {"arch": "Simple", "strategy": "IMP", "phase": 1, "split_val": 0},
        "folder": Path("nowhere"),
    }
    return Run(**given | changes)


class Told:
    """Remembers every call."""

    def __init__(self):
        self.calls: list[tuple] = []

    def lines(self, run: Run) -> list:
        """Returns the epochs of a run."""
        return [what for call, name, what in self.calls if call == "log" and name == run.name]

    def start(self, run):
        self.calls.append(("start", run.name, None))

    def log(self, run, line):
        self.calls.append(("log", run.name, line))

    def summary(self, run, record):
        self.calls.append(("summary", run.name, record))

    def finish(self, run, finished):
        self.calls.append(("finish", run.name, finished))
