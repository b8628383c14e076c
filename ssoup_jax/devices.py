"""JAX's settings that results and speed depend on; in place before the first computation of a process."""

import hashlib
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_YNN_FIRST_JAXLIB = (0, 8, 3)

# Other values give other numbers under the same names of results.
_PINNED = {"jax_enable_x64": False, "jax_default_prng_impl": "threefry2x32", "jax_threefry_partitionable": True}

_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def configure() -> list[str]:
    """Sets what this project is fast and exact with; call it before JAX starts its backend.

    Since jaxlib 0.8.3 the CPU backend hands small convolutions to YNN, which is several times slower
    here than the Eigen convolution it replaces. An older jaxlib aborts on the unknown flag, so it is
    left alone, and a flag that the user has set in `XLA_FLAGS` is never overridden.

    Returns:
        A line for each setting of the user's environment that is not followed, because it would change results.
    """
    import jax

    installed = tuple(int(part) for part in version("jaxlib").split(".")[:3] if part.isdigit())
    flags = os.environ.get("XLA_FLAGS", "")
    if installed >= _YNN_FIRST_JAXLIB and _YNN_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_YNN_FLAG}=".strip()
    lines = []
    for name, value in _PINNED.items():
        found = getattr(jax.config, name)
        if found != value:
            lines.append(f"{name.upper()}={found}: not followed, since results would change; it is {value} here")
            jax.config.update(name, value)
    return lines


def keep_compiled_programs(folder: Path | None = None) -> None:
    """Keeps compiled programs on disk, so that the next start with the same shapes does not compile.

    Args:
        folder: made when the first program is stored; by default the user's own cache, or what the environment's
            JAX_COMPILATION_CACHE_DIR says. Programs for a CPU are only good on one with the same instructions, so each
            kind of processor has a folder of its own in it.
    """
    import jax

    if folder is None and os.environ.get(_CACHE_VARIABLE):
        return
    folder = _user_cache() / "compiled" if folder is None else folder
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute() / _instructions()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # an experiment has dozens of small ones


def _user_cache() -> Path:
    """Returns this project's folder for what may be deleted at any time (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "ssoup_jax"


def _instructions() -> str:
    """Returns a short name for the instruction set of this machine's processor."""
    try:
        found = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    text = " ".join(sorted(found[1].split())) if found else platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
