"""A model's numbers."""

from typing import Any

from flax import struct

from ssoup_jax.trees import PyTree


@struct.dataclass
class Variables:
    """A model's numbers; of a stack, with a leading axis `[m, ...]` on every leaf.

    Attributes:
        params: what is trained: weights and biases, float32.
        collections: what training changes beside them, by the name of the collection; BatchNorm's running mean and
            variance are `{'batch_stats': ...}`, float32.
    """

    params: PyTree
    collections: dict[str, PyTree]

    @classmethod
    def from_flax(cls, variables: dict[str, Any]) -> "Variables":
        """Takes what `flax.linen.Module.init` returns; the inverse of `as_flax`.

        Example:
            >>> from ssoup_jax import Variables
            >>> Variables.from_flax({"params": {"w": 1.0}, "batch_stats": {"mean": 0.0}}).collections
            {'batch_stats': {'mean': 0.0}}
        """
        collections = dict(variables)
        return cls(collections.pop("params"), collections)

    def as_flax(self) -> dict[str, Any]:
        """Returns the variables as `flax.linen.Module.apply` wants them."""
        return {"params": self.params, **self.collections}
