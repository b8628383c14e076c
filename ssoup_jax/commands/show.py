"""`python -m ssoup_jax.interop show`: says what a PyTorch file holds and which models it fits."""

from argparse import Namespace
from pathlib import Path

from ssoup_jax.commands.command_line import Parser, expanded
from ssoup_jax.interop import fits, pytorch
from ssoup_jax.models import ImageShape

FORMATS = "a file of PyTorch (.pt, .pth) or safetensors"


def describe(parser: Parser) -> None:
    """Tells a parser of the command's arguments."""
    parser.add_argument("file", type=expanded, metavar="FILE", help=FORMATS)
    parser.set_defaults(run=_run)


def _run(options: Namespace) -> int:
    show(options.file)
    return 0


def show(file: Path) -> None:
    """Prints what a file holds: counts, sparsity, the model that it fits, and every tensor.

    Args:
        file: what holds it.

    Raises:
        SettingsError: the file cannot be read.
    """
    checkpoint = pytorch.read(file)
    summarise(checkpoint)
    for name, array in checkpoint.tensors.items():
        zero = f"  {(array == 0).mean():7.2%} zero" if array.ndim > 1 else ""
        masked = ", masked" if name in (checkpoint.masks or {}) else ""
        print(f"  {name:<40} {'x'.join(map(str, array.shape)):>14}{zero}{masked}")


def summarise(checkpoint: pytorch.Checkpoint, image_shape: ImageShape | None = None) -> None:
    """Prints counts, sparsity and the model that a checkpoint fits.

    Args:
        checkpoint: what `pytorch.read` returned.
        image_shape: of the images that it is for, if that is known.
    """
    trained = {n: a for n, a in checkpoint.tensors.items() if not n.endswith(("running_mean", "running_var"))}
    weights = [array for array in trained.values() if array.ndim > 1]
    n_weights, n_zeros = (sum(map(count, weights)) for count in (lambda a: a.size, lambda a: int((a == 0).sum())))
    n_parameters = sum(array.size for array in trained.values())
    fit = fits.find(checkpoint.shapes, image_shape)
    print(f"{checkpoint.path}: {len(checkpoint.tensors)} tensors, {n_parameters} parameters")
    print(f"weights: {n_weights}, of them zero: {n_zeros} ({n_zeros / max(1, n_weights):.2%})")
    print(f"masks: {len(checkpoint.masks or {})}")
    if checkpoint.left_out:
        print(f"not of a network: {', '.join(checkpoint.left_out)}")
    print(f"fits: {fit or 'no model known here'}")
