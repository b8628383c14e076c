"""What every network promises: sizes, names, precision, rematerialisation, dropout, and clear errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ssoup_jax import models
from ssoup_jax.errors import SettingsError
from ssoup_jax.models.layers import Dropout
from ssoup_jax.models.resnet_cifar import shortcut
from ssoup_jax.models.wide_resnet import WideResNet

SMALL = {
    "Simple": (models.build("Simple", 3, (6, 6, 1)), (6, 6, 1)),
    "CNN": (models.build("CNN", 3, (8, 8, 3)), (8, 8, 3)),
    "ResNet8": (models.build("ResNet8", 3, (8, 8, 3)), (8, 8, 3)),
    "WideResNet, narrow": (WideResNet(3, depth=10, widen=1), (8, 8, 3)),
}


# One of each class.
FAMILIES = ["Simple", "CNN", "ResNet20", "ResNet18", "ResNet50", "VGG11", "WideResNet20"]
# Each name in its usual size, each class in an unusual one.
SIZES = [(arch, 7, (32, 32, 3)) for arch in (*models.ARCHS, "ResNet14", "ResNet20x2")] + [
    (arch, 1000, (65, 47, 1)) for arch in FAMILIES
]


def shapes(model, image_shape):
    return jax.eval_shape(lambda: models.init(model, jax.random.key(0), image_shape))


def variables(model, image_shape):
    """Plausible values without compiling PRNGs: kernels keep the size of activations, the rest is near its default."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        z = rng.normal(size=leaf.shape)
        if path[-1].key == "kernel":
            z *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        else:
            z = 0.1 * z + (path[-1].key in ("scale", "var"))
        return jnp.asarray(z, jnp.float32)

    params, batch_stats = jax.tree_util.tree_map_with_path(fill, shapes(model, image_shape))
    return {"params": params} | ({"batch_stats": batch_stats} if batch_stats else {})


def images(image_shape, batch=4):
    return jnp.asarray(np.random.default_rng(1).normal(size=(batch, *image_shape)), jnp.float32)


def forward(model, variables, x):
    """Logits in train mode, compiled."""
    rngs = {"dropout": jax.random.key(3)}
    return jax.jit(lambda x: model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])[0])(x)


def gradient(model, variables, x):
    """Logits, updated collections and gradients of a loss in train mode, compiled."""

    def loss(params):
        logits, updated = model.apply(
            variables | {"params": params}, x, train=True, rngs={"dropout": jax.random.key(3)}, mutable=["batch_stats"]
        )
        return jnp.sum(jnp.sin(logits)), (logits, updated)

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"])


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def kernels(tree):
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if path[-1].key == "kernel"]


@pytest.mark.parametrize(("arch", "n_classes", "image_shape"), SIZES)
def test_any_class_count_and_image_size(arch, n_classes, image_shape):
    model = models.build(arch, n_classes, image_shape)
    params, batch_stats = shapes(model, image_shape)

    logits, updated = jax.eval_shape(
        lambda params, batch_stats, x: model.apply(
            {"params": params, "batch_stats": batch_stats},
            x,
            train=True,
            rngs={"dropout": jax.random.key(0)},
            mutable=["batch_stats"],
        ),
        params,
        batch_stats,
        jax.ShapeDtypeStruct((2, *image_shape), jnp.float32),
    )
    assert (logits.shape, logits.dtype) == ((2, n_classes), jnp.float32)
    assert updated.get("batch_stats", {}) == batch_stats
    assert {leaf.dtype for leaf in jax.tree.leaves((params, batch_stats))} == {jnp.dtype(jnp.float32)}


# He et al. 2015, table 6, in millions.
@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_cifar_resnets_have_the_published_sizes(depth, millions):
    model = models.build(f"ResNet{depth}", 10, (32, 32, 3))
    params, _ = shapes(model, (32, 32, 3))
    assert len(kernels(params)) == depth
    assert count(params) / 1e6 == pytest.approx(millions, abs=0.05 if millions > 1 else 0.006)


