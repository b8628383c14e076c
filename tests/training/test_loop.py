"""What a stack's training promises, on the device loop over members."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssoup_jax import trees
from ssoup_jax.data.feeds import Block, cut, epoch_order
from ssoup_jax.errors import RunError
from ssoup_jax.keys import derive
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning.masks import dense_form
from ssoup_jax.stack import executors
from ssoup_jax.stack.held import together
from ssoup_jax.training import loop, step
from ssoup_jax.training.hyper import Hyper, per_step
from ssoup_jax.training.task import Task
from tests.training import tiny

EXECUTIONS = ["map", "loop", "vmap"]
LENGTHS = tuple(tiny.hyper().n_steps.tolist())  # 8, 4 and 2: the second member ends inside a block


@functools.cache
def trained():
    """The result of the usual hyper, whose members end in the third, the second and the first epoch."""
    return jax.device_get(tiny.train(tiny.hyper()))


@pytest.fixture
def seen(monkeypatch):
    """Records every dispatch of steps: the active members and the batches that each of them trained on."""
    dispatches = []
    run = executors.run

    def spy(execution, fn, shared, state, inputs, active):
        first, n_steps = int(shared.first_batch), int(shared.n_steps)
        batches = jax.device_get(together(inputs).batches)[:, first : first + n_steps]
        dispatches.append((active.tolist(), [list(batches[i]) for i in active]))
        return run(execution, fn, shared, state, inputs, active)

    monkeypatch.setattr(executors, "run", spy)
    return dispatches


def copied(state):
    """Returns a stack of its own, leaves `[m, ...]`, whatever form it was in."""
    return jax.tree.map(np.array, together(state))


def batches_of(dispatches, member):
    """Returns a member's batches, in the order in which it saw them."""
    return [batch for active, seen in dispatches if member in active for batch in seen[active.index(member)]]


def test_shorter_members_stop_exactly_at_their_end():
    state, losses = trained()
    hyper = tiny.hyper()
    for i, n_steps in enumerate(LENGTHS):
        alone, own_losses = tiny.train(tiny.alone(hyper, i), members=slice(i, i + 1))
        # Weights, momentum and BatchNorm's statistics, bit for bit: 'map' runs one subprogram, whatever the stack.
        tiny.assert_equal(trees.member(state, i), trees.member(alone, 0))
        np.testing.assert_array_equal(losses[i, :n_steps], own_losses[0])
    assert losses.dtype == np.float32


def test_a_loop_over_programs_is_a_loop_inside_one_bit_for_bit():
    tiny.assert_equal(jax.device_get(tiny.train(tiny.hyper(), execution="loop")), trained())


def test_losses_are_nan_exactly_after_the_end():
    _, losses = trained()
    assert losses.shape == (3, 8)
    np.testing.assert_array_equal(np.isfinite(losses), np.arange(8) < np.array(LENGTHS)[:, None])


def test_members_learn_and_pruned_weights_stay_zero():
    state, _ = trained()
    before = tiny.state()
    mask = dense_form(tiny.mask(), trees.member(before.variables.params, 0))
    for i in range(tiny.M):
        own = trees.member(state.variables.params, i)
        for (path, leaf), kept, old in zip(
            jax.tree_util.tree_leaves_with_path(own),
            jax.tree.leaves(mask),
            jax.tree.leaves(trees.member(before.variables.params, i)),
            strict=True,
        ):
            assert not np.any(leaf[~np.asarray(kept)]), trees.path_name(path)
            assert np.any(leaf[np.asarray(kept)] != np.asarray(old)[np.asarray(kept)]), trees.path_name(path)


