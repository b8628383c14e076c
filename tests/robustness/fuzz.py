"""Draws settings, sound and broken, and sees that each is either taken or refused in one line.

    python -m tests.robustness.fuzz --cases 10000 --runs 30

Every case is given as a mapping and as a command line. Exit code 0: no findings.
"""

import argparse
import collections
import contextlib
import gc
import io
import json
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from absl import flags
from hypothesis import HealthCheck, Phase, given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis.strategies import SearchStrategy
from ml_collections import config_flags

import launch
from ssoup_jax.config import Settings, make_settings
from ssoup_jax.data import sources
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment.plan import make_plan
from ssoup_jax.interop import pytorch
from tests.robustness.drawn import TINY, Case, cases, spelled

ROOT = Path(launch.__file__).parent
LONGEST_LINE = 1000
# Of the processor, so that a busy machine changes nothing. Settings are checked in milliseconds.
SECONDS = 1.0
# What a case may allocate beyond what the process has; the largest plan of any use takes a few megabytes.
BYTES = 2**30


class Finding(Exception):
    """A case that is neither taken nor refused as it should be."""

    def __init__(self, what: str, detail: object = ""):
        super().__init__(f"{what}: {detail}" if detail else what)
        self.what = what


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Ends what takes too long or too much memory by an exception."""

    def late(*_: object) -> None:
        raise TimeoutError

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    previous = signal.signal(signal.SIGPROF, late)
    resource.setrlimit(resource.RLIMIT_AS, (now + BYTES, hard))
    # Collecting what others have left takes a second and more in a large process, and what is raised in it is lost.
    gc.disable()
    # Again and again, because what is raised in other callbacks is lost, too.
    signal.setitimer(signal.ITIMER_PROF, SECONDS, SECONDS / 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        gc.enable()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, previous)


def by_mapping(case: Case) -> str:
    """Gives a case to `make_settings` as it is."""
    return _outcome(lambda: make_settings(case.mapping()), [*case.changes, *case.missing])


def by_command_line(case: Case) -> str:
    """Gives a case to `launch.py` as a command line, up to the point where the run would begin."""
    argv = case.argv()
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    flags.DEFINE_string("workdir", "runs", "", flag_values=values)
    printed = io.StringIO()

    def read() -> Settings:
        with (
            mock.patch.object(launch, "_CONFIG", config),
            mock.patch.object(launch, "_FROM_WANDB", mock.Mock(value=False)),
            mock.patch.object(launch.flags, "FLAGS", values),
            contextlib.redirect_stderr(printed),
            contextlib.chdir(ROOT),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)  # ml_collections loads a file in a deprecated way
            try:
                launch.parse(argv)
            except SystemExit as error:
                line = printed.getvalue()
                if error.code != 2 or not line.startswith("error: ") or not line.endswith("\n"):
                    raise Finding("ends otherwise", f"code {error.code!r}, {line[:300]!r}") from None
                raise SettingsError(line.removeprefix("error: ").removesuffix("\n")) from None
            return make_settings(config.value)

    # A word of its own may be anything, so its error may speak of anything.
    expected = [] if case.words or case.file != Case.file else list(case.changes)
    return _outcome(read, expected)


def _outcome(read: Callable[[], Settings], changed: list[str]) -> str:
    started = time.perf_counter()
    try:
        with bounded():
            made = read()
            _check_taken(made)
        return "taken"
    except SettingsError as error:
        _check_line(str(error), changed)
        return "refused"
    except Finding:
        raise
    except (MemoryError, TimeoutError) as error:
        spent = time.perf_counter() - started
        what = f"{type(error).__name__} in {_place(error).split(':')[0]}"
        raise Finding(what, f"after {spent:.1f} s, line {_place(error)}") from None
    except Exception as error:
        raise Finding(f"{type(error).__name__} in {_place(error)}", str(error)[:300]) from error


def _check_taken(made: Settings) -> None:
    for name in ("n_epochs", "all_splits"):
        with contextlib.suppress(ValueError, AttributeError):
            setattr(made, name, 3)
            raise Finding("settings can be changed", name)
    record = made.record()
    if json.loads(json.dumps(record, allow_nan=False)) != record:
        raise Finding("the record is not the same after JSON")
    plan = make_plan(made, "f" * 64)
    if not plan.wanted:
        raise Finding("the plan wants nothing")
    wanted = {stage.name for stage in reversed(plan.wanted)}  # the last first, whose name is made from all others
    stages = [plan.dense, *plan.soups, *(stage for members in plan.candidates for stage in members)]
    names = {stage.name for stage in stages}
    if len(names) != len(stages):
        raise Finding("two stages of one name")
    if not wanted <= names:
        raise Finding("the plan wants what it has not", sorted(wanted - names))
    for path, read in ((made.dataset, _read_data), (made.init_from, pytorch.read)):
        if path and (read is pytorch.read or path.startswith(("npz:", "folder:"))):
            _check_input(read, path)


def _read_data(name: str) -> None:
    sources.load(name)


def _check_input(read: Callable[[str], object], path: str) -> None:
    """A file that is not there is told as any other mistake."""
    try:
        read(path)
    except SettingsError as error:
        _check_line(str(error), [])


def _check_line(text: str, changed: list[str]) -> None:
    if len(text.splitlines()) != 1 or not text.isprintable():
        raise Finding("not one line of plain text", ascii(text)[:300])
    if len(text) >= LONGEST_LINE:
        raise Finding(f"{LONGEST_LINE} characters or more", f"{len(text)}, {text[:100]}...")
    # The defaults are sound, so the mistake is among the changes.
    if changed and not any(repr(name.partition(".")[0])[1:-1][:20] in text for name in changed):
        raise Finding("names nothing that was changed", text)


def _place(error: BaseException) -> str:
    """Returns the innermost place of ours, without which one error could not be told from another."""
    places, trace = ["?"], error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.is_relative_to(ROOT) and "robustness" not in path.parts:
            places.append(f"{path.relative_to(ROOT)}:{trace.tb_lineno}")
        trace = trace.tb_next
    return places[-1]


FORMS: tuple[Callable[[Case], str], ...] = (by_mapping, by_command_line)


def run_whole(drawn: dict[str, Any], workdir: Path) -> str:
    """Runs an experiment to its end; returns whether it was refused or done."""
    from ssoup_jax.experiment.run import run
    from ssoup_jax.report.console import Console

    case = Case({name: value for name, value in drawn.items() if name != "members"} | drawn["members"])
    try:
        made = make_settings(case.mapping())
        summary = run(made, workdir, Console(io.StringIO()))
    except SettingsError as error:
        _check_line(str(error), list(case.changes))
        return "refused"
    except RunError as error:
        _check_line(str(error), [])
        return "failed in one line"
    except Exception as error:
        raise Finding(f"{type(error).__name__} in {_place(error)}", str(error)[:300]) from error
    json.dumps(summary, allow_nan=False)
    phases = summary["phases"]
    if len(phases) != (0 if made.strategy == "Dense" else made.n_phases):
        raise Finding("not all phases", len(phases))
    # Rounding of counts to whole weights, once per layer and phase: below one in a hundred of Simple's last layer.
    missed = phases[-1]["sparsity"]["prunable"] - made.goal_sparsity if phases else 0.0
    if missed > 0.01 or (missed < -0.01 and made.prune_only is None and made.prune_except is None):
        raise Finding("another sparsity than asked for", phases[-1]["sparsity"])
    return "done"


def _drawn(strategy: SearchStrategy, n: int, seeded: int) -> Callable[[Callable], Callable[[], None]]:
    """Makes a function of one drawn value try n of them, without shrinking and without memory."""
    limits = hypothesis_settings(
        max_examples=n,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    return lambda attempt: seed(seeded)(limits(given(strategy)(attempt)))


def fuzz(n_cases: int, seeded: int) -> tuple[collections.Counter, dict[tuple[str, str], tuple[Case, str]]]:
    """Tries cases; returns how they went and, per kind of finding, the smallest case met and its text."""
    counts: collections.Counter = collections.Counter()
    found: dict[tuple[str, str], tuple[Case, str]] = {}

    @_drawn(cases(), n_cases, seeded)
    def attempt(case: Case) -> None:
        for form in FORMS:
            try:
                counts[form.__name__, form(case)] += 1
            except Finding as finding:
                counts[form.__name__, "finding"] += 1
                key = (form.__name__, finding.what)
                if key not in found or len(spelled(case)) < len(spelled(found[key][0])):
                    found[key] = case, str(finding)

    attempt()
    return counts, {key: _smallest(key, *value) for key, value in found.items()}


def _smallest(key: tuple[str, str], case: Case, text: str) -> tuple[Case, str]:
    form = {form.__name__: form for form in FORMS}[key[0]]
    for smaller in case.smaller():
        try:
            form(smaller)
        except Finding as finding:
            if finding.what == key[1]:
                return _smallest(key, smaller, str(finding))
    return case, text


def run_some(n_runs: int, seeded: int) -> tuple[collections.Counter, dict[str, tuple[dict, str]]]:
    """Runs whole experiments; returns how they went and the findings."""
    counts: collections.Counter = collections.Counter()
    found: dict[str, tuple[dict, str]] = {}

    @_drawn(TINY, n_runs, seeded)
    def attempt(drawn: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                counts[run_whole(drawn, Path(folder))] += 1
            except Finding as finding:
                counts["finding"] += 1
                found.setdefault(finding.what, (drawn, str(finding)))

    attempt()
    return counts, found


def main() -> int:
    """Tries as many cases as asked for and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--runs", type=int, default=30, help="whole tiny experiments; seconds each")
    parser.add_argument("--seed", type=int, default=0)
    given_ = parser.parse_args()
    started = time.perf_counter()
    counts, found = fuzz(given_.cases, given_.seed)
    for (form, outcome), count in sorted(counts.items()):
        print(f"{form}: {outcome} {count}")
    print(f"{sum(counts.values())} in {time.perf_counter() - started:.0f} s, {len(found)} kinds of findings")
    for (form, _), (case, text) in found.items():
        print(f"\n{form}: {ascii(text)[:600]}\n    {spelled(case)[:600]}")
    started = time.perf_counter()
    runs, failed = run_some(given_.runs, given_.seed) if given_.runs else ({}, {})
    print(f"\nwhole runs: {dict(runs)} in {time.perf_counter() - started:.0f} s")
    for drawn, text in failed.values():
        print(f"\nrun: {text}\n    {drawn}")
    return 1 if found or failed else 0


if __name__ == "__main__":
    sys.exit(main())
