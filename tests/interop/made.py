"""Networks with values in every leaf, files of them, and what is said of those that cannot be read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax import models
from ssoup_jax.errors import SettingsError
from ssoup_jax.interop import pytorch
from ssoup_jax.interop.state_dict import entries, from_state_dict
from ssoup_jax.pruning import full_mask, is_kernel
from tests.interop import twins

SUFFIXES = (".pt", ".pth", ".safetensors")


def network(arch, image_shape, n_classes=10):
    """Builds a network by its name."""
    return models.build(arch, n_classes, image_shape)


def random_variables(model, image_shape, sparsity=0.7):
    """Draws values for every leaf, negative ones included, and zeroes those that a random mask prunes."""
    random = np.random.default_rng(1)
    state, masks = {}, {}
    for entry in entries(model, image_shape):
        if entry.collection:
            state[entry.name] = random.normal(size=entry.shape).astype(np.float32)
        if is_kernel("/".join(entry.path)):
            masks[entry.path] = random.random(entry.shape) > sparsity
            state[entry.name] = np.where(masks[entry.path], state[entry.name], np.float32(0))
    params, batch_stats = from_state_dict(model, image_shape, state)
    mask = full_mask(params)
    for path, kept in masks.items():
        *modules, leaf = path
        node = mask
        for module in modules:
            node = node[module]
        node[leaf] = jnp.asarray(kept.transpose(2, 3, 1, 0) if kept.ndim == 4 else kept.T)
    return params, batch_stats, mask


def assert_same_bits(found, wanted):
    """Compares trees: structure, shapes, dtypes and every bit."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape, path
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path
    assert jax.tree.structure(found) == jax.tree.structure(wanted)


def state_of(arch="Simple", pruned=False):
    """Returns the state dict of a network in PyTorch, half of it pruned if asked for."""
    twin, _ = twins.make(arch)
    if pruned:
        twins.prune_globally(twin, 0.5)
    return twin.state_dict()


def prefixed(state, prefix):
    """Returns a state dict with something before all of its names."""
    return {f"{prefix}{name}": value for name, value in state.items()}


def one_line(path, read=pytorch.read):
    """Returns the line by which a file is refused."""
    with pytest.raises(SettingsError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message
