"""Over which axes of a mesh arrays differ inside `shard_map`."""

import jax
from jax import lax


def _varying(x: jax.Array) -> frozenset[str]:
    """Returns the mesh axes over which `x` differs inside `shard_map`; empty outside."""
    aval = jax.typeof(x)
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma


def match_varying(*arrays: jax.Array) -> list[jax.Array]:
    """Makes arrays vary over the same mesh axes, as what a `custom_vjp` inside `shard_map` takes must.

    Parameters are often replicated where the batch is not, and gradients must vary as the inputs do. The cast's own
    transpose, outside of the `custom_vjp`, sums over the mesh axis.
    """
    axes = frozenset().union(*map(_varying, arrays))

    def cast(array):
        missing = tuple(sorted(axes - _varying(array)))
        return lax.pcast(array, missing, to="varying") if missing else array

    return [cast(array) for array in arrays]
