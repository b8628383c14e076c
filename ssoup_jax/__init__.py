"""Sparse Model Soups in JAX: masks, schedules, stacks, soups and the whole method, for any network, loss and data.

`docs/library.md` shows how they fit together. Importing this loads nothing: a name is looked up when it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssoup_jax.data.batches import from_arrays, from_batches
    from ssoup_jax.errors import RunError, SettingsError
    from ssoup_jax.library.members import distances, recalibrate, train_members
    from ssoup_jax.library.sms import sparse_model_soup
    from ssoup_jax.metrics.sparsity import sparsity
    from ssoup_jax.models.variables import Variables
    from ssoup_jax.pruning.masks import full_mask, restrict
    from ssoup_jax.pruning.prune import prune
    from ssoup_jax.pruning.transform import apply_mask, keep_masked_zero, mask_gradients, masked
    from ssoup_jax.schedules.as_optax import dense_schedule, retrain_schedule
    from ssoup_jax.soups.soup import soup
    from ssoup_jax.training.hyper import hyper
    from ssoup_jax.training.task import Task, stateless
    from ssoup_jax.trees import member, unstack
    from ssoup_jax.trees import stack as stack_members

_HOMES = {
    "data.batches": ("from_arrays", "from_batches"),
    "errors": ("RunError", "SettingsError"),
    "library.members": ("distances", "recalibrate", "train_members"),
    "library.sms": ("sparse_model_soup",),
    "metrics.sparsity": ("sparsity",),
    "models.variables": ("Variables",),
    "pruning.masks": ("full_mask", "restrict"),
    "pruning.prune": ("prune",),
    "pruning.transform": ("apply_mask", "keep_masked_zero", "mask_gradients", "masked"),
    "schedules.as_optax": ("dense_schedule", "retrain_schedule"),
    "soups.soup": ("soup",),
    "training.hyper": ("hyper",),
    "training.task": ("Task", "stateless"),
    "trees": ("member", "unstack", "stack_members"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_RENAMED = {"stack_members": "stack"}  # `ssoup_jax.stack` is a package

__all__ = [
    "RunError",
    "SettingsError",
    "Task",
    "Variables",
    "apply_mask",
    "dense_schedule",
    "distances",
    "from_arrays",
    "from_batches",
    "full_mask",
    "hyper",
    "keep_masked_zero",
    "mask_gradients",
    "masked",
    "member",
    "prune",
    "recalibrate",
    "restrict",
    "retrain_schedule",
    "soup",
    "sparse_model_soup",
    "sparsity",
    "stack_members",
    "stateless",
    "train_members",
    "unstack",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOME_OF[name]}")
    globals()[name] = found = getattr(home, _RENAMED.get(name, name))
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
