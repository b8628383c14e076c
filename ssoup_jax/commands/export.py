"""`python -m ssoup_jax.interop export`: writes a stored model for PyTorch or ONNX, a card beside safetensors."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssoup_jax import models
from ssoup_jax.commands.command_line import Parser, expanded
from ssoup_jax.commands.show import FORMATS, summarise
from ssoup_jax.errors import SettingsError, UserError
from ssoup_jax.experiment import artifacts
from ssoup_jax.experiment.artifacts import Artifact
from ssoup_jax.interop import by_names, exported, files, onnx_file, pytorch
from ssoup_jax.models import ImageShape
from ssoup_jax.models.layers import Network
from ssoup_jax.models.own import Own
from ssoup_jax.models.variables import Variables
from ssoup_jax.own import is_own
from ssoup_jax.pruning.masks import is_kernel
from ssoup_jax.report import card, contents, typed
from ssoup_jax.report.card import About
from ssoup_jax.report.typed import Experiment, Model
from ssoup_jax.storage import artifact_folder, atomic
from ssoup_jax.storage.layout import Workdir

README, NETWORK = "README.md", "network.py"


def describe(parser: Parser) -> None:
    """Tells a parser of the command's arguments."""
    parser.add_argument("artifact", type=expanded, metavar="ARTIFACT", help="a folder under <workdir>/artifacts")
    parser.add_argument("out", type=expanded, metavar="OUT", help=f"{FORMATS}, or of ONNX (.onnx)")
    parser.add_argument(
        "--pruned", action="store_true", help="weights and masks apart, as torch.nn.utils.prune has them"
    )
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    export(options.artifact, options.out, options.pruned)
    return 0


def export(artifact: Path, out: Path, pruned: bool) -> None:
    """Writes the model of a finished stage; a network of one's own by its own names, or as ONNX, for which it is made.

    Args:
        artifact: its folder in the store.
        out: the file; its suffix says of which kind: PyTorch, safetensors (beside which a model card, `config.json` and
            `network.py` are written) or ONNX.
        pruned: see `pytorch.write`.

    Raises:
        UserError: no artifact, one of a member that diverged, or the file cannot be written.
    """
    files.check_suffix(out, (*files.FORMATS, ".onnx"))
    record = artifact_folder.read_record(artifact)
    described = record.get("model")
    if record.get("diverged") is not None:
        raise SettingsError(
            f"{artifact}: the member diverged at step {record['diverged']}; what is stored in its place is the pruned "
            "model before any retraining, which is not exported"
        )
    if described is None:
        raise SettingsError(f"{artifact}: its record does not say which model it is; it was stored by an older version")
    if is_own(described["arch"]) and files.suffix(out) != ".onnx":
        _export_own(artifact, out, pruned, described)
        return
    image_shape = tuple(described["image_shape"])
    model = models.build(described["arch"], described["n_classes"], image_shape)
    found = _load(artifact, model, image_shape)
    params, batch_stats = found.variables.params, found.variables.collections["batch_stats"]
    about = _about(artifact, out, pruned, record)
    if files.suffix(out) == ".onnx":
        _export_onnx(out, model, image_shape, found.variables, about)
        return
    pytorch.write(out, model, image_shape, params, batch_stats, found.mask, pruned=pruned, classes=about.classes)
    summarise(pytorch.read(out), image_shape)
    if files.suffix(out) == ".safetensors":
        print(_beside(out, about))


def _export_own(artifact: Path, out: Path, pruned: bool, described: dict[str, Any]) -> None:
    """Writes a network of one's own by its own names; what made it is not needed."""
    if pruned:
        raise SettingsError(f"--pruned: pairs of weights and masks are PyTorch's; {described['arch']} is one's own")
    tree, _ = artifact_folder.load(artifact, None)
    tree.pop("mask")
    arrays = by_names.write(out, Variables.from_flax(tree), described.get("classes"))
    weights = [array for name, array in arrays.items() if is_kernel(name)]
    n_weights, n_zeros = (sum(map(count, weights)) for count in (np.size, lambda leaf: int(np.sum(leaf == 0))))
    print(f"{out}: {len(arrays)} arrays, {sum(map(np.size, arrays.values()))} numbers, of {described['arch']}")
    print(f"weights: {n_weights}, of them zero: {n_zeros} ({n_zeros / n_weights:.2%})")


