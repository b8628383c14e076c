"""Exports a stored model to PyTorch, or shows what a PyTorch file holds. An entry point: nothing imports it.

    python -m ssoup_jax.interop export runs/artifacts/phase3-soup-0123456789abcdef soup.pt [--pruned]
    python -m ssoup_jax.interop show soup.pt

Exit codes: 0 done, 2 something that was given cannot work.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from ssoup_jax import devices
from ssoup_jax.errors import SettingsError, UserError

if TYPE_CHECKING:
    from ssoup_jax.interop.pytorch import Checkpoint
    from ssoup_jax.models import ImageShape

_FORMATS = "a .pt, .pth or .safetensors file"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"command line: {message}")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parses the command line.

    Raises:
        SettingsError: one line with the mistake.
    """
    parser = _Parser(prog="python -m ssoup_jax.interop", description="Exchange with PyTorch.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="export|show")
    export_ = commands.add_parser("export", help="write a stored model as a state dict", allow_abbrev=False)
    export_.add_argument("artifact", type=Path, metavar="ARTIFACT", help="a folder under <workdir>/artifacts")
    export_.add_argument("out", type=Path, metavar="OUT", help=_FORMATS)
    export_.add_argument(
        "--pruned", action="store_true", help="weights and masks apart, as torch.nn.utils.prune has them"
    )
    show_ = commands.add_parser("show", help="say what a file holds and which models it fits")
    show_.add_argument("file", type=Path, metavar="FILE", help=_FORMATS)
    return parser.parse_args(arguments)


def export(artifact: Path, out: Path, pruned: bool) -> None:
    """Writes the model of a finished stage for PyTorch.

    Args:
        artifact: its folder in the store.
        out: the file.
        pruned: see `pytorch.write`.

    Raises:
        UserError: no artifact, or the file cannot be written.
    """
    import jax

    from ssoup_jax import models
    from ssoup_jax.interop import pytorch
    from ssoup_jax.storage import store
    from ssoup_jax.training.state import Variables

    described = store.read_record(artifact).get("model")
    if described is None:
        raise SettingsError(f"{artifact}: its record does not say which model it is; it was stored by an older version")
    image_shape = tuple(described["image_shape"])
    model = models.build(described["arch"], described["n_classes"], image_shape)
    like = jax.eval_shape(lambda key: Variables(*models.init(model, key, image_shape)), jax.random.key(0))
    found = store.load(artifact, like)
    variables = found.variables
    pytorch.write(out, model, image_shape, variables.params, variables.batch_stats, found.mask, pruned=pruned)
    summarise(pytorch.read(out), image_shape)


def show(path: Path) -> None:
    """Prints what a file holds: counts, sparsity, the model that it fits, and every tensor.

    Args:
        path: the file.

    Raises:
        SettingsError: the file cannot be read.
    """
    from ssoup_jax.interop import pytorch

    checkpoint = pytorch.read(path)
    summarise(checkpoint)
    for name, array in checkpoint.tensors.items():
        zero = f"  {(array == 0).mean():7.2%} zero" if array.ndim > 1 else ""
        masked = ", masked" if name in (checkpoint.masks or {}) else ""
        print(f"  {name:<40} {'x'.join(map(str, array.shape)):>14}{zero}{masked}")


def summarise(checkpoint: "Checkpoint", image_shape: "ImageShape | None" = None) -> None:
    """Prints counts, sparsity and the model that a checkpoint fits.

    Args:
        checkpoint: what `pytorch.read` returned.
        image_shape: of the images that it is for, if that is known.
    """
    from ssoup_jax.interop import fits

    trained = {n: a for n, a in checkpoint.tensors.items() if not n.endswith(("running_mean", "running_var"))}
    weights = [array for array in trained.values() if array.ndim > 1]
    n_weights, n_zeros = (sum(map(count, weights)) for count in (lambda a: a.size, lambda a: int((a == 0).sum())))
    n_parameters = sum(array.size for array in trained.values())
    fit = fits.find(checkpoint.shapes, image_shape)
    print(f"{checkpoint.path}: {len(checkpoint.tensors)} tensors, {n_parameters} parameters")
    print(f"weights: {n_weights}, of them zero: {n_zeros} ({n_zeros / max(1, n_weights):.2%})")
    print(f"masks: {len(checkpoint.masks or {})}")
    print(f"fits: {fit or 'no model known here'}")


def main(arguments: list[str]) -> None:
    """Runs a command; a mistake becomes one line and exit code 2."""
    devices.configure()
    try:
        options = parse(arguments)
        import jax

        # Nothing is computed, and an accelerator may be busy.
        jax.config.update("jax_platforms", "cpu")
        if options.command == "export":
            export(options.artifact, options.out, options.pruned)
        else:
            show(options.file)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(SettingsError.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
