"""What training a stack takes and what a device has, before anything is compiled."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from ssoup_jax import models
from ssoup_jax.errors import SettingsError
from ssoup_jax.stack import executors
from ssoup_jax.training import optimizer
from ssoup_jax.training.state import Variables
from ssoup_jax.training.step import Problem, forward_train
from ssoup_jax.trees import PyTree

STACK_SHARE = 0.8
"""Share of the free memory that a stack may be estimated to take; estimates are up to 15 % low."""

DATA_SHARE = 0.5
"""Share of the free memory that images may take to stay on the device; the rest is for the stack."""

_REMAT = frozenset({"checkpoint", "remat", "remat2"})


class Footprint(NamedTuple):
    """What one member takes, in bytes.

    Attributes:
        state: parameters, momentum and BatchNorm statistics.
        mask: the mask, which all members share.
        gradients: those of the parameters.
        activations: what a training step stores for its backward pass and works with there.
    """

    state: int
    mask: int
    gradients: int
    activations: int


class Fit(NamedTuple):
    """An execution that fits.

    Attributes:
        execution: the one asked for, or the nearest that takes less memory.
        estimate_bytes: what it is estimated to take on each device.
        limit_bytes: what is free on each device; None: the device does not say, and everything is taken to fit.
    """

    execution: str
    estimate_bytes: int
    limit_bytes: int | None


@functools.cache
def footprint(problem: Problem, image_shape: tuple[int, int, int], batch_size: int, backend: str) -> Footprint:
    """Estimates what one member takes; nothing is computed.

    Args:
        problem: architecture and transform.
        image_shape: (H, W, C) of the stored images.
        batch_size: images per step.
        backend: `'cpu'`, `'gpu'` or `'tpu'`. XLA's CPU compiler merges what rematerialisation computes twice and
            stores it after all, so there it counts for nothing.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda key: Variables(*models.init(problem.model, key, image_shape)), key)
    images = jax.ShapeDtypeStruct((batch_size, *image_shape), jnp.uint8)
    forward = jax.make_jaxpr(lambda *arguments: forward_train(problem, *arguments))(variables, images, key).jaxpr
    parameters = dict.fromkeys([*forward.invars, *forward.constvars])
    return Footprint(
        state=n_bytes(variables) + n_bytes(jax.eval_shape(optimizer.init, variables.params)),
        mask=sum(leaf.size for leaf in jax.tree.leaves(variables.params)),
        gradients=n_bytes(variables.params),
        activations=_peak(_operations(forward, parameters, backend)),
    )


