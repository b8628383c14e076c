"""A network that somebody else wrote, seen as one of ours."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ssoup_jax import own
from ssoup_jax.errors import SettingsError
from ssoup_jax.trees import PyTree, first_difference, named_leaves, spell

_STATISTICS = "batch_stats"


@dataclasses.dataclass(frozen=True)
class Own:
    """A linen module with the face of a `Network`: it may leave out `train`, and its logits may be of any float.

    Attributes:
        module: maps normalised images `[B, H, W, C]` to logits `[B, n_classes]`.
        n_classes: number of logits.
        made_of: the function that made it and its arguments, by which networks are equal: a module that has lists
            among its attributes, such as `nn.Sequential`, cannot be compared itself.
        unsaid: see `Network`.
    """

    module: nn.Module = dataclasses.field(compare=False)
    n_classes: int
    made_of: tuple
    unsaid: str = ""

    @property
    def can_be_cut(self) -> bool:
        """See `Network`: so does a module that has an attribute `axis_name`."""
        return any(field.name == "axis_name" for field in dataclasses.fields(self.module))

    def init(self, key: jax.Array, images: jax.Array, *, train: bool) -> PyTree:
        """Draws its variables, as `nn.Module.init` does."""
        return self.module.init(key, images, **self._mode(train))

    def apply(self, variables: PyTree, images: jax.Array, *, train: bool, **how: Any) -> Any:
        """Forwards images, as `nn.Module.apply` does; the logits are float32."""
        found = self.module.apply(variables, images, **self._mode(train), **how)
        if "mutable" in how:
            return found[0].astype(jnp.float32), found[1]
        return found.astype(jnp.float32)

    def clone(self, axis_name: str) -> "Own":
        """Returns the same network for batches that are spread over a mesh axis."""
        module = self.module.clone(axis_name=axis_name)
        return dataclasses.replace(self, module=module, made_of=(*self.made_of, axis_name))

    def _mode(self, train: bool) -> dict[str, bool]:
        return {"train": train} if takes_train(self.module) else {}


def takes_train(model: nn.Module | Own) -> bool:
    """Tells whether a network is told if it trains."""
    return isinstance(model, Own) or "train" in inspect.signature(model.__call__).parameters


def check(arch: str) -> None:
    """Checks that there is such a part and that it takes what it has to.

    Raises:
        SettingsError: see `own.load`, or it takes no number of classes.
    """
    _arguments(arch, 2, (8, 8, 1), jnp.float32, False)


def build(arch: str, n_classes: int, image_shape: tuple[int, int, int], dtype: Any, remat: bool) -> Own:
    """Makes a network of one's own and tries it on shapes; nothing is computed.

    Args:
        arch: names the function, or the class, that makes it of `n_classes`, and of `image_shape`, `dtype` and `remat`
            where it wants them.
        n_classes, image_shape, dtype, remat: see `models.build`.

    Raises:
        SettingsError: it cannot be made, or cannot be trained here.
    """
    settings = _arguments(arch, n_classes, image_shape, dtype, remat)
    for name, wanted, default in (("dtype", dtype, jnp.float32), ("remat", remat, False)):
        if wanted != default and name not in settings:
            setting = {"dtype": "use_amp"}.get(name, name)
            raise SettingsError(f"{setting}: found True; {_name(arch)} takes no {name}")
    make = own.load("arch", arch)
    module = own.call("arch", arch, make, **settings)
    if not isinstance(module, nn.Module):
        raise SettingsError(f"arch: {_name(arch)} returns a {type(module).__name__}; allowed: a flax.linen.Module")
    model = Own(module, n_classes, (make, image_shape, jnp.dtype(dtype), remat))
    _try(arch, model, image_shape)
    return model


def _arguments(arch: str, n_classes: int, image_shape: tuple, dtype: Any, remat: bool) -> dict[str, Any]:
    given = {"n_classes": n_classes, "image_shape": image_shape, "dtype": dtype, "remat": remat}
    return own.arguments("arch", arch, own.load("arch", arch), given, needed=("n_classes",))


def _try(arch: str, model: Own, image_shape: tuple[int, int, int]) -> None:
    """Runs it on shapes, in both modes."""
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def traced(function, *arguments):
        return own.call("arch", arch, jax.eval_shape, function, *arguments)

    def forward(train: bool):
        def run(variables, images, key):
            how = {"mutable": [_STATISTICS], "rngs": {"dropout": key}} if train else {}
            return model.module.apply(variables, images, **model._mode(train), **how)

        return run

    variables = traced(lambda key, images: model.init(key, images, train=False), key, images)
    if others := variables.keys() - {"params", _STATISTICS}:
        raise SettingsError(
            f"arch: {_name(arch)} has the collection {min(others)!r}; allowed: params and {_STATISTICS}, which is "
            "averaged in soups and re-estimated behind them"
        )
    if not variables.get("params"):
        raise SettingsError(f"arch: {_name(arch)} has no parameters")
    for collection in variables.values():
        for name, leaf in named_leaves(collection).items():
            if leaf.dtype != jnp.float32:
                raise SettingsError(
                    f"arch: {_name(arch)}: {name} is {spell(leaf)}; allowed: float32 (dtype is that of activations)"
                )
    evaluated = traced(forward(False), variables, images, key)
    trained, updated = traced(forward(True), variables, images, key)
    for logits in (evaluated, trained):
        floats = hasattr(logits, "dtype") and jnp.issubdtype(logits.dtype, jnp.floating)
        if not floats or logits.shape != (2, model.n_classes):
            found = spell(logits) if hasattr(logits, "dtype") else type(logits).__name__
            raise SettingsError(
                f"arch: {_name(arch)} makes {found} of float32{[2, *image_shape]}; "
                f"allowed: logits float32[2, {model.n_classes}]"
            )
    before = variables.get(_STATISTICS, {})
    if difference := first_difference(updated.get(_STATISTICS, {}), before):
        raise SettingsError(f"arch: {_name(arch)}: training changes the structure of {_STATISTICS}: {difference}")


def _name(arch: str) -> str:
    return arch.partition(" ")[0]
