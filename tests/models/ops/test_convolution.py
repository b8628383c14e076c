"""The plain-form convolution computes what `lax` computes, in the form that it promises."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from ssoup_jax.models import CONVOLUTIONS
from ssoup_jax.models.ops.convolution import UNROLLED

PLAIN = lax.conv_dimension_numbers((1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC"))
OURS = [name for name in CONVOLUTIONS if name != "lax"]

# kernel, strides, padding, image
GEOMETRIES = {
    "3x3": ((3, 3), (1, 1), ((1, 1), (1, 1)), (8, 9)),
    "3x3 unpadded": ((3, 3), (1, 1), ((0, 0), (0, 0)), (6, 5)),
    "3x3 stride 2, even": ((3, 3), (2, 2), ((1, 1), (1, 1)), (8, 8)),
    "3x3 stride 2, odd": ((3, 3), (2, 2), ((1, 1), (1, 1)), (7, 9)),
    "1x1": ((1, 1), (1, 1), ((0, 0), (0, 0)), (4, 4)),
    "1x1 stride 2, even": ((1, 1), (2, 2), ((0, 0), (0, 0)), (8, 6)),
    "1x1 stride 2, odd": ((1, 1), (2, 2), ((0, 0), (0, 0)), (7, 5)),
    "7x7 stride 2": ((7, 7), (2, 2), ((3, 3), (3, 3)), (12, 12)),
    "even kernel, stride 3": ((4, 4), (3, 3), ((2, 2), (2, 2)), (11, 10)),
    "padding beyond the kernel": ((2, 2), (1, 1), ((3, 3), (3, 3)), (3, 3)),
    "nothing square": ((3, 2), (2, 1), ((0, 1), (2, 1)), (6, 7)),
    "SAME": ((3, 3), (2, 2), "SAME", (8, 7)),
    "VALID": ((3, 3), (2, 2), "VALID", (8, 7)),
}


def normal(*shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def operands(geometry, members=()):
    (height, width), image = geometry[0], geometry[3]
    return normal((*members, 4, *image, 3), (*members, height, width, 3, 5))


def call(name, geometry, x, kernel, **options):
    _, strides, padding, _ = geometry
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")} | options
    return CONVOLUTIONS[name](x, kernel, strides, padding, **options)


def outputs_and_gradients(name, geometry, **options):
    """A function of (x, kernel) that returns the output and, for a loss that is not linear, both gradients."""

    def loss(x, kernel):
        y = call(name, geometry, x, kernel, **options)
        return jnp.sum(jnp.sin(y.astype(jnp.float32))), y

    return lambda x, kernel: jax.value_and_grad(loss, (0, 1), has_aux=True)(x, kernel)


def assert_close(found, wanted, rel=1e-5):
    """Relative to the largest value: float32 sums of up to a few hundred terms, in another order."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float32), np.asarray(b, np.float32), rtol=0, atol=rel * float(jnp.abs(b).max())
        ),
        found,
        wanted,
    )


