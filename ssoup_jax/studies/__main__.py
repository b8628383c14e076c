"""Makes the tables of a study from files of results alone.

    python -m ssoup_jax.studies docs/results/fashion [MORE ...] [--out FOLDER]

Takes `run-*.json`, or folders of them, from any number of machines. Exit codes: 0 done, 2 they do not belong together.
"""

import sys

from ssoup_jax import streams
from ssoup_jax.commands.table import main

if __name__ == "__main__":
    with streams.lasting():
        sys.exit(main(sys.argv[1:]))
