"""A golden file's network, data and states in the project's own types."""

import dataclasses
import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import numpy as np

from ssoup_jax import models, trees
from ssoup_jax.data.augment import TRANSFORMS, Transform
from ssoup_jax.data.feeds import Examples, Resident
from ssoup_jax.interop.state_dict import from_state_dict, to_state_dict
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning import masks
from ssoup_jax.stack import executors
from ssoup_jax.training import classify, loop, step
from ssoup_jax.training.classify import Classifier
from ssoup_jax.training.hyper import Hyper, per_step
from ssoup_jax.training.recalibrate import recalibrate
from ssoup_jax.training.step import TrainState
from ssoup_jax.trees import PyTree
from tests.reference import golden

BATCH_NORM_EPSILON = 1e-5
BLOCK_SIZE = 256


@dataclasses.dataclass(frozen=True, eq=False)
class Served:
    """What a run of the reference was given and what it left.

    Attributes:
        meta: the JSON file.
        arrays: the arrays beside it.
        classifier: network without dropout, transform without random moves.
        examples: the training images, then the test and, where there are any, out-of-distribution images.
        positions: each split's positions in the examples; `train` in the reference's unshuffled order.
        labels: each split's labels.
    """

    meta: dict
    arrays: dict[str, np.ndarray]
    classifier: Classifier
    examples: Examples
    positions: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]

    @property
    def case(self) -> dict:
        """The settings of the run."""
        return self.meta["case"]

    @property
    def network(self) -> tuple[nn.Module, tuple[int, int, int]]:
        """The network and the (H, W, C) of its images."""
        return self.classifier.model, self.classifier.image_shape

    def variables(self, state: np.ndarray, batch_stats: np.ndarray | None = None) -> Variables:
        """Reads a flat state; a flat state of BatchNorm statistics takes the place of those in it."""
        named = golden.split_flat(state, self.meta["index"])
        if batch_stats is not None:
            named |= golden.split_flat(batch_stats, self.meta["bn"])
        params, batch_stats = from_state_dict(*self.network, named)
        return Variables(params, {"batch_stats": batch_stats})

    def flat(self, variables: Variables) -> np.ndarray:
        """Writes one model as a flat state."""
        params, batch_stats = jax.device_get((variables.params, variables.collections["batch_stats"]))
        named = to_state_dict(*self.network, params, batch_stats)
        return np.concatenate([named[name].ravel() for name, _ in self.meta["index"]])

    def flat_bn(self, state: np.ndarray) -> np.ndarray:
        """Picks the BatchNorm statistics out of a flat state."""
        named = golden.split_flat(state, self.meta["index"])
        return np.concatenate([named[name].ravel() for name, _ in self.meta["bn"]])

    def bn_deviation(self, found: np.ndarray, expected: np.ndarray) -> float:
        """Returns the largest deviation of any feature's statistics: means in standard deviations, variances relative.

        Args:
            found: flat BatchNorm statistics.
            expected: the reference's; BatchNorm's own epsilon is added to its variances.
        """
        found, expected = (golden.split_flat(flat.astype(np.float64), self.meta["bn"]) for flat in (found, expected))
        deviations = []
        for name, variance in expected.items():
            if name.endswith("running_var"):
                mean = name.replace("running_var", "running_mean")
                scale = variance + BATCH_NORM_EPSILON
                deviations += [(found[name] - variance) / scale, (found[mean] - expected[mean]) / np.sqrt(scale)]
        return float(np.max(np.abs(np.concatenate(deviations))))

    def mask(self, packed: np.ndarray) -> PyTree:
        """Reads a stored mask."""
        kept = golden.unpack_mask(packed, self.meta["prunable"])
        named = {name: kept.get(name, np.ones(shape, bool)) for name, shape in self.meta["index"]}
        assert kept.keys() <= named.keys()
        params, _ = from_state_dict(*self.network, named)
        return masks.from_dense_form(jax.tree.map(lambda leaf: leaf != 0, params), masks.full_mask(params))

    def recalibrated(self, stack: Variables, fraction: float | None, execution: str = "map") -> Variables:
        """Recalibrates a stack as the reference does, on the unshuffled training split."""
        return recalibrate(
            classify.task(self.classifier),
            Resident(self.examples, self.positions),
            stack,
            batch_size=self.case["batch_size"],
            fraction=fraction,
            method="moving",
            keys=_keys(trees.stack_size(stack)),
            execution=execution,
        )

    def logits(self, stack: Variables, execution: str = "map") -> dict[str, np.ndarray]:
        """Evaluates a stack on every split but `train`, `[m, n, n_classes]` each."""
        splits = [split for split in self.positions if split != "train"]
        # All splits in one row: the last block is filled up, and is larger than these splits.
        feed = Resident(self.examples, {"all": np.concatenate([self.positions[split] for split in splits])})
        fn = executors.bind(_logits, self.classifier)
        blocks = [executors.run(execution, fn, block, (), stack)[1] for block in feed.evaluation("all", BLOCK_SIZE)]
        found = np.concatenate(jax.device_get(blocks), axis=1)[:, : feed.sizes["all"]]
        ends = np.cumsum([len(self.positions[split]) for split in splits])
        return dict(zip(splits, np.split(found, ends[:-1], axis=1), strict=True))

    def train(
        self,
        variables: Variables,
        mask: PyTree,
        runs: Sequence[str],
        weight_decays: Sequence[float],
        execution: str = "map",
        width: int = 0,
    ) -> tuple[TrainState, np.ndarray]:
        """Trains one copy of a model for each of the named runs, as one stack, in the recorded order and rates.

        Args:
            variables: where each starts.
            mask: shared by all.
            runs: names of the reference's runs.
            weight_decays: one for each run.
            execution: see `executors.run`.
            width: the stack's least size; it is filled up with members that take no step.

        Returns:
            The trained stack and its losses, see `loop.train`.
        """
        spare = max(0, width - len(runs))
        orders = [self.arrays[f"{run}/order"] for run in [*runs, *runs[:1] * spare]]

        def order(keys: jax.Array, epoch: int, n: int) -> np.ndarray:
            # A member that is done is given any order: what it would see must not matter.
            return np.stack([own[min(epoch, len(own) - 1)] for own in orders])

        rates = [self.arrays[f"{run}/lr"].astype(np.float32) for run in runs] + [np.float32([])] * spare
        hyper = Hyper(
            values={
                "learning_rate": per_step(rates),
                "weight_decay": np.array([*weight_decays, *[0.0] * spare]),
                "momentum": np.full(len(orders), self.meta["stages"]["dense"]["config"]["momentum"]),
            },
            n_steps=np.array([len(own) for own in rates]),
            keys=_keys(len(orders)),
            names=[*runs, *["spare"] * spare],
        )
        task = classify.task(self.classifier)
        state = step.init(task, hyper.values, trees.stack([variables] * len(orders)), mask)
        feed = Resident(self.examples, self.positions, order)
        found = loop.train(task, feed, state, hyper, self.case["batch_size"], execution)
        return found.state, found.losses