def test_every_epoch_shows_every_image_once_the_partial_batch_included(seen):
    hyper = tiny.hyper(n_steps=(7, 6, 2))
    tiny.train(hyper)
    _, _, own = tiny.digits()
    sizes = [16, 16, 8, 16, 16, 8, 16]
    for i, n_steps in enumerate(hyper.n_steps):
        batches = batches_of(seen, i)
        assert [len(batch) for batch in batches] == sizes[:n_steps]
        orders = [own[np.asarray(epoch_order(hyper.keys, jnp.int32(epoch), tiny.N))[i]] for epoch in range(3)]
        np.testing.assert_array_equal(np.concatenate(batches), np.concatenate(orders)[: sum(sizes[:n_steps])])
        for first in range(0, n_steps - n_steps % tiny.STEPS_PER_EPOCH, tiny.STEPS_PER_EPOCH):
            epoch = np.concatenate(batches[first : first + tiny.STEPS_PER_EPOCH])
            np.testing.assert_array_equal(np.sort(epoch), np.sort(own))
    assert not np.array_equal(batches_of(seen, 0)[0], batches_of(seen, 1)[0]), "keys differ, so do the orders"


def test_equal_keys_give_equal_batches_and_equal_randomness(seen):
    hyper = tiny.hyper(n_steps=(4, 4, 4), peaks=(0.05, 0.05, 0.1), decays=(1e-3,) * 3, seeds=(5, 5, 5))
    one = trees.member(tiny.state(), 0)
    stack = trees.stack([one] * 3)
    found = loop.train(tiny.task(), tiny.feed(), stack, hyper, tiny.BATCH_SIZE, "map")
    state, losses = found.state, found.losses
    for member in (1, 2):
        for a, b in zip(batches_of(seen, 0), batches_of(seen, member), strict=True):
            np.testing.assert_array_equal(a, b)
    # Twins have equal dropout, too; the third differs from them by its learning rate alone, so after its first step.
    tiny.assert_equal(trees.member(state, 0), trees.member(state, 1))
    assert losses[0, 0] == losses[2, 0]
    assert losses[0, 1] != losses[2, 1]


def test_different_keys_give_different_batches_and_dropout():
    one = trees.member(tiny.state(), 0)
    hyper = tiny.hyper(n_steps=(1, 1, 1), seeds=(5, 5, 6))
    same = np.tile(np.arange(tiny.N), (3, 1))
    feed = tiny.feed(**tiny.given(lambda epoch: same))
    losses = loop.train(tiny.task(), feed, trees.stack([one] * 3), hyper, tiny.BATCH_SIZE, "map").losses
    assert losses[0, 0] == losses[1, 0] != losses[2, 0], "only dropout can differ: the order was given"


def test_a_given_order_replaces_the_drawn_one(seen):
    _, _, own = tiny.digits()
    orders = np.stack([np.random.default_rng(seed).permutation(tiny.N) for seed in range(9)]).reshape(3, 3, tiny.N)
    asked = []
    tiny.train(tiny.hyper(), feed_=tiny.feed(**tiny.given(lambda epoch: asked.append(epoch) or orders[epoch])))
    assert asked == [0, 1, 2]
    for i, n_images in enumerate((112, 56, 32)):
        found = np.concatenate(batches_of(seen, i))
        np.testing.assert_array_equal(found, own[orders[:, i].ravel()][:n_images])


@pytest.mark.parametrize(("chunk_seconds", "longest"), [(0.0, 1), (1e9, 2)])
def test_the_pace_does_not_change_results(monkeypatch, chunk_seconds, longest):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", chunk_seconds)
    chunks = []
    found = tiny.train(tiny.hyper(), on_chunk=lambda chunk, _: chunks.append(chunk))
    # The number of steps is a value: one program, so the same bits.
    tiny.assert_equal(jax.device_get(found), trained())
    assert max(chunk.figures["loss"].shape[1] for chunk in chunks) == longest


