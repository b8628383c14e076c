"""Feeding the network: `python -m benchmarks.data [--quick]`.

1. Augmenting a batch of CIFAR-sized images on the device against doing the same image by image with Pillow and NumPy.
2. Streaming JPEGs of ImageNet's usual size from memory, seen as in training, with several numbers of workers. The
   pictures are smooth noise: good enough for a speed, which depends on their size and that of their files.
3. What share of its time a training run waits for such a stream.

What is compared takes turns in one process; figures are medians over the rounds.
"""

import argparse
import io
import itertools
import os
import statistics
import time

import jax
import numpy as np
from PIL import Image, ImageOps

from benchmarks import machine
from benchmarks.stacked import retrain
from ssoup_jax import devices, models
from ssoup_jax.data.augment import ENCODED_TRANSFORM, TRANSFORMS, augment
from ssoup_jax.data.dataset import Dataset, Encoded, Split
from ssoup_jax.data.pictures import AS_PILLOW
from ssoup_jax.data.streaming import Streaming
from ssoup_jax.data.views import View
from ssoup_jax.training.classify import Classifier

CIFAR = TRANSFORMS["cifar100"]
BATCH_SIZE = 32


class Photos:
    """JPEGs of 500 x 375 pixels in memory, a few of them over and over."""

    fingerprint = ""
    rules = AS_PILLOW

    def __init__(self, n_different: int):
        random = np.random.default_rng(0)
        self.data = [_photo(random) for _ in range(n_different)]

    def read(self, index: int) -> bytes:
        """Returns a JPEG."""
        return self.data[index % len(self.data)]

    def describe(self, index: int) -> str:
        """Says which."""
        return f"photo {index}"


