"""Says what a workdir or an artifact holds and whether it is whole.

    python -m ssoup_jax.inspect runs [--json] [--no-verify]

Reads only, also while a run is going on. Exit codes: 0 done, 1 damage was found, 2 PATH cannot be looked at.
"""

import sys

from ssoup_jax import streams
from ssoup_jax.commands.inspect import main

if __name__ == "__main__":
    with streams.lasting():
        sys.exit(main(sys.argv[1:]))
