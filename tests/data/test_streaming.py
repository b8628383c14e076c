"""Streamed batches: the images that belong in them, in blocks of one shape, read ahead and never too far."""

import io
import itertools
import signal
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ssoup_jax.data import views
from ssoup_jax.data.augment import Transform
from ssoup_jax.data.dataset import Dataset, Encoded, Split
from ssoup_jax.data.feeds import Part, epoch_order, resident
from ssoup_jax.data.pictures import AS_PILLOW, decode
from ssoup_jax.data.streaming import BLOCKS_AHEAD, Streaming
from ssoup_jax.data.views import View
from ssoup_jax.errors import RunError

N = 22
BATCH_SIZE = 4  # five full batches and one of two
STEPS_PER_BLOCK = 2  # so three full blocks, of which the last holds a single batch
VIEW = View(6, 8)


def keys(*seeds: int) -> jax.Array:
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def dataset(train: Split, val: Split, test: Split, view: View | None = None) -> Dataset:
    return Dataset("made up", 5, train, val, test, Transform(), view, "")


def split(n: int, seed: int) -> Split:
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n, 3, 5, 2), dtype=np.uint8)
    return Split(images, random.integers(0, 5, n).astype(np.int32))


ARRAYS = dataset(split(N, 0), split(7, 1), split(9, 2))


def encode(index: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(index).integers(0, 256, (9 + index % 4, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


class Memory:
    """Files that note which of them were read."""

    fingerprint = "of no consequence"
    rules = AS_PILLOW

    def __init__(self, broken: dict[int, bytes | OSError] | None = None, seconds: float = 0):
        self.data = [encode(index) for index in range(2 * N)]
        for index, data in (broken or {}).items():
            self.data[index] = data
        self.seconds = seconds
        self.reads = []

    def read(self, index: int) -> bytes:
        self.reads.append(index)
        time.sleep(self.seconds)
        if isinstance(self.data[index], OSError):
            raise self.data[index]
        return self.data[index]

    def describe(self, index: int) -> str:
        return f"photo-{index}.png"


TRAIN_FILES = 2 * np.arange(N)[::-1]
"""Which file each training image is, so that files and positions cannot be confused."""


def encoded(files: Memory) -> Dataset:
    labels = np.arange(N, dtype=np.int32) % 5
    held_out = Split(Encoded(files, np.arange(1, 12, 2)), labels[:6])
    return dataset(Split(Encoded(files, TRAIN_FILES), labels), held_out, held_out, VIEW)


def arrays(**options) -> Streaming:
    defaults = {"workers": 2, "steps_per_block": STEPS_PER_BLOCK, "skip_undecodable": False}
    return Streaming(ARRAYS, None, **defaults | options)


def stream(files: Memory | None = None, **options) -> Streaming:
    defaults = {"workers": 2, "steps_per_block": STEPS_PER_BLOCK, "skip_undecodable": False}
    return Streaming(encoded(files or Memory()), VIEW, **defaults | options)


def taken(blocks):
    """Returns what every step takes from its block: images `[m, B, H*W*C]` and labels `[m, B]`."""
    found = []
    for examples, batches, first, last in blocks:
        for slot in range(first, last):
            positions = np.asarray(batches)[:, slot]
            found.append((np.asarray(examples.images)[positions], np.asarray(examples.labels)[positions]))
    return found


def assert_same(found, expected):
    assert len(found) == len(expected) > 0
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])
        np.testing.assert_array_equal(ours[1], theirs[1])


def train_steps(feed, seeds=(0, 1), epoch=0, batch_size=BATCH_SIZE, first_batch=0):
    return taken(feed.training(keys(*seeds), epoch, batch_size, first_batch))


CASES = {
    "as is": {},
    "in the main thread": {"workers": 0},
    "one step a block": {"steps_per_block": 1},
    "whole epoch in a block": {"steps_per_block": 100},
}


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize(("batch_size", "first_batch"), [(4, 0), (4, 1), (11, 1), (30, 0)])
def test_arrays_give_the_batches_that_resident_ones_give(options, batch_size, first_batch):
    streamed, whole = arrays(**options), resident(ARRAYS)
    for seeds, epoch in (((0, 1, 0), 0), ((3,), 2)):
        found, expected = (train_steps(feed, seeds, epoch, batch_size, first_batch) for feed in (streamed, whole))
        assert_same(found, expected)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("n_batches", [1, 3, 6])
def test_arrays_recalibrate_on_what_resident_ones_do(options, n_batches):
    found, expected = (
        taken(feed.recalibration(keys(0, 1), BATCH_SIZE, n_batches)) for feed in (arrays(**options), resident(ARRAYS))
    )
    assert_same(found, expected)
    assert len(found) == n_batches


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["train", "val", "test"])
@pytest.mark.parametrize("block_size", [3, 4, 100])
def test_arrays_are_evaluated_as_resident_ones_are(workers, name, block_size):
    def images(feed):
        blocks = list(feed.evaluation(name, block_size))
        assert {block.shape for _, block in blocks} == {(block_size,)}
        seen = [(np.asarray(examples.images)[block], np.asarray(examples.labels)[block]) for examples, block in blocks]
        return [np.concatenate(parts)[: feed.sizes[name]] for parts in zip(*seen, strict=True)]

    streamed, whole = arrays(workers=workers), resident(ARRAYS)
    assert (streamed.sizes, streamed.whole, whole.whole) == (whole.sizes, False, True)
    for found, expected in zip(images(streamed), images(whole), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_training_image_is_its_file_seen_with_its_own_numbers(workers):
    epoch, seeds, files = 3, (4, 5), Memory()
    found = train_steps(stream(files, workers=workers), seeds, epoch)
    order = np.asarray(epoch_order(keys(*seeds), epoch, N))
    for member, seed in enumerate(seeds):
        words = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), VIEW_WORD), epoch)
        images = np.concatenate([images[member] for images, _ in found])
        labels = np.concatenate([labels[member] for _, labels in found])
        np.testing.assert_array_equal(labels, order[member] % 5)
        for image, position in zip(images, order[member], strict=True):
            index = int(TRAIN_FILES[position])
            numbers = views.uniforms(np.asarray(jax.random.key_data(words)), index)
            np.testing.assert_array_equal(image, VIEW.training(decode(encode(index), AS_PILLOW), numbers).ravel())
    assert sorted(files.reads) == sorted([*TRAIN_FILES] * 2)