def _photo(random: np.random.Generator) -> bytes:
    coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC)).astype(int)
    noisy = (smooth + random.integers(-12, 13, smooth.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=90)
    return file.getvalue()


def photos(files: Photos, n_images: int, view: View) -> Dataset:
    """Returns a data set of that many training images."""
    split = Split(Encoded(files, np.arange(n_images)), np.arange(n_images, dtype=np.int32) % 10)
    return Dataset("photos", 10, split, split[:1], split[:1], ENCODED_TRANSFORM, view, "")


def on_host(random: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Crops, flips, rotates and normalises one image after another, as PyTorch's usual pipelines do."""
    found = np.empty(images.shape, np.float32)
    height, width = images.shape[1:3]
    mean, std = np.float32(CIFAR.mean), np.float32(CIFAR.std)
    for out, pixels in zip(found, images, strict=True):
        image = ImageOps.expand(Image.fromarray(pixels), CIFAR.pad)
        top, left = random.integers(0, 2 * CIFAR.pad + 1, 2)
        image = image.crop((left, top, left + width, top + height))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        image = image.rotate(random.uniform(-CIFAR.rotate_degrees, CIFAR.rotate_degrees))
        out[:] = (np.asarray(image, np.float32) / 255 - mean) / std
    return found


def augmentation(n_images: int, rounds: int) -> dict[str, list[float]]:
    """Returns images per second of each round, on the device and on the host."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (n_images, 32, 32, 3), dtype=np.uint8)
    there = jax.device_put(images)
    on_device = jax.jit(lambda key, images: augment(CIFAR, key, images))
    keys = jax.random.split(jax.random.key(0), rounds + 1)
    jax.block_until_ready(on_device(keys[-1], there))
    speeds = {"on the device": [], "on the host": []}
    for key in keys[:rounds]:
        for how, run in (
            ("on the device", lambda key=key: jax.block_until_ready(on_device(key, there))),
            ("on the host", lambda: on_host(random, images)),
        ):
            started = time.perf_counter()
            run()
            speeds[how].append(n_images / (time.perf_counter() - started))
    return speeds


def streaming(files: Photos, n_images: int, rounds: int, workers: list[int]) -> dict[int, list[tuple[float, float]]]:
    """Returns images per second, and per second of a core's time, of each round, for each number of workers."""
    view = View()
    dataset = photos(files, n_images, view)
    keys = jax.random.split(jax.random.key(0), 1)

    def read(epoch: int, count: int) -> tuple[float, float]:
        feed = Streaming(dataset, view, workers=count, steps_per_block=2, skip_undecodable=False)
        started, used = time.perf_counter(), time.process_time()
        for block in feed.training(keys, epoch, BATCH_SIZE):
            jax.block_until_ready(block.examples)
        return n_images / (time.perf_counter() - started), n_images / (time.process_time() - used)

    read(0, workers[-1])  # compiles what shuffles
    speeds = {count: [] for count in workers}
    for epoch, count in itertools.product(range(rounds), workers):
        speeds[count].append(read(epoch, count))
    return speeds


def waiting(
    files: Photos, n_images: int, rounds: int, workers: list[int], arch: str, size: int, m: int
) -> dict[int, list[tuple[float, float]]]:
    """Returns seconds waited and seconds in all of each round's epoch of training, for each number of workers."""
    view = View(size, round(size * 8 / 7))
    dataset = photos(files, n_images, view)
    model = models.build(arch, dataset.n_classes, dataset.image_shape)
    classifier = Classifier(model, dataset.transform, dataset.image_shape)
    variables = jax.device_get(jax.jit(classifier.init)(jax.random.key(0)))
    keys = jax.numpy.stack([jax.random.key(1)] * m)

    def train(count: int) -> tuple[float, float]:
        feed = Streaming(dataset, view, workers=count, steps_per_block=2, skip_undecodable=False)
        seconds = retrain(classifier, feed, variables, keys, 1, BATCH_SIZE, "auto")
        return feed.waited_seconds, seconds

    train(workers[-1])  # compiles
    found = {count: [] for count in workers}
    for _, count in itertools.product(range(rounds), workers):
        found[count].append(train(count))
    return found


def main() -> None:
    """Measures, prints and stores the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few images and rounds; nothing is stored")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arch", default="ResNet8")
    parser.add_argument("--size", type=int, default=32, help="pixels to a side of what that network sees")
    parser.add_argument("--members", type=int, default=3)
    options = parser.parse_args()
    devices.configure()
    rounds = 2 if options.quick else 7
    n_images = 64 if options.quick else 512

    load, n_cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    files = Photos(16 if options.quick else 64)
    augmenting = augmentation(4 * n_images, rounds)
    decoding = streaming(files, n_images, rounds, options.workers)
    n_trained = n_images // 2
    waits = waiting(files, n_trained, (rounds + 1) // 2, options.workers, options.arch, options.size, options.members)

    speeds = {how: statistics.median(each) for how, each in augmenting.items()}
    kilobytes = np.mean([len(data) for data in files.data]) / 1000
    table = (
        f"Load average at the start: {load:.1f} on {n_cores} cores\n\n"
        f"Crop, flip, rotation and normalisation of {4 * n_images} images of 32 x 32; median of {rounds} rounds\n\n"
        "| where | images/s |\n| --- | --- |\n"
        f"| on the device, one program | {speeds['on the device']:,.0f} |\n"
        f"| on the host, image by image | {speeds['on the host']:,.0f} |\n"
        f"| ratio | {speeds['on the device'] / speeds['on the host']:.1f} |\n\n"
        f"{n_images} JPEGs of 500 x 375 ({kilobytes:.0f} kB), cropped at random and scaled to 224 x 224\n\n"
        "| workers | images/s | lowest - highest | images per second of a core |\n| --- | --- | --- | --- |\n"
    )
    for count, each in decoding.items():
        speed, per_core = (statistics.median(figures) for figures in zip(*each, strict=True))
        table += f"| {count} | {speed:.0f} | {min(each)[0]:.0f} - {max(each)[0]:.0f} | {per_core:.0f} |\n"
    table += (
        f"\nTraining {options.arch} on {n_trained} of them at {options.size} x {options.size}, "
        f"{options.members} members that share a stream, batch {BATCH_SIZE}\n\n"
        "| workers | seconds per epoch | waited for images |\n| --- | --- | --- |\n"
    )
    for count, each in waits.items():
        share = statistics.median(waited / seconds for waited, seconds in each)
        table += f"| {count} | {statistics.median(seconds for _, seconds in each):.2f} | {share:.1%} |\n"
    print(table)
    if options.quick:
        return
    result = {
        "options": vars(options),
        "load": load,
        "augmentation": augmenting,
        "streaming": decoding,
        "waiting": waits,
    }
    print(f"stored in {machine.save('data', result, table)}")


if __name__ == "__main__":
    main()
