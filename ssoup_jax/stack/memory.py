"""What a stack takes and what a device has: read from the compiled program, which is needed anyway."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from ssoup_jax import trees
from ssoup_jax.errors import SettingsError
from ssoup_jax.stack import executors
from ssoup_jax.stack.names import INDEPENDENT, Execution, parse
from ssoup_jax.trees import PyTree

STACK_SHARE = 0.9
"""Share of the free memory that a program may take beyond what it is given."""

STATES_SHARE = 0.25
"""Share of a device's memory that the states of several stacks may take so that they become one."""

DATA_SHARE = 0.5
"""Share of the free memory that images may take to stay on the device; the rest is for the stack."""


def fit(
    execution: str,
    fn: executors.MemberFn,
    shared: PyTree,
    state: PyTree,
    inputs: PyTree,
    active: np.ndarray | None = None,
    on_line: Callable[[str], None] = lambda line: None,
) -> str:
    """Compiles what `executors.run` would call and, where that does not fit into memory, the next smaller form.

    Smaller forms take fewer members at a time, and in the end one.

    Args:
        execution: full name of the executor that is asked for.
        fn, shared, state, inputs, active: as `executors.run` takes them; what is on the device counts as taken.
        on_line: told what does not fit, and what does.

    Returns:
        The executor that fits; its programs are compiled.

    Raises:
        SettingsError: not even one member at a time fits.
    """
    m = trees.stack_size((state, inputs))
    limit, needed = _least(free_bytes(parse(execution).mesh is not None)), []
    for choice in [execution, *_smaller(execution, m)]:
        needed.append(_needed(choice, fn, shared, state, inputs, active))
        if needed[-1] is not None and (limit is None or needed[-1] <= STACK_SHARE * limit):
            if choice != execution:
                on_line(f"execution: {execution} {_misfit(needed[0], limit)}; {choice} does")
            return choice
    usable = "" if limit is None else f", of which {STACK_SHARE:.0%} can be used"
    raise SettingsError(
        f"execution: even {choice!r} {_misfit(needed[-1], limit)}{usable}, for {m} member{'s' * (m > 1)}; "
        "set a smaller batch_size, remat=True (not on a CPU), or fewer members"
    )


def _least(own: int | None) -> int | None:
    """Returns the least of what all processes have, which have to decide alike."""
    if jax.process_count() == 1:
        return own
    # In MiB, for JAX's integers end at 2 GiB.
    found = multihost_utils.process_allgather(np.int32(-1 if own is None else own >> 20))
    return None if (found < 0).any() else int(found.min()) << 20


def _misfit(needed: int | None, limit: int | None) -> str:
    needs = "" if needed is None else f"needs {_gigabytes(needed)} and "
    return f"{needs}does not fit into {'memory' if limit is None else f'{_gigabytes(limit)} of free memory'}"


def _smaller(execution: str, m: int) -> Iterator[str]:
    name, chunk, mesh = parse(execution)
    if name in INDEPENDENT:
        return
    side_by_side = min(chunk or m, -(-m // (mesh[0] if mesh else 1)))
    while side_by_side > 2:
        side_by_side = -(-side_by_side // 2)
        yield str(Execution(name, side_by_side, mesh))
    yield str(Execution("map", None, mesh))


def _needed(execution: str, *arguments: PyTree) -> int | None:
    """Returns the bytes that a call takes on each device beyond its arguments; None: too many for the compiler."""
    try:
        programs = executors.compiled(execution, *arguments)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    return max(map(beyond_arguments, programs))


def beyond_arguments(program: jax.stages.Compiled) -> int:
    """Returns the bytes of a program's temporaries and of its results, those in the place of donated ones left out."""
    found = program.memory_analysis()
    if found is None:
        return 0
    return found.temp_size_in_bytes + max(0, found.output_size_in_bytes - found.alias_size_in_bytes)


def n_bytes(tree: PyTree) -> int:
    """Returns the size of all leaves, arrays or shapes of arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def fitting(n_bytes: int) -> int:
    """Returns how many members of so many bytes may stay on a device: by all that it has, whatever is in use.

    None on a CPU, where several stacks gain nothing by becoming one, and where a device does not say what it has.
    """
    return 0 if (limit := _least(_total_bytes())) is None else int(STATES_SHARE * limit / n_bytes)


def _total_bytes() -> int | None:
    devices = jax.local_devices()
    stats = None if devices[0].platform == "cpu" else _stats(devices)
    return stats and min(own["bytes_limit"] for own in stats)


def _stats(devices: Sequence[jax.Device]) -> list[dict[str, int]] | None:
    """Returns what devices say of their memory; None where one does not say how much it has."""
    stats = [device.memory_stats() or {} for device in devices]
    return stats if all("bytes_limit" in own for own in stats) else None


def data_fits(n_bytes: int, limit_bytes: int | None) -> bool:
    """Whether images may stay on the device: they take at most `DATA_SHARE` of what is free, or that is unknown."""
    return limit_bytes is None or n_bytes <= DATA_SHARE * limit_bytes


def free_bytes(all_devices: bool = False) -> int | None:
    """Returns how much memory is free on the first device, or the least on any; None where a device does not say.

    On CPU that is the machine's memory, within the limits of the container that the process runs in.
    """
    devices = jax.local_devices() if all_devices else jax.local_devices()[:1]
    if devices[0].platform == "cpu":
        return host_free_bytes() // len(devices)
    stats = _stats(devices)
    return stats and min(own["bytes_limit"] - own.get("bytes_in_use", 0) for own in stats)


def host_free_bytes(root: Path = Path("/")) -> int:
    """Returns how much memory this process can still take, in its control groups too.

    Args:
        root: where `proc` and `sys` are.
    """
    try:
        fields = _fields(root / "proc/meminfo")
        available = 1024 * fields["MemAvailable:"]
    except (OSError, KeyError):
        available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(0, min([available, *_free_in_groups(root)]))


def _free_in_groups(root: Path) -> Iterator[int]:
    """Yields what each memory control group around this process leaves, version 1 or 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, limit, used, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        # A container often sees its own group as the root, whatever path the kernel names.
        parts = Path(path).parts[1:]
        for folder in [base.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]:
            try:
                most = int((folder / limit).read_text())
                taken = int((folder / used).read_text())
                droppable = _fields(folder / "memory.stat").get(cache, 0)
            except (OSError, ValueError):  # no such group, or 'max'
                continue
            yield most - taken + droppable


def _fields(file: Path) -> dict[str, int]:
    return {words[0]: int(words[1]) for words in map(str.split, file.read_text().splitlines()) if len(words) > 1}


def _gigabytes(n: float) -> str:
    return f"{n / 1e9:.3g} GB"
