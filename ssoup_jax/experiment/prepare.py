"""Makes what the stages work with: the network, the data on the device or streamed to it, a model that is given."""

import math
import os

import jax
import jax.numpy as jnp
import numpy as np

from ssoup_jax import models
from ssoup_jax.config import Settings
from ssoup_jax.data.dataset import Dataset
from ssoup_jax.data.feeds import Feed, resident
from ssoup_jax.data.streaming import Streaming
from ssoup_jax.errors import RunError, SettingsError
from ssoup_jax.experiment import imported
from ssoup_jax.experiment.context import Context
from ssoup_jax.own import is_own
from ssoup_jax.pod import ALONE, Pod
from ssoup_jax.pruning import masks, selectors
from ssoup_jax.report.console import Console
from ssoup_jax.report.trackers import NULL, Tracker
from ssoup_jax.stack import memory, names
from ssoup_jax.training import classify, curves, evaluate, optimizer
from ssoup_jax.training.classify import Classifier
from ssoup_jax.training.measured import Remembered

# Images of one block on their way to the device; a few such blocks are there at a time.
STREAMED_BLOCK_BYTES = 64 * 2**20


def prepare(
    settings: Settings,
    dataset: Dataset,
    console: Console,
    choices: Remembered | None = None,
    pod: Pod = ALONE,
    tracker: Tracker = NULL,
) -> Context:
    """Builds the model for the data, reads the file of `init_from`, and puts the data on the device.

    Args:
        settings: the experiment's.
        dataset: its data.
        console: where progress is shown.
        choices: which executor was the fastest for earlier stacks.
        pod: the processes of this run.
        tracker: told of every stage and epoch.

    Raises:
        SettingsError: the network does not fit the images, the file or a pattern of parameters not the network, or a
            batch not the training split.
    """
    n_train = len(dataset.train.labels)
    for name, found in _batch_sizes(settings).items():
        if found > n_train:
            raise SettingsError(f"{name}: found {found}; the training split has only {n_train} images")
    classifiers = _classifiers(settings, dataset)
    classifier = classifiers[settings.use_amp]
    _try_out(settings, classifier)
    given = None if settings.init_from is None else imported.read(settings, classifier, dataset.split)
    feed = _feed(settings, dataset, console, pod)
    shape = "x".join(map(str, dataset.image_shape))
    by = "" if settings.optimizer == "SGD" else f", {settings.optimizer}"
    context = Context(
        classifiers=classifiers,
        use_amp=settings.use_amp,
        network=f"{settings.arch} on {shape}{', remat' * settings.remat}{by}",
        feed=feed,
        classes=dataset.classes,
        execution=settings.execution,
        mesh=_mesh(settings, classifier.model.can_be_cut),
        evaluated=evaluate.splits(settings.evaluate_train, feed),
        evaluate_every=curves.interval(settings.evaluate_every, feed),
        console=console,
        pod=pod,
        tracker=tracker,
        choices=choices,
        imported=given,
    )
    masks.restrict(masks.full_mask(context.like.params), settings.prune_only, settings.prune_except)
    return context


def _batch_sizes(settings: Settings) -> dict[str, int]:
    """Returns the sizes of all batches by their settings."""
    sizes = {name: getattr(settings, name) for name in ("batch_size", "retrain_batch_size")}
    return {name: size for name, size in sizes.items() if size is not None}


def _classifiers(settings: Settings, dataset: Dataset) -> dict[bool, Classifier]:
    """Makes the network in every precision that is wanted, by `use_amp`."""

    def make(use_amp: bool) -> Classifier:
        dtype = jnp.bfloat16 if use_amp else jnp.float32
        model = models.build(settings.arch, dataset.n_classes, dataset.image_shape, dtype=dtype, remat=settings.remat)
        return Classifier(model, dataset.transform, dataset.image_shape)

    found, retrained = {settings.use_amp: make(settings.use_amp)}, settings.of_retraining("use_amp")
    try:
        return found | {retrained: found.get(retrained) or make(retrained)}
    except SettingsError as error:  # a network of one's own may know one precision only
        raise SettingsError(f"retrain_{error}") from None


