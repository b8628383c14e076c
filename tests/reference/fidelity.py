"""Measures again what `docs/fidelity.md` says: `python -m tests.reference.fidelity [LOG]` runs the golden tests."""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.reference.deviations import LOG_VARIABLE

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "fidelity.md"
HEADING = "## Measured deviations\n"


def measure() -> dict[str, tuple[float, float, int]]:
    """Runs the golden tests and returns, per comparison, its largest deviation, that one's tolerance and the count.

    Raises:
        SystemExit: a test failed, so that there is nothing to vouch for.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "deviations.jsonl"
        command = [sys.executable, "-m", "pytest", str(ROOT / "tests" / "reference")]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | {LOG_VARIABLE: str(log)}, check=False)
        if done.returncode:
            sys.exit(f"error: the golden tests failed (exit code {done.returncode}); {PAGE.name} is left as it was")
        return largest(log)


def largest(log: Path) -> dict[str, tuple[float, float, int]]:
    """Reads what the golden tests recorded; see `measure`."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = defaultdict(list)
    for line in lines:
        found[line["comparison"]].append((line["deviation"], line["tolerance"]))
    return {name: (*max(seen), len(seen)) for name, seen in sorted(found.items())}


def page(before: str, comparisons: dict[str, tuple[float, float, int]]) -> str:
    """Returns the page: what it says before its table of largest deviations, and that table anew."""
    rows = "\n".join(
        f"| {name} | {count} | {'exact' if deviation == 0 else f'{deviation:.1e}'} | "
        f"{'exact' if tolerance == 0 else f'{tolerance:.1e}'} |"
        for name, (deviation, tolerance, count) in comparisons.items()
    )
    return (
        f"{before.partition(HEADING)[0]}{HEADING}\n"
        "The largest of all comparisons of a kind; the tolerance is the one that applied to it. Written by "
        "`python -m tests.reference.fidelity`, which runs the golden tests.\n\n"
        f"| comparison | times | largest deviation | tolerance |\n| --- | --- | --- | --- |\n{rows}\n"
    )


if __name__ == "__main__":
    # A log of an earlier run of the tests saves running them again.
    PAGE.write_text(page(PAGE.read_text(), largest(Path(sys.argv[1])) if sys.argv[1:] else measure()))
    print(f"wrote {PAGE.relative_to(ROOT)}")