@pytest.mark.parametrize(
    ("n_steps", "expected"),
    [
        # Batches 0 and 1 of an epoch are one block, the partial batch 2 is another.
        ((7, 7, 7), [("abc", 1), ("abc", 1), ("abc", 1), ("abc", 2), ("abc", 1), ("abc", 1)]),
        ((7, 5, 5), [("abc", 1), ("abc", 1), ("abc", 1), ("abc", 2), ("a", 1), ("a", 1)]),
        ((7, 5, 4), [("abc", 1), ("abc", 1), ("abc", 1), ("abc", 1), ("ab", 1), ("a", 1), ("a", 1)]),
        ((1, 3, 5), [("abc", 1), ("bc", 1), ("bc", 1), ("c", 2)]),
    ],
)
def test_a_chunk_ends_with_its_block_or_with_the_first_member_to_finish(monkeypatch, seen, n_steps, expected):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 1e9)
    tiny.train(tiny.hyper(n_steps))
    assert [("".join("abc"[i] for i in active), len(batches[0])) for active, batches in seen] == expected


@pytest.mark.parametrize("execution", ["map", "vmap", "loop"])
def test_what_members_have_to_themselves_is_put_on_the_device_once_a_block(monkeypatch, execution):
    run, given = loop.executors.run, []

    def watched(execution, fn, shared, state, inputs, active):
        given.append(inputs)
        return run(execution, fn, shared, state, inputs, active)

    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    monkeypatch.setattr(loop.executors, "run", watched)
    tiny.train(tiny.hyper(), execution=execution)
    blocks = {id(inputs): inputs for inputs in given}
    # Eight steps of one each; in two epochs and a part of a third the full batches are a block, and so is the partial.
    assert (len(given), len(blocks)) == (8, 5)
    for inputs in blocks.values():
        members = [inputs] if execution != "loop" else list(inputs)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(members))


def test_progress_tells_what_happened():
    hyper = tiny.hyper()
    chunks = []
    _, losses = tiny.train(hyper, on_chunk=lambda chunk, _: chunks.append(chunk))
    assert [chunk.step for chunk in chunks] == sorted({chunk.step for chunk in chunks})
    assert chunks[-1].step == 8
    assert [chunk.step for chunk in chunks if chunk.epoch_done] == [3, 6, 8]
    first = 0
    for chunk in chunks:
        steps = range(first, chunk.step)
        active = [i for i, n_steps in enumerate(LENGTHS) if n_steps > first]
        assert chunk.active.tolist() == active
        assert chunk.epoch == first // 3
        assert chunk.batch_size == (8 if 2 in steps or 5 in steps else 16)
        assert chunk.figures.keys() == {"loss", "accuracy"}
        np.testing.assert_array_equal(chunk.figures["loss"], losses[active, first : chunk.step])
        assert chunk.taken.tolist() == [len(steps)] * len(active)
        assert list(chunk.schedules) == ["learning_rate"], "what is constant is no schedule"
        rates = np.float32(hyper.values["learning_rate"])[active, first : chunk.step]
        np.testing.assert_array_equal(chunk.schedules["learning_rate"], rates)
        assert chunk.execution == "map"
        # A share of 8 or 16 images, up to rounding by the division.
        correct = chunk.figures["accuracy"] * chunk.batch_size
        np.testing.assert_allclose(correct, np.round(correct), rtol=0, atol=1e-5)
        assert chunk.seconds > 0
        n_images = len(active) * len(steps) * chunk.batch_size
        assert chunk.images_per_second == pytest.approx(n_images / chunk.seconds, rel=1e-9)
        first = chunk.step


def test_losses_and_accuracies_are_those_before_the_update():
    examples, _, own = tiny.digits()
    hyper, start, chunks = tiny.hyper(n_steps=(1, 1, 1)), jax.device_get(tiny.state()), []
    same = np.tile(np.arange(tiny.N), (tiny.M, 1))
    _, losses = tiny.train(
        hyper, on_chunk=lambda chunk, _: chunks.append(chunk), feed_=tiny.feed(**tiny.given(lambda epoch: same))
    )
    batch = own[: tiny.BATCH_SIZE]
    images = np.float32(examples.images)[batch].reshape(-1, *tiny.IMAGE_SHAPE) / np.float32(255)
    labels = np.asarray(examples.labels)[batch]
    for i in range(tiny.M):
        logits, _ = tiny.classifier().model.apply(
            trees.member(start.variables, i).as_flax(),
            images,
            train=True,
            rngs={"dropout": derive(hyper.keys[i], "step", 0, "dropout")},
            mutable=["batch_stats"],
        )
        logits = np.float64(logits)
        log_sum = np.log(np.exp(logits).sum(axis=1))
        expected = np.mean(log_sum - logits[np.arange(len(batch)), labels])
        # Sums of float32, each rounded to 6e-8 of about 2.
        np.testing.assert_allclose(losses[i, 0], expected, rtol=2e-6)
        assert chunks[0].figures["accuracy"][i, 0] == np.mean(logits.argmax(axis=1) == labels)


