"""A plain JAX loop of one's own, with the masks only: `python -m examples.own_loop`.

Nothing of the project trains here: `full_mask` says what is prunable, `prune` says what goes, and `masked` wraps the
optimizer. A perceptron on scikit-learn's digits is pruned in steps while it is trained.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from examples.table import show
from ssoup_jax import devices, full_mask, masked, prune, sparsity

SPARSITIES = (0.5, 0.8, 0.9, 0.95)


def data() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns images and labels of 1 400 digits to train on, and of 397 to test on."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = np.float32(x / 16)[order], y[order]
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def init(key: jax.Array, sizes: tuple[int, ...] = (64, 128, 128, 10)) -> list[dict[str, jax.Array]]:
    """Draws a perceptron as a list of dicts; what to prune has a name of its own, `w`."""
    keys = jax.random.split(key, len(sizes) - 1)
    return [
        {"w": jax.random.normal(k, (n, m)) * np.sqrt(2 / n), "b": jnp.zeros(m)}
        for k, n, m in zip(keys, sizes, sizes[1:], strict=False)
    ]


def logits(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Forwards images `[B, 64]`."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["w"] + layer["b"])
    return x @ params[-1]["w"] + params[-1]["b"]


def loss(params: list[dict[str, jax.Array]], x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy of a batch."""
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


# The mask is data, so that pruning compiles nothing anew.
@jax.jit
def train_step(params, state, mask, x, y):
    """Takes a step under the mask; clipping by the global norm sees no pruned weight."""
    optimizer = masked(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)), mask)
    updates, state = optimizer.update(jax.grad(loss)(params, x, y), state, params)
    return optax.apply_updates(params, updates), state


def main(steps: int = 400) -> list[list[str]]:
    """Trains, prunes and trains on; returns the table's rows."""
    (x, y), (x_test, y_test) = data()
    random, params = np.random.default_rng(1), init(jax.random.key(0))
    mask = full_mask(params, "*/w")
    state = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(params)
    rows = []
    for goal in (0.0, *SPARSITIES):
        params, mask = prune(params, mask, goal)
        pruned = np.mean(logits(params, x_test).argmax(-1) == y_test)
        for _ in range(steps):
            batch = random.integers(0, len(x), 64)
            params, state = train_step(params, state, mask, x[batch], y[batch])
        trained = np.mean(logits(params, x_test).argmax(-1) == y_test)
        zeros = sparsity(params, mask)["prunable"]
        rows.append([f"{zeros:.1%}", f"{pruned:.1%}", f"{trained:.1%}"])
    show(["zeros", "test accuracy before training on", "after"], rows)
    return rows


if __name__ == "__main__":
    devices.configure()  # XLA's flags for speed, before the first computation
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=400)
    main(parser.parse_args().steps)