VIEW_WORD = 4278037390
"""CRC-32 of 'view'; stored results depend on it."""


def test_views_depend_on_the_key_and_the_epoch():
    feed = stream()
    first, again, other_epoch = (dict_by_label_order(feed, 0, epoch) for epoch in (0, 0, 1))
    other_key = dict_by_label_order(feed, 1, 0)
    np.testing.assert_array_equal(first, again)
    # A crop of 9 to 12 pixels may be drawn twice, but seldom.
    for other in (other_epoch, other_key):
        assert np.mean(np.any(first != other, axis=1)) > 0.8


def dict_by_label_order(feed, seed, epoch):
    """Returns the epoch's images in the order of the training split."""
    images = np.concatenate([images[0] for images, _ in train_steps(feed, (seed,), epoch)])
    return images[np.argsort(np.asarray(epoch_order(keys(seed), epoch, N))[0])]


def test_recalibration_sees_images_as_in_training_and_in_order():
    feed = stream()
    found = taken(feed.recalibration(keys(0, 1), BATCH_SIZE, 6))
    for member in range(2):
        images = np.concatenate([images[member] for images, _ in found])
        np.testing.assert_array_equal(images, dict_by_label_order(feed, member, 0))


@pytest.mark.parametrize("workers", [0, 3])
def test_evaluation_sees_the_middle(workers):
    blocks = list(stream(workers=workers).evaluation("val", 4))
    images = np.concatenate([np.asarray(examples.images)[block] for examples, block in blocks])
    expected = [VIEW.evaluation(decode(encode(index), AS_PILLOW)).ravel() for index in range(1, 12, 2)]
    np.testing.assert_array_equal(images[:6], expected)


def test_full_blocks_have_one_shape_and_say_what_is_real():
    blocks = list(stream().training(keys(0, 1, 0), 0, BATCH_SIZE))
    assert [(block.first, block.last) for block in blocks] == [(0, 2), (0, 2), (0, 1), (0, 1)]
    assert [block.batches.shape for block in blocks] == [(3, 2, 4)] * 3 + [(3, 1, 2)]
    # Two of the three keys are distinct.
    assert [block.examples.images.shape for block in blocks] == [(2 * 2 * 4, 6 * 6 * 3)] * 3 + [(2 * 1 * 2, 6 * 6 * 3)]
    for block in blocks:
        assert (block.examples.images.dtype, block.examples.labels.dtype) == (jnp.uint8, jnp.int32)
        assert (type(block.batches), block.batches.dtype) == (np.ndarray, np.int32)
        assert block.examples.labels.shape == block.examples.images.shape[:1]
        np.testing.assert_array_equal(np.unique(block.batches), np.arange(len(block.examples.labels)))


