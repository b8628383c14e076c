"""A linear model, its loss and data: all that the tests of the library need, and small enough to compile at once."""

import jax
import numpy as np
import optax

from ssoup_jax import Task, from_arrays, hyper, stateless

X = np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32)
Y = X @ np.float32([1, -2, 0.5, 0])


def loss(params, batch, key):
    del key
    return ((batch["x"] @ params["kernel"] - batch["y"]) ** 2).mean()


TASK = Task(stateless(loss), optax.sgd)


def start():
    return {"kernel": np.float32([0.9, -1.8, 0.3, 0.1])}


def data(batch_size=16):
    return from_arrays({"x": X, "y": Y}, batch_size)


def members(m=2, n_steps=6, **values):
    return hyper(m, n_steps, jax.random.key(0), **({"learning_rate": 0.05} | values))