@pytest.mark.parametrize(
    ("poisoned", "message"),
    [
        # The rate of one step is NaN, so the next step's loss is.
        ({1: 1}, "member b: training loss is nan at step 3"),
        ({0: 5, 1: 0}, "member b: training loss is nan at step 2"),
        ({2: 0}, "member c: training loss is nan at step 2"),
        ({0: 3}, "member a: training loss is nan at step 5"),
        # No loss ever sees what the last step did.
        ({0: 7}, "member a: a weight is not finite after its last step, 8"),
        ({2: 1}, "member c: a weight is not finite after its last step, 2"),
        ({1: 3, 2: 1}, "member c: a weight is not finite after its last step, 2"),
    ],
)
@pytest.mark.parametrize("chunk_seconds", [0.0, 1e9])
def test_what_is_not_finite_is_named(monkeypatch, poisoned, message, chunk_seconds):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", chunk_seconds)
    hyper = tiny.hyper()
    for member, number in poisoned.items():
        hyper.values["learning_rate"][member, number] = np.nan
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        tiny.train(hyper)


@pytest.mark.parametrize("n_steps", [(0, 0, 0), (0, 2, 0)])
def test_zero_steps_leave_a_member_as_it_is(n_steps):
    before = jax.device_get(tiny.state())
    chunks = []
    found, losses = tiny.train(tiny.hyper(n_steps=n_steps), on_chunk=lambda chunk, _: chunks.append(chunk))
    for i in (0, 2):
        tiny.assert_equal(trees.member(jax.device_get(found), i), trees.member(before, i))
    assert losses.shape == (3, max(n_steps))
    assert not np.isfinite(losses[[0, 2]]).any()
    assert {i for chunk in chunks for i in chunk.active.tolist()} == {i for i in range(3) if n_steps[i]}


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_other_values_compile_nothing(compiled, execution):
    _, _, own = tiny.digits()
    # Members that finish early change the shape of a batch over members, of a loop over them they do not.
    positions, lengths = (own[:32], (4, 4, 4)) if execution == "vmap" else (own, (3, 7, 5))
    feed = tiny.feed(positions)
    tiny.train(tiny.hyper(n_steps=(4, 4, 4)), execution=execution, feed_=feed)
    hyper = tiny.hyper(lengths, peaks=(0.3, 0.01, 0.2), decays=(0.1, 0.0, 0.0), seeds=(7, 8, 7))
    hyper.values["momentum"][:] = 0.5
    compiled()
    tiny.train(hyper, execution=execution, feed_=feed)
    assert compiled() == []


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("chunk_seconds", [0.0, 1e9])
@pytest.mark.parametrize(("sick", "poisoned", "expected"), [(1, 1, 3), (0, 3, 5), (2, 1, 2)])
def test_a_sick_member_is_left_behind_and_the_others_do_not_notice(
    monkeypatch, execution, chunk_seconds, sick, poisoned, expected
):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", chunk_seconds)
    healthy, hyper, chunks = tiny.hyper(), tiny.hyper(), []
    hyper.values["learning_rate"][sick, poisoned] = np.nan
    _, plain_losses = (plain := jax.device_get(tiny.train(healthy, execution=execution)))
    found = loop.train(
        tiny.task(),
        tiny.feed(),
        tiny.state(),
        hyper,
        tiny.BATCH_SIZE,
        execution,
        lambda chunk, _: chunks.append(chunk),
        "exclude",
    )
    assert found.diverged == {sick: expected}
    state, losses = jax.device_get(found.state), found.losses
    for i in {0, 1, 2} - {sick}:
        tiny.assert_equal(trees.member(state, i), trees.member(plain[0], i))
        np.testing.assert_array_equal(losses[i], plain_losses[i])
    taken = [own for chunk in chunks for i, own in zip(chunk.active, chunk.taken, strict=True) if i == sick]
    assert sum(taken) == expected, "however long the chunks are"
    # Nothing is heard of it in the chunks after the one in which it fell ill.
    later = [chunk for chunk in chunks if chunk.step - chunk.figures["loss"].shape[1] >= expected]
    assert all(sick not in chunk.active for chunk in later)
    # The longest schedule is member a's: after it there is nobody left.
    assert later or chunk_seconds or sick == 0


