"""The names of executors, and the rule that chooses one: by backend, network and m, the same everywhere and always."""

import re
from typing import NamedTuple

from ssoup_jax.errors import SettingsError, unknown

FORMS = (
    *("auto", "measured", "map", "vmap", "unroll", "loop"),
    *("vmap:K", "unroll:K", "shard", "shard:map", "shard:vmap", "shard:unroll"),
)
"""Every form an execution can take; K is how many members run side by side at most, behind `shard` on each device."""

CHOSEN = ("auto", "measured", "shard")
"""Names that stand for another one: `auto` and `shard` go by `rule`, `measured` by measuring."""

INDEPENDENT = ("map", "loop")
"""Executors under which a member's last bits do not depend on which others run."""

_FORM = re.compile(r"(shard:)?(map|vmap|unroll|loop)(?::(.*))?")


class Execution(NamedTuple):
    """What the full name of an executor means.

    Attributes:
        name: how one device runs its members: `map`, `vmap`, `unroll` or `loop`.
        chunk: how many of them side by side at most; None: all.
        sharded: whether members are spread over all devices.
    """

    name: str
    chunk: int | None = None
    sharded: bool = False

    def __str__(self) -> str:
        return "shard:" * self.sharded + self.name + ("" if self.chunk is None else f":{self.chunk}")


def check(execution: str) -> None:
    """Checks the name of an executor; starts no backend.

    Raises:
        SettingsError: it is none of `FORMS`, with the nearest one.
    """
    if execution in CHOSEN:
        return
    match = _FORM.fullmatch(execution)
    if match is None:
        raise unknown("execution", execution, FORMS)
    sharded, name, chunk = match.groups()
    if (sharded and name == "loop") or (chunk is not None and name in ("map", "loop")):
        raise unknown("execution", execution, FORMS)
    if chunk is not None and not re.fullmatch("[1-9][0-9]{0,8}", chunk):
        raise SettingsError(f"execution: found {execution!r}; after {name!r} comes a number of members, at least 1")


def parse(execution: str) -> Execution:
    """Reads the full name of an executor.

    Raises:
        SettingsError: see `check`; or it is one of `CHOSEN`, which have none yet.
    """
    check(execution)
    if execution in CHOSEN:
        raise SettingsError(
            f"execution: {execution!r} is no executor by itself; one is chosen by backend, network and m"
        )
    sharded, name, chunk = _FORM.fullmatch(execution).groups()
    return Execution(name, chunk and int(chunk), bool(sharded))


def rule(execution: str, backend: str, n_devices: int, convolutional: bool, m: int) -> str:
    """Chooses the executor that `auto` or `shard` stand for; any other name stays as it is.

    One member alone, and any on a CPU, which one member's operations fill already and whose caches hold one member's
    state, run one after another: one program serves every m. On an accelerator members run side by side. GPUs are slow
    at the grouped convolutions that this makes (jax issues 26568, 13800), so there convolutions run one by one.

    Args:
        execution: name of an executor, full or of `CHOSEN`.
        backend: `'cpu'`, `'gpu'` or `'tpu'`.
        n_devices: number of devices.
        convolutional: whether the network has convolutions.
        m: number of members.

    Returns:
        The full name.
    """
    check(execution)
    if execution not in CHOSEN:
        return execution
    spread = execution == "shard" or (n_devices > 1 and m > 1)
    if backend == "cpu" or m == 1:
        return "shard:map" if spread else "loop"
    together = "unroll" if backend == "gpu" and convolutional else "vmap"
    return f"shard:{together}" if spread else together


def candidates(backend: str, n_devices: int, m: int) -> tuple[str, ...]:
    """Lists the executors that are worth measuring.

    Args:
        backend: `'cpu'`, `'gpu'` or `'tpu'`.
        n_devices: number of devices.
        m: number of members.
    """
    if m == 1:
        return ("loop",)
    names = ("loop", "map", "unroll") if backend == "cpu" else ("vmap", "unroll", "map", "loop")
    if backend == "gpu" and m > 4:
        names += (f"unroll:{-(-m // 2)}",)
    if n_devices == 1:
        return names
    # A device that runs a single member runs it in one and the same way under every name.
    whole = [f"shard:{name}" for name in names if name != "loop" and ":" not in name]
    return (*(whole if m > n_devices else whole[:1]), names[0])
