"""Parts of one's own: how they are named, found and spelled, and one line for whatever is wrong with them."""

import inspect
import re

import pytest

from ssoup_jax import own
from ssoup_jax.errors import RunError, SettingsError, UserError

PARTS = """
import dataclasses

def make(n_classes, *, width=3):
    return n_classes * width

class Net:
    def __init__(self, n_classes):
        self.n_classes = n_classes

def versioned(n_classes):
    return n_classes

versioned.version = "2"
table = {"a": 1}

@dataclasses.dataclass
class Pair:
    one: object
    other: object
    flag: bool = True

pair = Pair(make, versioned)

def fail(n_classes):
    raise ValueError("two\\nlines")

def _hidden():
    pass
"""


@pytest.mark.parametrize("text", ["a:b", "my_package.nets:make", "my_package.nets:Net.build", "mine:make 0123abc"])
def test_names_of_parts_of_ones_own(text):
    assert own.is_own(text)


@pytest.mark.parametrize(
    "text", ["ResNet20", "", ":", "a:", ":b", "a:b:c", "npz:/data/x", "a b:c", "1a:b", "a:1b", "a-b:c", None, 3]
)
def test_names_of_anything_else(text):
    assert not own.is_own(text)


def test_a_part_is_found_by_its_name_and_by_its_spelling(own_module):
    own_module(PARTS)
    make = own.load("arch", "mine:make")
    assert make(2) == 6
    assert own.load("arch", own.spell("arch", "mine:make")) is make
    own_module("class Outer:\n    @staticmethod\n    def make():\n        return 1\n", "deep")
    assert own.load("arch", "deep:Outer.make")() == 1


def test_a_spelling_is_the_name_as_it_was_given_and_a_hash_of_the_source_or_a_version(own_module):
    own_module(PARTS)
    assert re.fullmatch("mine:make [0-9a-f]{16}", own.spell("arch", "mine:make"))
    assert own.spell("arch", "mine:versioned") == "mine:versioned 2"
    make = own.spell("arch", "mine:make").partition(" ")[2]
    assert own.spell("arch", "mine:pair") == f"mine:pair {make} 2"
    assert own.spell("arch", "ResNet20") == "ResNet20"


def test_a_changed_source_is_another_part_and_what_stands_beside_it_is_none(own_module):
    own_module(PARTS)
    before = {name: own.spell("arch", f"mine:{name}") for name in ("make", "versioned", "Net")}
    own_module(PARTS.replace("n_classes * width", "width * n_classes").replace("return n_classes\n", "return 0\n"))
    after = {name: own.spell("arch", f"mine:{name}") for name in before}
    assert after["make"] != before["make"]
    assert after["versioned"] == before["versioned"], "it declares a version"
    assert after["Net"] == before["Net"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ResNet20", "arch: found 'ResNet20'; allowed: MODULE:NAME, such as 'my_package.nets:make'"),
        ("nowhere.nets:make", "arch: there is no module 'nowhere', neither in the current folder nor installed"),
        ("mine.nets:make", "arch: there is no module 'mine.nets', neither in the current folder nor installed"),
        ("mine:mak", "arch: unknown value 'mine:mak'; allowed: mine:make, mine:Net, mine:versioned, mine:table, "),
        ("mine:mak", "did you mean 'mine:make'?"),
        ("mine:make.deeper", "arch: unknown value 'mine:make.deeper'"),
    ],
)
def test_what_is_not_there_is_one_line(own_module, text, expected):
    own_module(PARTS)
    with pytest.raises(SettingsError) as error:
        own.load("arch", text)
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert "_hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def make(:", "arch: mine cannot be imported: SyntaxError: invalid syntax (mine.py, line 1)"),
        ("import not_installed_here", "arch: mine cannot be imported: ModuleNotFoundError: No module named 'not_in"),
        ("raise RuntimeError('no\\nluck')", "arch: mine cannot be imported: RuntimeError: no luck"),
        ("import sys; sys.exit(3)", "arch: mine cannot be imported: SystemExit: 3"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(own_module, text, expected):
    own_module(text)
    with pytest.raises(SettingsError) as error:
        own.load("arch", "mine:make")
    assert str(error.value).startswith(expected)


GIVEN = {"n_classes": 3, "width": 4}


def test_arguments_are_those_that_a_part_takes():
    def pick(function):
        return own.arguments("arch", "mine:make", function, GIVEN, needed=("n_classes",))

    assert pick(lambda n_classes: 0) == {"n_classes": 3}
    assert pick(lambda n_classes, width=1, other=2: 0) == GIVEN
    assert pick(lambda n_classes, *, width: 0) == GIVEN
    assert pick(lambda **anything: 0) == GIVEN


@pytest.mark.parametrize(
    ("function", "takes"),
    [
        (lambda: 0, ""),
        (lambda classes: 0, "classes"),
        (lambda n_classes, depth: 0, "n_classes, depth"),
        (lambda n_classes, /: 0, "n_classes"),
        (lambda *anything: 0, "anything"),
    ],
)
def test_a_part_that_takes_something_else_is_one_line(function, takes):
    with pytest.raises(SettingsError) as error:
        own.arguments("arch", "mine:make 0123", function, GIVEN, needed=("n_classes",))
    expected = f"arch: mine:make takes ({takes}); allowed: (n_classes), and width where it wants them"
    assert str(error.value) == expected


@pytest.mark.parametrize("function", [lambda a, b: 0, lambda *a: 0, lambda x, y, z=1: 0])
def test_arguments_in_their_order_fit(function):
    own.check_positional("loss", "mine:loss", function, ("logits", "labels"))


@pytest.mark.parametrize("function", [lambda a: 0, lambda a, b, c: 0, lambda a, *, b: 0, lambda **a: 0])
def test_arguments_in_their_order_do_not_fit(function):
    with pytest.raises(SettingsError) as error:
        own.check_positional("loss", "mine:loss", function, ("logits", "labels"))
    takes = ", ".join(inspect.signature(function).parameters)
    assert str(error.value) == f"loss: mine:loss takes ({takes}); allowed: (logits, labels), in this order"


def test_what_is_no_function_is_one_line(own_module):
    own_module(PARTS)
    with pytest.raises(SettingsError, match=r"^loss: mine:table is dict; allowed: a function$"):
        own.check_positional("loss", "mine:table", own.load("loss", "mine:table"), ("logits",))


@pytest.mark.parametrize("kind", [SettingsError, RunError])
def test_whatever_a_part_raises_is_one_line(own_module, kind):
    own_module(PARTS)
    with pytest.raises(kind, match=r"^arch: mine:fail raised ValueError: two lines$"):
        own.call("arch", "mine:fail 0123", own.load("arch", "mine:fail"), 1, error=kind)


def test_a_part_may_say_itself_what_is_wrong():
    def fail():
        raise UserError("no such year")

    with pytest.raises(UserError, match=r"^no such year$"):
        own.call("dataset", "mine:fail", fail)
