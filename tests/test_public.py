"""The public surface: what it has, that each name has an example that runs, and that importing it is cheap."""

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ssoup_jax

ROOT = Path(__file__).parents[1]
FUNCTIONS = [name for name in ssoup_jax.__all__ if not name.endswith("Error")]


def test_every_name_is_there_and_no_other():
    for name in ssoup_jax.__all__:
        assert getattr(ssoup_jax, name) is not None
    assert set(ssoup_jax.__all__) <= set(dir(ssoup_jax))
    with pytest.raises(AttributeError, match="no attribute 'sauce'"):
        _ = ssoup_jax.sauce


def test_type_checkers_are_told_the_same_names():
    tree = ast.parse(Path(ssoup_jax.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.asname or alias.name: node.module for node in block.body for alias in node.names}
    assert sorted(told) == sorted(ssoup_jax.__all__)
    for name, home in told.items():
        assert getattr(
            sys.modules.get(home) or __import__(home, fromlist=["_"]),
            name.removesuffix("_members") if name == "stack_members" else name,
        ) is getattr(ssoup_jax, name)
    assert Path(ssoup_jax.__file__).with_name("py.typed").is_file()


@pytest.mark.usefixtures("usual_promotion")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_run_as_they_are_written(name):
    public = getattr(ssoup_jax, name)
    found = doctest.DocTestFinder().find(public, name, globs={})
    examples = [test for test in found if test.examples]
    assert examples, "each public name has an example"
    for test in examples:
        said = []
        doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append)
        assert "".join(said) == ""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_explained(name):
    public = getattr(ssoup_jax, name)
    if inspect.isfunction(public):
        explained = inspect.getdoc(public).partition("Example:")[0]
        missing = [argument for argument in inspect.signature(public).parameters if argument not in explained]
        assert not missing


def test_importing_starts_nothing():
    script = (
        "import sys, ssoup_jax; assert 'jax' not in sys.modules; ssoup_jax.soup; ssoup_jax.sparse_model_soup;"
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
