"""Exports a stored model to PyTorch or ONNX, or shows what a PyTorch file holds.

    python -m ssoup_jax.interop export runs/artifacts/phase3-soup-0123456789abcdef soup.pt [--pruned]
    python -m ssoup_jax.interop export runs/artifacts/phase3-soup-0123456789abcdef soup.onnx
    python -m ssoup_jax.interop show soup.pt

Exit codes: 0 done, 2 something that was given cannot work.
"""

import sys

from ssoup_jax import devices, streams
from ssoup_jax.commands.command_line import Parser, answer, fail
from ssoup_jax.errors import SettingsError


def main(arguments: list[str]) -> int:
    """Runs a command; returns the exit code."""
    try:
        devices.configure()
    except SettingsError as error:
        return fail(error)
    import jax

    from ssoup_jax.commands import export, show

    jax.config.update("jax_platforms", "cpu")  # nothing is computed, and an accelerator may be busy
    parser = Parser(prog="python -m ssoup_jax.interop", description="Exchange with PyTorch and ONNX.")
    commands = parser.add_subparsers(required=True, metavar="export|show")
    export.describe(commands.add_parser("export", help="write a stored model for elsewhere", allow_abbrev=False))
    show.describe(commands.add_parser("show", help="say what a file holds and which models it fits"))
    return answer(parser, arguments)


if __name__ == "__main__":
    with streams.lasting():
        sys.exit(main(sys.argv[1:]))
