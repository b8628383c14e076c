"""TensorBoard: an event file for each stage, as `tensorboard --logdir WORKDIR/trackers/tensorboard` reads it.

Written with the record writer of the `tensorboard` package itself, which whoever looks at the files has anyway. It
takes any file, and needs neither TensorFlow nor a thread, so a full disk is an error where it comes up.
"""

import math
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.summary.writer.record_writer import RecordWriter

from ssoup_jax.report.trackers.tracker import Line, Record, Run

_FILE_VERSION = "brain.Event:2"
_NOT_DRAWN = ("epoch", "step")
_FINAL = ("sparsity", "flops", "distance_to_origin", "distance_to_pruned", "prediction_ensemble", "ood")


class TensorBoardTracker:
    """Writes a folder of its own for every run; one that starts again begins it anew.

    Args:
        folder: of all runs; made where it is not there.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._writers: dict[str, RecordWriter] = {}
        self._epochs: dict[str, int] = {}

    def start(self, run: Run) -> None:
        """Begins a run's file with its settings."""
        folder = self._folder / folder_name(run)
        # The epochs of an earlier process are logged again, and would be there twice.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        now = time.time()
        self._writers[run.name] = RecordWriter((folder / f"events.out.tfevents.{int(now)}").open("wb"))
        self._epochs[run.name] = 0
        self._write(run, Event(wall_time=now, file_version=_FILE_VERSION))
        self._write(run, Event(wall_time=now, summary=Summary(value=[_settings(run)])))
        self._writers[run.name].flush()

    def log(self, run: Run, line: Line) -> None:
        """Writes an epoch's figures by their paths, such as `val/accuracy`; the step is the epoch."""
        self._epochs[run.name] = line["epoch"]
        self._scalars(run, {name: value for name, value in line.items() if name not in _NOT_DRAWN})

    def summary(self, run: Run, record: Record) -> None:
        """Writes what came out by paths under `final`, at the last epoch."""
        found = {name: record[name] for name in _FINAL if name in record}
        self._scalars(run, {"final": {**record.get("metrics", {}), **found}})

    def finish(self, run: Run, finished: bool) -> None:
        """Closes a run's file."""
        if writer := self._writers.pop(run.name, None):
            writer.close()

    def _scalars(self, run: Run, figures: Mapping[str, Any]) -> None:
        values = [Summary.Value(tag=path, simple_value=value) for path, value in leaves(figures)]
        event = Event(wall_time=time.time(), step=self._epochs[run.name], summary=Summary(value=values))
        self._write(run, event)
        self._writers[run.name].flush()

    def _write(self, run: Run, event: Event) -> None:
        self._writers[run.name].write(event.SerializeToString())


def folder_name(run: Run) -> str:
    """Returns what TensorBoard calls a run: what it is, and so much of its name as tells it from others."""
    return f"{re.sub(r'[^0-9A-Za-z.+-]+', '-', run.title)[:80]}-{run.name.rpartition('-')[2][:8]}"


def leaves(figures: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Yields nested numbers with their paths; what is no finite number is left out."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value):
            yield f"{path}{name}", float(value)


def _settings(run: Run) -> Summary.Value:
    rows = "".join(f"| {name} | {str(value).replace('|', '&#124;')} |\n" for name, value in run.config.items())
    table = f"{run.title}, {run.name}\n\n| setting | value |\n| --- | --- |\n{rows}"
    plugin = SummaryMetadata(plugin_data=SummaryMetadata.PluginData(plugin_name="text"))
    tensor = TensorProto(dtype=DT_STRING, string_val=[table.encode()])
    tensor.tensor_shape.dim.add(size=1)
    return Summary.Value(tag="settings", metadata=plugin, tensor=tensor)
