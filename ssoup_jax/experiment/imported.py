"""The dense model that `init_from` names: read from its file, with what is to be said of it."""

from dataclasses import dataclass

import jax

from ssoup_jax.config import Settings
from ssoup_jax.errors import SettingsError
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.interop import pytorch, zeros
from ssoup_jax.models.variables import Variables
from ssoup_jax.pruning import masks
from ssoup_jax.pruning.allocation import prune_count
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
    checkpoint = pytorch.read(settings.init_from)
    masked, note = zeros.as_masks(checkpoint, settings.init_mask)
    params, batch_stats, mask = jax.device_get(pytorch.variables_from(masked, classifier.model, classifier.image_shape))
    notes = [note]
    if unsaid := classifier.model.unsaid:
        notes.append(
            f"{settings.arch} is more than names and shapes, which fit: {unsaid}; a model that differs is another"
        )
    if checkpoint.left_out:
        notes.append(f"not used of the file: {', '.join(checkpoint.left_out)}")
    if split == "own":
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


def _pruned(settings: Settings, mask: PyTree) -> float:
    n_weights, n_kept = masks.count(masks.restrict(mask, settings.prune_only, settings.prune_except))
    n_pruned = n_weights - n_kept
    if n_pruned and prune_count(settings.goal_sparsity, n_weights) <= n_pruned:
        raise SettingsError(
            f"goal_sparsity: found {settings.goal_sparsity}; {n_pruned / n_weights:.2%} of the prunable weights of "
            f"{settings.init_from} are pruned already; allowed: more than that"
        )
    return n_pruned / n_weights
