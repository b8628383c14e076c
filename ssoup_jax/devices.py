"""JAX's settings that results and speed depend on; in place before the first computation of a process."""

import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from ssoup_jax.errors import SettingsError, one_line

_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_YNN_FIRST_JAXLIB = (0, 8, 3)

_LOG_HEAD = re.compile(r"^[A-Z]\d+ \S+ +\d+ \S+\] ")

_NUMBERS = "results would change"  # under the names that others have
_SICK = "members that are not finite are found and named without it"
_CHECKS = "it ends a run in which nothing is wrong"

# The value that holds whatever the environment says, and why; all other switches of JAX do what they say.
_PINNED = {
    "jax_enable_x64": (False, _NUMBERS),
    "jax_default_prng_impl": ("threefry2x32", _NUMBERS),
    "jax_threefry_partitionable": (True, _NUMBERS),
    "jax_random_seed_offset": (0, _NUMBERS),
    "jax_default_matmul_precision": (None, _NUMBERS),
    "jax_debug_nans": (False, _SICK),
    "jax_debug_infs": (False, _SICK),
    "jax_error_checking_behavior_nan": ("ignore", _SICK),
    "jax_transfer_guard": (None, _CHECKS),
    "jax_compilation_cache_check_contents": (False, _CHECKS),
    "jax_no_tracing": (False, _CHECKS),
    "jax_no_execution": (False, "nothing would be computed"),
}

_DEVICE_VARIABLES = ("JAX_PLATFORMS", "JAX_PLATFORM_NAME", "JAX_DEFAULT_DEVICE")
_A_PROGRAM = 2**22  # bytes; few are larger
_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


def configure() -> list[str]:
    """Sets what this project is fast and exact with; call it before JAX starts its backend.

    Since jaxlib 0.8.3 the CPU backend hands small convolutions to YNN, which is several times slower
    here than the Eigen convolution it replaces. An older jaxlib aborts on the unknown flag, so it is
    left alone, as is what the user has set: that flag in `XLA_FLAGS`, or a file of flags.

    Returns:
        A line for each setting of the user's environment that is not followed.

    Raises:
        SettingsError: the environment sets JAX or XLA to what they do not know.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if flags and flags != f"{_YNN_FLAG}=":
        _check_flags()
    try:
        import jax
    except ValueError as error:
        raise SettingsError(f"environment: {one_line(error)}") from None
    installed = tuple(int(part) for part in version("jaxlib").split(".")[:3] if part.isdigit())
    if installed >= _YNN_FIRST_JAXLIB and _YNN_FLAG not in flags and (not flags or flags.startswith("-")):
        os.environ["XLA_FLAGS"] = f"{flags} {_YNN_FLAG}=".strip()
    lines = []
    for name, (value, why) in _PINNED.items():
        found = getattr(jax.config, name, value)  # not every version of JAX has them all
        if found != value:
            lines.append(f"{name.upper()}={found}: not followed, since {why}; it is {value} here")
            jax.config.update(name, value)
    return lines


def start() -> None:
    """Starts JAX's backend.

    Raises:
        SettingsError: there is no such device as the environment asks for, or it cannot be used.
    """
    import jax

    try:
        jax.block_until_ready(jax.device_put(0))
    except (RuntimeError, AssertionError) as error:  # an assertion is how JAX fails without a plugin for CUDA
        asked = [f"{name}={os.environ[name]}" for name in _DEVICE_VARIABLES if os.environ.get(name)]
        why = f" ({one_line(error)})" if str(error) else ""
        where = f"{', '.join(asked)}: no such device can be used here; unset it to take" if asked else "JAX cannot take"
        raise SettingsError(f"{where} what there is{why}") from None


def keep_compiled_programs(folder: Path | None = None) -> list[str]:
    """Keeps compiled programs on disk, so that the next start with the same shapes does not compile.

    Args:
        folder: made where it is not there; by default the user's own cache, or what the environment's
            JAX_COMPILATION_CACHE_DIR says. Programs for a CPU are only good on one with the same instructions, so each
            kind of processor has a folder of its own in it.

    Returns:
        A line if they cannot be kept, which costs time only.
    """
    import jax

    if folder is None and os.environ.get(_CACHE_VARIABLE):
        return []
    try:
        folder = (_user_cache() / "compiled" if folder is None else folder).absolute() / _instructions()
        str(folder).encode()  # JAX takes no other names
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_A_PROGRAM))
    except (OSError, RuntimeError, UnicodeEncodeError) as error:  # the second: no home is known
        return [f"compiled programs are not kept, and every start compiles them anew: {one_line(error)}"]
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # an experiment has dozens of small ones
    return []


def _check_flags() -> None:
    """Lets another process read the flags for XLA: what it does not know ends a process, with all that it may take."""
    program = "from jaxlib import xla_client; xla_client.make_cpu_client()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = next(iter(done.stderr.splitlines()), "refused")
        raise SettingsError(f"XLA_FLAGS: found {os.environ['XLA_FLAGS']!r}; XLA says: {_LOG_HEAD.sub('', said)}")


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
