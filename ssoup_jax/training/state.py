"""What training changes: one member's state, or with a leading axis `[m, ...]` on every leaf, the stack's."""

from flax import struct

from ssoup_jax.trees import PyTree


@struct.dataclass
class Variables:
    """A model's numbers.

    Attributes:
        params: weights and biases, float32.
        batch_stats: BatchNorm's running mean and variance, float32; `{}` for a model without BatchNorm.
    """

    params: PyTree
    batch_stats: PyTree

    def collections(self) -> dict[str, PyTree]:
        """Returns the variables as flax wants them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


@struct.dataclass
class TrainState:
    """A model and its optimizer.

    Attributes:
        variables: the model's numbers.
        opt_state: the optimizer's momentum.
    """

    variables: Variables
    opt_state: PyTree
