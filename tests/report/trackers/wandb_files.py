"""Reads back what wandb wrote without a server: records of protocol buffers in the log format of LevelDB."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK, _HEADER = 32768, 7  # bytes


def records(path: Path) -> Iterator[Record]:
    """Yields every record of a `.wandb` file."""
    data, at, whole = path.read_bytes(), _HEADER, b""
    assert data[:4] == b":W&B"
    while at + _HEADER <= len(data):
        if (left := _BLOCK - at % _BLOCK) < _HEADER:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + _HEADER])
        at += _HEADER
        whole += data[at : at + length]
        at += length
        if kind in (1, 4):  # whole in one piece, or its last one
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def read(folder: Path) -> list[dict[str, Any]]:
    """Reads every run below a tracker's folder, in the order in which they began."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        run: dict[str, Any] = {"history": [], "summary": {}, "exit": None}
        for record in records(path):
            match record.WhichOneof("record_type"):
                case "run":
                    own = record.run
                    config = {item.key: json.loads(item.value_json) for item in own.config.update}
                    config.pop("_wandb", None)
                    run |= {"id": own.run_id, "name": own.display_name, "group": own.run_group, "kind": own.job_type}
                    run |= {"project": own.project, "config": config, "sweep": own.sweep_id}
                case "config":
                    _merge(run["config"], _nested(record.config.update))
                case "history":
                    run["history"].append(_nested(record.history.item))
                case "summary":
                    _merge(run["summary"], _nested(record.summary.update))
                case "exit":
                    run["exit"] = record.exit.exit_code
        found.append(run)
    return found


def _nested(items: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        path = list(item.nested_key) or [item.key]
        node = found
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = json.loads(item.value_json)
    return found


def _merge(into: dict[str, Any], more: dict[str, Any]) -> None:
    for name, value in more.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        else:
            into[name] = value