def _try_out(settings: Settings, classifier: Classifier) -> None:
    """Tries what is one's own before anything is trained; mistakes would end the run in its middle."""
    variables = jax.eval_shape(classifier.init, jax.random.key(0))
    optimizer.try_out(settings.optimizer, variables.params)
    classify.try_loss(settings.loss, classifier.model.n_classes)
    mask = masks.full_mask(variables.params)
    if is_own(settings.arch):
        if not masks.prunable_leaves(mask, mask):
            raise SettingsError(f"arch: {settings.arch} has nothing to prune; allowed: weights by the name of 'kernel'")
        if settings.bn_recalibration == "exact":
            classifier.check_moments(settings.arch)
    if is_own(settings.pruning_selector):
        drawn = np.random.default_rng(0)
        weights = jax.tree.map(lambda leaf: drawn.standard_normal(leaf.shape, np.float32), variables.params)
        try:
            selectors.select(settings.pruning_selector, weights, mask, 0.5, jax.random.key(0))
        except RunError as error:
            raise SettingsError(str(error)) from None


def _mesh(settings: Settings, can_be_cut: bool) -> names.Shape | None:
    """Checks the mesh that is asked for, by itself or in an executor's name, now that the devices are known."""
    mesh = None if settings.mesh is None else names.parse_mesh(settings.mesh)
    named = None if names.stands_for_another(settings.execution) else names.parse(settings.execution)
    if jax.process_count() > 1 and (settings.execution == "measured" or (named is not None and named.mesh is None)):
        raise SettingsError(
            f"execution: found {settings.execution!r}, which is for one process; allowed for "
            f"{jax.process_count()} of them: auto, shard, shard:NAME, MxD:NAME"
        )
    if named is not None and mesh not in (None, named.mesh):
        raise SettingsError(
            f"mesh: found {settings.mesh!r}, but execution={settings.execution!r} "
            f"{'runs on one device' if named.mesh is None else 'names another'}; allowed with it: 'shard:{named.name}'"
        )
    for asked in {mesh, named and named.mesh} - {None}:
        for name, size in _batch_sizes(settings).items():
            names.check_mesh(asked, len(jax.devices()), size if can_be_cut else None, name)
    return mesh


def _feed(settings: Settings, dataset: Dataset, console: Console, pod: Pod) -> Feed:
    """Keeps the images on the device if they fit, and streams them to it otherwise."""
    wanted, n_bytes = settings.data.on_device, dataset.nbytes
    # Each sees its own memory, and all have to decide alike.
    frees = [free for free in pod.everyone(memory.free_bytes()) if free is not None]
    free = min(frees) if frees else None
    if wanted and n_bytes is None:
        raise SettingsError("data.on_device: found True; images of different sizes can only be streamed to the device")
    if wanted and free is not None and n_bytes > free:
        raise SettingsError(
            f"data.on_device: found True; the images take {n_bytes / 1e9:.2f} GB and {free / 1e9:.2f} GB are free"
        )
    if n_bytes is not None and (wanted or (wanted is None and memory.data_fits(n_bytes, free))):
        return resident(dataset)
    image_bytes = math.prod(dataset.image_shape) * max(_batch_sizes(settings).values())
    workers = (os.cpu_count() or 1) if settings.data.workers is None else settings.data.workers
    size = "images of different sizes" if n_bytes is None else f"{n_bytes / 1e9:.2f} GB of images"
    console.line(f"data: {size} are streamed to the device by {workers} threads")
    return Streaming(
        dataset,
        dataset.view,
        workers=workers,
        steps_per_block=max(1, min(64, STREAMED_BLOCK_BYTES // image_bytes)),
        skip_undecodable=settings.data.skip_undecodable,
    )
