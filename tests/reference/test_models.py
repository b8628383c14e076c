"""Every network against the reference's numbers: names, counts, logits, BatchNorm statistics, loss and gradients.

In float64 nothing but layout and arithmetic is left and both sides agree to the last digits. In float32 the distance
of the reference's own float32 and float64 results is the yardstick for rounding.
"""

import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ssoup_jax import models
from ssoup_jax.interop.state_dict import entries, from_state_dict, to_state_dict, torch_name
from ssoup_jax.models.layers import BatchNorm, Dropout
from tests.reference import golden
from tests.reference.deviations import record

CASES = golden.load_json("models")["cases"]

# Our sums run in another order than the reference's, so we may be some yardsticks away; and one yardstick may be small
# by luck, so that no tolerance falls below the floor (about 80 float32 roundings, after 20 and more layers).
FACTOR, FLOOR = 4, 1e-5


class Outcome(NamedTuple):
    """What one network computed, as NumPy arrays."""

    logits_eval: np.ndarray
    logits_train: np.ndarray
    losses: dict[str, float]
    grad_norm: np.ndarray
    grad_dot_parameter: np.ndarray
    parameter_norm: np.ndarray
    bn_after_train: dict[str, np.ndarray]


def network(case):
    channels, height, width = case["input"]
    image_shape = height, width, channels
    return models.build(case["arch"], case["n_classes"], image_shape, dropout=False), image_shape


def rule_filled(case):
    return {
        name: golden.rule_filled_entry(name, tuple(shape), k, case["seed"], case["gain"])
        for k, (name, shape, _) in enumerate(case["state_dict"])
    }


def compute(case, dtype) -> Outcome:
    model, image_shape = network(case)
    model = model.clone(dtype=dtype)
    state = rule_filled(case)
    params, batch_stats = jax.tree.map(lambda a: a.astype(dtype), from_state_dict(model, image_shape, state))
    images = golden.rule(case["seed"] + 500000, 0, (case["batch"], *case["input"])).transpose(0, 2, 3, 1)
    images = jnp.asarray(images, dtype)
    labels = jnp.asarray((7 * np.arange(case["batch"]) + 3) % case["n_classes"])

    def cross_entropy(logits):
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()

    def train_loss(params):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updated = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return cross_entropy(logits), (logits, updated.get("batch_stats", {}))

    @jax.jit
    def everything(params):
        logits_eval = model.apply({"params": params, "batch_stats": batch_stats}, images, train=False)
        (loss, (logits, stats)), gradients = jax.value_and_grad(train_loss, has_aux=True)(params)
        return logits_eval, cross_entropy(logits_eval), logits, loss, stats, gradients

    logits_eval, loss_eval, logits_train, loss_train, stats, gradients = jax.device_get(everything(params))
    after = to_state_dict(model, image_shape, gradients, stats)
    pairs = [(after[name].astype(np.float64), state[name].astype(np.float64)) for name, _ in case["parameters"]]
    return Outcome(
        logits_eval,
        logits_train,
        {"loss_eval": float(loss_eval), "loss_train": float(loss_train)},
        np.array([np.linalg.norm(g) for g, _ in pairs]),
        np.array([np.vdot(g, p) for g, p in pairs]),
        np.array([np.linalg.norm(p) for _, p in pairs]),
        {name: after[name] for name, _ in case.get("bn_after_train", [])},
    )


def expected(case, name):
    return golden.load_npz("models")[f"{case['key']}/{name}"]


def distance(found, wanted):
    """Largest difference in units of the largest wanted value."""
    return np.max(np.abs(found - wanted)) / np.max(np.abs(wanted))


def tolerance(case, name):
    return max(FLOOR, FACTOR * distance(expected(case, name), expected(case, f"{name}_float64")))


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case["key"])
def float32(request):
    return request.param, compute(request.param, jnp.float32)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["key"])
def test_names_shapes_and_counts(case):
    listed = entries(*network(case))
    dtypes = {None: "int64"}
    assert [[e.name, list(e.shape), dtypes.get(e.collection, "float32")] for e in listed] == case["state_dict"]
    of_params = [e for e in listed if e.collection == "params"]
    assert [[e.name, list(e.shape)] for e in of_params] == case["parameters"]
    assert [[e.name, list(e.shape)] for e in of_params if e.path[-1] == "kernel"] == case["prunable"]
    assert sum(int(np.prod(e.shape)) for e in of_params) == case["n_parameters"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["key"])
