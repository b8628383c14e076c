"""The names of executors, and the rule that chooses one: by backend, network and m, the same everywhere and always."""

import re
from typing import NamedTuple

from ssoup_jax.errors import SettingsError, unknown

FORMS = (
    *("auto", "measured", "map", "vmap", "unroll", "loop"),
    *("vmap:K", "unroll:K", "shard", "shard:map", "shard:vmap", "shard:unroll", "MxD:NAME"),
)
"""Every form an execution can take; K is how many members run side by side at most, behind `shard` on each device.
`shard` stands for the mesh that suits a stack, `MxD` is a certain one."""

CHOSEN = ("auto", "measured", "shard")
"""Names that stand for another one: `auto` and `shard` go by `rule`, `measured` by measuring."""

INDEPENDENT = ("map", "loop")
"""Executors under which a member's last bits do not depend on which others run."""

HEAVY = 10**9
"""Multiply-adds of one member's forward pass over a batch from which its step is long beside compiling (0.1 s here)."""

Shape = tuple[int, int]
"""Of a mesh: groups of devices that share the members among them, and devices in each that share its batches."""

_FORM = re.compile(r"(?:(shard|[1-9][0-9]{0,5}x[1-9][0-9]{0,5}):)?(map|vmap|unroll|loop)(?::(.*))?")
_MESH = re.compile(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})")


class Execution(NamedTuple):
    """What the full name of an executor means.

    Attributes:
        name: how one device runs its members: `map`, `vmap`, `unroll` or `loop`.
        chunk: how many of them side by side at most; None: all.
        mesh: over which devices members and batches are spread; None: one device.
    """

    name: str
    chunk: int | None = None
    mesh: Shape | None = None

    def __str__(self) -> str:
        where = "" if self.mesh is None else f"{spell(self.mesh)}:"
        return where + self.name + ("" if self.chunk is None else f":{self.chunk}")


def spell(mesh: Shape) -> str:
    """Spells a mesh: `'2x4'`."""
    return f"{mesh[0]}x{mesh[1]}"


def parse_mesh(mesh: str) -> Shape:
    """Reads a mesh: members x data, such as `'2x4'`.

    Raises:
        SettingsError: it is none.
    """
    match = _MESH.fullmatch(mesh)
    if match is None:
        raise SettingsError(f"mesh: found {mesh!r}; allowed: members x data, such as '2x4'")
    return int(match[1]), int(match[2])


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
    mesh, name, chunk = match.groups()
    if (mesh and name == "loop") or (chunk is not None and name in ("map", "loop")):
        raise unknown("execution", execution, FORMS)
    if chunk is not None and not re.fullmatch("[1-9][0-9]{0,8}", chunk):
        raise SettingsError(f"execution: found {execution!r}; after {name!r} comes a number of members, at least 1")


def stands_for_another(execution: str) -> bool:
    """Tells whether a name is no executor by itself, but one is chosen for it, see `rule`."""
    check(execution)
    return execution in CHOSEN or execution.startswith("shard:")


def parse(execution: str) -> Execution:
    """Reads the full name of an executor.

    Raises:
        SettingsError: see `check`; or it stands for another one, see `rule`, and is none by itself yet.
    """
    if stands_for_another(execution):
        raise SettingsError(
            f"execution: {execution!r} is no executor by itself; one is chosen by backend, network, m and batch"
        )
    mesh, name, chunk = _FORM.fullmatch(execution).groups()
    return Execution(name, chunk and int(chunk), mesh and parse_mesh(mesh))


