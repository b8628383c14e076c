"""Where everything lies in a workdir: the one place that spells it."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

STATE = "state"  # of an artifact, and of a checkpoint in which all members lie as one stack
RECORD, METRICS = "record.json", "metrics.jsonl"  # of an artifact
CHECKPOINT = "checkpoint.json"
SUMMARY, PLOT, PAGE = "summary.json", "summary.png", "report.html"

_PARTIAL = ".partial"
_STEP = re.compile(r"step-(\d{8,18})")


@dataclass(frozen=True)
class Workdir:
    """The layout of a workdir; nothing is made.

    Attributes:
        path: the workdir.
    """

    path: Path

    @property
    def artifacts(self) -> Path:
        """The folder of all artifacts, and of those that are being made."""
        return self.path / "artifacts"

    def artifact(self, name: str) -> Path:
        """The folder of one artifact."""
        return self.artifacts / name

    def partial(self, name: str) -> Path:
        """The folder that an artifact is filled in before it is renamed into its place."""
        return self.artifacts / f".{name}{_PARTIAL}"

    def group(self, names: Sequence[str]) -> Path:
        """The list of artifacts that are written and only need their names; there between two renames only."""
        return self.artifacts / f".group-{_digest(names)}.json"

    def groups(self) -> Iterator[Path]:
        """Finds every `group` that is there."""
        return self.artifacts.glob(".group-*.json")

    @property
    def all_checkpoints(self) -> Path:
        """The folder of everybody's checkpoints."""
        return self.path / "checkpoints"

    def checkpoints(self, names: Sequence[str]) -> Path:
        """The folder for the checkpoints of artifacts that are made as one stack; none other's is the same."""
        own = names[0] if len(names) == 1 else f"{names[0].rpartition('-')[0]}-{len(names)}-members-{_digest(names)}"
        return self.all_checkpoints / own

    @property
    def all_live(self) -> Path:
        """The folder of what runs say that they are at."""
        return self.path / "live"

    def live(self, names: Sequence[str]) -> Path:
        """The file with what artifacts that are made as one stack are at; there while they train."""
        return self.all_live / f"{self.checkpoints(names).name}.json"

    def lock(self, name: str) -> Path:
        """The file that whoever makes an artifact holds locked."""
        return self.path / "locks" / f"{name}.lock"

    def ood(self, name: str) -> Path:
        """The file with what an artifact's model scores out of distribution."""
        return self.path / "ood" / f"{name}.json"

    def experiment(self, digest: str) -> Path:
        """The folder with `SUMMARY`, `PLOT` and `PAGE` of one experiment."""
        return self.path / "experiments" / digest

    def study(self, digest: str) -> Path:
        """The folder with the tables and the results of one study."""
        return self.path / "studies" / digest

    def experiments(self) -> Iterator[Path]:
        """Finds the folder of every experiment that is there."""
        return self.path.glob("experiments/*")

    @property
    def summary(self) -> Path:
        """The summary of the last start."""
        return self.path / SUMMARY

    @property
    def plot(self) -> Path:
        """The plot of the last start."""
        return self.path / PLOT

    @property
    def page(self) -> Path:
        """The page of the last start."""
        return self.path / PAGE

    @property
    def trackers(self) -> Path:
        """The folder of what trackers keep here."""
        return self.path / "trackers"

    @property
    def executions(self) -> Path:
        """The file with what was measured of executors."""
        return self.path / "execution.json"


def partial_of(folder_name: str) -> str | None:
    """Reads which artifact a folder under `artifacts` is to become; None: it is no `Workdir.partial`."""
    if folder_name.startswith(".") and folder_name.endswith(_PARTIAL):
        return folder_name[1:].removesuffix(_PARTIAL)
    return None


def step_name(step: int) -> str:
    """Spells the name of a checkpoint's folder, such as `'step-00000012'`."""
    return f"step-{step:08d}"


def step_of(folder_name: str) -> int | None:
    """Reads the step out of a checkpoint folder's name; None: it is no `step_name`."""
    match = _STEP.fullmatch(folder_name)
    return int(match[1]) if match else None


def member_name(index: int) -> str:
    """Spells the name of a member's part of a checkpoint, such as `'member-03.safetensors'`."""
    return f"member-{index:02d}.safetensors"


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