def test_batch_norms_and_dropout_layers(case):
    """Features, momentum and epsilon of every BatchNorm in order, and how many dropout layers there are."""
    norms, dropouts = {}, []

    def watch(call, args, kwargs, context):
        module = context.module
        if isinstance(module, BatchNorm):
            name = torch_name((*module.path, "scale")).removesuffix(".weight")
            norms[name] = args[0].shape[-1], pytest.approx(1 - module.momentum), module.epsilon
        dropouts.extend([module] if isinstance(module, Dropout) else [])
        return call(*args, **kwargs)

    def trace():
        with nn.intercept_methods(watch):
            model, image_shape = network(case)
            return models.init(model, jax.random.key(0), image_shape)

    jax.eval_shape(trace)
    assert [(name, *norm) for name, norm in norms.items()] == [tuple(norm) for norm in case["batch_norms"]]
    assert len(dropouts) == case["n_dropout_modules_set_to_0"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["key"])
def test_state_dict_survives_the_round_trip(case):
    state = rule_filled(case)
    flat = b"".join(a.tobytes() for a in state.values() if a.dtype == np.float32)
    assert hashlib.sha256(flat).hexdigest() == case["state_sha256"]
    back = to_state_dict(*network(case), *from_state_dict(*network(case), state))
    assert list(back) == list(state)
    for name, array in state.items():
        assert back[name].dtype == array.dtype and back[name].shape == array.shape
        assert back[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_logits_and_loss(float32, mode):
    case, outcome = float32
    name = f"logits_{mode}"
    found = getattr(outcome, name)
    assert found.dtype == np.float32
    deviation = distance(found, expected(case, f"{name}_float64"))
    record(f"models, {case['arch']}: logits in {mode} mode / largest", deviation, tolerance(case, name))
    loss = case[f"loss_{mode}_float64"]
    rounding = abs(case[f"loss_{mode}"] - loss) / loss
    assert outcome.losses[f"loss_{mode}"] == pytest.approx(loss, rel=max(FLOOR, FACTOR * rounding))


def test_batch_norm_after_one_training_forward(float32):
    case, outcome = float32
    if not case["batch_norms"]:
        assert outcome.bn_after_train == {}
        return
    wanted = golden.split_flat(expected(case, "bn_after_train"), case["bn_after_train"])
    assert outcome.bn_after_train.keys() == wanted.keys()
    for name, array in wanted.items():
        # Statistics are made of the same activations as the logits, which have the yardstick.
        deviation = distance(outcome.bn_after_train[name], array)
        comparison = f"models, {case['arch']}: BatchNorm statistics after a training step / largest"
        record(comparison, deviation, tolerance(case, "logits_train"))


def test_gradients(float32):
    case, outcome = float32
    wanted = expected(case, "grad_norm_float64")
    dots = expected(case, "grad_dot_parameter_float64")
    # A bias that BatchNorm subtracts again has gradient 0, and rounding only in float32.
    live = wanted > 1e-6 * wanted.max()
    assert np.all(outcome.grad_norm[~live] <= 1e-6 * wanted.max())
    norm_error = np.abs(outcome.grad_norm - wanted)[live] / wanted[live]
    # |g||p| is what the dot product could be; kernels before a BatchNorm are orthogonal to their gradients.
    dot_error = np.abs(outcome.grad_dot_parameter - dots)[live] / (wanted * outcome.parameter_norm)[live]
    # An input of a ReLU that rounding moves across 0 changes gradients in a jump, so that the reference's own float32
    # gradients are up to 0.8 % from its float64 ones; where it had no such jump its yardstick says nothing.
    yardstick = np.abs(expected(case, "grad_norm") - wanted)[live] / wanted[live]
    for what, error in (("norm", norm_error), ("product with its parameter", dot_error)):
        comparison = f"models, {case['arch']}: {what} of a parameter's gradient, relative"
        record(comparison, error.max(), max(5e-3, FACTOR * yardstick.max()))


# In float64 XLA's convolutions are slow: minutes for the networks with many parameters.
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c["key"], marks=pytest.mark.slow if c["n_parameters"] > 1e6 else ()) for c in CASES],
)
def test_float64(case):
    with jax.enable_x64(True):
        outcome = compute(case, jnp.float64)
    for name in ("logits_eval", "logits_train", "grad_norm"):
        deviation = distance(getattr(outcome, name), expected(case, f"{name}_float64"))
        record(f"models, {case['arch']}: {name} in float64 / largest", deviation, 1e-12)
    norms = expected(case, "grad_norm_float64")
    error = np.abs(outcome.grad_dot_parameter - expected(case, "grad_dot_parameter_float64"))
    # Relative to the largest gradient, because zero gradients have no size of their own.
    assert np.all(error <= 1e-12 * norms.max() * outcome.parameter_norm)
    for name, loss in outcome.losses.items():
        assert loss == pytest.approx(case[f"{name}_float64"], rel=1e-12)
