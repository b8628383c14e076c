"""The dense model that `init_from` names: read from its file, with what is to be said of it."""

import dataclasses
from dataclasses import dataclass

import jax
import numpy as np

from ssoup_jax import models
from ssoup_jax.config import Settings
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.interop import by_names, pytorch, zeros
from ssoup_jax.interop.pytorch import Checkpoint
from ssoup_jax.keys import derive
from ssoup_jax.models.own import Own
from ssoup_jax.models.variables import Variables
from ssoup_jax.own import is_own
from ssoup_jax.pruning import masks
from ssoup_jax.pruning.allocation import prune_count
from ssoup_jax.pruning.masks import is_kernel
from ssoup_jax.training.classify import Classifier
from ssoup_jax.trees import PyTree


@dataclass(frozen=True)
class Import:
    """A dense model from a file.

    Attributes:
        artifact: the model; its record is the file and its SHA-256.
        init_mask: 'zeros' if zeros were taken for pruned weights; None: what is pruned, if anything, the file masks.
        pruned: the share of the weights that experiments may prune that is pruned already.
        notes: what is to be said of it, one line each.
    """

    artifact: Artifact
    init_mask: str | None
    pruned: float
    notes: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return self.artifact.record["sha256"]


def read(settings: Settings, classifier: Classifier, split: str | None) -> Import:
    """Reads the file of `init_from`.

    Args:
        settings: the experiment's.
        classifier: has the network that the file must fit.
        split: how the data set was split, see `Dataset`.

    Returns:
        The model.

    Raises:
        SettingsError: the file cannot be read or does not fit, or so much of it is pruned that nothing is left to do.
    """
    checkpoint, notes = _read(settings, classifier)
    masked, note = zeros.as_masks(checkpoint, settings.init_mask, is_kernel if is_own(settings.arch) else None)
    params, batch_stats, mask = jax.device_get(_variables_from(masked, classifier))
    notes.append(note)
    if unsaid := classifier.model.unsaid:
        notes.append(
            f"{settings.arch} is more than names and shapes, which fit: {unsaid}; a model that differs is another"
        )
    if checkpoint.left_out:
        notes.append(f"not used of the file: {', '.join(checkpoint.left_out)}")
    if split == "own" and settings.init_head is None:
        notes.append(
            "unless it was trained here, the model has seen most of the validation images, and what they judge looks "
            "better than it is; the authors' code holds out another tenth, which data.split='reference' takes"
        )
    return Import(
        Artifact(
            Variables(params, {"batch_stats": batch_stats}),
            mask,
            {"file": settings.init_from, "sha256": checkpoint.sha256},
        ),
        init_mask=None if masked is checkpoint else "zeros",
        pruned=_pruned(settings, mask),
        notes=tuple(f"init_from: {note}" for note in notes if note),
    )


def _read(settings: Settings, classifier: Classifier) -> tuple[Checkpoint, list[str | None]]:
    """Reads what fits the network, with another last layer if that is asked for, and what is to be said of that."""
    checkpoint = (by_names if isinstance(classifier.model, Own) else pytorch).read(settings.init_from)
    if settings.init_head is None:
        try:
            _variables_from(checkpoint, classifier)
        except SettingsError as error:
            raise SettingsError(f"{error}{_hint(settings, checkpoint, classifier)}") from None
        return checkpoint, []
    # As a network that is trained from nothing would have it.
    drawn = jax.jit(classifier.init)(derive(jax.random.key(settings.run_id), "Dense", "init"))
    fresh = _last_layer(settings, classifier, drawn)
    note = f"{', '.join(fresh)}: drawn anew (init_head='fresh'); the dense model is trained from there"
    return _with(checkpoint, classifier, fresh), [note]


def _hint(settings: Settings, checkpoint: Checkpoint, classifier: Classifier) -> str:
    """Says so where a model would fit with another last layer."""
    shapes = jax.eval_shape(classifier.init, jax.random.key(0))
    try:
        nothing = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        _variables_from(_with(checkpoint, classifier, _last_layer(settings, classifier, nothing)), classifier)
    except SettingsError:
        return ""
    return "; with init_head='fresh' it does: the last layer is drawn anew and trained"


def _last_layer(settings: Settings, classifier: Classifier, drawn: Variables) -> dict[str, np.ndarray]:
    """Returns what depends on the number of classes, by the names and in the layout of checkpoints."""
    names = models.last_layer(settings.arch, classifier.model.n_classes, classifier.image_shape)
    params = jax.device_get(drawn.params)
    if isinstance(classifier.model, Own):
        return by_names.picked(params, names)
    return pytorch.picked(classifier.model, classifier.image_shape, params, names)


def _with(checkpoint: Checkpoint, classifier: Classifier, fresh: dict[str, np.ndarray]) -> Checkpoint:
    """Puts a last layer into the place of a checkpoint's own."""
    state, kept = checkpoint.state, checkpoint.masks or {}
    if not isinstance(classifier.model, Own):
        state, kept = (pytorch.respelled_for(classifier.model, classifier.image_shape, own) for own in (state, kept))
    kept = {name: mask for name, mask in kept.items() if name not in fresh}
    return dataclasses.replace(checkpoint, state=state | fresh, masks=kept or None)


def _variables_from(checkpoint: Checkpoint, classifier: Classifier) -> tuple[PyTree, PyTree, PyTree]:
    if isinstance(classifier.model, Own):
        return by_names.variables_from(checkpoint, jax.eval_shape(classifier.init, jax.random.key(0)))
    return pytorch.variables_from(checkpoint, classifier.model, classifier.image_shape)


def _pruned(settings: Settings, mask: PyTree) -> float:
    n_weights, n_kept = masks.count(masks.restrict(mask, settings.prune_only, settings.prune_except))
    n_pruned = n_weights - n_kept
    if n_pruned and prune_count(settings.goal_sparsity, n_weights) <= n_pruned:
        raise SettingsError(
            f"goal_sparsity: found {settings.goal_sparsity}; {n_pruned / n_weights:.2%} of the prunable weights of "
            f"{settings.init_from} are pruned already; allowed: more than that"
        )
    return n_pruned / n_weights
