"""Optimizers by name; each is made inside the compiled step from traced values, so that members may differ in them.

All take one learning rate, one weight decay and one momentum, and none knows of masks, see `pruning.transform.masked`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ssoup_jax import own
from ssoup_jax.errors import SettingsError, unknown
from ssoup_jax.trees import first_difference

Optimizer = Callable[..., optax.GradientTransformation]
"""`(learning_rate, weight_decay, momentum) -> the optimizer of one step`, float32 `[]` each."""


class MomentumState(NamedTuple):
    buffer: optax.Updates  # structure and shapes of the params


def heavy_ball(decay: jax.Array, nesterov: jax.Array) -> optax.GradientTransformation:
    """Heavy-ball momentum, `b = decay * b + g`, with Nesterov's variant chosen by a value instead of by code.

    Args:
        decay: float32 `[]`.
        nesterov: bool `[]`; True gives `g + decay * b`, False gives `b`.

    Returns:
        The transform; its buffers start at zero, so the first buffer is the gradient.
    """

    def init(params):
        return MomentumState(jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        del params
        # The hyperparameters are float32, and the buffers of bfloat16 weights stay bfloat16.
        buffer = jax.tree.map(lambda g, b: (decay * b + g).astype(b.dtype), updates, state.buffer)
        updates = jax.tree.map(lambda g, b: jnp.where(nesterov, g + decay * b, b), updates, buffer)
        return updates, MomentumState(buffer)

    return optax.GradientTransformation(init, update)


def sgd(
    learning_rate: jax.Array, weight_decay: jax.Array, momentum: jax.Array
) -> optax.GradientTransformationExtraArgs:
    """SGD as the reference runs it: coupled (L2) decay on every parameter, Nesterov exactly when it is positive.

    Args:
        learning_rate: float32 `[]`.
        weight_decay: float32 `[]`.
        momentum: float32 `[]`.

    Returns:
        The optax chain.
    """
    return optax.chain(
        optax.add_decayed_weights(weight_decay),
        heavy_ball(momentum, nesterov=weight_decay > 0),
        optax.scale(-learning_rate),
    )


def adam(learning_rate: jax.Array, weight_decay: jax.Array, momentum: jax.Array) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015) as `torch.optim.Adam` has it: coupled decay on every parameter, beta2 0.999, eps 1e-8.

    Args:
        learning_rate: float32 `[]`.
        weight_decay: float32 `[]`.
        momentum: beta1, float32 `[]`.
    """
    decayed = optax.add_decayed_weights(weight_decay)
    return _keeping_dtypes(optax.chain(decayed, optax.adam(learning_rate, b1=momentum)))


def adamw(learning_rate: jax.Array, weight_decay: jax.Array, momentum: jax.Array) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) as `torch.optim.AdamW` has it: Adam with decoupled decay on every parameter.

    Args:
        learning_rate: float32 `[]`.
        weight_decay: of which a step takes the share `learning_rate`, float32 `[]`.
        momentum: beta1, float32 `[]`.
    """
    return _keeping_dtypes(optax.adamw(learning_rate, b1=momentum, weight_decay=weight_decay))


def lars(learning_rate: jax.Array, weight_decay: jax.Array, momentum: jax.Array) -> optax.GradientTransformation:
    """LARS (You, Gitman and Ginsburg 2017), trust coefficient 0.001; vectors are neither decayed nor scaled by norms.

    Args:
        learning_rate: float32 `[]`.
        weight_decay: coupled, float32 `[]`.
        momentum: float32 `[]`.
    """
    made = optax.lars(
        learning_rate, weight_decay, weight_decay_mask=_are_tensors, trust_ratio_mask=_are_tensors, momentum=momentum
    )
    return _keeping_dtypes(made)


OPTIMIZERS: dict[str, Optimizer] = {"SGD": sgd, "Adam": adam, "AdamW": adamw, "LARS": lars}
"""By the names of the setting `optimizer`."""


@functools.cache
def named(name: str) -> Optimizer:
    """Returns the optimizer of that name, always the same function, so that programs are shared.

    One's own, see `ssoup_jax.own`, makes an optax optimizer of `learning_rate`, and of `weight_decay` and `momentum`
    where it wants them.

    Raises:
        SettingsError: no optimizer has that name.
    """
    if not own.is_own(name):
        if name not in OPTIMIZERS:
            raise unknown("optimizer", name, [*OPTIMIZERS, own.FORM])
        return OPTIMIZERS[name]
    found = own.load("optimizer", name)

    def pick(given: dict[str, Any]) -> dict[str, Any]:
        return own.arguments("optimizer", name, found, given, needed=("learning_rate",))

    pick(dict.fromkeys(("learning_rate", "weight_decay", "momentum")))

    def make(learning_rate: jax.Array, weight_decay: jax.Array, momentum: jax.Array) -> optax.GradientTransformation:
        values = {"learning_rate": learning_rate, "weight_decay": weight_decay, "momentum": momentum}
        made = own.call("optimizer", name, found, **pick(values))
        if not isinstance(made, optax.GradientTransformation):
            raise SettingsError(f"optimizer: {name} returns a {type(made).__name__}; allowed: an optax optimizer")
        return _keeping_dtypes(made)

    return make


def try_out(name: str, params: Any) -> None:
    """Takes a step of an optimizer of one's own on the shapes of parameters; nothing is computed.

    Raises:
        SettingsError: it cannot take one, or its state does not keep its structure.
    """
    if not own.is_own(name):
        return
    make, number = named(name), jax.ShapeDtypeStruct((), jnp.float32)

    def step(params, *hyper):
        before = make(*hyper).init(params)
        return before, make(*hyper).update(params, before, params)

    before, (updates, after) = own.call("optimizer", name, jax.eval_shape, step, params, *[number] * 3)
    for what, found, wanted in (("its state", after, before), ("an update", updates, params)):
        if difference := first_difference(found, wanted):
            raise SettingsError(f"optimizer: {name}: {what} does not keep its structure: {difference}")


def _are_tensors(params: Any) -> Any:
    """Tells kernels from biases and the parameters of normalisations."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _keeping_dtypes(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Keeps the dtypes of an optimizer's state: a traced hyperparameter is float32, and would widen bfloat16."""

    def update(updates, state, params=None):
        with jax.numpy_dtype_promotion("standard"):  # optax multiplies counters with floats
            updates, after = optimizer.update(updates, state, params)
        if jax.tree.structure(after) == jax.tree.structure(state):  # somebody's own may have another, which is said
            after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, state)
        return updates, after

    return optax.GradientTransformation(optimizer.init, update)