def test_training_ends_when_every_member_is_sick():
    hyper = tiny.hyper(n_steps=(8, 8, 8))
    hyper.values["learning_rate"][:, 0] = np.nan
    steps = []
    found = loop.train(
        tiny.task(),
        tiny.feed(),
        tiny.state(),
        hyper,
        tiny.BATCH_SIZE,
        "map",
        lambda chunk, _: steps.append(chunk.step),
        "exclude",
    )
    assert found.diverged == {0: 2, 1: 2, 2: 2}
    assert steps[-1] < 8


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("stop", [1, 2, 3, 5, 7])
def test_training_goes_on_from_a_snapshot_bit_for_bit(monkeypatch, execution, stop):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    expected, losses = jax.device_get(tiny.train(tiny.hyper(), execution=execution))
    kept = []

    class Stop(Exception):
        pass

    def stop_there(progress, snapshot):
        if progress.step == stop:
            kept.append(dataclasses.replace(snapshot, state=copied(snapshot.state)))
            raise Stop

    with pytest.raises(Stop):
        tiny.train(tiny.hyper(), execution=execution, on_chunk=stop_there)
    found = loop.train(tiny.task(), tiny.feed(), kept[0], tiny.hyper(), tiny.BATCH_SIZE, execution)
    tiny.assert_equal(jax.device_get(found.state), expected)
    np.testing.assert_array_equal(found.losses[:, stop:], losses[:, stop:])
    assert np.isnan(found.losses[:, :stop]).all()


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_nothing_moves_between_host_and_device_unasked(execution):
    feed, hyper = tiny.feed(), tiny.hyper()
    start, blocks = jax.device_put(tiny.state()), []
    # Under this guard what is not moved on purpose, by device_put and device_get, is an error.
    with jax.transfer_guard("disallow"):
        loop.train(
            tiny.task(), feed, start, hyper, tiny.BATCH_SIZE, execution, lambda chunk, _: blocks.append(chunk.step)
        )
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed"):
            jnp.sin(np.float32(1)) + jnp.float32(1)
    assert blocks[-1] == 8


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_members_may_have_masks_of_their_own(execution):
    masks = [tiny.mask(seed) for seed in range(tiny.M)]
    start = tiny.state().replace(mask=trees.stack(jax.device_get(masks)))
    hyper = tiny.hyper()
    found = loop.train(tiny.task(), tiny.feed(), start, hyper, tiny.BATCH_SIZE, execution)
    for i, mask in enumerate(masks):
        own = jax.device_get(trees.member(found.state.variables.params, i))
        for kept, leaf in zip(jax.tree.leaves(dense_form(mask, own)), jax.tree.leaves(own), strict=True):
            assert not np.any(leaf[~np.asarray(kept)])
            assert np.all(leaf[np.asarray(kept)])
    if execution != "vmap":
        alone = tiny.state(slice(1, 2)).replace(mask=trees.stack(jax.device_get(masks[1:2])))
        alone = loop.train(tiny.task(), tiny.feed(), alone, tiny.alone(hyper, 1), tiny.BATCH_SIZE, execution)
        tiny.assert_equal(trees.member(found.state, 1), trees.member(jax.device_get(alone.state), 0))