def test_equal_keys_share_what_is_read():
    files = Memory()
    found = train_steps(stream(files), (0, 0, 0))
    assert sorted(files.reads) == sorted(TRAIN_FILES)
    for images, labels in found:
        np.testing.assert_array_equal(images, np.broadcast_to(images[:1], images.shape))
        np.testing.assert_array_equal(labels, np.broadcast_to(labels[:1], labels.shape))


@pytest.mark.parametrize("first_batch", range(7))
def test_a_pass_resumes_at_any_batch_without_reading_earlier_ones(first_batch):
    files = Memory()
    blocks = list(stream(files).training(keys(0, 1), 1, BATCH_SIZE, first_batch))
    expected = train_steps(stream(), epoch=1)[first_batch:]
    found = taken(blocks)
    if expected:
        assert_same(found, expected)
    assert len(found) == len(expected) == 6 - first_batch
    order = np.asarray(epoch_order(keys(0, 1), 1, N))
    assert sorted(files.reads) == sorted(TRAIN_FILES[order[:, first_batch * BATCH_SIZE :].ravel()])
    # What was compiled for a whole epoch serves its rest.
    shapes = {block.batches.shape for block in blocks}
    assert shapes <= {(2, 2, 4), (2, 1, 2)}


@pytest.mark.parametrize("make", [arrays, stream])
@pytest.mark.parametrize("part", [Part((0, 1), 1, 2, 2), Part((1,), 0, 1, 1), Part((1,), 0, 2, 4)])
@pytest.mark.parametrize("of_an_epoch", [True, False])
def test_a_process_sees_what_it_needs_of_every_batch(make, part, of_an_epoch):
    def steps(feed, part):
        seeds = keys(0, 1)
        return taken(feed.training(seeds, 1, 4, 0, part) if of_an_epoch else feed.recalibration(seeds, 4, 6, part))

    for own, whole in zip(steps(make(), part), steps(make(), None), strict=True):
        rows = part.rows(len(whole[1][0]))
        for found, expected in zip(own, whole, strict=True):
            np.testing.assert_array_equal(found[list(part.members), rows], expected[list(part.members), rows])


def test_a_process_reads_what_it_needs_and_nothing_else():
    files = Memory()
    list(stream(files).training(keys(0, 1), 0, BATCH_SIZE, 0, Part((1,), 1, 2, 2)))
    order = np.asarray(epoch_order(keys(0, 1), 0, N))[1]
    own = [*order[:20].reshape(5, 4)[:, 2:].ravel(), order[21]]
    assert sorted(files.reads) == sorted(TRAIN_FILES[own])


def test_a_batch_that_devices_do_not_divide_is_everyones():
    assert [Part((0,), 1, 2, 4).rows(size) for size in (8, 12, 10)] == [slice(2, 4), slice(3, 6), slice(0, 10)]


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("L", (100, 100)).save(file, "PNG")
    return file.getvalue()


BROKEN = {
    "cut short": (encode(6)[:-30], "truncated"),
    "empty": (b"", "not an image"),
    "of another kind": (b"<html>not found</html>\n" * 10, "not an image"),
    "a decompression bomb": (bomb(), "decompression bomb"),
}


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("data", "why"), BROKEN.values(), ids=BROKEN)
def test_an_undecodable_image_is_an_error_of_one_line(small_limit, data, why, workers):
    feed = stream(Memory({6: data}), workers=workers)
    with pytest.raises(RunError, match=r"^photo-6\.png: cannot be decoded: .*skip_undecodable=True") as error:
        train_steps(feed)
    assert why in str(error.value)
    assert "\n" not in str(error.value)
    assert not feed.skipped


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_black_and_noted(small_limit, workers):
    broken = {2 * i: data for i, (data, _) in enumerate(BROKEN.values())}
    feed = stream(Memory(broken), workers=workers, skip_undecodable=True)
    found = dict_by_label_order(feed, 0, 0)
    expected = dict_by_label_order(stream(), 0, 0)
    expected[np.isin(TRAIN_FILES, list(broken))] = 0
    np.testing.assert_array_equal(found, expected)
    assert sorted(feed.skipped) == [f"photo-{index}.png" for index in broken]
    for index, (_, why) in zip(broken, BROKEN.values(), strict=True):
        assert why in feed.skipped[f"photo-{index}.png"]
    # Skipped once more in the next epoch, it is still one image.
    dict_by_label_order(feed, 0, 1)
    assert len(feed.skipped) == len(broken)


