"""What a function that somebody else wrote is, in the name of a result that was made with it."""

import functools
import re

import pytest

from ssoup_jax.errors import SettingsError
from ssoup_jax.identity import identity


def plain(x):
    return x


class Net:
    def __call__(self, x):
        return x

    def method(self):
        return self


def test_a_function_is_its_name_and_a_hash_of_its_source():
    assert re.fullmatch(r"[\w.]*test_identity:plain [0-9a-f]{16}", identity(plain))
    assert identity(plain) != identity(Net) != identity(Net.method)


def test_a_version_takes_the_place_of_the_hash():
    def own(x):
        return x

    own.version = "2.1"
    assert identity(own).endswith("own 2.1")


def test_arguments_that_are_bound_belong_to_it():
    one, other = (functools.partial(plain, x) for x in (1, 2))
    assert identity(one) == f"{identity(plain)} (1,) {{}}"
    assert identity(one) != identity(other)


def test_an_object_is_its_class():
    assert identity(Net()) == identity(Net)


def test_where_it_stands_does_not_matter():
    def make():
        def plain(x):
            return x

        return plain

    assert identity(make()).partition(" ")[2] == identity(plain).partition(" ")[2]


def test_what_has_no_source_is_asked_for_a_version():
    made = eval("lambda x: x")
    with pytest.raises(SettingsError, match=r"its source cannot be read, .*declare one: function.version = '1'$"):
        identity(made)
