"""The tracker that is always there: `metrics.jsonl` beside every model that was trained."""

import contextlib
from collections.abc import Iterator

from ssoup_jax.report.trackers.tracker import Line, Record, Run
from ssoup_jax.storage.json_files import JsonLines, write_lines
from ssoup_jax.storage.layout import METRICS


class JsonLinesTracker:
    """Appends each epoch to a file of its run, which is made with the first.

    A disk that is full for a while ends no training: what could not be appended is written with the summary, with the
    rest. That is before the stage is stored, so whatever is stored has all its lines.
    """

    def __init__(self):
        self._files: dict[str, JsonLines] = {}
        self._lines: dict[str, list[Line]] = {}
        self._behind: set[str] = set()

    def start(self, run: Run) -> None:
        """Forgets what an earlier process has logged; it is logged again."""
        self._lines[run.name] = []

    def log(self, run: Run, line: Line) -> None:
        """Appends a line."""
        self._lines[run.name].append(line)
        with self._or_later(run):
            if run.name not in self._files:
                self._files[run.name] = JsonLines(run.folder / METRICS)
            self._files[run.name].write(line)

    def summary(self, run: Run, record: Record) -> None:
        """Closes the file, and writes what it lacks.

        Raises:
            OSError: it still cannot be written.
        """
        self._close(run)
        if run.name in self._behind:
            write_lines(run.folder / METRICS, self._lines[run.name])
            self._behind.discard(run.name)

    def finish(self, run: Run, finished: bool) -> None:
        """Closes the file, if that is not done."""
        self._close(run)
        self._lines.pop(run.name, None)

    def _close(self, run: Run) -> None:
        with self._or_later(run):
            if file := self._files.pop(run.name, None):
                file.close()

    @contextlib.contextmanager
    def _or_later(self, run: Run) -> Iterator[None]:
        """Notes a run whose file lacks what was to be written to it."""
        try:
            yield
        except OSError:
            self._behind.add(run.name)
