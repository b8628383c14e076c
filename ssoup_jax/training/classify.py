"""The task of the experiments: softmax cross-entropy of images on the device as bytes."""

import dataclasses
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.errors import FlaxError

from ssoup_jax import models, own
from ssoup_jax.data.augment import Transform, augment, normalise
from ssoup_jax.data.feeds import Examples
from ssoup_jax.errors import SettingsError
from ssoup_jax.keys import derive
from ssoup_jax.models.layers import Network
from ssoup_jax.models.own import Own
from ssoup_jax.models.variables import Variables
from ssoup_jax.training.optimizer import Optimizer, sgd
from ssoup_jax.training.task import Task
from ssoup_jax.trees import PyTree, first_difference, spell

LabelLoss = Callable[[jax.Array, jax.Array], jax.Array]
"""`(logits float32 [B, n_classes], labels int32 [B]) -> loss [B]`, of which the mean is taken, or `[]`."""


@dataclass(frozen=True)
class Classifier:
    """What is fixed when a program is compiled: the network, and how it sees images.

    Attributes:
        model: maps normalised images `[B, H, W, C]` to logits `[B, n_classes]`.
        transform: of its images.
        image_shape: (H, W, C); images are stored flat.
        axis: mesh axis over which training batches are cut; None: each is one device's.
    """

    model: Network | Own
    transform: Transform
    image_shape: tuple[int, int, int]
    axis: str | None = None

    def init(self, key: jax.Array) -> Variables:
        """Draws initial variables; key: typed PRNG key `[]`."""
        params, batch_stats = models.init(self.model, key, self.image_shape)
        return Variables(params, {"batch_stats": batch_stats})

    def logits(self, variables: Variables, images: jax.Array) -> jax.Array:
        """Forwards images uint8 `[B, H*W*C]` in evaluation mode; returns float32 `[B, n_classes]`."""
        return self.model.apply(variables.as_flax(), normalise(self.transform, self._images(images)), train=False)

    def forward_train(self, variables: Variables, images: jax.Array, key: jax.Array, collection: str):
        """Forwards a training batch in train mode, augmented.

        Args:
            variables: one member's.
            images: uint8 `[B, H*W*C]`.
            key: typed PRNG key `[]`, for augmentation and dropout.
            collection: what BatchNorm is to report: `'batch_stats'` (moving average) or `'batch_moments'` (this
                batch's).

        Returns:
            Logits float32 `[B, n_classes]` and the collection, `{}` where the model has none.
        """
        logits, updated = self.model.apply(
            variables.as_flax(),
            augment(self.transform, derive(key, "augment"), self._images(images), self.axis),
            train=True,
            rngs={"dropout": derive(key, "dropout")},
            mutable=[collection],
        )
        return logits, updated.get(collection, {})

    def check_moments(self, arch: str) -> None:
        """Checks that BatchNorm reports what exact recalibration needs; `arch` is the setting.

        Raises:
            SettingsError: it does not.
        """
        variables, key = jax.eval_shape(lambda: (self.init(jax.random.key(0)), jax.random.key(0)))
        images = jax.ShapeDtypeStruct((2, math.prod(self.image_shape)), jnp.uint8)
        try:
            forward = functools.partial(self.forward_train, collection="batch_moments")
            _, moments = jax.eval_shape(forward, variables, images, key)
        except FlaxError:  # flax's own BatchNorm insists on its statistics
            moments = {}
        if first_difference(moments, variables.collections["batch_stats"]):
            raise SettingsError(
                f"bn_recalibration: found 'exact'; the layers of {arch} do not report batch_moments, as "
                "ssoup_jax.models.layers.BatchNorm does; allowed: moving, None"
            )

    def _images(self, flat: jax.Array) -> jax.Array:
        return flat.reshape(-1, *self.image_shape)


def task(
    classifier: Classifier,
    optimizer: Optimizer = sgd,
    loss: LabelLoss = optax.softmax_cross_entropy_with_integer_labels,
) -> Task:
    """Returns the task of training a classifier; equal classifiers share one, and so its programs."""
    return _task(classifier, optimizer, loss)


@functools.cache
def _task(classifier: Classifier, optimizer: Optimizer, loss: LabelLoss) -> Task:
    return Task(
        functools.partial(_loss, classifier, loss),
        optimizer,
        functools.partial(_moments, classifier),
        functools.partial(_cut, classifier, optimizer, loss) if classifier.model.can_be_cut else None,
    )


def _cut(classifier: Classifier, optimizer: Optimizer, loss: LabelLoss, axis: str) -> Task:
    cut = dataclasses.replace(classifier, model=classifier.model.clone(axis_name=axis), axis=axis)
    return task(cut, optimizer, loss)


def loss_named(name: str | None) -> LabelLoss:
    """Returns a loss of one's own, see `ssoup_jax.own`; None: softmax cross-entropy.

    Raises:
        SettingsError: there is no such function, or it does not take logits and labels.
    """
    if name is None:
        return optax.softmax_cross_entropy_with_integer_labels
    found = own.load("loss", name)
    own.check_positional("loss", name, found, ("logits", "labels"))
    return found


def try_loss(name: str | None, n_classes: int) -> None:
    """Calls a loss of one's own on shapes; nothing is computed.

    Raises:
        SettingsError: it does not make one float, or one for each label.
    """
    if name is None:
        return
    shapes = jax.ShapeDtypeStruct((2, n_classes), jnp.float32), jax.ShapeDtypeStruct((2,), jnp.int32)
    made = own.call("loss", name, jax.eval_shape, loss_named(name), *shapes)
    floats = hasattr(made, "dtype") and jnp.issubdtype(made.dtype, jnp.floating)
    if not floats or made.shape not in ((), (2,)):
        found = spell(made) if hasattr(made, "dtype") else type(made).__name__
        raise SettingsError(f"loss: {name} makes {found} of 2 images; allowed: one float, or one for each image")


def _loss(
    classifier: Classifier, loss_of: LabelLoss, params: PyTree, collections: PyTree, batch: Examples, key: jax.Array
) -> Any:
    logits, batch_stats = classifier.forward_train(Variables(params, collections), batch.images, key, "batch_stats")
    loss = loss_of(logits, batch.labels).mean()
    accuracy = jnp.mean(logits.argmax(-1) == batch.labels)
    return loss, ({"batch_stats": batch_stats}, {"accuracy": accuracy})


def _moments(classifier: Classifier, params: PyTree, collections: PyTree, batch: Examples, key: jax.Array) -> PyTree:
    variables = Variables(params, collections)
    return {"batch_stats": classifier.forward_train(variables, batch.images, key, "batch_moments")[1]}
