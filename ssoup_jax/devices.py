"""XLA settings that must be in place before the first JAX computation of a process."""

import hashlib
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_YNN_FIRST_JAXLIB = (0, 8, 3)


def configure() -> None:
    """Sets the XLA flags that this project is fast with; call it before JAX starts its backend.

    Since jaxlib 0.8.3 the CPU backend hands small convolutions to YNN, which is several times slower
    here than the Eigen convolution it replaces. An older jaxlib aborts on the unknown flag, so it is
    left alone, and a flag that the user has set in `XLA_FLAGS` is never overridden.
    """
    installed = tuple(int(part) for part in version("jaxlib").split(".")[:3] if part.isdigit())
    flags = os.environ.get("XLA_FLAGS", "")
    if installed >= _YNN_FIRST_JAXLIB and _YNN_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_YNN_FLAG}=".strip()


def keep_compiled_programs(folder: Path) -> None:
    """Keeps compiled programs on disk, so that the next start with the same shapes does not compile.

    Args:
        folder: made when the first program is stored. Programs for a CPU are only good on one with the same
            instructions, so each kind of processor has a folder of its own in it.
    """
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder.absolute() / _instructions()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # an experiment has dozens of small ones


def _instructions() -> str:
    """Returns a short name for the instruction set of this machine's processor."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    text = " ".join(sorted(found[1].split())) if found else platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
