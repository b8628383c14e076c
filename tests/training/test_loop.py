"""What a stack's training promises, on the device loop over members."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax import trees
from ssoup_jax.data.feeds import epoch_order
from ssoup_jax.errors import RunError
from ssoup_jax.keys import derive
from ssoup_jax.stack import executors
from ssoup_jax.training import loop
from tests.training import tiny

LENGTHS = tuple(tiny.recipe().n_steps.tolist())  # 8, 4 and 2: the second member ends inside a block


@functools.cache
def trained():
    """The result of the usual recipe, whose members end in the third, the second and the first epoch."""
    return jax.device_get(tiny.train(tiny.recipe()))


@pytest.fixture
def seen(monkeypatch):
    """Records every dispatch of steps: the active members and the batches that each of them trained on."""
    dispatches = []
    run = executors.run

    def spy(execution, fn, shared, state, inputs, active):
        first, n_steps = int(shared.first_batch), int(shared.n_steps)
        if n_steps:  # without steps it only compiles
            batches = np.asarray(inputs.batches)[:, first : first + n_steps]
            dispatches.append((active.tolist(), [list(batches[i]) for i in active]))
        return run(execution, fn, shared, state, inputs, active)

    monkeypatch.setattr(executors, "run", spy)
    return dispatches


def batches_of(dispatches, member):
    """Returns a member's batches, in the order in which it saw them."""
    return [batch for active, seen in dispatches if member in active for batch in seen[active.index(member)]]


def test_shorter_members_stop_exactly_at_their_end():
    state, losses = trained()
    recipe = tiny.recipe()
    for i, n_steps in enumerate(LENGTHS):
        alone, own_losses = tiny.train(tiny.alone(recipe, i), members=slice(i, i + 1))
        # Weights, momentum and BatchNorm's statistics, bit for bit: 'map' runs one subprogram, whatever the stack.
        tiny.assert_equal(trees.member(state, i), trees.member(alone, 0))
        np.testing.assert_array_equal(losses[i, :n_steps], own_losses[0])
    assert losses.dtype == np.float32


def test_losses_are_nan_exactly_after_the_end():
    _, losses = trained()
    assert losses.shape == (3, 8)
    np.testing.assert_array_equal(np.isfinite(losses), np.arange(8) < np.array(LENGTHS)[:, None])


def test_members_learn_and_pruned_weights_stay_zero():
    state, _ = trained()
    mask, before = tiny.mask(), tiny.state()
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
    recipe = tiny.recipe(n_steps=(7, 6, 2))
    tiny.train(recipe)
    _, _, own = tiny.digits()
    sizes = [16, 16, 8, 16, 16, 8, 16]
    for i, n_steps in enumerate(recipe.n_steps):
        batches = batches_of(seen, i)
        assert [len(batch) for batch in batches] == sizes[:n_steps]
        orders = [own[np.asarray(epoch_order(recipe.keys, jnp.int32(epoch), tiny.N))[i]] for epoch in range(3)]
        np.testing.assert_array_equal(np.concatenate(batches), np.concatenate(orders)[: sum(sizes[:n_steps])])
        for first in range(0, n_steps - n_steps % tiny.STEPS_PER_EPOCH, tiny.STEPS_PER_EPOCH):
            epoch = np.concatenate(batches[first : first + tiny.STEPS_PER_EPOCH])
            np.testing.assert_array_equal(np.sort(epoch), np.sort(own))
    assert not np.array_equal(batches_of(seen, 0)[0], batches_of(seen, 1)[0]), "keys differ, so do the orders"


def test_equal_keys_give_equal_batches_and_equal_randomness(seen):
    recipe = tiny.recipe(n_steps=(4, 4, 4), peaks=(0.05, 0.05, 0.1), decays=(1e-3,) * 3, seeds=(5, 5, 5))
    one = trees.member(tiny.state(), 0)
    stack = trees.stack([one] * 3)
    state, losses, _ = loop.train(tiny.problem(), tiny.feed(), stack, tiny.mask(), recipe, execution="map")
    for member in (1, 2):
        for a, b in zip(batches_of(seen, 0), batches_of(seen, member), strict=True):
            np.testing.assert_array_equal(a, b)
    # Twins have equal dropout, too; the third differs from them by its learning rate alone, so after its first step.
    tiny.assert_equal(trees.member(state, 0), trees.member(state, 1))
    assert losses[0, 0] == losses[2, 0]
    assert losses[0, 1] != losses[2, 1]


def test_different_keys_give_different_batches_and_dropout():
    one = trees.member(tiny.state(), 0)
    recipe = tiny.recipe(n_steps=(1, 1, 1), seeds=(5, 5, 6))
    same = np.tile(np.arange(tiny.N), (3, 1))
    feed = tiny.feed(**tiny.given(lambda epoch: same))
    _, losses, _ = loop.train(tiny.problem(), feed, trees.stack([one] * 3), tiny.mask(), recipe, execution="map")
    assert losses[0, 0] == losses[1, 0] != losses[2, 0], "only dropout can differ: the order was given"


