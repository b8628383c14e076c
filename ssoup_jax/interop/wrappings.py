"""What people put around a state dict, and how it comes off: dicts, prefixes of names, counters and the like."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssoup_jax.errors import SettingsError

_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""What data parallelism, compilation and the like put into names, at any depth."""

_COUNTERS = {"n_averaged", "total_ops", "total_params"}
"""What averaging (`AveragedModel`) and tools that count operations (thop) leave."""

_OF_TRAINING = {"criterion", "loss", "loss_fn", "loss_func"}
"""Modules beside the network whose tensors are needed in training only, such as the classes' weights."""


_DEEPEST = 6  # dicts within dicts; one may even hold itself


def state_dict_in(found: Mapping[str, Any], depth: int = _DEEPEST) -> Mapping[str, Any]:
    """Finds the state dict in a dict that holds it beside other things, in dicts of dicts if need be.

    Args:
        found: a dict of tensors, and of anything else; what has kernels, tensors of two or more axes, is a state dict.
        depth: how many dicts within dicts are looked into.

    Returns:
        The state dict; `found` itself if no dict in it holds kernels.

    Raises:
        SettingsError: there are several, such as a model's and that of its moving average, or an optimizer's.
    """
    if "param_groups" in found:
        raise SettingsError("holds the state of an optimizer, not of a model")
    if any("." in str(name) for name, value in found.items() if _is_kernel(value)):
        return found
    inner = {str(name): value for name, value in found.items() if _holds_kernels(value, depth)}
    if len(inner) > 1:
        first, second, *others = inner
        more = f" and {len(others)} more" * bool(others)
        raise SettingsError(
            f"holds several models, {first!r}, {second!r}{more}; save the one that is meant alone, "
            f"torch.save(torch.load(...)[{second!r}], ...)"
        )
    return state_dict_in(*inner.values(), depth - 1) if inner else found


def _is_kernel(value: Any) -> bool:
    return getattr(value, "ndim", 0) >= 2


def _holds_kernels(value: Any, depth: int) -> bool:
    # An optimizer has tensors of the same shapes.
    if not depth or not isinstance(value, Mapping) or "param_groups" in value:
        return False
    return any(_is_kernel(one) or _holds_kernels(one, depth - 1) for one in value.values())


def plain_names(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Takes off prefixes, and leaves out what belongs to no network.

    Args:
        arrays: by name.

    Returns:
        The tensors of the network, by the names that it gives them; and the names of those that were left out and that
        somebody may miss.

    Raises:
        SettingsError: two tensors have one name without their prefixes.
    """
    plain: dict[str, np.ndarray] = {}
    left_out = []
    for name, array in arrays.items():
        parts = name.split(".")
        if parts[-1] in _COUNTERS:
            continue
        if parts[0] in _OF_TRAINING or _is_number(parts[-1], array):
            left_out.append(name)
            continue
        bare = ".".join(part for part in parts if part not in _WRAPPERS)
        if bare in plain:
            raise SettingsError(f"has {bare} twice, once as {name}")
        plain[bare] = array
    return _without_prefix(plain), left_out


def _is_number(name: str, array: np.ndarray) -> bool:
    """Tells what is no weight of a network: one whole number, such as a step, unless BatchNorm has it."""
    return name != "num_batches_tracked" and array.ndim == 0 and array.dtype.kind in "biu"


def _without_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Takes off the modules that hold all others, such as `model.` or `net.`."""
    prefixes = {name.partition(".")[0] for name in arrays}
    rest = {name.partition(".")[2]: array for name, array in arrays.items()}
    if len(prefixes) == 1 and "" not in rest and any("." in name for name in rest):
        return _without_prefix(rest)
    return arrays
