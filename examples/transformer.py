"""A character transformer on the sources of Python's own standard library: `python -m examples.transformer`.

Dense training with AdamW, then pruning to the goal in phases, retrained in two ways of equal cost: IMP, one network
with m times the steps in each phase, and sparse model soups, m networks whose soup the next phase starts from. Bits per
character of files that were not trained on, over seeds.
"""

import argparse
import functools
import statistics
import sysconfig
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.table import show
from ssoup_jax import (
    Task,
    dense_schedule,
    devices,
    from_arrays,
    full_mask,
    hyper,
    member,
    retrain_schedule,
    sparse_model_soup,
    stack_members,
    stateless,
    train_members,
)

CONTEXT = 64  # characters
WIDTH, HEADS, DEPTH = 64, 4, 2
BATCH_SIZE = 16
CHARACTERS = [chr(code) for code in range(32, 127)] + ["\n"]  # any other is read as the last but one
LARGEST = 2_000_000  # characters to train on, and a tenth of them to validate on


def read(modules: list[Path], n_characters: int) -> np.ndarray:
    """Reads modules one after another, until there are enough characters.

    Returns:
        Numbers of characters, uint8 `[n // CONTEXT, CONTEXT + 1]`: the last of a row is the first of the next.
    """
    number = np.full(256, CHARACTERS.index("~"), np.uint8)
    number[[ord(char) for char in CHARACTERS]] = range(len(CHARACTERS))
    texts, found = [], 0
    for path in modules:
        texts.append(path.read_bytes())
        found += len(texts[-1])
        if found >= n_characters:
            break
    text = number[np.frombuffer(b"".join(texts), np.uint8)][: max(n_characters, CONTEXT + 1)]
    n_rows = (len(text) - 1) // CONTEXT
    return np.lib.stride_tricks.sliding_window_view(text, CONTEXT + 1)[: n_rows * CONTEXT : CONTEXT]


def data(n_characters: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns rows to train on and rows to validate on; every tenth module is for the latter."""
    modules = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    train = [path for i, path in enumerate(modules) if i % 10]
    return read(train, n_characters), read(modules[::10], n_characters // 10)


class Block(nn.Module):
    """Causal attention and a perceptron, each normalised before and added after."""

    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(jnp.ones((1, x.shape[1])))
        x = x + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(4 * WIDTH)(nn.LayerNorm()(x))))


class Transformer(nn.Module):
    """Maps characters int `[B, T]` to logits `[B, T, C]` of the next ones."""

    @nn.compact
    def __call__(self, characters):
        places = self.param("places", nn.initializers.normal(0.02), (CONTEXT, WIDTH))
        x = nn.Embed(len(CHARACTERS), WIDTH)(characters) + places
        for _ in range(DEPTH):
            x = Block()(x)
        return nn.Dense(len(CHARACTERS))(nn.LayerNorm()(x))


NETWORK = Transformer()


def loss(params, batch, key):
    """Returns the mean cross-entropy of the next characters, in nats."""
    del key
    rows = batch.astype(jnp.int32)
    logits = NETWORK.apply({"params": params}, rows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()


def adamw(learning_rate):
    """AdamW as language models have it, behind a clip that pruned weights have no part in."""
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(learning_rate, b2=0.98, weight_decay=0.05))


TASK = Task(stateless(loss), adamw)
_batch_loss = jax.jit(functools.partial(loss, key=None))


def bits(params, rows: np.ndarray) -> float:
    """Returns bits per character, a mean over whole batches."""
    n = len(rows) // 64 * 64 or len(rows)
    batches = rows[:n].reshape(-1, min(64, n), rows.shape[1])
    return float(np.mean([_batch_loss(params, batch) for batch in batches]) / np.log(2))


def run(seed: int, data_: tuple[np.ndarray, np.ndarray], m: int, dense: int, retrain: int, goal: float, phases: int):
    """Returns what one seed found, bits per character by row of the table."""
    train, validation = data_
    batches = from_arrays(train, BATCH_SIZE)
    key = jax.random.key(seed)
    params = NETWORK.init(key, train[:1, :-1].astype(np.int32))["params"]
    rates = dense_schedule("(Cosine, 3e-3)", 10, dense // 10, 1)
    first = hyper(1, len(rates.rates), key, learning_rate=rates)
    params = member(train_members(TASK, stack_members([params]), batches, first).stack, 0)
    mask = full_mask(params, "Block_*/kernel, Dense_0/kernel")

    def members(count, n_steps):
        return hyper(count, n_steps, jax.random.fold_in(key, 1), learning_rate=retrain_schedule("LLR", rates, n_steps))

    prune = functools.partial(sparse_model_soup, TASK, params, batches, sparsity=goal, n_phases=phases, mask=mask)
    imp, sms = prune(members(1, m * retrain)), prune(members(m, retrain))
    ingredients = [bits(member(sms[-1].members, i), validation) for i in range(m)]
    return {
        "dense": bits(params, validation),
        f"IMP, {m} x {retrain} steps a phase": bits(imp[-1].soup, validation),
        f"SMS, {m} members, {retrain} steps a phase": bits(sms[-1].soup, validation),
        "mean of its last members": statistics.mean(ingredients),
        "best of its last members": min(ingredients),
    }


def main(
    seeds: int = 3,
    m: int = 3,
    dense: int = 600,
    retrain: int = 80,
    goal: float = 0.9,
    phases: int = 2,
    characters: int = LARGEST,
) -> list[list[str]]:
    """Runs all seeds and returns the table's rows."""
    data_ = data(characters)
    found = [run(seed, data_, m, dense, retrain, goal, phases) for seed in range(seeds)]
    rows = []
    for name in found[0]:
        own = [one[name] for one in found]
        spread = statistics.stdev(own) if seeds > 1 else 0.0
        rows.append(
            [
                name,
                "0 %" if name == "dense" else f"{goal:.0%}".replace("%", " %"),
                f"{statistics.mean(own):.3f}",
                f"{spread:.3f}",
            ]
        )
    show(["network", "zeros", f"bits per character, {seeds} seeds", "deviation"], rows)
    return rows


if __name__ == "__main__":
    devices.configure()  # XLA's flags for speed, before the first computation
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in {"seeds": 3, "m": 3, "dense": 600, "retrain": 80, "phases": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--goal", type=float, default=0.9)
    main(**vars(parser.parse_args()))