def test_width_multiplies_every_channel():
    narrow, wide = (shapes(models.build(arch, 10, (32, 32, 3)), (32, 32, 3))[0] for arch in ("ResNet20", "ResNet20x3"))
    for a, b in zip(kernels(narrow)[1:-1], kernels(wide)[1:-1], strict=True):
        assert b.shape[2:] == tuple(3 * n if n != 3 else n for n in a.shape[2:])


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_depth_counts_its_layers(depth):
    params, batch_stats = shapes(models.build(f"VGG{depth}", 10, (32, 32, 3)), (32, 32, 3))
    # The original's three linear layers are one here.
    assert len(kernels(params)) == depth - 2
    assert len(batch_stats) == depth - 3


def test_option_a_shortcut_drops_pixels_and_pads_channels_on_both_sides():
    x = jnp.arange(1, 1 + 5 * 4 * 2).reshape(1, 5, 4, 2)
    y = shortcut(x, 6, 2)
    assert y.shape == (1, 3, 2, 6)
    np.testing.assert_array_equal(y[0, :, :, 2:4], x[0, [0, 2, 4]][:, [0, 2]])
    assert not y[..., :2].any() and not y[..., 4:].any()


@pytest.mark.parametrize("name", ["Simple", "CNN", "ResNet8"])
def test_bfloat16(name):
    model, image_shape = SMALL[name]
    v, x = variables(model, image_shape), images(image_shape)
    gradients, (logits, updated) = gradient(model.clone(dtype=jnp.bfloat16), v, x)
    assert {leaf.dtype for leaf in jax.tree.leaves((gradients, logits, updated))} == {jnp.dtype(jnp.float32)}
    exact = forward(model, v, x)
    # A dozen layers of 8-bit roundings, each a relative 2^-9 on average; equality would mean that dtype had no effect.
    assert 0 < np.abs(logits - exact).max() <= 12 * 2**-8 * np.abs(exact).max()


@pytest.mark.parametrize("arch", FAMILIES)
def test_remat_keeps_names_and_shapes(arch):
    plain, remat = (shapes(models.build(arch, 10, (32, 32, 3), remat=r), (32, 32, 3)) for r in (False, True))
    assert plain == remat


def assert_close(found, wanted):
    # The same sums, possibly fused differently; relative to the largest of all, because some gradients are 0.
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * scale), found, wanted)


@pytest.mark.parametrize(("name", "conv"), [("ResNet8", "unroll"), ("WideResNet, narrow", "plain")])
def test_remat_computes_the_same(name, conv):
    model, image_shape = SMALL[name]
    model = model.clone(conv=conv)
    v, x = variables(model, image_shape), images(image_shape)
    found, wanted = gradient(model.clone(remat=True), v, x), gradient(model, v, x)
    assert_close(found[0], wanted[0])
    assert_close(found[1], wanted[1])


def test_remat_of_vgg_computes_the_same():
    image_shape = (32, 32, 1)
    model = models.build("VGG11", 3, image_shape)
    v, x = variables(model, image_shape), images(image_shape, batch=2)
    assert_close(forward(model.clone(remat=True), v, x), forward(model, v, x))


@pytest.mark.parametrize("arch", ["ResNet8", "ResNet18", "ResNet50", "VGG11", "WideResNet20"])
def test_remat_recomputes_convolutions(arch):
    image_shape = (32, 32, 3)

    def convolutions(remat):
        model = models.build(arch, 3, image_shape, remat=remat)
        params, batch_stats = shapes(model, image_shape)

        def loss(params, batch_stats, x):
            v, rngs = {"params": params, "batch_stats": batch_stats}, {"dropout": jax.random.key(0)}
            return model.apply(v, x, train=True, rngs=rngs, mutable=["batch_stats"])[0].sum()

        x = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
        return str(jax.make_jaxpr(jax.grad(loss))(params, batch_stats, x)).count("conv_general_dilated[")

    assert convolutions(remat=True) > convolutions(remat=False)


def dropout_rates(model, image_shape, train):
    """Rates of the dropout layers that act, in order."""
    rates = []

    def watch(call, args, kwargs, context):
        if isinstance(context.module, Dropout) and context.module.active:
            rates.append(context.module.rate)
        return call(*args, **kwargs)

    def apply():
        with nn.intercept_methods(watch):
            keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
            return model.init(keys, jnp.zeros((1, *image_shape)), train=train)

    jax.eval_shape(apply)
    return rates