def test_a_given_order_replaces_the_drawn_one(seen):
    _, _, own = tiny.digits()
    orders = np.stack([np.random.default_rng(seed).permutation(tiny.N) for seed in range(9)]).reshape(3, 3, tiny.N)
    asked = []
    tiny.train(tiny.recipe(), feed_=tiny.feed(**tiny.given(lambda epoch: asked.append(epoch) or orders[epoch])))
    assert asked == [0, 1, 2]
    for i, n_images in enumerate((112, 56, 32)):
        found = np.concatenate(batches_of(seen, i))
        np.testing.assert_array_equal(found, own[orders[:, i].ravel()][:n_images])


@pytest.mark.parametrize(("chunk_seconds", "longest"), [(0.0, 1), (1e9, 2)])
def test_the_pace_does_not_change_results(monkeypatch, chunk_seconds, longest):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", chunk_seconds)
    chunks = []
    found = tiny.train(tiny.recipe(), on_chunk=lambda chunk, _: chunks.append(chunk))
    # The number of steps is a value: one program, so the same bits.
    tiny.assert_equal(jax.device_get(found), trained())
    assert max(chunk.losses.shape[1] for chunk in chunks) == longest


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
    tiny.train(tiny.recipe(n_steps))
    assert [("".join("abc"[i] for i in active), len(batches[0])) for active, batches in seen] == expected


def test_progress_tells_what_happened():
    recipe = tiny.recipe()
    chunks = []
    _, losses = tiny.train(recipe, on_chunk=lambda chunk, _: chunks.append(chunk))
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
        np.testing.assert_array_equal(chunk.losses, losses[active, first : chunk.step])
        assert chunk.taken.tolist() == [len(steps)] * len(active)
        rates = [np.float32(recipe.learning_rates[i][first : chunk.step]) for i in active]
        np.testing.assert_array_equal(chunk.learning_rates, rates)
        # A share of 8 or 16 images, up to rounding by the division.
        correct = chunk.accuracies * chunk.batch_size
        np.testing.assert_allclose(correct, np.round(correct), rtol=0, atol=1e-5)
        assert chunk.seconds > 0
        n_images = len(active) * len(steps) * chunk.batch_size
        assert chunk.images_per_second == pytest.approx(n_images / chunk.seconds, rel=1e-9)
        first = chunk.step


def test_losses_and_accuracies_are_those_before_the_update():
    examples, _, own = tiny.digits()
    recipe, start, chunks = tiny.recipe(n_steps=(1, 1, 1)), jax.device_get(tiny.state()), []
    same = np.tile(np.arange(tiny.N), (tiny.M, 1))
    _, losses = tiny.train(
        recipe, on_chunk=lambda chunk, _: chunks.append(chunk), feed_=tiny.feed(**tiny.given(lambda epoch: same))
    )
    batch = own[: tiny.BATCH_SIZE]
    images, labels = np.float32(examples.images)[batch] / np.float32(255), np.asarray(examples.labels)[batch]
    for i in range(tiny.M):
        logits, _ = tiny.problem().model.apply(
            trees.member(start.variables, i).collections(),
            images,
            train=True,
            rngs={"dropout": derive(recipe.keys[i], "step", 0, "dropout")},
            mutable=["batch_stats"],
        )
        logits = np.float64(logits)
        log_sum = np.log(np.exp(logits).sum(axis=1))
        expected = np.mean(log_sum - logits[np.arange(len(batch)), labels])
        # Sums of float32, each rounded to 6e-8 of about 2.
        np.testing.assert_allclose(losses[i, 0], expected, rtol=2e-6)
        assert chunks[0].accuracies[i, 0] == np.mean(logits.argmax(axis=1) == labels)


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
    recipe = tiny.recipe()
    for member, step in poisoned.items():
        recipe.learning_rates[member][step] = np.nan
    with pytest.raises(RunError, match=f"^{re.escape(message)}$"):
        tiny.train(recipe)


@pytest.mark.parametrize("n_steps", [(0, 0, 0), (0, 2, 0)])
def test_zero_steps_leave_a_member_as_it_is(n_steps):
    before = jax.device_get(tiny.state())
    chunks = []
    found, losses = tiny.train(tiny.recipe(n_steps=n_steps), on_chunk=lambda chunk, _: chunks.append(chunk))
    for i in (0, 2):
        tiny.assert_equal(trees.member(jax.device_get(found), i), trees.member(before, i))
    assert losses.shape == (3, max(n_steps))
    assert not np.isfinite(losses[[0, 2]]).any()
    assert {i for chunk in chunks for i in chunk.active.tolist()} == {i for i in range(3) if n_steps[i]}


