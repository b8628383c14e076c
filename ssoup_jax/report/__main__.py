"""Makes the page and the picture of a workdir's summary again.

    python -m ssoup_jax.report runs

Exit codes: 0 done, 2 there is no summary, or it cannot be shown.
"""

import sys

from ssoup_jax import streams
from ssoup_jax.commands.report import main

if __name__ == "__main__":
    with streams.lasting():
        sys.exit(main(sys.argv[1:]))