def mesh_for(n_devices: int, m: int, batch_size: int | None) -> Shape:
    """Chooses the mesh on which the devices idle the least, of these the one that cuts batches the least.

    Args:
        n_devices: all of them are used.
        m: number of members.
        batch_size: of the global batch, which every device of a group takes an equal part of; None: the task's
            batches cannot be cut.
    """
    even = [
        (groups, cut)
        for groups, cut in _meshes(n_devices)
        if cut == 1 or (batch_size is not None and not batch_size % cut)
    ]
    return min(even, key=lambda shape: (-(-m // shape[0]) * shape[0], shape[1]))


def check_mesh(mesh: Shape, n_devices: int, batch_size: int | None, setting: str = "batch_size") -> None:
    """Checks a mesh that is asked for.

    Args:
        mesh: the setting.
        n_devices: see `mesh_for`.
        batch_size: of training, see `mesh_for`.
        setting: that gave the batch's size, for the error.

    Raises:
        SettingsError: it does not have as many devices, or cuts a batch into unequal parts.
    """
    if mesh not in _meshes(n_devices):
        allowed = ", ".join(map(spell, _meshes(n_devices)))
        raise SettingsError(f"mesh: found {spell(mesh)!r}; {n_devices} device{'s' * (n_devices > 1)} allow {allowed}")
    cut = mesh[1]
    if cut > 1 and batch_size is None:
        raise SettingsError(
            f"mesh: found {spell(mesh)!r}; this task's batches cannot be cut, so the mesh is {n_devices}x1"
        )
    if cut > 1 and batch_size % cut:
        nearest = max(1, round(batch_size / cut)) * cut
        raise SettingsError(
            f"mesh: {spell(mesh)!r} cuts a batch of {batch_size} into {cut} unequal parts; "
            f"the nearest {setting} that it divides is {nearest}"
        )


def _meshes(n_devices: int) -> list[Shape]:
    return [(n_devices // cut, cut) for cut in range(1, n_devices + 1) if not n_devices % cut]


class Load(NamedTuple):
    """What a stack asks of a machine.

    Attributes:
        m: number of members.
        convolutional: whether the network has convolutions.
        batch_size: of the global batch, of which every device of a group takes an equal part; None: cannot be cut.
        multiply_adds: of one member's forward pass over a batch.
    """

    m: int
    convolutional: bool = False
    batch_size: int | None = None
    multiply_adds: int = 0


def rule(execution: str, backend: str, n_devices: int, load: Load, mesh: Shape | None = None) -> str:
    """Chooses the executor that `auto` or `shard` stand for; any other name stays as it is.

    One member alone, and any on a CPU, which one member's operations fill already and whose caches hold one member's
    state, run one after another: light ones from outside, where one program serves every m, heavy ones in one program,
    whose steps are a tenth faster. On an accelerator members run side by side. GPUs are slow at the grouped
    convolutions that this makes (jax issues 26568, 13800), so there convolutions run one by one. Several devices are a
    mesh, see `mesh_for`.

    Args:
        execution: name of an executor, full or one that stands for another.
        backend: `'cpu'`, `'gpu'` or `'tpu'`.
        n_devices: number of devices, those of all processes.
        load: the stack.
        mesh: the setting; None: see `mesh_for`.

    Returns:
        The full name.

    Raises:
        SettingsError: see `check`.
    """
    if not stands_for_another(execution):
        return execution
    shard, _, given = execution.partition(":")
    if shard != "shard" and n_devices == 1:
        return _on_one(backend, load)
    where = mesh or mesh_for(n_devices, load.m, load.batch_size)
    name = given or ("map" if load.m <= where[0] else _on_one(backend, load).replace("loop", "map"))
    return f"{spell(where)}:{name}"


def _on_one(backend: str, load: Load) -> str:
    if backend == "cpu" or load.m == 1:
        return "map" if load.m > 1 and load.multiply_adds >= HEAVY else "loop"
    return "unroll" if backend == "gpu" and load.convolutional else "vmap"


def candidates(backend: str, n_devices: int, load: Load, mesh: Shape | None = None) -> tuple[str, ...]:
    """Lists the executors that are worth measuring.

    Args:
        backend: `'cpu'`, `'gpu'` or `'tpu'`.
        n_devices: number of devices, those of all processes.
        load: the stack.
        mesh: the setting; None: see `mesh_for`.
    """
    names = ("loop", "map", "unroll") if backend == "cpu" else ("vmap", "unroll", "map", "loop")
    if n_devices > 1:
        where = mesh or mesh_for(n_devices, load.m, load.batch_size)
        # A device that runs a single member runs it in one and the same way under every name.
        whole = [name for name in names if name != "loop"] if load.m > where[0] else ["map"]
        return tuple(f"{spell(where)}:{name}" for name in whole)
    if load.m == 1:
        return ("loop",)
    return names + (f"unroll:{-(-load.m // 2)}",) * (backend == "gpu" and load.m > 4)
