"""The task of the experiments: softmax cross-entropy of images on the device as bytes."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssoup_jax import models
from ssoup_jax.data.augment import Transform, augment, normalise
from ssoup_jax.data.feeds import Examples
from ssoup_jax.keys import derive
from ssoup_jax.models.variables import Variables
from ssoup_jax.training.optimizer import Optimizer, sgd
from ssoup_jax.training.task import Task
from ssoup_jax.trees import PyTree


@dataclass(frozen=True)
class Classifier:
    """What is fixed when a program is compiled: the network, and how it sees images.

    Attributes:
        model: maps normalised images `[B, H, W, C]` to logits `[B, n_classes]`.
        transform: of its images.
        image_shape: (H, W, C); images are stored flat.
        axis: mesh axis over which training batches are cut; None: each is one device's.
    """

    model: nn.Module
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

    def _images(self, flat: jax.Array) -> jax.Array:
        return flat.reshape(-1, *self.image_shape)


def task(classifier: Classifier, optimizer: Optimizer = sgd) -> Task:
    """Returns the task of training a classifier; equal classifiers share one, and so its programs."""
    return _task(classifier, optimizer)


@functools.cache
def _task(classifier: Classifier, optimizer: Optimizer) -> Task:
    return Task(
        functools.partial(_loss, classifier),
        optimizer,
        functools.partial(_moments, classifier),
        functools.partial(_cut, classifier, optimizer),
    )


def _cut(classifier: Classifier, optimizer: Optimizer, axis: str) -> Task:
    return task(dataclasses.replace(classifier, model=classifier.model.clone(axis_name=axis), axis=axis), optimizer)


def _loss(classifier: Classifier, params: PyTree, collections: PyTree, batch: Examples, key: jax.Array) -> Any:
    logits, batch_stats = classifier.forward_train(Variables(params, collections), batch.images, key, "batch_stats")
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels).mean()
    accuracy = jnp.mean(logits.argmax(-1) == batch.labels)
    return loss, ({"batch_stats": batch_stats}, {"accuracy": accuracy})


def _moments(classifier: Classifier, params: PyTree, collections: PyTree, batch: Examples, key: jax.Array) -> PyTree:
    variables = Variables(params, collections)
    return {"batch_stats": classifier.forward_train(variables, batch.images, key, "batch_moments")[1]}
