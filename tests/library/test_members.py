"""Members of any task: what trains, and what is refused in one line before anything does."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx

from ssoup_jax import (
    SettingsError,
    Task,
    Variables,
    distances,
    from_arrays,
    from_batches,
    full_mask,
    hyper,
    member,
    prune,
    recalibrate,
    stack_members,
    stateless,
    train_members,
)
from ssoup_jax.training import checks, loop, step
from tests.library import linear


def two(model=None):
    return stack_members([model or linear.start()] * 2)


@pytest.fixture
def usual_promotion():
    # Optax and half precision mix dtypes. Not as a context, which a thread that compiles would not see.
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


def test_it_is_the_loop_of_the_experiments():
    own, data = linear.members(), linear.data()
    found = train_members(linear.TASK, two(), data, own, execution="loop")
    mask = full_mask(linear.start(), lambda name: False)
    start = step.init(linear.TASK, own.values, Variables(two(), {}), mask)
    expected = loop.train(linear.TASK, data.feed, start, own, data.batch_size, "loop")
    np.testing.assert_array_equal(found.stack["kernel"], expected.state.variables.params["kernel"])
    np.testing.assert_array_equal(found.losses, expected.losses)


def test_it_goes_on_from_the_state_of_an_earlier_call():
    halves = [linear.members(n_steps=4), linear.members(n_steps=8)]
    first = train_members(linear.TASK, two(), linear.data(), halves[0], execution="loop")
    found = train_members(linear.TASK, loop.Snapshot(4, first.state), linear.data(), halves[1], execution="loop")
    whole = train_members(linear.TASK, two(), linear.data(), halves[1], execution="loop")
    np.testing.assert_array_equal(found.stack.params["kernel"], whole.stack["kernel"])


def test_what_is_given_is_left_alone_and_what_is_pruned_stays_zero():
    params, mask = prune(linear.start(), full_mask(linear.start()), 0.5)
    start = jax.device_put(two(params))
    found = train_members(linear.TASK, start, linear.data(), linear.members(n_steps=20), mask=mask, execution="vmap")
    assert not np.any(found.stack["kernel"][:, 2:])
    assert np.all(found.stack["kernel"][:, :2])
    np.testing.assert_array_equal(start["kernel"], two(params)["kernel"])


def test_a_member_that_diverges_is_not_healthy():
    found = train_members(linear.TASK, two(), linear.data(), linear.members(n_steps=60, learning_rate=[0.05, 1e30]))
    assert set(found.diverged) == {1}
    assert found.healthy["kernel"].shape == (1, 4)


class Norm(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=not train, momentum=0.5)(x))[:, 0]


def linen_loss(params, collections, batch, key):
    variables = {"params": params, "batch_stats": collections["batch_stats"]}
    out, new = Norm().apply(variables, batch["x"], train=True, mutable=["batch_stats"])
    seen = {"seen": collections["seen"] + batch["y"].shape[0]}
    return jnp.mean((out - batch["y"]) ** 2), (collections | seen | new, {"largest": jnp.abs(out).max()})


def test_collections_of_linen_and_others():
    made = Norm().init(jax.random.key(0), linear.X[:1], train=False)
    model = Variables.from_flax(made | {"seen": np.int32(0)})
    task = Task(linen_loss, optax.sgd)
    found = train_members(task, stack_members([model] * 2), linear.data(), linear.members())
    np.testing.assert_array_equal(found.stack.collections["seen"], [96, 96])
    assert np.abs(found.stack.collections["batch_stats"]["BatchNorm_0"]["mean"]).max() > 0
    fresh = recalibrate(task, found.stack, linear.data(), jax.random.key(0))
    np.testing.assert_array_equal(fresh.collections["seen"], [96, 96])
    # Four batches in order, by hand, from mean 0 with momentum 1/2; float32 sums of 16 numbers of size 1.
    expected = np.zeros(4)
    for rows in np.float64(linear.X).reshape(4, 16, 4):
        expected = (expected + rows.mean(axis=0)) / 2
    np.testing.assert_allclose(fresh.collections["batch_stats"]["BatchNorm_0"]["mean"][0], expected, atol=1e-6)
    assert distances(found.stack)["l2_max"] > 0


class Perceptron(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs, momentum=0.5)
        self.out = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.hidden(x))))[:, 0]


@pytest.mark.parametrize("pure", [False, True], ids=["State", "pure dict"])
def test_the_split_state_of_nnx(pure):
    graph, params, rest = nnx.split(Perceptron(nnx.Rngs(0)), nnx.Param, ...)
    state = nnx.to_pure_dict if pure else (lambda own: own)

    def loss(params, collections, batch, key):
        own = [params, collections["batch_stats"]]
        if pure:
            own = [nnx.restore_int_paths(part) for part in own]
        model = nnx.merge(graph, *own, copy=True)
        error = jnp.mean((model(batch["x"]) - batch["y"]) ** 2)
        return error, ({"batch_stats": state(nnx.state(model, nnx.BatchStat))}, {})

    model = Variables(state(params), {"batch_stats": state(rest)})
    pruned, mask = prune(model.params, full_mask(model.params), 0.5)
    task = Task(loss, optax.sgd)
    start = stack_members([model.replace(params=pruned)] * 2)
    found = train_members(task, start, linear.data(), linear.members(n_steps=40), mask=mask)
    kernel = member(found.stack, 0).params["hidden"]["kernel"]
    kept = mask["hidden"]["kernel"]
    kernel, kept = (kernel, kept) if pure else (kernel.get_value(), kept.get_value())
    assert not np.any(np.asarray(kernel)[~np.asarray(kept)])
    assert np.all(found.losses[:, -4:].mean(axis=1) < found.losses[:, :4].mean(axis=1))
    fresh = recalibrate(task, found.stack, linear.data(), jax.random.key(0))
    assert jax.tree.structure(fresh) == jax.tree.structure(found.stack)


@pytest.mark.usefixtures("usual_promotion")
@pytest.mark.parametrize("optimizer", [optax.sgd, optax.adamw, optax.lamb], ids=["sgd", "adamw", "lamb"])
def test_half_precision_trains_and_stays_half_precision(optimizer):
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), linear.start())
    params, mask = prune(start, full_mask(start), 0.5)
    task = Task(stateless(linear.loss), optimizer)
    found = train_members(task, two(params), linear.data(), linear.members(n_steps=12), mask=mask)
    assert found.stack["kernel"].dtype == jnp.bfloat16
    assert not np.any(np.float32(found.stack["kernel"])[:, 2:])
    assert np.all(np.float32(found.stack["kernel"])[:, :2])


def not_scalar(params, batch, key):
    return (batch["x"] @ params["kernel"] - batch["y"]) ** 2


def grows(params, collections, batch, key):
    return params["kernel"].sum(), ({**collections, "seen": {"n": jnp.zeros(())}}, {})


def casts(params, collections, batch, key):
    return params["kernel"].sum(), ({"seen": {"n": jnp.zeros(2)}}, {})


def bare(params, collections, batch, key):
    return params["kernel"].sum()


def vector(params, batch, key):
    return params["kernel"].sum(), {"each": batch["y"]}


def changes(learning_rate):
    def update(updates, state, params=None):
        return updates, {"n": state["n"].astype(jnp.float32)}

    return optax.GradientTransformation(lambda params: {"n": jnp.zeros((), jnp.int32)}, update)


COUNTED = Variables(linear.start(), {"seen": {"n": np.float32(0)}})
TASKS = {
    "loss is no scalar": (
        Task(stateless(not_scalar), optax.sgd),
        linear.start(),
        r"^loss: found float32\[16\]; allowed: one float, such as the mean over the batch$",
    ),
    "loss alone": (Task(bare, optax.sgd), linear.start(), r"^loss: returns float32\[\]; allowed: \(loss, \("),
    "more collections": (
        Task(grows, optax.sgd),
        linear.start(),
        r"^collections: the loss changes their structure: seen/n is float32\[\], where nothing is wanted$",
    ),
    "other collections": (
        Task(casts, optax.sgd),
        COUNTED,
        r"^collections: the loss changes their structure: seen/n is float32\[2\], where float32\[\] is wanted$",
    ),
    "figures": (Task(stateless(vector), optax.sgd), linear.start(), r"^figures: each is float32\[16\]; allowed: one "),
    "optimizer": (
        Task(stateless(linear.loss), changes),
        linear.start(),
        r"^optimizer: its state changes its structure in a step: n is float32\[\], where int32\[\] is wanted$",
    ),
    "hyperparameter": (
        Task(stateless(linear.loss), lambda lr: optax.sgd(lr)),
        linear.start(),
        r"^hyper: unknown value 'learning_rate'; allowed: lr$",
    ),
    "no hyperparameter": (
        Task(stateless(linear.loss), lambda learning_rate, decay: optax.sgd(learning_rate)),
        linear.start(),
        "^hyper: decay is not given; the optimizer needs it$",
    ),
    "nnx": (linear.TASK, nnx.Linear(4, 1, rngs=nnx.Rngs(0)), r"^params: found a Linear, an object; .* nnx\.split\("),
    "nnx inside": (linear.TASK, {"a": nnx.Linear(4, 1, rngs=nnx.Rngs(0))}, "^params: found a Linear, an object; "),
    "linen": (linear.TASK, {"a": nn.Dense(1)}, r"^params: found a Dense, an object; .*init\("),
    "key": (linear.TASK, Variables(linear.start(), {"rng": jax.random.key(0)}), "^collections: rng is a PRNG key; "),
    "text": (linear.TASK, {"kernel": np.array("x")}, "^params: kernel is "),
}


@pytest.mark.parametrize(("task", "model", "says"), TASKS.values(), ids=TASKS)
def test_what_cannot_be_trained_is_one_line(task, model, says):
    stack = model if isinstance(model, nnx.Module) else jax.tree.map(lambda leaf: leaf, model)
    if not any(
        isinstance(leaf, nnx.Module | nn.Module)
        for leaf in jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, nnx.Module | nn.Module))
    ):
        stack = stack_members([model] * 2)
    with pytest.raises(SettingsError, match=says) as error:
        train_members(task, stack, linear.data(), linear.members())
    assert "\n" not in str(error.value)


CALLS = {
    "mask": (
        {"mask": {"w": None}},
        r"^mask: kernel is nothing; allowed: bool\[4\], the shape of its weights, or None$",
    ),
    "one model": ({"stack": linear.start()}, r"^stack: kernel has 4 members; hyper is of 2; see stack_members$"),
    "batches": ({"batches": {"x": linear.X}}, "^batches: found dict; allowed: from_arrays"),
    "hyper": ({"hyper": {"learning_rate": 0.1}}, "^hyper: found dict; allowed: hyper"),
    "execution": ({"execution": "vmapp"}, "^execution: unknown value 'vmapp'"),
}


@pytest.mark.parametrize(("changes", "says"), CALLS.values(), ids=CALLS)
def test_what_does_not_fit_together_is_one_line(changes, says):
    stack, batches, own = (
        changes.pop("stack", two()),
        changes.pop("batches", linear.data()),
        changes.pop("hyper", linear.members()),
    )
    with pytest.raises(SettingsError, match=says):
        train_members(linear.TASK, stack, batches, own, **changes)


def test_donated_arrays_are_named():
    gone = {"kernel": jnp.ones((2, 4))}
    jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf + 1, tree), donate_argnums=0)(gone)
    with pytest.raises(SettingsError, match=r"^params: kernel was donated to an earlier call and is gone; go on from"):
        train_members(linear.TASK, gone, linear.data(), linear.members())


def test_a_snapshot_that_the_next_chunk_took_is_named(monkeypatch):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    kept = []
    options = {"execution": "vmap", "on_chunk": lambda progress, snapshot: kept.append(snapshot)}
    train_members(linear.TASK, two(), linear.data(), linear.members(n_steps=3), **options)
    with pytest.raises(SettingsError, match=r"^state: .* was donated to an earlier call and is gone"):
        train_members(linear.TASK, kept[0], linear.data(), linear.members(n_steps=3))


def test_an_optimizer_that_is_made_already():
    with pytest.raises(SettingsError, match=r"^optimizer: found an optimizer that is made already"):
        Task(stateless(linear.loss), optax.sgd(0.1))


def test_functions_defined_anew_are_noticed_after_a_few_and_said_once():
    def made():
        def loss(params, batch, key):
            return linear.loss(params, batch, key)

        return Task(stateless(loss), functools.partial(optax.sgd, momentum=0.5))

    said = []
    for _ in range(5):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            checks.notice_remade(made())
        said.append([str(warning.message) for warning in caught])
    assert [len(lines) for lines in said] == [0, 0, 1, 0, 0]
    assert "loss: 3 tasks were made of the same functions" in said[2][0]


def test_one_task_and_tasks_of_other_constants_are_not_noticed():
    def made(factor):
        return Task(stateless(lambda params, batch, key: factor * params["kernel"].sum()), optax.sgd)

    tasks = [made(factor) for factor in range(5)] + [linear.TASK] * 5
    for task in tasks:
        checks.notice_remade(task)  # a warning would be an error


BATCHES = [{"x": linear.X[i : i + 16], "y": linear.Y[i : i + 16]} for i in range(0, 64, 16)]


def test_batches_as_they_come_train_like_arrays_in_that_order():
    own = linear.members(n_steps=8)
    found = train_members(linear.TASK, two(), from_batches(BATCHES), own, execution="loop")
    kernel = linear.start()["kernel"]
    for i in range(8):
        batch = BATCHES[i % 4]
        kernel = kernel - np.float32(0.05) * np.asarray(
            jax.grad(linear.loss)({"kernel": kernel}, batch, None)["kernel"]
        )
    # Eight steps of float32, each rounded to 6e-8 of about 1.
    np.testing.assert_allclose(found.stack["kernel"][0], kernel, rtol=2e-6, atol=2e-6)


def test_a_stream_goes_on_in_the_middle_of_an_epoch():
    seen = []

    def make(epoch, seed):
        seen.append((epoch, seed))
        order = np.random.default_rng((epoch, seed)).permutation(64).reshape(-1, 16)
        return ({"x": linear.X[rows], "y": linear.Y[rows]} for rows in order)

    batches = from_batches(make, steps_per_epoch=4)
    keys = jnp.stack([jax.random.key(7), jax.random.key(9)])
    halves = [hyper(2, n, keys, learning_rate=0.05) for n in (6, 11)]
    whole = train_members(linear.TASK, two(), batches, halves[1], execution="loop")
    assert set(seen) >= {(0, 7), (0, 9), (2, 7), (2, 9)}
    assert not np.array_equal(whole.stack["kernel"][0], whole.stack["kernel"][1])
    first = train_members(linear.TASK, two(), batches, halves[0], execution="loop")
    found = train_members(linear.TASK, loop.Snapshot(6, first.state), batches, halves[1], execution="loop")
    np.testing.assert_array_equal(found.stack.params["kernel"], whole.stack["kernel"])


STREAMS = {
    "shape": (
        [*BATCHES, {"x": linear.X[:5], "y": linear.Y[:5]}],
        r"^batches: batch 4 of epoch 0 is not like the first one: x is float32\[5, 4\], where float32\[16, 4\] is "
        r"wanted; drop it or fill it up$",
    ),
    "dtype": ([*BATCHES[:2], {**BATCHES[0], "y": np.arange(16)}], r"^batches: batch 2 .* y is int32\[16\], where "),
    "empty": ([], "^batches: the first epoch has none$"),
    "rows": ([{"x": linear.X[:4], "y": linear.Y[:3]}], "^batches: y has 3 examples and x has 4$"),
    "text": ([{"x": np.array(["a"])}], "^batches: x is of type <U1; allowed: arrays of numbers$"),
    "number": ([{"x": 1.0}], r"^batches: x is float32\[\]; its first axis is the examples'$"),
    "no iterable": (7, "^batches: found int; allowed: an iterable of batches or a function"),
    "ends": (iter(BATCHES), "^batches: epoch 0 ended after 4 batches; to begin it anew give steps_per_epoch=4$"),
}


@pytest.mark.parametrize(("batches", "says"), STREAMS.values(), ids=STREAMS)
def test_a_stream_that_cannot_be_used_is_one_line(batches, says):
    with pytest.raises(SettingsError, match=says):
        train_members(linear.TASK, two(), from_batches(batches), linear.members(n_steps=9))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (({"x": linear.X, "y": linear.Y[:9]}, 8), "^arrays: y has 9 examples and x has 64$"),
        (({"x": linear.X}, 65), "^batch_size: found 65; allowed: 1 to the 64 examples$"),
        (({}, 1), "^arrays: found no array$"),
    ],
)
def test_arrays_that_make_no_batches(arguments, says):
    with pytest.raises(SettingsError, match=says):
        from_arrays(*arguments)
