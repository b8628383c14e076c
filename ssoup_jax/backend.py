"""XLA settings that must be in place before the first JAX computation of a process."""

import os
from importlib.metadata import version

_YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_YNN_FIRST_JAXLIB = (0, 8, 3)


def configure() -> None:
    """Sets the XLA flags that this project is fast with; call it before JAX starts its backend.

    Since jaxlib 0.8.3 the CPU backend hands small convolutions to YNN, which is several times slower
    here than the Eigen convolution it replaces. An older jaxlib aborts on the unknown flag, so it is
    left alone, and a flag that the user has set in `XLA_FLAGS` is never overridden.
    """
    installed = tuple(int(part) for part in version("jaxlib").split(".")[:3] if part.isdigit())
    flags = os.environ.get("XLA_FLAGS", "")
    if installed >= _YNN_FIRST_JAXLIB and _YNN_FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_YNN_FLAG}=".strip()
