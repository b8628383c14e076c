"""Dense prediction: which digit each pixel belongs to, in pictures composed of scikit-learn's digits.

    python -m examples.segmentation

A small fully convolutional network with BatchNorm labels the pixels of 20 x 20 pictures of four digits each, drawn at
random places; background is a class of its own. Mean IoU on pictures of digits that were not trained on.
"""

import argparse

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from examples.table import show
from ssoup_jax import (
    Task,
    Variables,
    devices,
    from_arrays,
    hyper,
    member,
    sparse_model_soup,
    stack_members,
    train_members,
)

SIZE, N_CLASSES = 20, 11  # ten digits and the background


def compose(images: np.ndarray, labels: np.ndarray, n: int, seed: int) -> dict[str, np.ndarray]:
    """Puts four digits at random places, one in each quarter of a picture.

    Returns:
        `x` float32 `[n, 20, 20, 1]` in [0, 1], and `y` int32 `[n, 20, 20]`, the class of each pixel.
    """
    random = np.random.default_rng(seed)
    x, y = np.zeros((n, SIZE, SIZE, 1), np.float32), np.full((n, SIZE, SIZE), 10, np.int32)
    for i in range(n):
        for quarter in range(4):
            which = random.integers(len(images))
            row, column = random.integers(0, SIZE // 2 - 8 + 1, 2) + SIZE // 2 * np.array(divmod(quarter, 2))
            x[i, row : row + 8, column : column + 8, 0] = images[which] / 16
            y[i, row : row + 8, column : column + 8] = np.where(images[which] > 4, labels[which], 10)
    return {"x": x, "y": y}


def data(n_train: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns pictures to train on and pictures of other digits to validate on."""
    digits = load_digits()
    return compose(digits.images[:1400], digits.target[:1400], n_train, 0), compose(
        digits.images[1400:], digits.target[1400:], 200, 1
    )


class Segmenter(nn.Module):
    """Maps pictures `[B, 20, 20, 1]` to logits `[B, 20, 20, 11]`."""

    @nn.compact
    def __call__(self, x, train):
        for _ in range(3):
            x = nn.Conv(16, (5, 5), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Conv(N_CLASSES, (1, 1))(x)


NETWORK = Segmenter()


def loss(params, collections, batch, key):
    """Returns the mean cross-entropy over all pixels, the new statistics, and the share of right pixels."""
    del key
    logits, new = NETWORK.apply({"params": params, **collections}, batch["x"], train=True, mutable=["batch_stats"])
    error = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()
    return error, (new, {"right": jnp.mean(logits.argmax(-1) == batch["y"])})


TASK = Task(loss, optax.adamw)
_classes = jax.jit(lambda variables, x: NETWORK.apply(variables.as_flax(), x, train=False).argmax(-1))


def mean_iou(variables: Variables, pictures: dict[str, np.ndarray]) -> float:
    """Returns intersection over union, a mean over the classes."""
    found, wanted = np.asarray(_classes(variables, pictures["x"])), pictures["y"]
    own = [np.sum((found == c) & (wanted == c)) / np.sum((found == c) | (wanted == c)) for c in range(N_CLASSES)]
    return float(np.mean(own))


def main(m: int = 3, dense: int = 400, retrain: int = 60, n_train: int = 1000) -> list[list[str]]:
    """Trains, prunes to 90 % in two phases, and returns the table's rows."""
    train, validation = data(n_train)
    batches, key = from_arrays(train, 16), jax.random.key(0)
    start = Variables.from_flax(NETWORK.init(key, train["x"][:1], train=False))
    rates = optax.cosine_decay_schedule(3e-3, dense)
    first = hyper(1, dense, key, learning_rate=rates, weight_decay=1e-4)
    model = member(train_members(TASK, stack_members([start]), batches, first).stack, 0)
    rows = [["dense", "0 %", f"{mean_iou(model, validation):.1%}", "", ""]]
    members = hyper(m, retrain, key, learning_rate=optax.linear_schedule(2e-3, 0, retrain), weight_decay=1e-4)
    for phase in sparse_model_soup(TASK, model, batches, members, sparsity=0.9, n_phases=2):
        scores = [mean_iou(member(phase.members, i), validation) for i in range(m)]
        soup = mean_iou(phase.soup, validation)
        figures = [f"{score:.1%}" for score in (soup, np.mean(scores), max(scores))]
        rows.append([f"phase {phase.number}", f"{phase.sparsity:.1%}".replace("%", " %"), *figures])
    show(["", "zeros", "mean IoU of the model or soup", "of its members, mean", "best"], rows)
    return rows


if __name__ == "__main__":
    devices.configure()  # XLA's flags for speed, before the first computation
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"m": 3, "dense": 400, "retrain": 60}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    main(**vars(parser.parse_args()))