def n_bytes(tree: PyTree) -> int:
    """Returns the size of all leaves, arrays or shapes of arrays."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def estimate(execution: str, m: int, member: Footprint, n_devices: int = 1) -> int:
    """Returns the bytes that training m members takes on each device, the images apart.

    Args:
        execution: see `executors.run`.
        m: number of members.
        member: what one takes.
        n_devices: how many devices `shard` spreads them over.
    """
    name, chunk, sharded = executors.parse(execution)
    own = -(-m // n_devices) if sharded else m
    # A stack that the devices do not divide evenly rests on all of them.
    at_rest = m if sharded and m % n_devices else own
    at_once = 1 if name in ("map", "loop") else min(chunk or own, own)
    in_place = name not in ("map", "loop") and at_once == at_rest
    copies = 0 if in_place else at_once
    return member.mask + (at_rest + copies) * member.state + at_once * (member.gradients + member.activations)


def fit(
    execution: str, m: int, member: Footprint, limit_bytes: int | None, n_devices: int = 1, data_bytes: int = 0
) -> Fit:
    """Chooses what fits: the execution asked for, else the largest chunk of members, else one member at a time.

    Args:
        execution: see `executors.run`.
        m: number of members.
        member: what one takes.
        limit_bytes: what is free on each device, see `free_bytes`; `STACK_SHARE` of it is used.
        n_devices: how many devices `shard` spreads the members over.
        data_bytes: size of the images, where they are not on the device yet.

    Returns:
        The choice.

    Raises:
        SettingsError: not even one member at a time fits.
    """
    name, chunk, sharded = executors.parse(execution)
    side_by_side = 1 if name in ("map", "loop") else min(chunk or m, -(-m // n_devices) if sharded else m)
    smaller = [executors.Execution(name, width, sharded) for width in range(side_by_side - 1, 1, -1)]
    smaller += [executors.Execution("map", None, sharded)] * (name != "loop")
    needs = {choice: data_bytes + estimate(choice, m, member, n_devices) for choice in [execution, *map(str, smaller)]}
    for choice, needed in needs.items():
        if limit_bytes is None or needed <= STACK_SHARE * limit_bytes:
            return Fit(choice, needed, limit_bytes)
    raise SettingsError(
        f"execution: even the smallest form of {execution!r} needs about {_gigabytes(min(needs.values()))} of memory "
        f"for {m} member{'s' * (m > 1)}, and {_gigabytes(STACK_SHARE * limit_bytes)} of {_gigabytes(limit_bytes)} free "
        "can be used; set a smaller batch_size, remat=True (not on a CPU), or fewer members"
    )


def data_fits(n_bytes: int, limit_bytes: int | None) -> bool:
    """Whether images may stay on the device: they take at most `DATA_SHARE` of what is free, or that is unknown."""
    return limit_bytes is None or n_bytes <= DATA_SHARE * limit_bytes


def free_bytes(execution: str) -> int | None:
    """Returns how much memory is free on each device that an executor uses; None where the device does not say.

    On CPU that is the machine's memory, within the limits of the container that the process runs in.
    """
    devices = jax.local_devices() if executors.parse(execution).sharded else jax.local_devices()[:1]
    if devices[0].platform == "cpu":
        return host_free_bytes() // len(devices)
    stats = [device.memory_stats() for device in devices]
    if not all(own and "bytes_limit" in own for own in stats):
        return None
    return min(own["bytes_limit"] - own.get("bytes_in_use", 0) for own in stats)


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


class _Operation(NamedTuple):
    """What the backward pass of an operation needs: values that the forward pass stores for it, and room to work."""

    values: dict[object, int]
    working: int


def _peak(operations: Iterable[_Operation]) -> int:
    """Returns the most bytes alive in the backward pass: it frees a value after the first operation that needed it."""
    stored: dict[object, int] = {}
    most = 0
    for operation in operations:
        stored |= operation.values
        most = max(most, sum(stored.values()) + operation.working)
    return most


def _operations(jaxpr: Jaxpr, values: dict, backend: str) -> Iterator[_Operation]:
    """Yields the operations of a forward pass that store something for the backward pass.

    Args:
        jaxpr: the forward pass, or a part of it.
        values: which value each known variable holds; None is a parameter, which lies elsewhere.
        backend: see `footprint`.
    """

    def value(atom):
        return None if isinstance(atom, Literal) else values.setdefault(atom, object())

    def sizes(atoms):
        return {value(atom): _size(atom, backend) for atom in atoms if value(atom) is not None}

    for eqn in jaxpr.eqns:
        name, inner = eqn.primitive.name, _inner(eqn)
        if name in _WORKING and not _is_sum(eqn):
            yield _Operation(sizes([*eqn.invars, *eqn.outvars]), _WORKING[name](eqn, backend))
        elif inner is not None:
            known = {var: value(own) for var, own in zip(inner.outvars, eqn.outvars, strict=True)}
            known |= {var: value(own) for var, own in zip(inner.invars, eqn.invars, strict=True)}
            operations = _operations(inner, known | dict.fromkeys(inner.constvars), backend)
            if name in _REMAT and backend != "cpu":
                inputs = sizes(eqn.invars)
                yield _Operation(inputs, _peak(operations) - sum(inputs.values()))
            else:
                yield from operations


def _is_sum(eqn) -> bool:
    """Tells a product with a vector, as in `models.features.total`, from that of a layer; nothing is stored for it."""
    if eqn.primitive.name != "dot_general":
        return False
    summed, batched = eqn.params["dimension_numbers"]
    return any(
        len(axes) + len(batch) == atom.aval.ndim for axes, batch, atom in zip(summed, batched, eqn.invars, strict=True)
    )


def _size(atom, backend: str) -> int:
    # A CPU computes bfloat16 in float32.
    return atom.aval.size * (max(4, atom.aval.dtype.itemsize) if backend == "cpu" else atom.aval.dtype.itemsize)


def _around(eqn, backend: str) -> int:
    return sum(_size(atom, backend) for atom in [*eqn.invars, *eqn.outvars])


def _inner(eqn) -> Jaxpr | None:
    """Returns the program that an equation calls once, if it does: a `jit`, a custom gradient, a block of remat."""
    for parameter in eqn.params.values():
        inner = parameter.jaxpr if isinstance(parameter, ClosedJaxpr) else parameter
        if isinstance(inner, Jaxpr) and len(inner.invars) == len(eqn.invars) and len(inner.outvars) == len(eqn.outvars):
            return inner
    return None


def _convolution_works(eqn, backend: str) -> int:
    """Gradients of input, kernel and output, and all of them transposed, see `models.convolution`."""
    return 2 * _around(eqn, backend)


def _pool_works(eqn, backend: str) -> int:
    """Gradients of input and output; XLA's CPU compiler also writes down the coordinates of all their values."""
    input_, output = eqn.invars[0].aval, eqn.outvars[0].aval
    coordinates = 4 * input_.ndim * (input_.size + output.size)
    return _around(eqn, backend) + (coordinates if backend == "cpu" else 0)


def _product_works(eqn, backend: str) -> int:
    return _size(eqn.invars[0], backend) + _size(eqn.outvars[0], backend)


# XLA fuses all that lies between these operations, and computes it again in the backward pass rather than store it.
_WORKING: dict[str, Callable] = {
    "conv_general_dilated": _convolution_works,
    "dot_general": _product_works,
    "reduce_window_max": _pool_works,
}


def _gigabytes(n: float) -> str:
    return f"{n / 1e9:.3g} GB"
