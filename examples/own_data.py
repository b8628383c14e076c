"""One's own data pipeline: a generator of NumPy batches, and the same with grain: `python -m examples.own_data`.

Both shift images at random on the host and yield dicts of arrays. Every member has a seed of its own, so members see
different orders and shifts; a run that is cut off goes on in the middle of an epoch, because a batch follows from
epoch and seed. grain is optional: `pip install grain`.
"""

import argparse
import importlib.util
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from examples.table import show
from ssoup_jax import Task, devices, from_batches, full_mask, hyper, member, sparse_model_soup, stateless

BATCH_SIZE = 50
_digits = load_digits()
IMAGES, LABELS = np.float32(_digits.images / 16), np.int32(_digits.target)
N_TRAIN = 1400
STEPS_PER_EPOCH = N_TRAIN // BATCH_SIZE


def shifted(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Moves an image `[8, 8]` by at most a pixel in each direction."""
    return np.roll(image, random.integers(-1, 2, 2), axis=(0, 1))


def generator(epoch: int, seed: int) -> Iterable[dict[str, np.ndarray]]:
    """Yields an epoch of batches, with nothing but NumPy."""
    random = np.random.default_rng((seed, epoch))
    for rows in random.permutation(N_TRAIN).reshape(STEPS_PER_EPOCH, BATCH_SIZE):
        yield {"x": np.stack([shifted(IMAGES[row], random) for row in rows]), "y": LABELS[rows]}


def with_grain(epoch: int, seed: int) -> Iterable[dict[str, np.ndarray]]:
    """Makes the same pipeline of grain's parts."""
    import grain

    source = grain.MapDataset.source(range(N_TRAIN)).seed(seed % 2**31 + epoch).shuffle()
    pictures = source.random_map(lambda row, random: {"x": shifted(IMAGES[row], random), "y": LABELS[row]})
    return pictures.batch(BATCH_SIZE, drop_remainder=True)


def logits(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    """Forwards images `[B, 8, 8]`."""
    hidden = jax.nn.relu(x.reshape(len(x), -1) @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def loss(params, batch, key):
    """Returns the mean cross-entropy."""
    del key
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch["x"]), batch["y"]).mean()


TASK = Task(stateless(loss), optax.adam)


def main(dense: int = 1500, retrain: int = 500) -> list[list[str]]:
    """Trains and prunes with each pipeline; returns the table's rows."""
    pipelines = {"NumPy": generator}
    if importlib.util.find_spec("grain"):
        pipelines["grain"] = with_grain
    rows = []
    for name, pipeline in pipelines.items():
        batches, key = from_batches(pipeline, STEPS_PER_EPOCH), jax.random.key(0)
        params = {
            "w1": jax.random.normal(key, (64, 96)) / 8,
            "b1": jnp.zeros(96),
            "w2": jnp.zeros((96, 10)),
            "b2": jnp.zeros(10),
        }
        # Without pruning and with one member, the method is plain training.
        first = hyper(1, dense, key, learning_rate=optax.cosine_decay_schedule(3e-3, dense))
        mask = full_mask(params, "w*")
        (trained,) = sparse_model_soup(TASK, params, batches, first, sparsity=0.0, mask=mask)
        members = hyper(3, retrain, key, learning_rate=optax.linear_schedule(2e-3, 0, retrain))
        phase = sparse_model_soup(TASK, trained.soup, batches, members, sparsity=0.9, n_phases=2, mask=mask)[-1]

        def accuracy(own):
            return np.mean(logits(own, IMAGES[N_TRAIN:]).argmax(-1) == LABELS[N_TRAIN:])

        scores = [accuracy(member(phase.members, i)) for i in range(3)]
        figures = (accuracy(trained.soup), accuracy(phase.soup), np.mean(scores))
        rows.append([name, *(f"{figure:.1%}" for figure in figures)])
    show(["pipeline", "dense", "soup, 90 % zeros", "mean of its members"], rows)
    return rows


if __name__ == "__main__":
    devices.configure()  # XLA's flags for speed, before the first computation
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dense", type=int, default=1500)
    parser.add_argument("--retrain", type=int, default=500)
    main(**vars(parser.parse_args()))
