"""Initial values by their moments, and BatchNorm against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax.models.layers import BatchNorm, Conv, Dropout, Linear, flatten, normal_by_fan_out

LAYERS = {
    "conv": (Conv(600, 3), (1, 4, 4, 30), 270),
    "linear": (Linear(700), (1, 300), 300),
}


@pytest.mark.parametrize(("layer", "shape", "fan_in"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("leaf", ["kernel", "bias"])
def test_default_initial_values_are_uniform_by_fan_in(layer, shape, fan_in, leaf):
    values = np.asarray(layer.init(jax.random.key(0), jnp.zeros(shape))["params"][leaf]).ravel()
    assert values.dtype == np.float32
    bound = 1 / np.sqrt(fan_in)
    assert np.abs(values).max() <= bound
    # Five standard errors of a uniform's extremes, mean, variance and fourth moment over n draws.
    n = values.size
    assert np.abs(values).max() >= bound * (1 - 12 / n)
    assert abs(values.mean()) <= 5 * bound / np.sqrt(3 * n)
    assert np.mean(values**2) == pytest.approx(bound**2 / 3, rel=5 * np.sqrt(4 / 5 / n))
    assert np.mean(values**4) == pytest.approx(bound**4 / 5, rel=5 * np.sqrt(16 / 9 / n))


def test_kernel_and_bias_are_drawn_independently():
    params = Linear(1000).init(jax.random.key(0), jnp.zeros((1, 1)))["params"]
    # Five standard errors of the correlation of 1000 pairs.
    assert abs(np.corrcoef(params["kernel"][0], params["bias"])[0, 1]) <= 5 / np.sqrt(1000)


def test_normal_by_fan_out():
    layer = Conv(64, 3, use_bias=False, kernel_init=normal_by_fan_out)
    values = np.asarray(layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 128)))["params"]["kernel"]).ravel()
    variance, n = 2 / (3 * 3 * 64), values.size
    # Five standard errors; the fourth moment tells a normal from a truncated one.
    assert abs(values.mean()) <= 5 * np.sqrt(variance / n)
    assert np.mean(values**2) == pytest.approx(variance, rel=5 * np.sqrt(2 / n))
    assert np.mean(values**4) == pytest.approx(3 * variance**2, rel=5 * np.sqrt(32 / 3 / n))


def test_dropout():
    x = jnp.asarray(np.random.default_rng(0).normal(0, 1, (100, 5, 5, 8)), jnp.float32)
    rate, n = 0.3, x.size
    assert Dropout(rate, active=False).apply({}, x) is x
    y = Dropout(rate, active=True).apply({}, x, rngs={"dropout": jax.random.key(0)})
    dropped = np.asarray(y == 0)
    assert dropped.mean() == pytest.approx(rate, abs=5 * np.sqrt(rate * (1 - rate) / n))  # five standard errors
    # One float32 rounding of the scale and one of the product.
    np.testing.assert_allclose(y[~dropped], x[~dropped] / np.float32(1 - rate), rtol=3e-7)
    other = Dropout(rate, active=True).apply({}, x, rngs={"dropout": jax.random.key(1)})
    both = np.mean(dropped & np.asarray(other == 0))
    assert both == pytest.approx(rate**2, abs=5 * np.sqrt(rate**2 * (1 - rate**2) / n))
    assert (
        Dropout(rate, active=True).apply({}, x.astype(jnp.bfloat16), rngs={"dropout": jax.random.key(0)}).dtype
        == jnp.bfloat16
    )


def test_flatten_is_channels_first():
    x = jnp.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    wanted = [[x[b, h, w, c] for c in range(5) for h in range(3) for w in range(4)] for b in range(2)]
    np.testing.assert_array_equal(flatten(x), np.asarray(wanted))


def apply_norm(norm, variables, x, mutable=()):
    return norm.apply(variables, x, mutable=list(mutable))


@pytest.mark.parametrize(("batch", "size"), [(6, 5), (2, 1)], ids=["maps", "two values per feature"])
@pytest.mark.parametrize("torch_momentum", [0.1, 0.9])
def test_batch_norm_is_torchs(batch, size, torch_momentum):
    import torch

    features, rng = 4, np.random.default_rng(0)
    theirs = torch.nn.BatchNorm2d(features, momentum=torch_momentum)
    scale, bias = rng.normal(1, 0.2, features).astype(np.float32), rng.normal(0, 1, features).astype(np.float32)
    with torch.no_grad():
        theirs.weight.copy_(torch.from_numpy(scale))
        theirs.bias.copy_(torch.from_numpy(bias))
    momentum = 1 - torch_momentum
    norm = BatchNorm(use_running_average=False, momentum=momentum)
    shape = (batch, size, size, features)
    stats = norm.init(jax.random.key(0), jnp.zeros(shape))["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], np.zeros(features))
    np.testing.assert_array_equal(stats["var"], np.ones(features))

    def loss(params, x, stats, weights):
        y, updated = apply_norm(norm, {"params": params, "batch_stats": stats}, x, ["batch_stats"])
        return jnp.sum(y * weights), (y, updated["batch_stats"])

    params = {"scale": jnp.asarray(scale), "bias": jnp.asarray(bias)}
    # float32 sums over at most 150 values; gradients through two values per feature cancel and need room at 0.
    close = {"rtol": 1e-5, "atol": 5e-5}
    for _ in range(4):
        x = rng.normal(3, 2, shape).astype(np.float32)
        weights = rng.normal(0, 1, shape).astype(np.float32)
        (_, (y, stats)), (of_params, of_x) = jax.value_and_grad(loss, (0, 1), has_aux=True)(params, x, stats, weights)
        their_x = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).requires_grad_()
        theirs.zero_grad()
        their_y = theirs(their_x)
        (their_y * torch.from_numpy(weights.transpose(0, 3, 1, 2).copy())).sum().backward()
        np.testing.assert_allclose(y, their_y.detach().permute(0, 2, 3, 1).numpy(), **close)
        np.testing.assert_allclose(of_x, their_x.grad.permute(0, 2, 3, 1).numpy(), **close)
        np.testing.assert_allclose(of_params["scale"], theirs.weight.grad.numpy(), **close)
        np.testing.assert_allclose(of_params["bias"], theirs.bias.grad.numpy(), **close)
        np.testing.assert_allclose(stats["mean"], theirs.running_mean.numpy(), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(stats["var"], theirs.running_var.numpy(), rtol=1e-6, atol=1e-6)
    theirs.eval()
    evaluated = apply_norm(norm.clone(use_running_average=True), {"params": params, "batch_stats": stats}, x)[0]
    np.testing.assert_allclose(evaluated, theirs(their_x).detach().permute(0, 2, 3, 1).numpy(), **close)


def make_norm(features=3, **settings):
    norm = BatchNorm(use_running_average=False, **settings)
    x = np.random.default_rng(1).normal(2, 3, (8, 4, 4, features)).astype(np.float32)
    # A constant axis name is bound only where the batch is mapped, so the variables come from a norm without one.
    return norm, norm.clone(axis_name=None).init(jax.random.key(0), x), x


def test_batch_moments_are_exact_and_leave_the_running_statistics_alone():
    norm, variables, x = make_norm()
    assert set(variables) == {"params", "batch_stats"}
    _, updated = apply_norm(norm, variables, x, ["batch_moments"])
    assert set(updated) == {"batch_moments"}
    rows = x.reshape(-1, 3).astype(np.float64)
    # One float32 rounding of a mean and of a variance, with room for the order of summation.
    np.testing.assert_allclose(updated["batch_moments"]["mean"], rows.mean(0), rtol=1e-6)
    np.testing.assert_allclose(updated["batch_moments"]["var"], rows.var(0, ddof=1), rtol=1e-6)
    both = apply_norm(norm, variables, x, ["batch_moments", "batch_stats"])[1]
    assert jax.tree.structure(both["batch_moments"]) == jax.tree.structure(both["batch_stats"])
    jax.tree.map(np.testing.assert_array_equal, both["batch_moments"], updated["batch_moments"])


def test_nothing_is_recorded_unless_asked_for():
    norm, variables, x = make_norm()
    assert apply_norm(norm, variables, x)[1] == {}
    evaluating = norm.clone(use_running_average=True)
    assert apply_norm(evaluating, variables, x, ["batch_moments"])[1] == {}
    kept = apply_norm(evaluating, variables, x, ["batch_stats"])[1]["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, kept, variables["batch_stats"])


def test_statistics_are_float32_under_bfloat16():
    norm, variables, x = make_norm(dtype=jnp.bfloat16)
    # bfloat16 would lose a variance of 9 beside a mean of 2000 altogether.
    y, updated = apply_norm(norm, variables, jnp.asarray(x) * 16 + 2000, ["batch_moments"])
    assert y.dtype == jnp.bfloat16
    moments = updated["batch_moments"]
    assert {a.dtype for a in moments.values()} == {jnp.dtype(jnp.float32)}
    exact = (x.astype(np.float64) * 16 + 2000).reshape(-1, 3)
    np.testing.assert_allclose(moments["var"], exact.var(0, ddof=1), rtol=1e-4)
    low = apply_norm(norm, variables, jnp.asarray(x, jnp.bfloat16), ["batch_stats"])
    assert {a.dtype for a in jax.tree.leaves(low[1])} == {jnp.dtype(jnp.float32)}


def test_statistics_over_a_mapped_axis_are_those_of_the_whole_batch():
    norm, variables, x = make_norm(axis_name="data")
    collections = ["batch_stats", "batch_moments"]
    shards = x.reshape(4, 2, *x.shape[1:])
    y, updated = jax.vmap(lambda x: apply_norm(norm, variables, x, collections), axis_name="data")(shards)
    whole_y, whole = apply_norm(norm.clone(axis_name=None), variables, x, collections)
    # The same float32 sums in two steps.
    np.testing.assert_allclose(y.reshape(x.shape), whole_y, rtol=1e-5, atol=1e-5)
    for shard in range(4):
        jax.tree.map(lambda a, b, i=shard: np.testing.assert_allclose(a[i], b, rtol=1e-6), updated, whole)


@pytest.mark.parametrize("mapped", ["vmap", "shard_map"])
def test_gradients_over_a_mapped_axis_are_those_of_the_whole_batch(mapped):
    norm, variables, x = make_norm(axis_name="data")
    weights = np.random.default_rng(2).normal(size=x.shape).astype(np.float32)

    def loss(params, x, weights, norm=norm):
        return jnp.sum(apply_norm(norm, variables | {"params": params}, x)[0] * weights)

    gradients = jax.grad(loss, (0, 1))
    if mapped == "vmap":
        shards = [array.reshape(4, 2, *array.shape[1:]) for array in (x, weights)]
        of_params, of_x = jax.vmap(gradients, (None, 0, 0), axis_name="data")(variables["params"], *shards)
        found = jax.tree.map(lambda leaf: leaf.sum(0), of_params), of_x.reshape(x.shape)
    else:
        # One device suffices: shard_map refuses a gradient that varies over the mesh where its parameter does not.
        mesh = jax.make_mesh((1,), ("data",), (jax.sharding.AxisType.Auto,))
        everywhere, spread = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec("data")
        sharded = jax.shard_map(
            gradients, mesh=mesh, in_specs=(everywhere, spread, spread), out_specs=(everywhere, spread)
        )
        found = sharded(variables["params"], x, weights)

    def whole_loss(params, x):
        return loss(params, x, weights, norm.clone(axis_name=None))

    wanted = jax.grad(whole_loss, (0, 1))(variables["params"], x)
    # The same float32 sums in two steps.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max()), found, wanted)