@pytest.mark.parametrize("execution", ["map", "vmap"])
def test_other_values_compile_nothing(caplog, execution):
    _, _, own = tiny.digits()
    # Members that finish early change the shape of a batch over members, of a loop over them they do not.
    positions, lengths = (own, (3, 7, 5)) if execution == "map" else (own[:32], (4, 4, 4))
    feed = tiny.feed(positions)
    tiny.train(tiny.recipe(n_steps=(4, 4, 4)), execution=execution, feed_=feed)
    recipe = tiny.recipe(lengths, peaks=(0.3, 0.01, 0.2), decays=(0.1, 0.0, 0.0), seeds=(7, 8, 7))
    recipe = dataclasses.replace(recipe, momentum=0.5)
    with jax.log_compiles():
        jax.jit(lambda x: x + 1)(jnp.float32(1))
        assert "Compiling jit(<lambda>)" in caplog.text, "the log shows compilations"
        caplog.clear()
        tiny.train(recipe, execution=execution, feed_=feed)
    assert re.findall("Compiling [^ ]+", caplog.text) == []


@pytest.mark.parametrize("execution", ["map", "vmap"])
@pytest.mark.parametrize("chunk_seconds", [0.0, 1e9])
@pytest.mark.parametrize(("sick", "poisoned", "expected"), [(1, 1, 3), (0, 3, 5), (2, 1, 2)])
def test_a_sick_member_is_left_behind_and_the_others_do_not_notice(
    monkeypatch, execution, chunk_seconds, sick, poisoned, expected
):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", chunk_seconds)
    healthy, recipe, chunks = tiny.recipe(), tiny.recipe(), []
    recipe.learning_rates[sick][poisoned] = np.nan
    _, plain_losses = (plain := jax.device_get(tiny.train(healthy, execution=execution)))
    state, losses, diverged = loop.train(
        tiny.problem(),
        tiny.feed(),
        tiny.state(),
        tiny.mask(),
        recipe,
        execution,
        lambda chunk, _: chunks.append(chunk),
        "exclude",
    )
    assert diverged == {sick: expected}
    state = jax.device_get(state)
    for i in {0, 1, 2} - {sick}:
        tiny.assert_equal(trees.member(state, i), trees.member(plain[0], i))
        np.testing.assert_array_equal(losses[i], plain_losses[i])
    taken = [own for chunk in chunks for i, own in zip(chunk.active, chunk.taken, strict=True) if i == sick]
    assert sum(taken) == expected, "however long the chunks are"
    # Nothing is heard of it in the chunks after the one in which it fell ill.
    later = [chunk for chunk in chunks if chunk.step - chunk.losses.shape[1] >= expected]
    assert all(sick not in chunk.active for chunk in later)
    # The longest schedule is member a's: after it there is nobody left.
    assert later or chunk_seconds or sick == 0


def test_training_ends_when_every_member_is_sick():
    recipe = tiny.recipe(n_steps=(8, 8, 8))
    for rates in recipe.learning_rates:
        rates[0] = np.nan
    steps = []
    *_, diverged = loop.train(
        tiny.problem(),
        tiny.feed(),
        tiny.state(),
        tiny.mask(),
        recipe,
        "map",
        lambda chunk, _: steps.append(chunk.step),
        "exclude",
    )
    assert diverged == {0: 2, 1: 2, 2: 2}
    assert steps[-1] < 8


@pytest.mark.parametrize("execution", ["map", "vmap"])
@pytest.mark.parametrize("stop", [1, 2, 3, 5, 7])
def test_training_goes_on_from_a_snapshot_bit_for_bit(monkeypatch, execution, stop):
    monkeypatch.setattr(loop, "CHUNK_SECONDS", 0.0)
    expected, losses = jax.device_get(tiny.train(tiny.recipe(), execution=execution))
    kept = []

    class Stop(Exception):
        pass

    def stop_there(progress, snapshot):
        if progress.step == stop:
            kept.append(dataclasses.replace(snapshot, state=jax.tree.map(np.array, snapshot.state)))
            raise Stop

    with pytest.raises(Stop):
        tiny.train(tiny.recipe(), execution=execution, on_chunk=stop_there)
    args = (tiny.problem(), tiny.feed(), kept[0], tiny.mask(), tiny.recipe(), execution)
    found, later, _ = loop.train(*args)
    tiny.assert_equal(jax.device_get(found), expected)
    np.testing.assert_array_equal(later[:, stop:], losses[:, stop:])
    assert np.isnan(later[:, :stop]).all()


@pytest.mark.parametrize("execution", ["map", "vmap"])
def test_nothing_moves_between_host_and_device_unasked(execution):
    feed, recipe = tiny.feed(), tiny.recipe()
    start, mask = jax.device_put((tiny.state(), tiny.mask()))
    blocks = []
    # Under this guard what is not moved on purpose, by device_put and device_get, is an error.
    with jax.transfer_guard("disallow"):
        loop.train(tiny.problem(), feed, start, mask, recipe, execution, lambda chunk, _: blocks.append(chunk.step))
        with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed"):
            jnp.sin(np.float32(1)) + jnp.float32(1)
    assert blocks[-1] == 8
