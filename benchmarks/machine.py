"""What a measurement was made on, and where its result goes."""

import json
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Returns the device, the processor and the versions that a figure depends on."""
    return {
        "device": jax.devices()[0].device_kind,
        "n_devices": jax.device_count(),
        "processor": _processor(),
        "n_cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    } | {name: version(name) for name in ("jax", "jaxlib", "flax", "optax")}


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()


def save(name: str, result: dict[str, Any], markdown: str, folder: Path = RESULTS) -> Path:
    """Writes a result as JSON and as a Markdown table, named by what was measured and on which device."""
    machine = describe()
    device = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    stem = f"{name}-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}"
    folder.mkdir(exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps({"machine": machine} | result, indent=2) + "\n")
    (folder / f"{stem}.md").write_text(markdown)
    return folder / f"{stem}.md"