def convolutions_in(jaxpr):
    """Every convolution in a jaxpr, however deep."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "conv_general_dilated":
            yield equation.params
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr")):
            if hasattr(inner, "jaxpr"):
                yield from convolutions_in(inner.jaxpr)
            elif hasattr(inner, "eqns"):
                yield from convolutions_in(inner)


def compare(function_of, *args, rel=1e-5):
    """Holds `function_of(name)` of every convolution against that of `lax`; one program, since compiling is slow."""
    results = jax.jit(lambda *args: {name: function_of(name)(*args) for name in CONVOLUTIONS})(*args)
    for name in OURS:
        assert_close(results[name], results["lax"], rel)
    return results


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_matches_lax(geometry):
    compare(lambda name: outputs_and_gradients(name, geometry), *operands(geometry))


@pytest.mark.parametrize("mapped", [(0, 0), (None, 0), (0, None)], ids=["both", "kernel", "images"])
def test_matches_lax_under_vmap(mapped):
    geometry = GEOMETRIES["3x3 stride 2, odd"]
    args = [a if axis == 0 else a[0] for a, axis in zip(operands(geometry, (3,)), mapped, strict=True)]
    compare(lambda name: jax.vmap(outputs_and_gradients(name, geometry), mapped), *args)


def test_matches_lax_inside_scan_and_remat():
    geometry = GEOMETRIES["3x3 stride 2, even"]

    def descent(name, x, kernel):
        step = jax.checkpoint(lambda kernel: jnp.sum(jnp.sin(call(name, geometry, x, kernel))))

        def body(kernel, _):
            return kernel - 1e-3 * jax.grad(step)(kernel), ()

        return lax.scan(body, kernel, length=3)[0]

    compare(lambda name: jax.vmap(partial(descent, name)), *operands(geometry, (2,)))


def test_bfloat16_stays_bfloat16():
    geometry = GEOMETRIES["3x3 stride 2, even"]
    args = [a.astype(jnp.bfloat16) for a in operands(geometry)]
    # Two roundings to bfloat16's 8 bits.
    results = compare(lambda name: outputs_and_gradients(name, geometry), *args, rel=2**-7)
    assert all(a.dtype == jnp.bfloat16 for name in OURS for a in (results[name][0][1], *results[name][1]))


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(
    ("options", "x_shape", "kernel_shape"),
    [
        ({"feature_group_count": 2}, (2, 6, 6, 4), (3, 3, 2, 6)),
        ({"batch_group_count": 2}, (2, 6, 6, 4), (3, 3, 4, 6)),
        ({"rhs_dilation": (2, 2)}, (2, 7, 7, 4), (3, 3, 4, 6)),
        ({"lhs_dilation": (2, 1)}, (2, 7, 7, 4), (3, 3, 4, 6)),
        ({"dimension_numbers": ("NCHW", "OIHW", "NCHW")}, (2, 4, 6, 6), (6, 4, 3, 3)),
        ({"preferred_element_type": jnp.float32}, (2, 6, 6, 4), (3, 3, 4, 6)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_forms_are_those_of_lax(name, options, x_shape, kernel_shape):
    x, kernel = normal(x_shape, kernel_shape)
    found, wanted = (outputs_and_gradients(n, GEOMETRIES["3x3"], **options)(x, kernel) for n in (name, "lax"))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("name", OURS)
def test_gradients_are_convolutions_of_the_plain_form(name):
    geometry = GEOMETRIES["3x3 stride 2, odd"]
    found = list(convolutions_in(jax.make_jaxpr(outputs_and_gradients(name, geometry))(*operands(geometry)).jaxpr))
    assert len(found) == 3
    assert all(params["dimension_numbers"] == PLAIN for params in found)
    permuted = convolutions_in(jax.make_jaxpr(outputs_and_gradients("lax", geometry))(*operands(geometry)).jaxpr)
    assert any(params["dimension_numbers"] != PLAIN for params in permuted)


@pytest.mark.parametrize("sizes", [(3,), (2, 3)], ids=["one vmap", "two vmaps"])
def test_unroll_makes_one_convolution_per_member(sizes):
    geometry = GEOMETRIES["3x3"]

    def mapped(name):
        function = outputs_and_gradients(name, geometry)
        for _ in sizes:
            function = jax.vmap(function)
        return function

    args = operands(geometry, sizes)
    found = list(convolutions_in(jax.make_jaxpr(mapped("unroll"))(*args).jaxpr))
    assert len(found) == 3 * np.prod(sizes)
    assert {(p["feature_group_count"], p["batch_group_count"]) for p in found} == {(1, 1)}
    compare(mapped, *args)


@pytest.mark.parametrize(("axis_name", "unrolled"), [(UNROLLED, True), (None, False), ("member", False)])
def test_plain_makes_one_convolution_per_member_under_the_axis_of_that_name(axis_name, unrolled):
    geometry = GEOMETRIES["3x3 stride 2, odd"]

    def mapped(name):
        function = outputs_and_gradients(name, geometry)
        return jax.vmap(function, **({} if axis_name is None else {"axis_name": axis_name}))

    args = operands(geometry, (3,))
    found = list(convolutions_in(jax.make_jaxpr(mapped("plain"))(*args).jaxpr))
    assert len(found) == (9 if unrolled else 3)
    grouped = {(p["feature_group_count"], p["batch_group_count"]) for p in found} != {(1, 1)}
    assert grouped == (not unrolled)
    compare(mapped, *args)


def test_the_axis_is_seen_through_a_loop_and_a_function_of_its_own():
    geometry = GEOMETRIES["3x3"]

    @jax.jit
    def descent(x, kernel):
        def body(kernel, _):
            loss = jax.checkpoint(lambda kernel: jnp.sum(jnp.sin(call("plain", geometry, x, kernel))))
            return kernel - 1e-3 * jax.grad(loss)(kernel), ()

        return lax.scan(body, kernel, length=2)[0]

    args = operands(geometry, (3,))
    # What was traced without the axis does not serve under it, nor the other way round.
    for axis_name, grouped in ((None, True), (UNROLLED, False), (None, True)):
        mapped = jax.vmap(descent, **({} if axis_name is None else {"axis_name": axis_name}))
        found = list(convolutions_in(jax.make_jaxpr(mapped)(*args).jaxpr))
        assert ({p["feature_group_count"] for p in found} != {1}) == grouped


@pytest.mark.parametrize("name", OURS)
def test_gradient_of_a_replicated_kernel_inside_shard_map(name):
    # One device suffices: shard_map refuses a gradient that varies over the mesh where its kernel does not.
    geometry = GEOMETRIES["3x3"]
    x, kernel = operands(geometry)

    def loss(x, kernel):
        return lax.psum(jnp.sum(jnp.sin(call(name, geometry, x, kernel))), "data")

    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    sharded = jax.shard_map(jax.grad(loss, 1), mesh=mesh, in_specs=(P("data"), P()), out_specs=P())
    wanted = jax.grad(lambda kernel: jnp.sum(jnp.sin(call("lax", geometry, x, kernel))))(kernel)
    assert_close(jax.jit(sharded)(x, kernel), wanted)