@functools.cache
def load(file: str) -> Served:
    """Loads `<file>.json` and `<file>.npz`."""
    meta, arrays = golden.load_json(file), golden.load_npz(file)
    splits = [name for name in ("train", "test", "ood") if f"data/{name}_images" in arrays]
    images = np.concatenate([arrays[f"data/{name}_images"] for name in splits])
    labels = np.concatenate([arrays[f"data/{name}_labels"] for name in splits]).astype(np.int32)
    images = images if images.ndim == 4 else images[..., None]
    ends = np.cumsum([len(arrays[f"data/{name}_labels"]) for name in splits])
    whole = {
        name: np.arange(end)[-len(arrays[f"data/{name}_labels"]) :] for name, end in zip(splits, ends, strict=True)
    }
    # The stored subsets are indices into the training data, which comes first.
    positions = whole | {name: arrays[f"split/{name}"] for name in ("train", "val")}
    positions = {name: own.astype(np.int32) for name, own in positions.items()}
    ((n_classes,),) = [shape for _, shape in meta["index"][-1:]]
    model = models.build(meta["case"]["arch"], n_classes, images.shape[1:], dropout=False)
    transform = dataclasses.replace(
        TRANSFORMS.get(meta["case"]["dataset"], Transform()), pad=0, flip=False, rotate_degrees=0.0
    )
    return Served(
        meta,
        arrays,
        Classifier(model, transform, images.shape[1:]),
        Examples(jax.device_put(images.reshape(len(images), -1)), jax.device_put(labels)),
        positions,
        {name: labels[own] for name, own in positions.items()},
    )


def _logits(classifier: Classifier, shared: tuple[Examples, jax.Array], state: tuple, variables: Variables):
    examples, block = shared
    return state, classifier.logits(variables, examples.images[block])


def _keys(count: int) -> jax.Array:
    # Nothing here is random: no augmentation, no dropout, a given order.
    return jax.random.split(jax.random.key(0), count)
