"""Networks of one's own: what is made of them, and one line for whatever cannot be trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssoup_jax import metrics, models, own
from ssoup_jax.errors import SettingsError

IMAGE = (6, 6, 2)

NETS = """
import jax.numpy as jnp
from flax import linen as nn

class Net(nn.Module):
    n_classes: int
    dtype: object = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), dtype=self.dtype)(x)
        x = nn.relu(nn.BatchNorm(not train, axis_name=self.axis_name, dtype=self.dtype)(x))
        x = nn.Dropout(0.5, deterministic=not train)(x.reshape(len(x), -1))
        return nn.Dense(self.n_classes, dtype=self.dtype)(x)

def flat(n_classes, image_shape):
    assert image_shape == (6, 6, 2)
    return nn.Sequential([lambda x: x.reshape(len(x), -1), nn.Dense(5), nn.relu, nn.Dense(n_classes)])

def remat(n_classes, remat=False):
    return nn.remat(Flat)(n_classes) if remat else Flat(n_classes)

class Flat(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes)(x.reshape(len(x), -1))

def no_module(n_classes):
    return [n_classes]

def raises(n_classes):
    raise RuntimeError("no network today")

class WrongShape(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes)(x)

class TooFew(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes - 1)(x.reshape(len(x), -1))

class Pair(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return x, x

class Bad(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes)(x.reshape(len(x), -1)) @ jnp.zeros((7, 3))

class Cache(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        self.variable("cache", "last", jnp.zeros, ())
        return nn.Dense(self.n_classes)(x.reshape(len(x), -1))

class Nothing(nn.Module):
    n_classes: int

    def __call__(self, x):
        return x.reshape(len(x), -1)[:, : self.n_classes]

class Half(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.n_classes, dtype=jnp.float32, param_dtype=jnp.bfloat16)(x.reshape(len(x), -1))

class Growing(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x, train):
        mean = self.variable("batch_stats", "mean", jnp.zeros, ())
        if train:
            mean.value = x.mean((0, 1, 2))
        return nn.Dense(self.n_classes)(x.reshape(len(x), -1))

class OtherRandom(nn.Module):
    n_classes: int

    @nn.compact
    def __call__(self, x, train):
        if train:
            self.make_rng("noise")
        return nn.Dense(self.n_classes)(x.reshape(len(x), -1))
"""


@pytest.fixture
def build(own_module):
    own_module(NETS)

    def made(name, **changes):
        arguments = {"n_classes": 3, "image_shape": IMAGE} | changes
        return models.build(f"mine:{name}", **arguments)

    return made


def images():
    return np.random.default_rng(0).standard_normal((4, *IMAGE)).astype(np.float32)


def test_it_computes_what_the_module_computes_under_its_own_names(build):
    net = build("Net")
    variables = net.init(jax.random.key(0), images()[:1], train=False)
    module = own.load("arch", "mine:Net")(n_classes=3)
    same = module.init(jax.random.key(0), images()[:1], train=False)
    assert jax.tree.structure(variables) == jax.tree.structure(same)
    assert variables["params"].keys() == {"Conv_0", "BatchNorm_0", "Dense_0"}
    np.testing.assert_array_equal(
        net.apply(variables, images(), train=False), module.apply(variables, images(), train=False)
    )
    how = {"rngs": {"dropout": jax.random.key(1)}, "mutable": ["batch_stats"]}
    found, expected = (one.apply(variables, images(), train=True, **how) for one in (net, module))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_module_that_does_not_ask_is_not_told_if_it_trains(build):
    net = build("flat")
    variables = net.init(jax.random.key(0), images(), train=False)
    expected = net.module.apply(variables, images())
    np.testing.assert_array_equal(net.apply(variables, images(), train=False), expected)
    logits, updated = net.apply(variables, images(), train=True, mutable=["batch_stats"])
    np.testing.assert_array_equal(logits, expected)
    assert updated == {}


@pytest.mark.usefixtures("usual_promotion")
def test_half_precision_is_asked_for_by_name_and_logits_are_single(build):
    net = build("Net", dtype=jnp.bfloat16)
    assert net.module.dtype == jnp.bfloat16
    variables = net.init(jax.random.key(0), images(), train=False)
    assert net.module.apply(variables, images(), train=False).dtype == jnp.bfloat16
    assert net.apply(variables, images(), train=False).dtype == jnp.float32
    with pytest.raises(SettingsError, match=r"^use_amp: found True; mine:Flat takes no dtype$"):
        build("Flat", dtype=jnp.bfloat16)


def test_rematerialisation_is_asked_for_by_name(build):
    assert type(build("remat", remat=True).module) is not type(build("remat").module)
    with pytest.raises(SettingsError, match=r"^remat: found True; mine:Flat takes no remat$"):
        build("Flat", remat=True)


def test_batches_are_cut_only_for_a_module_that_can_be_told_an_axis(build):
    assert build("Net").can_be_cut
    assert build("Net").clone(axis_name="data").module.axis_name == "data"
    assert not build("Flat").can_be_cut


def test_equal_networks_are_equal_so_that_programs_are_shared(build):
    for name in ("Net", "flat"):
        assert build(name) == build(name) and hash(build(name)) == hash(build(name))
    others = build("Net", n_classes=4), build("Net", image_shape=(8, 8, 2)), build("Net").clone(axis_name="data")
    assert len({build("Net"), build("Flat"), *others}) == 5


def test_its_multiply_adds_are_counted(build):
    assert metrics.layer_multiply_adds(build("Net"), IMAGE) == {
        "Conv_0/kernel": 6 * 6 * 4 * 3 * 3 * 2,
        "Dense_0/kernel": 6 * 6 * 4 * 3,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Nett", "arch: unknown value 'mine:Nett'; allowed: mine:Net, mine:flat, "),
        ("nn", "arch: mine:nn is module; allowed: a function"),
        ("no_module", "arch: mine:no_module returns a list; allowed: a flax.linen.Module"),
        ("raises", "arch: mine:raises raised RuntimeError: no network today"),
        ("WrongShape", "arch: mine:WrongShape makes float32[2, 6, 6, 3] of float32[2, 6, 6, 2]; allowed: logits float"),
        ("TooFew", "arch: mine:TooFew makes float32[2, 2] of float32[2, 6, 6, 2]; allowed: logits float32[2, 3]"),
        ("Pair", "arch: mine:Pair has no parameters"),
        ("Bad", "arch: mine:Bad raised TypeError: "),
        ("Cache", "arch: mine:Cache has the collection 'cache'; allowed: params and batch_stats"),
        ("Nothing", "arch: mine:Nothing has no parameters"),
        ("Half", "arch: mine:Half: Dense_0/bias is bfloat16[3]; allowed: float32"),
        ("Growing", "arch: mine:Growing: training changes the structure of batch_stats: mean is float32[2], where "),
        ("OtherRandom", "arch: mine:OtherRandom raised InvalidRngError: "),
    ],
)
def test_what_cannot_be_trained_is_one_line(build, name, expected):
    with pytest.raises(SettingsError) as error:
        build(name)
    assert str(error.value).startswith(expected) and "\n" not in str(error.value)


def test_the_setting_is_looked_at_without_making_the_network(build):
    models.check_arch("mine:raises")
    with pytest.raises(SettingsError, match=r"^arch: mine:Nett|^arch: unknown value 'mine:Nett'"):
        models.check_arch("mine:Nett")
    with pytest.raises(SettingsError, match=r"^arch: there is no module 'nowhere'"):
        models.check_arch("nowhere:make")