def test_an_image_that_cannot_be_read_is_never_skipped():
    feed = stream(Memory({6: OSError("Input/output\nerror")}), skip_undecodable=True)
    with pytest.raises(RunError, match=r"^photo-6\.png: cannot be read: Input/output error$"):
        train_steps(feed)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_before_the_broken_one_arrive(workers):
    order = np.asarray(epoch_order(keys(0), 0, N))[0]
    broken = int(TRAIN_FILES[order[4 * BATCH_SIZE]])  # in the third block
    blocks = stream(Memory({broken: b""}), workers=workers).training(keys(0), 0, BATCH_SIZE)
    assert len(list(itertools.islice(blocks, 2))) == 2
    with pytest.raises(RunError, match=f"photo-{broken}"):
        next(blocks)


def own_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("blocks", "decoding"))]


def wait_for(condition) -> None:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_no_more_is_read_ahead_than_allowed():
    files = Memory()
    blocks = stream(files, steps_per_block=1).training(keys(0), 0, 3)
    assert not files.reads and not own_threads()
    next(blocks)
    wait_for(lambda: len(files.reads) == (1 + BLOCKS_AHEAD) * 3)
    time.sleep(0.1)
    assert len(files.reads) == (1 + BLOCKS_AHEAD) * 3
    next(blocks)
    wait_for(lambda: len(files.reads) == (2 + BLOCKS_AHEAD) * 3)
    blocks.close()
    assert not own_threads()


def test_nothing_is_read_ahead_without_workers():
    files = Memory()
    next(stream(files, workers=0).training(keys(0), 0, BATCH_SIZE))
    assert len(files.reads) == STEPS_PER_BLOCK * BATCH_SIZE
    assert not own_threads()


def stop_by_closing(blocks):
    next(blocks)
    blocks.close()


def stop_by_forgetting(blocks):
    for _ in blocks:
        break


def stop_by_an_error(blocks):
    with pytest.raises(ZeroDivisionError):
        for block in blocks:
            block.first / 0


def stop_at_the_end(blocks):
    list(blocks)


@pytest.mark.parametrize("stop", [stop_by_closing, stop_by_forgetting, stop_by_an_error, stop_at_the_end])
def test_threads_end_with_the_pass(stop):
    stop(stream(Memory(seconds=1e-3)).training(keys(0), 0, BATCH_SIZE))
    wait_for(lambda: not own_threads())


def test_threads_end_with_an_error():
    with pytest.raises(RunError):
        list(stream(Memory({index: b"" for index in range(2 * N)})).training(keys(0), 0, BATCH_SIZE))
    assert not own_threads()


@pytest.fixture
def interruptible():
    # A suite that a shell runs in the background inherits a SIGINT that is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupt_does_not_wait_for_the_block(workers):
    blocks = stream(Memory(seconds=0.3), workers=workers, steps_per_block=5).training(keys(0), 0, BATCH_SIZE)
    interrupt = (threading.main_thread().ident, signal.SIGINT)
    started = time.monotonic()
    threading.Timer(0.3, signal.pthread_kill, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        next(blocks)
    # The block takes 6 s; a worker ends after the images that it was given when the interrupt came.
    assert time.monotonic() - started < 3.5
    assert not own_threads()


def test_time_is_counted_when_programs_wait_and_only_then():
    feed = stream(Memory(seconds=0.01), workers=0)
    for _ in feed.training(keys(0), 0, BATCH_SIZE):
        time.sleep(0.2)
    assert N * 0.01 <= feed.waited_seconds < N * 0.01 + 0.7
    quick = stream()
    blocks = quick.training(keys(0), 0, BATCH_SIZE)
    next(blocks)
    before = quick.waited_seconds
    time.sleep(0.5)
    list(blocks)
    assert quick.waited_seconds - before < 0.4