def squared_error(params, collections, batch, key):
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    # The key of a step says where its batch is looked at, so that the loss is random, too.
    error += 0.01 * jax.random.normal(key, error.shape)
    seen = {"count": collections["count"] + error.size}
    return jnp.mean(error**2), (seen, {"largest_error": jnp.abs(error).max()})


@dataclasses.dataclass(frozen=True)
class Regression:
    """A feed of something that is no image: batches are dicts, and an epoch's order is as they lie."""

    examples: dict
    whole: bool = True
    sizes = property(lambda self: {"train": len(self.examples["y"])})

    def training(self, keys, epoch, batch_size, first_batch=0, part=None):
        rows = np.tile(np.arange(self.sizes["train"], dtype=np.int32), (len(keys), 1))
        for block in cut(rows, batch_size):
            if first_batch < block.shape[1]:
                yield Block(self.examples, block, first_batch, block.shape[1])
            first_batch = max(0, first_batch - block.shape[1])


@pytest.fixture
def usual_promotion():
    # Optax's Adam mixes dtypes. Not as a context, which a thread that compiles would not see.
    jax.config.update("jax_numpy_dtype_promotion", "standard")
    yield
    jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.mark.usefixtures("usual_promotion")
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_any_pytree_is_a_batch_and_any_optax_optimizer_trains(execution):
    random = np.random.default_rng(0)
    x, noise = random.standard_normal((20, 3)).astype(np.float32), random.standard_normal(20).astype(np.float32)
    data = jax.device_put({"x": x, "y": x @ np.float32([1, -2, 0.5]) + np.float32(0.1) * noise})
    start = Variables({"w": np.float32([[1, 1, 1], [0, 2, 0]]), "b": np.zeros(2, np.float32)}, {"count": np.zeros(2)})
    start = jax.tree.map(np.float32, start)
    rates = per_step([np.linspace(0.2, 0.1, 7), np.linspace(0.01, 0.02, 5)])
    keys = jax.random.split(jax.random.key(1), 2)
    hyper = Hyper(
        {"learning_rate": rates, "weight_decay": np.array([0.0, 0.1])}, np.array([7, 5]), keys, ("fast", "slow")
    )
    task = Task(squared_error, optax.adamw)
    mask = {"w": np.array([True, False, True]), "b": None}
    chunks = []
    found = loop.train(
        task,
        Regression(data),
        step.init(task, hyper.values, start, mask),
        hyper,
        8,
        execution,
        lambda chunk, _: chunks.append(chunk),
    )
    assert chunks[0].figures.keys() == {"loss", "largest_error"}
    assert chunks[0].schedules.keys() == {"learning_rate"}
    for i, n_steps in enumerate(hyper.n_steps):
        params, opt_state = trees.member(start.params, i), None
        for number in range(n_steps):
            optimizer = optax.adamw(np.float32(rates[i, number]), weight_decay=np.float32([0, 0.1][i]))
            opt_state = optimizer.init(params) if opt_state is None else opt_state
            batch = jax.tree.map(lambda leaf, n=number: leaf[8 * (n % 3) : 8 * (n % 3) + 8], data)
            key = derive(keys[i], "step", number)
            loss_fn = functools.partial(squared_error, batch=batch, key=key)
            (loss, _), gradients = jax.value_and_grad(loss_fn, has_aux=True)(params, {"count": np.float32(0)})
            gradients["w"] = gradients["w"] * mask["w"]
            updates, opt_state = optimizer.update(gradients, opt_state, params)
            params = optax.apply_updates(params, updates)
            params["w"] = params["w"] * mask["w"]
            # Adam divides by the root of a square: some tens of roundings of 6e-8, on numbers of about 1.
            np.testing.assert_allclose(found.losses[i, number], loss, rtol=1e-5)
        tiny.assert_close(trees.member(found.state.variables.params, i), params, rtol=1e-5, atol=1e-6)
        tiny.assert_close(trees.member(found.state.opt_state, i), opt_state, rtol=1e-5, atol=1e-6)
        assert found.state.variables.collections["count"][i] == sum([8, 8, 4, 8, 8, 4, 8][:n_steps])
