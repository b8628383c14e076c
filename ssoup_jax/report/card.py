"""What goes with exported weights: a model card for people and the Hugging Face Hub, and a file of what to build.

The front matter of a card is the Hub's (https://huggingface.co/docs/hub/model-cards).
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from ssoup_jax.report.summary import percent
from ssoup_jax.report.typed import Experiment, Model
from ssoup_jax.version import VERSION

LIBRARY = "ssoup_jax"

_HUB_DATASETS = {
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn_cropped": "ufldl-stanford/svhn",
    "imagenet2012": "ILSVRC/imagenet-1k",
}
_SPLITS = {"test": "test", "val": "validation", "train": "training", "ood": "corrupted test"}
_METRICS = {
    "accuracy": "accuracy %",
    "macro_accuracy": "macro accuracy %",
    "worst_class_accuracy": "worst class %",
    "ece": "ECE %",
}
_PAPER = "[Zimmer, Spiegel and Pokutta, ICLR 2024](https://arxiv.org/abs/2306.16788)"


@dataclass(frozen=True)
class About:
    """What is known of exported weights.

    Attributes:
        file: name of the file that has them.
        pruned: whether they are stored with masks, as `torch.nn.utils.prune` does.
        network: `arch`, `n_classes` and `image_shape`.
        normalisation: `mean` and `std` of each channel, of pixels in [0, 1]; None: not known.
        classes: names of the classes; None: they have none.
        stage: 'Dense', 'IMP' or 'Ensemble'.
        phase: 1-based; None for a dense model.
        model: figures, sparsity, cost.
        experiment: what it comes from; None: not known.
    """

    file: str
    pruned: bool
    network: Mapping[str, Any]
    normalisation: Mapping[str, Any] | None
    classes: list[str] | None
    stage: str
    phase: int | None
    model: Model
    experiment: Experiment | None = None

    @property
    def dataset(self) -> str | None:
        """The name of the data set, if it is known."""
        return self.experiment.settings.dataset if self.experiment else None


def config(about: About) -> str:
    """Writes `config.json`: what to build, how images are normalised, and what the classes are called."""
    found = {
        "library": LIBRARY,
        "version": VERSION,
        "network": dict(about.network),
        "normalisation": about.normalisation,
        "weights": about.file,
        "pruned": about.pruned,
        "sparsity": about.model.sparsity.prunable,
        "num_labels": about.network["n_classes"],
        "id2label": None if about.classes is None else {str(i): name for i, name in enumerate(about.classes)},
    }
    return json.dumps(found, indent=2) + "\n"


def readme(about: About) -> str:
    """Writes the model card, `README.md`.

    Args:
        about: what is known.

    Returns:
        Markdown after a front matter of YAML; no name from the data is understood as either.
    """
    front = yaml.safe_dump(_front_matter(about), sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        f"# {plain(_title(about))}",
        _what(about),
        "## Figures\n\n" + _figures(about.model),
        "## PyTorch\n\n`network.py` needs PyTorch and nothing else.\n\n" + _code(_in_pytorch(about)),
        "## JAX\n\nWith `ssoup_jax` installed:\n\n" + _code(_in_jax(about)),
        _pixels(about),
        "## Classes\n\n" + _block(json.dumps(about.classes, ensure_ascii=False)) if about.classes else "",
        "## Settings\n\n" + _block(_settings(about.experiment)) if about.experiment else "",
        "## Licence\n\nTo be chosen by whoever publishes these weights: `license` above is a placeholder.",
    ]
    return f"---\n{front}---\n\n" + "\n\n".join(filter(None, parts)) + "\n"


def _front_matter(about: About) -> dict[str, Any]:
    test, known = about.model.test or {}, _HUB_DATASETS.get(about.dataset or "")
    metrics = [
        {"type": "accuracy", "name": "test accuracy", "value": test.get("accuracy")},
        {"type": "sparsity", "name": "share of zeros in prunable weights", "value": about.model.sparsity.prunable},
    ]
    result = {
        "task": {"type": "image-classification"},
        "dataset": {"type": known or "other", "name": about.dataset or "unknown", "split": "test"},
        "metrics": [metric for metric in metrics if metric["value"] is not None],
    }
    return {
        "library_name": LIBRARY,
        "license": "other",
        "license_name": "to-be-chosen",
        "pipeline_tag": "image-classification",
        "tags": ["sparse", "pruning", "model-soup", "pytorch", "jax"],
        **({"datasets": [known]} if known else {}),
        "metrics": ["accuracy"],
        "model-index": [{"name": _title(about), "results": [result]}],
    }


def _title(about: About) -> str:
    on = f" on {about.dataset}" if about.dataset else ""
    sparsity = about.model.sparsity.prunable
    return f"{about.network['arch']}{on}" + (f", {percent(sparsity)} % zeros" if sparsity else ", dense")


def _what(about: About) -> str:
    phase = f" in phase {about.phase}" if about.phase else ""
    match about.stage:
        case "Ensemble":
            made = (
                f"A sparse model soup: the average of {len(about.model.ingredients or ())} networks, retrained "
                f"from one pruned network{phase} with different values of one hyperparameter"
            )
        case "IMP":
            made = f"A network that was pruned by magnitude and retrained{phase}"
        case _:
            made = "A dense network, trained before any pruning"
    cost = about.model.flops.speedup
    zeros = (
        f" Its zeros are unstructured: it takes {cost:.1f} times fewer multiply-adds than the dense network, which "
        "common hardware and libraries do not turn into time by themselves."
        if cost and cost > 1
        else ""
    )
    return f"{made} ({_PAPER}), by `{LIBRARY}` {VERSION}.{zeros}"


def _figures(model: Model) -> str:
    shown = [(name, getattr(model, split)) for split, name in _SPLITS.items() if getattr(model, split)]
    lines = [["images", *_METRICS.values(), "loss"]]
    for name, own in shown:
        loss = "-" if own.get("loss") is None else f"{own['loss']:.4f}"
        lines.append([name, *(percent(own.get(metric)) for metric in _METRICS), loss])
    head, *body = lines
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *body))


def _in_pytorch(about: About) -> Iterable[str]:
    height, width, channels = about.network["image_shape"]
    yield "import json, pathlib, torch, network"
    yield "from safetensors.torch import load_file"
    yield 'net = network.build(**json.loads(pathlib.Path("config.json").read_text())["network"])'
    if about.pruned:
        yield "for layer in net.modules():"
        yield "    if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):"
        yield '        torch.nn.utils.prune.identity(layer, "weight")'
    yield f"net.load_state_dict(load_file({json.dumps(about.file)}))"
    yield f"logits = net.eval()(torch.zeros(1, {channels}, {height}, {width}))  # images [B, C, H, W], normalised"


def _in_jax(about: About) -> Iterable[str]:
    yield "import numpy as np"
    yield "from ssoup_jax.interop import exported"
    yield f"soup = exported.load({json.dumps(about.file)})"
    yield f"images = np.zeros((1, {', '.join(map(str, about.network['image_shape']))}), np.float32)"
    yield "logits = soup.logits(images)  # images [B, H, W, C], normalised"


def _pixels(about: About) -> str:
    if about.normalisation is None:
        return "How images are normalised is not recorded with weights this old."
    mean, std = (about.normalisation[name] for name in ("mean", "std"))
    if mean is None and std is None:
        return "Images are normalised to values in [0, 1], and no further."
    return (
        "Images are normalised from values in [0, 1], channel by channel: "
        f"`(x - mean) / std` with mean {mean or 0} and std {std or 1}."
    )


def _settings(experiment: Experiment) -> str:
    changed = experiment.changed
    found = experiment.settings.model_dump() if changed is None else {n: own.value for n, own in changed.items()}
    return "\n".join(f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in found.items())


def _code(lines: Iterable[str]) -> str:
    return _block("\n".join(lines), "python")


def _block(text: str, language: str = "") -> str:
    """Fences a text with more backticks than it has in a row."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


def plain(text: str) -> str:
    """Escapes what Markdown would understand."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&-])", r"\\\1", text)