def _export_onnx(out: Path, model: Network | Own, image_shape: ImageShape, variables: Variables, about: About) -> None:
    if about.pruned:
        raise SettingsError(f"{out}: --pruned stores masks for PyTorch, which ONNX has no place for")
    notes = {"classes": about.classes, "normalisation": about.normalisation, "sparsity": about.model.sparsity.prunable}
    try:
        data = onnx_file.encode(model, image_shape, variables, notes)
        difference = onnx_file.deviation(data, model, image_shape, variables)
    except UserError as error:
        raise type(error)(f"{out}: {error}") from None
    onnx_file.write(out, data)
    height, width, channels = image_shape
    print(f"{out}: images [batch, {channels}, {height}, {width}], normalised, to logits [batch, {model.n_classes}]")
    if difference is None:
        print("not compared with what JAX computes: onnxruntime is not installed")
    else:
        print(f"onnxruntime computes the same logits as JAX, to {difference:.1g}")


def _load(artifact: Path, model: Network | Own, image_shape: ImageShape) -> Artifact:
    params, batch_stats = jax.eval_shape(lambda key: models.init(model, key, image_shape), jax.random.key(0))
    like = Variables(params, {"batch_stats": batch_stats})
    return artifacts.from_tree(*artifact_folder.load(artifact, artifacts.like(like)), artifact)


def _about(artifact: Path, out: Path, pruned: bool, record: dict[str, Any]) -> About:
    described = record["model"]
    experiment, model = _of_summary(artifact)
    return About(
        file=out.name,
        pruned=pruned,
        network={name: described[name] for name in ("arch", "n_classes", "image_shape")},
        normalisation={name: described[name] for name in ("mean", "std")} if "mean" in described else None,
        classes=described.get("classes"),
        stage=record.get("stage", "Dense"),
        phase=record.get("phase"),
        model=model or typed.model(record),
        experiment=experiment,
    )


def _of_summary(artifact: Path) -> tuple[Experiment | None, Model | None]:
    """Finds an artifact in the summaries of its workdir; an older one does not name it."""
    workdir = Workdir(artifact.resolve().parent.parent)
    for folder in (workdir.path, *sorted(workdir.experiments())):
        try:
            found = typed.experiment(contents.read(folder))
        except SettingsError:  # older, or not there: the weights do not depend on it
            continue
        for model in contents.models(found):
            if model.artifact == artifact.resolve().name:
                return found, model
    return None, None


def _beside(out: Path, about: About) -> str:
    """Writes what goes with weights; returns what is to be said of it. Files of somebody else stay."""
    texts = {
        README: card.readme(about),
        exported.CONFIG: card.config(about),
        NETWORK: exported.NETWORK.read_text(encoding="utf-8"),
    }
    others = [name for name, text in texts.items() if not _is_ours(out.with_name(name), text)]
    if others:
        return f"no model card: {', '.join(others)} of something else is there; a folder of its own has room for one"
    for name, text in texts.items():
        with atomic.replacing(out.with_name(name)) as beside:
            beside.write_text(text, encoding="utf-8")
    return f"model card: {', '.join(str(out.with_name(name)) for name in texts)}"


def _is_ours(path: Path, text: str) -> bool:
    """Tells whether a file may be written: it is not there, or an earlier export wrote it."""
    sign = text[: text.index(card.LIBRARY) + len(card.LIBRARY)]
    return not path.exists() or path.read_bytes().startswith(sign.encode())
