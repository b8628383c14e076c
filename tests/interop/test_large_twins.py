"""The large networks agree with their PyTorch twins from the same weights, in evaluation and in train mode."""

import jax
import numpy as np
import pytest
import torch

from ssoup_jax import models
from ssoup_jax.interop.state_dict import from_state_dict, to_state_dict
from tests.interop import twins

# Sums over up to 5 760 products, in another order, through up to 50 layers.
CLOSE = 2e-4


@pytest.mark.parametrize("arch", twins.LARGE)
def test_logits_and_statistics(arch):
    twin, image_shape = twins.make(arch)
    images = np.random.default_rng(0).standard_normal((4, *image_shape)).astype(np.float32)
    model = models.build(arch, 10, image_shape, dropout=False)
    state = {name: value.numpy().copy() for name, value in twin.state_dict().items()}
    params, batch_stats = from_state_dict(model, image_shape, state)
    variables = {"params": params, "batch_stats": batch_stats}

    @jax.jit
    def both(variables):
        trained, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return model.apply(variables, images, train=False), trained, updated["batch_stats"]

    evaluated, trained, updated = jax.device_get(both(variables))
    with torch.no_grad():
        expected = [twins.logits(twin.eval(), images), twins.logits(twin.train(), images)]
    for found, wanted in zip((evaluated, trained), expected, strict=True):
        assert np.max(np.abs(found - wanted)) <= CLOSE * np.max(np.abs(wanted))
    after = to_state_dict(model, image_shape, params, updated)
    for name, value in twin.state_dict().items():
        if "running" in name:
            np.testing.assert_allclose(after[name], value.numpy(), rtol=CLOSE, atol=CLOSE, err_msg=name)