@pytest.mark.parametrize("arch", [*FAMILIES, "WideResNet"])
def test_dropout_layers(arch):
    wanted = {"Simple": [0.2], "CNN": [0.25, 0.5], "WideResNet20": 9 * [0.3], "WideResNet": 12 * [0.3]}
    model = models.build(arch, 10, (32, 32, 3))
    assert dropout_rates(model, (32, 32, 3), train=True) == wanted.get(arch, [])
    assert dropout_rates(model, (32, 32, 3), train=False) == []
    assert dropout_rates(models.build(arch, 10, (32, 32, 3), dropout=False), (32, 32, 3), train=True) == []


def test_dropout_follows_its_key():
    model, image_shape = SMALL["Simple"]
    v, x = variables(model, image_shape), images(image_shape)
    first, again, other = (model.apply(v, x, train=True, rngs={"dropout": jax.random.key(i)}) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_batch_norm_moments_of_a_whole_network():
    model, image_shape = SMALL["ResNet8"]
    v, x = variables(model, image_shape), images(image_shape)
    updated = model.apply(v, x, train=True, mutable=["batch_moments", "batch_stats"])[1]
    assert jax.tree.structure(updated["batch_moments"]) == jax.tree.structure(v["batch_stats"])
    moving = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, v["batch_stats"], updated["batch_moments"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), updated["batch_stats"], moving)


def test_init_can_be_mapped_over_keys():
    model, image_shape = SMALL["Simple"]
    keys = jax.random.split(jax.random.key(0), 2)
    params, batch_stats = jax.vmap(lambda key: models.init(model, key, image_shape))(keys)
    assert batch_stats == {}
    alone, _ = models.init(model, keys[1], image_shape)
    jax.tree.map(lambda stacked, one: np.testing.assert_array_equal(stacked[1], one), params, alone)
    assert not np.array_equal(*params["fc1"]["kernel"])


def test_resnet50_starts_from_torchvisions_initial_values():
    # The default would have a variance of 1 / (3 * 9 * 64), a sixth of this.
    model = models.build("ResNet50", 10, (32, 32, 3))
    drawn = jax.jit(lambda key: models.init(model, key, (32, 32, 3))[0]["layer1_0"]["conv2"]["kernel"])
    assert np.var(drawn(jax.random.key(0))) == pytest.approx(2 / (9 * 64), rel=5 * np.sqrt(2 / (9 * 64 * 64)))


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("ResNet58", {}, "arch: unknown value 'ResNet58'; allowed: .*ResNet<6n\\+2>.*did you mean 'ResNet5[06]'"),
        ("ResNet21", {}, "did you mean 'ResNet[0-9]+'"),
        ("ResNet2", {}, "arch: unknown value 'ResNet2'"),
        ("ResNet20x0", {}, "arch: unknown value 'ResNet20x0'"),
        ("ResNet18x2", {}, "arch: unknown value 'ResNet18x2'"),
        ("vgg16", {}, "did you mean 'VGG16'"),
        (
            "ResNet20",
            {"conv": "plane"},
            "conv: unknown value 'plane'; allowed: lax, plain, unroll; did you mean 'plain'",
        ),
        ("ResNet20", {"n_classes": 0}, "n_classes: found 0, must be at least 1"),
        ("VGG13", {"image_shape": (32, 31, 3)}, "arch: VGG13 does not fit images of 32x31x3; .* 32x32"),
        ("CNN", {"image_shape": (5, 9, 1)}, "arch: CNN does not fit images of 5x9x1; .* 6x6"),
        ("Simple", {"image_shape": (0, 9, 1)}, "arch: Simple does not fit images of 0x9x1; .* 1x1"),
    ],
)
def test_mistakes_are_one_clear_line(arch, options, message):
    with pytest.raises(SettingsError, match=message) as error:
        models.build(arch, **{"n_classes": 10, "image_shape": (32, 32, 3)} | options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("arch", "smallest"), [("CNN", 6), ("VGG11", 32), ("ResNet18", 1), ("ResNet50", 1)])
def test_the_smallest_image_fits(arch, smallest):
    image_shape = (smallest, smallest, 1)
    params, _ = shapes(models.build(arch, 2, image_shape), image_shape)
    assert min(kernel.size for kernel in kernels(params)) > 0
